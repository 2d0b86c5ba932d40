//! Processes that are killed while they write, and disks without room.

use std::process::Command;

use tempfile::tempdir;
use wakala_core::store::Takeover;
use wakala_core::{RunStore, SqliteStore};

use crate::support::{HOUR, Other, command, entry, terms, whole};

/// Whatever was said to be written is there when the writer is killed in the middle of its work, each time somewhere else;
/// and the next process goes on from there.
#[tokio::test]
async fn a_killed_writer_loses_nothing_that_it_was_told_is_written() {
    for round in 0..12_u64 {
        let folder = tempdir().unwrap();
        let file = folder.path().join("runs.db");
        let mut other = Other::start(command("write", &file));
        let mut acknowledged = 0;
        while acknowledged < 5 + 17 * round {
            acknowledged = other.next().unwrap().parse().unwrap();
        }
        other.kill();
        // It may have gone on between what was read here and its end.
        while let Some(said) = other.next() {
            acknowledged = said.parse().unwrap();
        }
        let store = SqliteStore::open(&file).await.unwrap();
        let run = "theirs".into();
        let stored = store.load(&run).await.unwrap();
        let entries = whole(&stored);
        assert!(entries > acknowledged, "entry {acknowledged} was written, and {entries} are there");
        assert!(entries <= acknowledged + 2, "entry {acknowledged} was the last, and {entries} are there");

        let resources = stored.head.resources;
        let lease = store.acquire(&run, &resources, &terms("us", HOUR), Takeover::Lapsed).await.unwrap();
        let next = entry(&run, lease.epoch, stored.lines.last());
        store.append(&run, lease.epoch, next).await.unwrap();
        assert_eq!(whole(&store.load(&run).await.unwrap()), entries + 1);
    }
}

/// Where the disk takes no more, the writer is told so and what it wrote before is there.
#[cfg(unix)]
#[tokio::test]
async fn a_disk_that_takes_no_more_is_an_outage() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    let mut other = {
        let itself = command("write", &file);
        // No file may grow beyond 256 KiB, which is an error and not a signal. (The unit is 512 bytes in some shells.)
        let mut limited = Command::new("sh");
        limited.args(["-c", "trap '' XFSZ; ulimit -f 512 && exec \"$0\" \"$@\""]).arg(itself.get_program());
        limited
            .args(itself.get_args())
            .envs(itself.get_envs().filter_map(|(name, value)| Some((name, value?))));
        limited.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        Other::start(limited)
    };
    let (mut acknowledged, mut error) = (0, String::new());
    while let Some(said) = other.next() {
        match said.parse() {
            Ok(seq) => acknowledged = seq,
            Err(_) => error = said,
        }
    }
    assert!(acknowledged > 10, "{acknowledged}");
    assert!(error.starts_with("Unavailable (ObserveFirst): append on run store "), "{error}");
    assert!(error.contains("load the run before trying again"), "{error}");
    let store = SqliteStore::open(&file).await.unwrap();
    let entries = whole(&store.load(&"theirs".into()).await.unwrap());
    assert!((acknowledged + 1..=acknowledged + 2).contains(&entries), "{acknowledged}, {entries}");
}
