use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use wakala_core::{ResourceKey, Result, RunContext, Version, Versioned};
use wakala_db::{ConfigHome, Console, FileHome, PgBouncerPools, PoolChange};
use wakala_testbed::{Link, PgBouncer, PgBouncerBuilder, PostgresServer};

pub(crate) const ROLE: &str = "shop";

/// A Postgres with the databases `app` and `reports`.
pub(crate) async fn postgres() -> PostgresServer {
    PostgresServer::builder()
        .with_role(ROLE, "secret")
        .with_database("app", ROLE)
        .with_database("reports", ROLE)
        .with_max_connections(60)
        .start()
        .await
        .unwrap()
}

pub(crate) fn console(bouncer: &PgBouncer) -> Console {
    console_at(bouncer, bouncer.port())
}

pub(crate) fn console_at(bouncer: &PgBouncer, port: u16) -> Console {
    let config = bouncer.at_port(port).config("ignored", "pgbouncer_admin").unwrap();
    Console::new(config).with_limit(Duration::from_secs(5))
}

/// Two PgBouncers that read one file, as two pods do; the second can be cut off.
pub(crate) struct Pair {
    pub(crate) one: PgBouncer,
    pub(crate) two: PgBouncer,
    pub(crate) link: Link,
    pub(crate) server: PostgresServer,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        let server = postgres().await;
        let builder = || -> PgBouncerBuilder {
            PgBouncer::builder(&server)
                .with_database("app", "pool_size=5 reserve_pool=1")
                .with_default_pool_size(4)
                .with_setting("reserve_pool_timeout", 5)
                .with_setting("server_lifetime", 900)
        };
        let (one, two) = tokio::join!(builder().start(), builder().start());
        let (one, two) = (one.unwrap(), two.unwrap());
        // What one and the other must not share, its port, counts only when it starts.
        let own = two.config_path();
        let beside = own.with_extension("link");
        std::os::unix::fs::symlink(one.config_path(), &beside).unwrap();
        fs::rename(&beside, &own).unwrap();
        two.reload().await.unwrap();
        let link = two.link().unwrap();
        Self { one, two, link, server }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.one.config_path()
    }

    pub(crate) fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    /// The consoles, the second through the link.
    pub(crate) fn consoles(&self) -> [Console; 2] {
        // Long for a loaded machine, short for the tests that cut it off.
        let limit = Duration::from_secs(3);
        // Both have the first one's `auth_file` by now.
        let two = console_at(&self.one, self.link.port()).named("two").with_limit(limit);
        [console(&self.one).named("one").with_limit(limit), two]
    }

    pub(crate) fn pools(&self, change: PoolChange) -> PgBouncerPools {
        self.pools_at(Arc::new(FileHome::new(self.path())), change)
    }

    pub(crate) fn pools_at(&self, home: Arc<dyn ConfigHome>, change: PoolChange) -> PgBouncerPools {
        PgBouncerPools::new(home, self.consoles(), change)
    }

    /// A cell of `SHOW DATABASES`, or of `SHOW CONFIG` for no database, on both.
    pub(crate) async fn cells(&self, database: Option<&str>, column: &str) -> [String; 2] {
        let two = console_at(&self.one, self.two.port());
        [self.cells_of_one(database, column).await, cell(&two, database, column).await]
    }

    pub(crate) async fn cells_of_one(&self, database: Option<&str>, column: &str) -> String {
        cell(&console(&self.one), database, column).await
    }
}

async fn cell(console: &Console, database: Option<&str>, column: &str) -> String {
    let (what, name, value) = match database {
        Some(_) => ("DATABASES", "name", column),
        None => ("CONFIG", "key", "value"),
    };
    let rows = console.show(what).await.unwrap();
    let row = rows.iter().find(|row| row.text(name) == Some(database.unwrap_or(column)));
    row.unwrap().text(value).unwrap_or_default().to_owned()
}

type Then = dyn FnMut(PathBuf) -> BoxFuture<'static, ()> + Send;

/// A file to which something happens right after the first write of a run.
pub(crate) struct Meddled {
    file: FileHome,
    path: PathBuf,
    seen: bool,
    then: Mutex<Option<Box<Then>>>,
}

impl fmt::Debug for Meddled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meddled")
    }
}

impl Meddled {
    /// The version that a write answers is the one after the meddling, as if it had been ours.
    pub(crate) fn new(
        path: PathBuf,
        then: impl FnMut(PathBuf) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            file: FileHome::new(&path),
            path,
            seen: false,
            then: Mutex::new(Some(Box::new(then))),
        })
    }

    /// The version that a write answers is its own.
    pub(crate) fn by_somebody(
        path: PathBuf,
        then: impl FnMut(PathBuf) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            file: FileHome::new(&path),
            path,
            seen: true,
            then: Mutex::new(Some(Box::new(then))),
        })
    }
}

#[async_trait]
impl ConfigHome for Meddled {
    fn resource(&self) -> ResourceKey {
        self.file.resource()
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<String>> {
        self.file.read(cx).await
    }

    async fn write(
        &self,
        cx: &RunContext,
        text: &str,
        expected: Option<&Version>,
    ) -> Result<Option<Version>> {
        let version = self.file.write(cx, text, expected).await?;
        let then = self.then.lock().unwrap().take();
        if let Some(mut then) = then {
            then(self.path.clone()).await;
        }
        if self.seen {
            return Ok(version);
        }
        Ok(self.file.read(cx).await?.version.or(version))
    }
}

/// A source that reaches the file of the processes only after a while, as a ConfigMap does; or never.
#[derive(Debug)]
pub(crate) struct Slow {
    source: FileHome,
    path: PathBuf,
    after: Option<Duration>,
    propagation: Duration,
}

impl Slow {
    /// Its source lies beside the file.
    pub(crate) fn new(path: PathBuf, after: Option<Duration>, propagation: Duration) -> Arc<Self> {
        let source = path.with_extension("source");
        fs::copy(&path, &source).unwrap();
        Arc::new(Self { source: FileHome::new(source), path, after, propagation })
    }
}

#[async_trait]
impl ConfigHome for Slow {
    fn resource(&self) -> ResourceKey {
        self.source.resource()
    }

    fn propagation(&self) -> Duration {
        self.propagation
    }

    async fn read(&self, cx: &RunContext) -> Result<Versioned<String>> {
        self.source.read(cx).await
    }

    async fn write(
        &self,
        cx: &RunContext,
        text: &str,
        expected: Option<&Version>,
    ) -> Result<Option<Version>> {
        let version = self.source.write(cx, text, expected).await?;
        if let Some(after) = self.after {
            let (path, text) = (self.path.clone(), text.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                fs::write(path, text).unwrap();
            });
        }
        Ok(version)
    }
}
