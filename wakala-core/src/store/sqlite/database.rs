//! The file: making it, opening it, and transactions in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, OpenFlags, Transaction, TransactionBehavior};
use uuid::Uuid;

use super::error::{Stage, Stop, failed};
use super::presence::Presence;
use super::{place, schema, subject};
use crate::{Error, ErrorKind, Result, Retry};

/// How long to wait for the writes of others, which take milliseconds each.
const PATIENCE: Duration = Duration::from_secs(5);

/// An open run store.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    /// What was opened, to know it from what may be at its path later.
    identity: Option<(u64, u64)>,
    presence: Presence,
}

impl Database {
    /// Opens the run store at `path`, and makes it where there is none.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let invalid = |message: String| Error::invalid("open", message).on(subject(path));
        let cannot = |e: io::Error, what: &str| {
            let denied =
                matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
            let kind = if denied { ErrorKind::Denied } else { ErrorKind::Unavailable };
            let retry = if denied { Retry::Never } else { Retry::Safe { after: None } };
            Error::new(kind, "open", what.to_owned()).with_retry(retry).on(subject(path)).with_source(e)
        };

        let name = path.file_name().ok_or_else(|| invalid("its path names no file".to_owned()))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder.canonicalize().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                invalid("its folder does not exist; make the folder first".to_owned()).with_source(e)
            }
            _ => cannot(e, "its folder cannot be read"),
        })?;
        let mut file = folder.join(name);
        if !file.exists() {
            refuse_shared(&folder).map_err(invalid)?;
            make(&folder, &file).map_err(|stop| match stop {
                Unmade::Io(e) => cannot(
                    e,
                    "it cannot be made; look at the folder's permissions and at the room that is left",
                ),
                Unmade::Sqlite(e) => failed("open", path, Stage::Before, e),
            })?;
        }
        // Where it is a link, the files beside it are beside what it leads to, as SQLite has it.
        file = file.canonicalize().map_err(|e| cannot(e, "it cannot be found"))?;
        refuse_shared(file.parent().unwrap_or(&folder)).map_err(invalid)?;
        let metadata = fs::metadata(&file).map_err(|e| cannot(e, "it cannot be read"))?;
        if !metadata.is_file() {
            return Err(invalid("it is no file".to_owned()));
        }
        if metadata.len() == 0 {
            return Err(invalid(
                "the file is empty, which no run store is: it was truncated, or never was one; if no runs are missed, \
                 remove it, and it will be made anew"
                    .to_owned(),
            ));
        }
        let connection = connect(&file).map_err(|stop| stop.into_error("open", path))?;
        let identity = place::identity(&file);
        Ok(Self { connection, presence: Presence::new(&file), path: file, identity })
    }

    /// Reads, from one state of the database.
    pub(super) fn read<T>(
        &mut self,
        operation: &'static str,
        body: impl FnOnce(&Transaction<'_>, &Presence) -> Result<T, Stop>,
    ) -> Result<T> {
        let Self { connection, presence, path, .. } = self;
        let read = || {
            let transaction = connection.transaction()?;
            body(&transaction, presence)
        };
        read().map_err(|stop| stop.into_error(operation, path))
    }

    /// Writes, all or nothing; on return it is on the disk.
    pub(super) fn write<T>(
        &mut self,
        operation: &'static str,
        body: impl FnOnce(&Transaction<'_>, &Presence) -> Result<T, Stop>,
    ) -> Result<T> {
        let Self { connection, presence, path, identity } = self;
        if *identity != place::identity(path) {
            let message = "the file was removed or replaced while it was open, so what is written would be lost; look for \
                           it, and open the store again";
            return Err(Error::new(ErrorKind::Unexpected, operation, message)
                .with_retry(Retry::Never)
                .on(subject(path)));
        }
        let write = || {
            // Others' writes are waited for here: once it has begun, nothing has to wait.
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = body(&transaction, presence)?;
            Ok((value, transaction))
        };
        let (value, transaction) = write().map_err(|stop: Stop| stop.into_error(operation, path))?;
        transaction.commit().map_err(|e| failed(operation, path, Stage::Commit, e))?;
        Ok(value)
    }

    /// The name under which this process is known to be alive.
    pub(super) fn process(&mut self, operation: &'static str) -> Result<String> {
        self.presence.name().map_err(|e| {
            let message = "no file that tells that this process is alive can be made beside it; look at the folder's \
                           permissions and at the room that is left";
            Error::new(ErrorKind::Unavailable, operation, message)
                .with_retry(Retry::Safe { after: None })
                .on(subject(&self.path))
                .with_source(e)
        })
    }
}

fn refuse_shared(folder: &Path) -> Result<(), String> {
    match place::shared(folder) {
        Some(kind) => Err(format!(
            "it is on a network file system ({kind}), where SQLite loses data; choose a local disk, or the PostgreSQL store"
        )),
        None => Ok(()),
    }
}

enum Unmade {
    Io(io::Error),
    Sqlite(rusqlite::Error),
}

impl From<io::Error> for Unmade {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for Unmade {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Makes a run store at `file`, unless somebody else does so at the same time.
///
/// It comes into being as a whole, by its name: nobody ever sees one without its tables, and an empty file is none.
fn make(folder: &Path, file: &Path) -> Result<(), Unmade> {
    let draft = place::beside(file, &format!("-new-{}", Uuid::now_v7()));
    // Closed again before SQLite opens it: closing a file gives up all locks of the process on it.
    drop(place::new_file(&draft)?);
    let made = fill(&draft).map_err(Unmade::from).and_then(|()| match fs::hard_link(&draft, file) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e.into()),
        _ => Ok(place::sync(folder)?),
    });
    let _ = fs::remove_file(&draft);
    made
}

fn fill(draft: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open_with_flags(draft, flags())?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(schema::TABLES)?;
    transaction.pragma_update(None, "application_id", schema::APPLICATION)?;
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    transaction.commit()?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // Closing it puts the log into the file and removes it.
    connection.close().map_err(|(_, e)| e)
}

fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Opens a run store that exists, once it is sure that it is one.
fn connect(file: &Path) -> Result<Connection, Stop> {
    let connection = Connection::open_with_flags(file, flags())?;
    connection.busy_timeout(PATIENCE)?;
    // Nothing is changed before it is known whose it is.
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let refused = |message: String| Error::invalid("open", message).on(subject(file));
    if application != schema::APPLICATION {
        return Err(refused("it is the database of another program; choose another path".to_owned()).into());
    }
    if version != schema::VERSION {
        let known = schema::VERSION;
        return Err(refused(format!(
            "another version of wakala wrote it (schema {version}, this one knows {known}); use that version"
        ))
        .into());
    }
    if connection.is_readonly(MAIN_DB)? {
        let message = "it may not be written; look at its permissions and at those of its folder";
        return Err(Error::new(ErrorKind::Denied, "open", message).on(subject(file)).into());
    }
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(refused(format!(
            "its disk allows no write-ahead log (SQLite uses {mode}); choose a local disk, or the PostgreSQL store"
        ))
        .into());
    }
    for (pragma, value) in [
        ("synchronous", "FULL"),
        // On macOS nothing less reaches the disk.
        ("fullfsync", "ON"),
        ("checkpoint_fullfsync", "ON"),
        ("foreign_keys", "ON"),
        // Damage is to be an error and not a wrong answer.
        ("cell_size_check", "ON"),
        ("trusted_schema", "OFF"),
    ] {
        connection.pragma_update(None, pragma, value)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::{LeaseTerms, Line, NewRun};

    fn line(seq: u64) -> Line {
        Line { seq, body: "x".repeat(2_000), hash: format!("{seq:064x}") }
    }

    fn open(path: &Path, run: &str) -> Database {
        let mut database = Database::open(path).unwrap();
        let new = NewRun {
            run: run.into(),
            resources: vec![run.into()],
            terms: LeaseTerms { owner: "test".to_owned(), ttl: Duration::from_secs(60) },
            first: line(0),
            supersedes: Vec::new(),
        };
        database.create(&new, SystemTime::now()).unwrap();
        database
    }

    #[test]
    fn a_full_disk_loses_nothing_and_is_got_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = open(&folder.path().join("runs.db"), "a");
        let limit = |database: &Database, pages: i32| {
            let set = database.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()));
            set.unwrap();
        };
        limit(&database, 40);
        let mut seq = 1;
        let error = loop {
            match database.append(&"a".into(), 1, &line(seq)) {
                Ok(()) => seq += 1,
                Err(error) => break error,
            }
        };
        assert!(seq > 10, "the disk was full at once");
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe { after: None }));
        assert!(error.to_string().contains("the disk is full; make room"), "{error}");
        let written: Vec<Line> = (0..seq).map(line).collect();
        assert_eq!(database.load(&"a".into(), SystemTime::now()).unwrap().lines, written);
        // What needs no room is still possible, and all of it once there is room.
        database.renew(&"a".into(), 1, Duration::from_secs(60), SystemTime::now()).unwrap();
        limit(&database, 1_000);
        database.append(&"a".into(), 1, &line(seq)).unwrap();
    }

    #[test]
    fn it_is_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let database = open(&folder.path().join("runs.db"), "a");
        let pragma = |name| database.connection.pragma_query_value(None, name, |row| row.get::<_, String>(0));
        assert_eq!(pragma("journal_mode").unwrap(), "wal");
        let pragma = |name| database.connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        assert_eq!((pragma("synchronous").unwrap(), pragma("foreign_keys").unwrap()), (2, 1));
    }

    #[test]
    fn nobody_changes_or_deletes_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = open(&folder.path().join("runs.db"), "a");
        database.send(&"a".into(), "{}").unwrap();
        for statement in [
            "UPDATE lines SET body = 'y'",
            "DELETE FROM lines",
            "INSERT INTO lines VALUES ('a', 2, 'y', 'y')",
            "INSERT OR REPLACE INTO lines VALUES ('a', 0, 'y', 'y')",
            "INSERT INTO lines VALUES ('b', 0, 'y', 'y')",
            "UPDATE letters SET body = 'y'",
            "DELETE FROM letters",
            "INSERT INTO letters VALUES ('a', 3, 'y')",
            "INSERT OR REPLACE INTO letters VALUES ('a', 1, 'y')",
            "DELETE FROM runs",
            "UPDATE runs SET epoch = epoch - 1",
            "UPDATE runs SET length = 0",
            "UPDATE runs SET run = 'b'",
        ] {
            let refused = database.connection.execute(statement, []);
            assert!(refused.is_err(), "{statement} was accepted");
        }
        assert_eq!(database.load(&"a".into(), SystemTime::now()).unwrap().lines, [line(0)]);
    }

    #[test]
    fn makers_at_the_same_time_make_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.db");
        let barrier = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for name in 0..8 {
                let (path, barrier) = (&path, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    open(path, &format!("run-{name}"))
                });
            }
        });
        assert_eq!(Database::open(&path).unwrap().list(SystemTime::now()).unwrap().len(), 8);
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["runs.db"]);
    }
}
