//! A server of the system's packages: under another user where need be, tied to our process.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
#[cfg(feature = "postgres")]
use std::process::Command;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::account::Account;
use crate::process::{ServerCommand, Supervised};
use crate::{TestbedError, wait_until};

const SUPERVISE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/supervise.sh");
/// Keeps the folder with data, configuration and logs after the end, for looking at it.
const KEEP_VARIABLE: &str = "WAKALA_TESTBED_KEEP";
const DEADLINE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(10);

/// A folder that only its servers' account and we can write; it is deleted when this is dropped or our process ends.
#[derive(Debug)]
pub(crate) struct ServerFolder {
    pub(crate) path: PathBuf,
    pub(crate) account: Option<Account>,
    // Held for its Drop.
    _remover: Option<Supervised>,
}

impl ServerFolder {
    /// For servers that run as `account`; as we ourselves where that is `None`.
    pub(crate) fn create(account: Option<Account>) -> Result<Self, TestbedError> {
        let folder = tempfile::Builder::new()
            .prefix("wakala-testbed-")
            .tempdir()
            .map_err(TestbedError::io("cannot create a temporary folder"))?;
        let mode = fs::Permissions::from_mode(0o711);
        fs::set_permissions(folder.path(), mode)
            .map_err(TestbedError::io(format!("cannot open {}", folder.path().display())))?;
        let remover = match std::env::var_os(KEEP_VARIABLE) {
            Some(_) => {
                tracing::warn!(folder = %folder.path().display(), "kept after the end, because {KEEP_VARIABLE} is set");
                None
            }
            None => Some(Supervised::remover(Path::new(SUPERVISE), folder.path())?),
        };
        Ok(Self { path: folder.keep(), account, _remover: remover })
    }

    /// Writes a file that only the servers' account may read.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf, TestbedError> {
        let path = self.path.join(name);
        let what = || format!("cannot write {}", path.display());
        // A reader of the old file never sees half of the new one, and the new one is never readable by others.
        let new = self.path.join(format!("{name}.new"));
        fs::write(&new, "").map_err(TestbedError::io(what()))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(TestbedError::io(what()))?;
        Account::own(self.account, &new)?;
        fs::write(&new, text).map_err(TestbedError::io(what()))?;
        fs::rename(&new, &path).map_err(TestbedError::io(what()))?;
        Ok(path)
    }

    /// `program` as the servers' account, which dies with the process that starts it.
    fn command_line(&self, program: &Path) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec!["--pdeathsig=KILL".into()];
        if let Some(Account { uid, gid }) = self.account {
            line.extend([format!("--reuid={uid}"), format!("--regid={gid}")].map(OsString::from));
            line.push("--clear-groups".into());
        }
        line.extend(["--".into(), program.into()]);
        line
    }

    /// Runs a program that ends by itself.
    #[cfg(feature = "postgres")]
    pub(crate) fn run(&self, program: &Path, arguments: &[&str]) -> Result<(), TestbedError> {
        let what = || format!("cannot run {}", program.display());
        let output = Command::new("setpriv")
            .args(self.command_line(program))
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .current_dir("/")
            .output()
            .map_err(TestbedError::io(what()))?;
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(TestbedError::Invalid(format!("{}: {}; {}", what(), output.status, errors.trim())))
    }
}

/// What can be started, stopped and killed, again and again.
#[derive(Debug)]
pub(crate) struct Daemon {
    command: ServerCommand,
    // Dropped before the folder, which it writes into.
    running: Mutex<Option<Supervised>>,
    pub(crate) folder: ServerFolder,
}

impl Daemon {
    pub(crate) fn new(
        name: &str,
        folder: ServerFolder,
        program: &Path,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Self {
        let args = folder.command_line(program).into_iter().chain(arguments).collect();
        let command = ServerCommand { name: name.to_owned(), program: "setpriv".into(), args };
        Self { command, running: Mutex::default(), folder }
    }

    /// Starts the server if it does not run, and waits until `look` succeeds.
    pub(crate) async fn start<F, Fut>(&self, mut look: F) -> Result<(), TestbedError>
    where
        F: FnMut() -> Fut + Send,
        Fut: Future<Output = Result<(), TestbedError>> + Send,
    {
        self.launch()?;
        let started = Instant::now();
        loop {
            let last = match tokio::time::timeout(DEADLINE, look()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it did not answer".to_owned(),
            };
            if let Some(status) = self.ended() {
                return Err(self.failure(format!("ended with {status} instead of starting")));
            }
            if started.elapsed() > DEADLINE {
                return Err(self.failure(format!("was not ready after {DEADLINE:?} ({last})")));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn launch(&self) -> Result<(), TestbedError> {
        let mut running = self.lock();
        if running.as_mut().is_some_and(|server| server.ended().is_none()) {
            return Ok(());
        }
        let old = self.folder.path.join(format!("{}.pid", self.command.name));
        if let Err(error) = fs::remove_file(&old)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(TestbedError::io(format!("cannot delete {}", old.display()))(error));
        }
        *running = Some(Supervised::start(Path::new(SUPERVISE), &self.folder.path, &self.command)?);
        Ok(())
    }

    /// Asks the server by `signal` to end and waits until it has; nothing to do if it does not run.
    pub(crate) async fn stop(&self, signal: Signal) -> Result<(), TestbedError> {
        if let Some(pid) = self.pid().await? {
            self.signal(pid, signal)?;
        }
        self.wait_ended().await
    }

    /// Kills the server and its children where they stand.
    pub(crate) async fn kill(&self) -> Result<(), TestbedError> {
        let mut processes = Vec::new();
        if let Some(pid) = self.pid().await? {
            // Stopped, it starts no children while they are listed, and sees none of them end.
            self.signal(pid, Signal::STOP)?;
            processes.extend(children(pid).chain([pid]));
            for process in &processes {
                self.signal(*process, Signal::KILL)?;
            }
        }
        // A child that is not gone yet holds the memory that they share, and the next server does not start beside it.
        wait_until(&format!("end of the children of {}", self.command.name), DEADLINE, || async {
            match processes.iter().find(|process| is_alive(**process)) {
                Some(process) => Err(format!("process {process} is there").into()),
                None => Ok(()),
            }
        })
        .await?;
        self.wait_ended().await
    }

    /// Holds the server where it stands, or lets it go on.
    pub(crate) async fn pause(&self, pause: bool) -> Result<(), TestbedError> {
        let signal = if pause { Signal::STOP } else { Signal::CONT };
        if let Some(pid) = self.pid().await? {
            for process in children(pid).chain([pid]) {
                self.signal(process, signal)?;
            }
        }
        Ok(())
    }

    fn signal(&self, pid: Pid, signal: Signal) -> Result<(), TestbedError> {
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => {
                let what = format!("cannot signal process {pid} of {}", self.command.name);
                Err(TestbedError::io(what)(error.into()))
            }
        }
    }

    async fn wait_ended(&self) -> Result<(), TestbedError> {
        wait_until(&format!("end of {}", self.command.name), DEADLINE, || async {
            self.is_ended().then_some(()).ok_or_else(|| "still running".into())
        })
        .await?;
        self.lock().take();
        Ok(())
    }

    fn is_ended(&self) -> bool {
        self.lock().as_mut().is_none_or(|server| server.ended().is_some())
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.lock().as_mut().and_then(Supervised::ended)
    }

    /// The server's process, once its supervisor has started it; `None` if there is none.
    pub(crate) async fn pid(&self) -> Result<Option<Pid>, TestbedError> {
        wait_until(&format!("process id of {}", self.command.name), DEADLINE, || async {
            let mut running = self.lock();
            let Some(server) = running.as_mut() else { return Ok(None) };
            if server.ended().is_some() {
                return Ok(None);
            }
            match server.pids()[..] {
                [_, pid] => Ok(i32::try_from(pid).ok().and_then(Pid::from_raw)),
                _ => Err("not yet written".into()),
            }
        })
        .await
    }

    pub(crate) fn log_tail(&self) -> String {
        self.lock().as_ref().map(Supervised::log_tail).unwrap_or_default()
    }

    /// The server is stopped, and why.
    fn failure(&self, reason: String) -> TestbedError {
        let log_tail = self.log_tail();
        self.lock().take();
        TestbedError::Server { server: self.command.name.clone(), reason, log_tail }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Supervised>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A server that a test holds still would not hear that it shall end.
        if let Some(server) = self.lock().as_ref()
            && let [_, pid] = server.pids()[..]
            && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
            for process in children(pid).chain([pid]) {
                let _ = kill_process(process, Signal::CONT);
            }
        }
    }
}

fn children(parent: Pid) -> impl Iterator<Item = Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    processes.filter_map(move |process| {
        let pid: i32 = process.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        (parent_in(&stat)? == parent.as_raw_pid()).then(|| Pid::from_raw(pid))?
    })
}

/// Whether it is there, and not only its parent's to bury.
fn is_alive(process: Pid) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid()))
        .is_ok_and(|stat| state_in(&stat).is_some_and(|state| !matches!(state, "Z" | "X")))
}

fn state_in(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().next()
}

/// The parent's id in a `/proc/<pid>/stat`, whose second field may hold blanks and parentheses of its own.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_parent() {
        assert_eq!(parent_in("42 (postgres: (a) b) S 7 42 42 0"), Some(7));
        assert_eq!(parent_in(""), None);
        assert_eq!(state_in("42 (postgres: (a) b) Z 7 42 42 0"), Some("Z"));
        assert!(is_alive(Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap()));
    }
}
