//! The connection budget, from what real servers and processes say.

use deadpool_postgres::{Manager, Pool};
use tokio_postgres::NoTls;
use wakala_core::{Finding, FindingLevel, Preflight, RunContext};
use wakala_db::{PoolBudget, PoolChange, ServerLimit};

use crate::rig::{Pair, ROLE};

fn pool(pair: &Pair) -> Pool {
    let config = pair.server.config("postgres", ROLE).unwrap();
    Pool::builder(Manager::new(config, NoTls)).max_size(1).build().unwrap()
}

fn name(pair: &Pair) -> String {
    format!("127.0.0.1:{}", pair.server.port())
}

fn budget(pair: &Pair, change: PoolChange) -> PoolBudget {
    PoolBudget::of(&pair.pools(change)).with_server(name(pair), pool(pair))
}

async fn look(budget: &PoolBudget) -> Vec<Finding> {
    budget.check(&RunContext::detached(), &[]).await.unwrap()
}

/// What an application would do to find out the hard way.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_cannot_bear_is_refused_with_what_would_fit() {
    let pair = Pair::start().await;
    let before = pair.text();
    // 60 less 3 leaves 57, less 6 spare leaves 51, less 2 direct leaves 49. Two processes have reports with 4 each, and
    // app with its reserve of 1: 24 + 24 can be had.
    let found = look(&budget(&pair, PoolChange::new().with_pool_size("app", 60)).with_users(1)).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].level, FindingLevel::Refusal);
    for words in ["2 processes x ", "max_connections 60 less 3 for superusers", "2 direct", "of app"] {
        assert!(found[0].text.contains(words), "{words}: {}", found[0].text);
    }
    let (rest, _) = found[0].text.split_once(" of app").unwrap();
    let fits: u32 = rest.rsplit_once("Pool size ").unwrap().1.parse().unwrap();
    for (size, level) in [(fits, FindingLevel::Ok), (fits + 1, FindingLevel::Refusal)] {
        let change = PoolChange::new().with_pool_size("app", size);
        assert_eq!(look(&budget(&pair, change).with_users(1)).await[0].level, level, "{size}");
    }
    // A rollout starts a third process.
    let surge = budget(&pair, PoolChange::new().with_pool_size("app", fits)).with_users(1).with_surge(1);
    assert_eq!(look(&surge).await[0].level, FindingLevel::Refusal);
    // As would a second user, who has pools of its own.
    let users = budget(&pair, PoolChange::new().with_pool_size("app", fits)).with_users(2);
    assert_eq!(look(&users).await[0].level, FindingLevel::Refusal);
    // The reserve counts, and so does what databases without a size of their own get.
    for change in [
        PoolChange::new().with_reserve_pool("app", 40),
        PoolChange::new().with_setting("default_pool_size", 40),
        PoolChange::new().with_setting("reserve_pool_size", 40),
    ] {
        assert_eq!(look(&budget(&pair, change).with_users(1)).await[0].level, FindingLevel::Refusal);
    }
    // A cap of the database takes it back.
    let capped = PoolChange::new().with_reserve_pool("app", 40).with_max_db_connections("app", 10);
    assert_eq!(look(&budget(&pair, capped).with_users(1)).await[0].level, FindingLevel::Ok);
    assert_eq!(pair.text(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_connected_past_pgbouncer_is_counted_and_users_that_have_a_pool() {
    let pair = Pair::start().await;
    let pooled = pair.one.connect("app", ROLE).await.unwrap();
    pooled.batch_execute("SELECT 1").await.unwrap();
    let mut direct = Vec::new();
    for _ in 0..9 {
        direct.push(pair.server.connect("app", ROLE).await.unwrap());
    }
    let found = look(&budget(&pair, PoolChange::new().with_pool_size("app", 6))).await;
    // With that which asked.
    assert!(found[0].text.contains(", 10 direct"), "{}", found[0].text);
    assert_eq!(found[1].level, FindingLevel::Warning);
    assert!(found[1].text.contains("app 1"), "{}", found[1].text);
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_connections_are_let_through_and_unknown_servers_are_not() {
    let pair = Pair::start().await;
    let tight = || ServerLimit::new(name(&pair), 12);
    let less = PoolBudget::of(&pair.pools(PoolChange::new().with_pool_size("app", 4))).with_users(1);
    assert_eq!(look(&less.clone().with_limit(tight())).await[0].level, FindingLevel::Warning);
    let more = PoolBudget::of(&pair.pools(PoolChange::new().with_pool_size("app", 6))).with_users(1);
    assert_eq!(look(&more.with_limit(tight())).await[0].level, FindingLevel::Refusal);
    let found = look(&less).await;
    assert_eq!(found[0].level, FindingLevel::Refusal);
    assert!(found[0].text.contains("NOT KNOWN"), "{}", found[0].text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_for_any_database_counts_as_many_as_there_are() {
    let pair = Pair::start().await;
    let line = format!("* = host=127.0.0.1 port={} pool_size=1\nold = ", pair.server.port());
    pair.one.edit_config(|text| text.replace("reports = ", &line)).unwrap();
    for console in pair.consoles() {
        console.reload().await.unwrap();
    }
    let found = look(&budget(&pair, PoolChange::new().with_pool_size("*", 2)).with_users(1)).await;
    // `old` stands for reports; postgres, template1 and whatever else the server has are left.
    let sql = "SELECT count(*) FROM pg_database WHERE datallowconn AND datname NOT IN ('app', 'reports')";
    let left = pair.server.value("postgres", sql).await.unwrap();
    assert!(found[0].text.contains(&format!("* 2 x {left} databases")), "{}", found[0].text);
}
