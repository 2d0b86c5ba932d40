//! The moto process: where it is installed, its start and its end.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::error::{Error, Result};

const LAUNCHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/aws/moto_server.py");
const REQUIREMENTS: &[u8] = include_bytes!("../../aws/requirements.txt");
/// Half a second on an idle machine; the rest is for machines that compile at the same time.
const START_LIMIT: Duration = Duration::from_secs(90);
const LOG_TAIL_LINES: usize = 20;

/// The folder in which `scripts/install-moto` puts the environment for the present list of requirements.
fn environment() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("WAKALA_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("wakala")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/wakala")))
        .ok_or(Error::NoCacheFolder)?;
    let hash: String =
        Sha256::digest(REQUIREMENTS).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(cache.join(format!("moto-{hash}")))
}

/// A running moto server. It ends with this value, and with the process that holds it, however that one ends.
#[derive(Debug)]
pub(super) struct Moto {
    /// The launcher ends when its standard input does, and the child holds our end of that pipe.
    child: Child,
    log: NamedTempFile,
    port: u16,
}

impl Moto {
    pub(super) async fn start() -> Result<Self> {
        let folder = environment()?;
        let python = folder.join("bin/python");
        if !python.is_file() {
            return Err(Error::NotInstalled { folder });
        }
        let failed =
            |what: &str, error: std::io::Error| Error::Start { reason: format!("{what} moto: {error}") };
        let log = NamedTempFile::new().map_err(|error| failed("making a log file for", error))?;
        let log_writer = log.reopen().map_err(|error| failed("opening the log file for", error))?;
        let mut command = Command::new(python);
        command
            .args(["-I", LAUNCHER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_writer)
            // Ctrl-C at the terminal is meant for the program that uses it, which may still need it to clean up.
            .process_group(0)
            .kill_on_drop(true);
        // A profile or an endpoint of the user's must not reach boto, which moto uses inside.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("AWS_") || name.starts_with("MOTO_")) {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().map_err(|error| failed("starting", error))?;
        let stdout = child.stdout.take().expect("standard output was asked to be piped");
        let mut moto = Self { child, log, port: 0 };

        let mut line = String::new();
        let mut lines = BufReader::new(stdout);
        match timeout(START_LIMIT, lines.read_line(&mut line)).await {
            Ok(Ok(_)) => {
                moto.port = line.trim().parse().map_err(|_| Error::Start {
                    reason: format!("moto ended before it was ready; its log ends:\n{}", moto.log_tail()),
                })?;
                Ok(moto)
            }
            Ok(Err(error)) => Err(failed("reading the port of", error)),
            Err(_) => Err(Error::Start {
                reason: format!(
                    "moto was not ready after {} s; its log ends:\n{}",
                    START_LIMIT.as_secs(),
                    moto.log_tail()
                ),
            }),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends the server and waits until the operating system has taken it away.
    pub(super) async fn stop(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "moto could not be ended; it ends when its standard input does");
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.log.path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}
