//! Workers that are scaled by what waits for them: what the queue's depth is good for.

use std::sync::Arc;
use std::time::Duration;

use wakala_cache::{RedisMetrics, RedisQueue};
use wakala_core::testing::FakeTarget;
use wakala_core::{
    Approval, Engine, ErrorKind, MetricQuery, OnFailure, Playbook, RunHandle, RunReport, ScaleUp, Soak,
    Status, guard, step,
};
use wakala_testbed::RedisServer;

use crate::rig::{LIMIT, metrics, of, value};

/// The runbook's table: above 10,000 messages 30 workers, above 5,000 20, else 10.
fn workers_for(depth: f64) -> u32 {
    match depth {
        depth if depth > 10_000.0 => 30,
        depth if depth > 5_000.0 => 20,
        _ => 10,
    }
}

fn depth() -> MetricQuery {
    of("redis.queue_depth", "queue", "messages")
}

/// More workers, and then a soak that wants the queue to become short.
fn playbook(source: &RedisMetrics, workers: &FakeTarget, size: u32) -> Playbook {
    let soak = Soak::new("drain", Duration::from_millis(600))
        .with_grace(Duration::from_millis(500))
        .with_interval(Duration::from_millis(100))
        .with_fail_limit(1)
        .with_guard(guard::metric(Arc::new(source.clone()), depth()).below(5_000.0));
    Playbook::builder("workers")
        .then(step(ScaleUp::to(Arc::new(workers.clone()), size).step("scale")))
        .then(soak)
        .with_on_failure(OnFailure::TakeBack)
        .build()
        .unwrap()
}

async fn run(playbook: &Playbook) -> wakala_core::Result<RunReport> {
    let engine = Engine::new();
    let plan = engine.plan(playbook).await?;
    engine.run(playbook, &plan, &Approval::of(&plan, "ana"), &RunHandle::new("run")).await
}

async fn push(server: &RedisServer, count: usize) {
    let mut client = server.connect().await.unwrap();
    let messages = vec!["m"; count];
    redis::cmd("RPUSH").arg("message:queue").arg(messages).exec_async(&mut client).await.unwrap();
}

fn source(server: &RedisServer) -> RedisMetrics {
    metrics(server).with_queue(RedisQueue::list("message:queue").with_name("messages"))
}

#[tokio::test]
async fn the_depth_of_the_queue_says_how_many_workers_and_whether_they_were_enough() {
    let server = RedisServer::builder().start().await.unwrap();
    let source = source(&server);
    for (more, workers) in [(5_000, 10), (1, 20), (7_000, 30)] {
        push(&server, more).await;
        assert_eq!(workers_for(value(&source, depth()).await.unwrap()), workers);
    }
    let workers = FakeTarget::new("wakala-worker", 10);
    let size = workers_for(value(&source, depth()).await.unwrap());
    let change = playbook(&source, &workers, size);
    let drain = async {
        wakala_testbed::wait_until("more workers", LIMIT, || async {
            (workers.size() == 30.into()).then_some(()).ok_or_else(|| "not yet".into())
        })
        .await
        .unwrap();
        // They do their work.
        server.command(&["LTRIM", "message:queue", "0", "9"]).await.unwrap();
    };
    let (report, ()) = tokio::join!(run(&change), drain);
    let report = report.unwrap();
    assert_eq!((report.status, workers.size()), (Status::Succeeded, 30.into()), "{report}");
}

#[tokio::test]
async fn workers_that_do_not_help_are_taken_back_and_it_says_why() {
    let server = RedisServer::builder().start().await.unwrap();
    push(&server, 12_000).await;
    let source = source(&server);
    let workers = FakeTarget::new("wakala-worker", 10);
    let report = run(&playbook(&source, &workers, 30)).await.unwrap();
    assert_eq!((report.status, workers.size()), (Status::Compensated, 10.into()), "{report}");
    assert!(
        report.reason.contains("redis.queue_depth") && report.reason.contains("12000"),
        "{}",
        report.reason
    );
}

#[tokio::test]
async fn a_plan_whose_queue_cannot_be_seen_is_refused() {
    let server = RedisServer::builder().start().await.unwrap();
    let workers = FakeTarget::new("wakala-worker", 10);
    let blind = metrics(&server).with_queue(RedisQueue::group("stream", "none").with_name("messages"));
    for (source, hint) in [(metrics(&server), "with_queue"), (blind, "redis.queue_depth")] {
        let error = run(&playbook(&source, &workers, 30)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{}", error.chain());
        assert!(error.chain().contains(hint), "{}", error.chain());
    }
    assert_eq!(workers.size(), 10.into());
}
