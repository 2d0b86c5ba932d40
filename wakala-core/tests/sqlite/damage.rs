//! Files that are not as they were written: an error that says so, or the truth; never a panic, never a made-up run.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};
use wakala_core::store::{Journal, StoredRun};
use wakala_core::{Error, ErrorKind, Result, Retry, RunStore, SqliteStore};

use crate::support::{HOUR, Writer, whole};

/// A file with three runs, closed, all of it in the file itself.
async fn written(folder: &TempDir) -> PathBuf {
    let file = folder.path().join("runs.db");
    let store = SqliteStore::open(&file).await.unwrap();
    for run in ["a", "b", "c"] {
        Writer::create(&store, run, HOUR).await.append_many(40).await;
        store.send(&run.into(), "{\"hold\":true}".repeat(50)).await.unwrap();
    }
    file
}

/// All that can be read of a file.
async fn read(file: &Path) -> Result<Vec<StoredRun>> {
    let store = SqliteStore::open(file).await?;
    let mut runs = Vec::new();
    for head in store.list().await? {
        runs.push(store.load(&head.run).await?);
        store.mail(&head.run, 0).await?;
    }
    Ok(runs)
}

/// What an error about damage must be; and the store must not have written anything.
#[track_caller]
fn check(error: &Error, what: &str) {
    assert!(
        matches!(error.kind(), ErrorKind::Unexpected | ErrorKind::InvalidConfig | ErrorKind::Unavailable),
        "{what}: {error:?}"
    );
    assert!(error.kind() == ErrorKind::Unavailable || error.retry() == Retry::Never, "{what}: {error:?}");
    assert!(error.to_string().contains("run store /"), "{what}: {error:?}");
}

#[tokio::test]
async fn a_file_that_was_cut_is_refused() {
    let folder = tempdir().unwrap();
    let file = written(&folder).await;
    let all = fs::read(&file).unwrap();
    assert!(all.len() > 40_000, "{}", all.len());
    for length in [1, 50, 99, 100, 511, 1_000, 4_096, 4_097, 8_192, all.len() / 2, all.len() - 4_096] {
        fs::write(&file, &all[..length]).unwrap();
        let what = format!("{length} bytes of {}", all.len());
        let error = read(&file).await.map(|runs| runs.len()).expect_err(&what);
        check(&error, &what);
        assert_ne!(error.kind(), ErrorKind::Unavailable, "{what}: {error:?}");
    }
    // SQLite takes a part of a page for one that ends with zeros.
    fs::write(&file, &all[..all.len() - 1]).unwrap();
    if let Ok(runs) = read(&file).await {
        assert!(runs.iter().any(|run| Journal::read(run).damage.is_some()), "the last byte is missing");
    }
    fs::write(&file, &all).unwrap();
    let runs = read(&file).await.unwrap();
    assert_eq!(runs.iter().map(whole).sum::<u64>(), 3 * 41);
}

#[tokio::test]
async fn an_empty_file_is_said_to_be_empty() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    fs::write(&file, "").unwrap();
    let error = SqliteStore::open(&file).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("the file is empty"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"", "a refused file was changed");
}

/// Every page in turn is overwritten with zeros, with other bytes, or has one bit flipped in it.
#[tokio::test]
async fn a_damaged_page_is_an_error_or_is_seen_by_the_hashes() {
    const PAGE: usize = 4096;
    let folder = tempdir().unwrap();
    let file = written(&folder).await;
    let all = fs::read(&file).unwrap();
    let (mut errors, mut hashes, mut whole_runs) = (0, 0, 0);
    for page in 0..all.len() / PAGE {
        let range = page * PAGE..(page + 1) * PAGE;
        type Damage = fn(&mut [u8]);
        let damages: [(&str, Damage); 5] = [
            ("zeros", |page| page.fill(0)),
            ("ones", |page| page.fill(0xff)),
            ("shifted", |page| page.rotate_left(1)),
            ("a bit near its begin", |page| page[13] ^= 1),
            ("a bit near its end", |page| page[PAGE - 40] ^= 1),
        ];
        for (what, damage) in damages {
            let mut damaged = all.clone();
            damage(&mut damaged[range.clone()]);
            fs::write(&file, &damaged).unwrap();
            let what = format!("page {page}: {what}");
            match read(&file).await {
                Err(error) => {
                    check(&error, &what);
                    errors += 1;
                }
                Ok(runs) => {
                    for run in &runs {
                        match Journal::read(run).damage {
                            Some(_) => hashes += 1,
                            None => {
                                assert_eq!(run.lines.len(), 41, "{what}: a run is short and nobody sees it");
                                whole_runs += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    // Each way out was gone, so none of them is there for nothing.
    assert!(errors > 20 && hashes > 5 && whole_runs > 5, "{errors}, {hashes}, {whole_runs}");
}

#[tokio::test]
async fn a_damaged_log_loses_no_more_than_its_end() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    let store = SqliteStore::open(&file).await.unwrap();
    let mut writer = Writer::create(&store, "a", HOUR).await;
    writer.append_many(40).await;
    // As a crash leaves it: copied while it is open.
    let copy = folder.path().join("copy.db");
    fs::copy(&file, &copy).unwrap();
    let log = fs::read(folder.path().join("runs.db-wal")).unwrap();
    for (place, length) in [(log.len() - 100, log.len()), (log.len() / 2, log.len()), (0, log.len() / 3)] {
        let mut damaged = log[..length].to_vec();
        if place > 0 {
            damaged[place] ^= 1;
        }
        fs::write(folder.path().join("copy.db-wal"), damaged).unwrap();
        let _ = fs::remove_file(folder.path().join("copy.db-shm"));
        let scratch = folder.path().join("scratch.db");
        fs::copy(&copy, &scratch).unwrap();
        fs::copy(folder.path().join("copy.db-wal"), folder.path().join("scratch.db-wal")).unwrap();
        let runs = read(&scratch).await.unwrap();
        let entries = whole(&runs[0]);
        assert!((1..41).contains(&entries), "damage at {place}, {length} bytes: {entries} entries");
    }
}

#[tokio::test]
async fn a_file_that_is_removed_or_replaced_takes_no_more_writes() {
    let folder = tempdir().unwrap();
    let file = written(&folder).await;
    let store = SqliteStore::open(&file).await.unwrap();
    let mut writer = Writer::create(&store, "d", HOUR).await;
    let away = folder.path().join("away.db");
    fs::rename(&file, &away).unwrap();
    let refused = writer.append().await.unwrap_err();
    assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unexpected, Retry::Never));
    assert!(refused.to_string().contains("the file was removed or replaced while it was open"), "{refused}");
    fs::copy(&away, &file).unwrap();
    assert_eq!(writer.append().await.unwrap_err().kind(), ErrorKind::Unexpected);
    fs::rename(&away, &file).unwrap();
    writer.append().await.unwrap();
}
