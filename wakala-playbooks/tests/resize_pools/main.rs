//! Pools of two real PgBouncers in front of a real Postgres, resized by the playbook.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use tokio_postgres::NoTls;
use wakala_core::testing::{Answer, FakeMetrics};
use wakala_core::{Approval, Engine, ErrorKind, FindingLevel, Revert, RunHandle, Status, StepOutcome, Unit};
use wakala_db::{Console, FileHome};
use wakala_playbooks::resize_pools::{PgBouncers, PoolMetrics, PoolSizes, ResizePools};
use wakala_testbed::{PgBouncer, PostgresServer};

const ROLE: &str = "shop";

/// Two PgBouncers that read one file, as two pods do.
struct Site {
    server: PostgresServer,
    one: PgBouncer,
    two: PgBouncer,
}

impl Site {
    async fn start() -> Self {
        let server = PostgresServer::builder()
            .with_role(ROLE, "secret")
            .with_database("app", ROLE)
            .with_max_connections(60)
            .start()
            .await
            .unwrap();
        let builder =
            || PgBouncer::builder(&server).with_database("app", "pool_size=5").with_default_pool_size(5);
        let (one, two) = tokio::join!(builder().start(), builder().start());
        let (one, two) = (one.unwrap(), two.unwrap());
        let own = two.config_path();
        fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink(one.config_path(), &own).unwrap();
        two.reload().await.unwrap();
        Self { server, one, two }
    }

    fn console(&self, port: u16) -> Console {
        // Both read the first one's users by now.
        Console::new(self.one.at_port(port).config("pgbouncer", "pgbouncer_admin").unwrap())
    }

    fn production(&self) -> PgBouncers {
        let name = format!("127.0.0.1:{}", self.server.port());
        let config = self.server.config("postgres", ROLE).unwrap();
        let pool = Pool::builder(Manager::new(config, NoTls)).max_size(1).build().unwrap();
        let consoles =
            [self.console(self.one.port()).named("one"), self.console(self.two.port()).named("two")];
        PgBouncers::new(Arc::new(FileHome::new(self.one.config_path())), consoles)
            .with_budget(move |budget| budget.with_server(name.clone(), pool.clone()).with_users(1))
    }

    fn text(&self) -> String {
        fs::read_to_string(self.one.config_path()).unwrap()
    }

    async fn sizes(&self) -> Vec<Option<u64>> {
        let mut sizes = Vec::new();
        for port in [self.one.port(), self.two.port()] {
            let rows = self.console(port).show("DATABASES").await.unwrap();
            sizes.push(rows.iter().find(|row| row.text("name") == Some("app")).unwrap().number("pool_size"));
        }
        sizes
    }
}

fn to(size: u32) -> ResizePools {
    let mut parameters = ResizePools::nothing()
        .with_database("app", PoolSizes::new(size, 2))
        .with_setting("max_client_conn", 800);
    parameters.soak = Duration::ZERO;
    parameters
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_resized_and_reverted_to_the_byte() {
    let site = Site::start().await;
    let before = site.text();
    let playbook = to(12).playbook(&site.production()).unwrap();
    let (engine, run) = (Engine::new(), RunHandle::generate());
    let plan = engine.plan(&playbook).await.unwrap();
    let text = plan.to_string();
    assert!(text.contains("databases.app.pool_size     5 -> 12"), "{text}");
    assert!(text.contains("2 processes x 14 = 28 connections (app 12+2)"), "{text}");
    let report = engine.run(&playbook, &plan, &Approval::of(&plan, "test"), &run).await.unwrap();
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(site.sizes().await, [Some(12), Some(12)]);
    engine.revert(&playbook, &run, Revert::Everything).await.unwrap();
    assert_eq!((site.text(), site.sizes().await), (before, vec![Some(5), Some(5)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_cannot_bear_is_not_run() {
    let site = Site::start().await;
    let before = site.text();
    let playbook = to(60).playbook(&site.production()).unwrap();
    let (engine, run) = (Engine::new(), RunHandle::generate());
    let plan = engine.plan(&playbook).await.unwrap();
    let refusals: Vec<_> = plan.refusals().collect();
    assert_eq!((refusals.len(), refusals[0].level), (1, FindingLevel::Refusal));
    assert!(refusals[0].text.contains("Pool size 22 of app would fit"), "{}", refusals[0].text);
    assert!(engine.run(&playbook, &plan, &Approval::of(&plan, "test"), &run).await.is_err());
    assert_eq!((site.text(), site.sizes().await), (before, vec![Some(5), Some(5)]));

    // A production whose servers nobody named bears nothing.
    let unnamed =
        PgBouncers::new(Arc::new(FileHome::new(site.one.config_path())), [site.console(site.one.port())]);
    let plan = engine.plan(&to(6).playbook(&unnamed).unwrap()).await.unwrap();
    assert!(plan.refusals().next().unwrap().text.contains("NOT KNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_wait_take_the_change_back_and_calm_lets_it_pass() {
    let site = Site::start().await;
    let before = site.text();
    for (wait, status) in [(0.0, Status::Succeeded), (7.5, Status::Compensated)] {
        let metrics = FakeMetrics::new()
            .with("pgbouncer.max_wait_seconds", Answer::Value(wait))
            .with("pgbouncer.clients_waiting", Answer::Value(0.0))
            .with_unit("pgbouncer.max_wait_seconds", Unit::Seconds)
            .with_unit("pgbouncer.clients_waiting", Unit::Count);
        let production = site.production().with_metrics(PoolMetrics::new(Arc::new(metrics)));
        let mut parameters = to(12);
        parameters.soak = Duration::from_secs(2);
        parameters.max_clients_waiting = Some(10);
        let playbook = parameters.playbook(&production).unwrap();
        let (engine, run) = (Engine::new(), RunHandle::generate());
        let plan = engine.plan(&playbook).await.unwrap();
        let report = engine.run(&playbook, &plan, &Approval::of(&plan, "test"), &run).await.unwrap();
        assert_eq!(report.status, status, "{report}");
        if status == Status::Succeeded {
            assert_eq!(site.sizes().await, [Some(12), Some(12)]);
            engine.revert(&playbook, &run, Revert::Everything).await.unwrap();
        } else {
            assert_eq!(report.step("resize").unwrap().outcome, StepOutcome::TakenBack, "{report}");
        }
        assert_eq!((site.text(), site.sizes().await), (before.clone(), vec![Some(5), Some(5)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_can_never_work_are_all_named_at_once() {
    let site = Site::start().await;
    let mut parameters = ResizePools::nothing().with_database("app", PoolSizes::new(0, 2));
    parameters.max_wait = Duration::ZERO;
    let error = parameters.playbook(&site.production()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    for words in ["pool_size of app is 0", "soak needs metrics", "max_wait is 0s"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = ResizePools::nothing().playbook(&site.production()).unwrap_err();
    assert!(error.to_string().contains("nothing would change"), "{error}");
}
