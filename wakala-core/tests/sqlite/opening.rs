//! What is opened and what is refused.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use tempfile::tempdir;
use wakala_core::{Error, ErrorKind, Retry, RunStore, SqliteStore};

use crate::support::{HOUR, Writer, whole};

async fn refused(file: &Path, kind: ErrorKind, words: &str) -> Error {
    let before = fs::read(file).ok();
    let error = SqliteStore::open(file).await.expect_err(words);
    assert_eq!((error.kind(), error.retry()), (kind, Retry::Never), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.to_string().starts_with("open on run store /"), "{error}");
    assert_eq!(fs::read(file).ok(), before, "a refused file was changed");
    error
}

#[tokio::test]
async fn what_was_written_is_there_when_it_is_opened_again() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    {
        let store = SqliteStore::open(&file).await.unwrap();
        Writer::create(&store, "a", HOUR).await.append_many(3).await;
    }
    let store = SqliteStore::open(&file).await.unwrap();
    assert_eq!(whole(&store.load(&"a".into()).await.unwrap()), 4);
    assert_eq!(store.path(), file);
    assert!(format!("{store:?}").contains("runs.db"));
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("runs.db")).await.unwrap();
    Writer::create(&store, "a", HOUR).await;
    let files: Vec<_> = folder.path().read_dir().unwrap().map(Result::unwrap).collect();
    assert_eq!(files.len(), 4, "the database, its log and index, and who drives: {files:?}");
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file:?}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_leads_to_the_same_store() {
    let folder = tempdir().unwrap();
    let (file, link) = (folder.path().join("runs.db"), folder.path().join("link.db"));
    let store = SqliteStore::open(&file).await.unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let linked = SqliteStore::open(&link).await.unwrap();
    Writer::create(&store, "a", HOUR).await;
    let head = linked.load(&"a".into()).await.unwrap().head;
    assert!(matches!(head.lease, wakala_core::store::LeaseState::Held { .. }), "{head:?}");
    std::os::unix::fs::symlink(folder.path().join("nowhere.db"), folder.path().join("dangling.db")).unwrap();
    let error = SqliteStore::open(folder.path().join("dangling.db")).await.unwrap_err();
    assert!(error.to_string().contains("it cannot be found"), "{error}");
}

#[tokio::test]
async fn a_folder_that_is_missing_is_not_made() {
    let folder = tempdir().unwrap();
    let missing = folder.path().join("missing");
    let file = missing.join("runs.db");
    refused(&file, ErrorKind::InvalidConfig, "its folder does not exist; make the folder first").await;
    assert!(!missing.exists());
    let error = SqliteStore::open(folder.path()).await.unwrap_err();
    assert!(error.to_string().contains("it is no file"), "{error}");
    let error = SqliteStore::open("/").await.unwrap_err();
    assert!(error.to_string().contains("its path names no file"), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_takes_no_files_is_an_error() {
    let error = SqliteStore::open("/proc/runs.db").await.unwrap_err();
    assert!(error.to_string().contains("it cannot be made; look at the folder's permissions"), "{error}");
    assert!(matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unavailable), "{error:?}");
}

#[tokio::test]
async fn other_programs_files_are_refused() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("other.db");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE cookies (name TEXT)").unwrap();
    refused(&file, ErrorKind::InvalidConfig, "it is the database of another program; choose another path")
        .await;
    let text = folder.path().join("notes.txt");
    fs::write(&text, "Buy milk. ".repeat(1_000)).unwrap();
    refused(&text, ErrorKind::Unexpected, "this is no SQLite database").await;
}

#[tokio::test]
async fn a_later_schema_is_refused() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    drop(SqliteStore::open(&file).await.unwrap());
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let words = "another version of wakala wrote it (schema 7, this one knows 1); use that version";
    refused(&file, ErrorKind::InvalidConfig, words).await;
}

#[tokio::test]
async fn a_database_without_its_tables_is_an_error() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    let store = SqliteStore::open(&file).await.unwrap();
    Connection::open(&file).unwrap().execute_batch("DROP TABLE letters").unwrap();
    Writer::create(&store, "a", HOUR).await;
    let error = store.send(&"a".into(), "{}".to_owned()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unexpected, Retry::Never), "{error:?}");
    assert!(error.to_string().contains("somebody changed its tables"), "{error}");
    assert!(error.chain().contains("no such table"), "{}", error.chain());
}

#[tokio::test]
async fn whoever_locks_it_for_long_is_waited_for_and_then_named() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("runs.db");
    let store = SqliteStore::open(&file).await.unwrap();
    let mut writer = Writer::create(&store, "a", HOUR).await;
    let other = Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = writer.append().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Safe { after: None }),
        "{error:?}"
    );
    assert!(error.to_string().contains("another process keeps the database locked"), "{error}");
    // Reading needs no lock; and a lock that is given back in time is waited for.
    assert_eq!(whole(&store.load(&"a".into()).await.unwrap()), 1);
    let (appended, ()) = tokio::join!(writer.append(), async { other.execute_batch("COMMIT").unwrap() });
    assert_eq!(appended.unwrap(), 1);
}
