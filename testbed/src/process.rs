//! Child processes that cannot outlive us, and ports for them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::TestbedError;

const LOG_TAIL_BYTES: u64 = 4 * 1024;

/// A server under `supervise`: it dies when this is dropped and when our process ends, however that happens.
#[derive(Debug)]
pub(crate) struct Supervised {
    name: String,
    child: Child,
    log: PathBuf,
    pid_file: PathBuf,
}

/// What to run, kept so that it can be run again.
#[derive(Clone, Debug)]
pub(crate) struct ServerCommand {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
}

impl Supervised {
    /// Starts `command`; standard output and error are appended to `<folder>/<name>.log`.
    pub(crate) fn start(
        supervise: &Path,
        folder: &Path,
        command: &ServerCommand,
    ) -> Result<Self, TestbedError> {
        let log = folder.join(format!("{}.log", command.name));
        let pid_file = folder.join(format!("{}.pid", command.name));
        let mut arguments = vec![OsString::from("--pid-file"), pid_file.clone().into(), "--".into()];
        arguments.push(command.program.clone().into());
        arguments.extend(command.args.iter().cloned());
        let child = spawn(supervise, folder, &log, &arguments, &command.name)?;
        Ok(Self { name: command.name.clone(), child, log, pid_file })
    }

    /// Starts no server: it removes `folder` when this is dropped or our process ends.
    pub(crate) fn remover(supervise: &Path, folder: &Path) -> Result<Self, TestbedError> {
        let log = folder.join("remover.log");
        let arguments = ["--remove".into(), OsString::from(folder)];
        let child = spawn(supervise, folder, &log, &arguments, "remover")?;
        Ok(Self { name: "remover".into(), child, log, pid_file: PathBuf::new() })
    }

    /// The exit status, if the server has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    #[cfg(feature = "kubernetes")]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|error| format!("({}: {error})", self.log.display()))
    }

    /// Process ids of the supervisor and, once it has been started, of the server.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let server = fs::read_to_string(&self.pid_file).ok().and_then(|text| text.trim().parse().ok());
        std::iter::once(self.child.id()).chain(server).collect()
    }

    /// Lets the supervisor kill the server, without waiting for it. Dropping waits.
    pub(crate) fn end(&mut self) {
        drop(self.child.stdin.take());
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.end();
        if let Err(error) = self.child.wait() {
            tracing::warn!(server = self.name, %error, "cannot wait for the end of a supervised process");
        }
    }
}

fn spawn(
    supervise: &Path,
    folder: &Path,
    log: &Path,
    arguments: &[OsString],
    name: &str,
) -> Result<Child, TestbedError> {
    let open = |log| fs::OpenOptions::new().create(true).append(true).open(log);
    let output = open(log).map_err(TestbedError::io(format!("cannot write {}", log.display())))?;
    let errors = open(log).map_err(TestbedError::io(format!("cannot write {}", log.display())))?;
    Command::new(supervise)
        .args(arguments)
        // Nothing of the caller's environment (proxies, cloud credentials, kubeconfig) may steer a server.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("HOME", folder)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(errors)
        // A Ctrl-C in the terminal is ours to handle; the servers must still answer while we clean up.
        .process_group(0)
        .spawn()
        .map_err(TestbedError::io(format!("cannot start {name} with {}", supervise.display())))
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A loopback port that nobody listens on and that this process has not given out before.
///
/// It lies below the range from which the kernel takes the local ports of outgoing connections. From within that
/// range a client that keeps trying a stopped server would sooner or later be given the server's port as its own,
/// connect to itself, and keep the server from coming back.
pub(crate) fn free_port() -> Result<u16, TestbedError> {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    const LOWEST: u16 = 15_000;
    const HIGHEST: u16 = 32_000;

    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let random = RandomState::new();
    for attempt in 0_u32..1_000 {
        let span = u64::from(HIGHEST - LOWEST);
        let offset = u16::try_from(random.hash_one(attempt) % span).expect("the span fits u16");
        let port = LOWEST + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && given.insert(port) {
            return Ok(port);
        }
    }
    Err(TestbedError::Invalid(format!(
        "no free TCP port on 127.0.0.1 between {LOWEST} and {HIGHEST}: end whatever listens there"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_given_once() {
        let ports: Vec<_> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let lowest_outgoing: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        assert!(ports.iter().all(|port| *port < lowest_outgoing), "{ports:?} against {range}");
    }

    #[test]
    fn the_tail_of_a_log_is_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, format!("{}the end", "x".repeat(10_000))).unwrap();
        let tail = tail(&path).unwrap();
        assert!(tail.ends_with("the end") && tail.len() <= 4 * 1024, "{} bytes", tail.len());
    }
}
