//! A standby and a receiver of WAL: what the testbed has not.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use wakala_testbed::{PostgresAccess, PostgresServer};

use crate::rig::LIMIT;

pub(crate) const REPLICATOR: &str = "replicator";
/// As it is called by the primary.
pub(crate) const NAME: &str = "second";

/// A process that is killed when this is dropped and when the thread that made it ends.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A physical copy of a server that follows it.
#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) access: PostgresAccess,
    // Before the folder that it writes into.
    _process: Process,
    _folder: TempDir,
}

impl Standby {
    /// Copies the server through `primary`, which may be a link to it, and follows it there.
    pub(crate) async fn of(primary: &PostgresAccess) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        let url = format!("{}?application_name={NAME}", primary.url("postgres", REPLICATOR).unwrap());
        let arguments = ["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "--wal-method=stream"];
        let copied = program("pg_basebackup", folder.path())
            .args(arguments)
            .args(["--dbname", &url, "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));

        let port = free_port();
        let settings = [
            format!("port={port}"),
            "hot_standby=on".to_owned(),
            "wal_receiver_status_interval=1s".to_owned(),
            "wal_retrieve_retry_interval=100ms".to_owned(),
        ];
        let mut server = program("postgres", folder.path());
        server.arg("-D").arg(&data);
        for setting in &settings {
            server.args(["-c", setting]);
        }
        let process = spawn(server, folder.path());
        let access = primary.at_port(port);
        wakala_testbed::wait_until("standby", LIMIT, || async {
            access.connect("postgres", "postgres").await.map(drop).map_err(Into::into)
        })
        .await
        .unwrap();
        Self { access, _process: process, _folder: folder }
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.access.connect("postgres", "postgres").await.unwrap().batch_execute(sql).await.unwrap();
    }
}

/// What keeps WAL without replaying it.
pub(crate) fn receiver(primary: &PostgresAccess) -> (Process, TempDir) {
    let folder = folder();
    let url = primary.url("postgres", REPLICATOR).unwrap();
    let mut receiver = program("pg_receivewal", folder.path());
    receiver.args(["--dbname", &url, "--status-interval=1", "--directory"]).arg(folder.path());
    (spawn(receiver, folder.path()), folder)
}

/// Lets a role replicate; the testbed's server trusts nobody to by itself.
pub(crate) async fn allow_replication(server: &PostgresServer) {
    server.execute("postgres", "ALTER ROLE replicator REPLICATION").await.unwrap();
}

fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("wakala-metrics-").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    if let Some((uid, gid)) = account() {
        std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
    }
    folder
}

/// A program of PostgreSQL as its own account, tied to our thread.
fn program(name: &str, folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL");
    if let Some((uid, gid)) = account() {
        command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
    }
    command.arg("--").arg(binaries().join(name));
    command.env_clear().env("HOME", folder).envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn spawn(mut command: Command, folder: &Path) -> Process {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    Process(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
}

/// Whom servers run as where we are root.
fn account() -> Option<(u32, u32)> {
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let fields = |line: &str| {
        let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
        (fields.next().unwrap(), fields.next().unwrap())
    };
    root.then(|| fields(line.expect("run scripts/install-postgres: there is no user postgres")))
}

/// As the testbed finds them.
fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("WAKALA_POSTGRES_BIN") {
        return folder.into();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap();
    let newest = versions
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("run scripts/install-postgres: there is no server");
    Path::new("/usr/lib/postgresql").join(newest.to_string()).join("bin")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
