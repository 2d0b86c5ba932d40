//! Whose process is alive: each store that drives runs holds a lock on a file of its own.
//!
//! The operating system gives the lock back however the process ends, so that the file of a process that was killed can be
//! locked by whoever asks. A store locks its file for itself; whoever asks takes a lock that can be shared, for a moment,
//! so that two who ask do not take each other for the owner. Rust's files are closed when a program starts another, so no
//! child keeps the lock. (A program that forks without that must open the store anew, as SQLite's must anyway.)

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::place;

/// The presence of one store, once it drives runs, and the way to ask for that of others.
#[derive(Debug)]
pub(super) struct Presence {
    database: PathBuf,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    name: String,
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl Presence {
    /// Nobody's yet, beside `database`.
    pub(super) fn new(database: &Path) -> Self {
        Self { database: database.to_owned(), own: None }
    }

    /// The name under which this store is known to be alive. Made at the first call.
    pub(super) fn name(&mut self) -> io::Result<String> {
        if let Some(own) = &self.own {
            return Ok(own.name.clone());
        }
        self.sweep();
        let own = loop {
            if let Some(own) = self.make()? {
                break own;
            }
        };
        Ok(self.own.insert(own).name.clone())
    }

    /// A file of our own; `None` where another store's sweep came in between its making and its lock.
    fn make(&self) -> io::Result<Option<Own>> {
        let name = Uuid::now_v7().to_string();
        let path = self.path(&name);
        let lock = place::new_file(&path)?;
        match lock.try_lock() {
            // From here on no sweep takes it, so it stays if it is still there.
            Ok(()) if path.exists() => Ok(Some(Own { name, path, _lock: lock })),
            Ok(()) | Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => {
                let _ = fs::remove_file(&path);
                Err(e)
            }
        }
    }

    /// Whether the store of that name is alive. Where the system does not tell, it counts as alive, and its leases lapse
    /// with time.
    pub(super) fn alive(&self, name: &str) -> bool {
        if self.own.as_ref().is_some_and(|own| own.name == name) {
            return true;
        }
        match File::open(self.path(name)) {
            Ok(file) => !gone(&file),
            Err(e) => e.kind() != ErrorKind::NotFound,
        }
    }

    /// Removes the files of stores that are gone. What cannot be removed does no harm.
    fn sweep(&self) {
        let prefix = self.path("");
        let (Some(folder), Some(prefix)) = (prefix.parent(), prefix.file_name()) else { return };
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let ours = entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
            if ours && File::open(entry.path()).is_ok_and(|file| gone(&file)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        place::beside(&self.database, &format!("-owner-{name}"))
    }
}

/// Whether nobody has locked the file for itself.
fn gone(file: &File) -> bool {
    file.try_lock_shared().is_ok()
}

impl Drop for Own {
    fn drop(&mut self) {
        // What is left over is removed by another's sweep.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_store_is_alive_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("runs.db");
        let (mut first, second) = (Presence::new(&database), Presence::new(&database));
        assert_eq!(files(folder.path()), 0, "who drives nothing leaves nothing");
        let name = first.name().unwrap();
        assert_eq!(first.name().unwrap(), name);
        assert!(first.alive(&name) && second.alive(&name) && second.alive(&name));
        drop(first);
        assert!(!second.alive(&name));
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn what_the_dead_leave_is_swept_and_what_the_living_have_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("runs.db");
        let dead = Presence::new(&database).path("dead");
        let other = folder.path().join("other.db-owner-dead");
        place::new_file(&dead).unwrap();
        place::new_file(&other).unwrap();
        let (mut first, mut second) = (Presence::new(&database), Presence::new(&database));
        assert!(!second.alive("dead"));
        // Somebody else who asks at the same moment is not taken for the owner.
        let asks = File::open(&dead).unwrap();
        assert!(gone(&asks) && !second.alive("dead"));
        drop(asks);
        let names = (first.name().unwrap(), second.name().unwrap());
        assert!(!dead.exists() && other.exists());
        assert!(first.alive(&names.1) && second.alive(&names.0));
        assert_eq!(files(folder.path()), 3);
    }

    /// However making and sweeping fall together, whoever has a name is alive to the others.
    #[test]
    fn sweeps_do_not_take_what_is_being_made() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("runs.db");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mut mine = Presence::new(&database);
                        let name = mine.name().unwrap();
                        assert!(Presence::new(&database).alive(&name));
                    }
                });
            }
        });
        assert_eq!(files(folder.path()), 0);
    }
}
