//! What the user needs, and that each of it is needed.

use std::sync::Arc;

use wakala_cache::{
    NodeAddress, RedisAccess, RedisMetrics, RedisQueue, redis_acl, redis_acl_rules, sentinel_acl,
};
use wakala_core::{ErrorKind, MetricQuery, MetricsSource, Permission, Retry};
use wakala_testbed::{RedisCluster, RedisSentinels, RedisServer};

use crate::rig::{ask, at, is, quick};

fn user() -> RedisAccess {
    RedisAccess::new().with_user("wakala", "secret")
}

/// Gives the user exactly these, and a way to log in.
async fn allow(servers: &[Arc<RedisServer>], permissions: &[Permission]) {
    let mut words = ["ACL", "SETUSER", "wakala", "on", "resetpass", ">secret"].map(str::to_owned).to_vec();
    words.extend(redis_acl_rules(permissions));
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    for server in servers {
        server.command(&words).await.unwrap();
    }
}

fn queries(source: &RedisMetrics) -> Vec<MetricQuery> {
    let mut queries: Vec<MetricQuery> =
        ["redis.nodes", "redis.memory_used_bytes", "redis.commands_per_second"].map(Into::into).to_vec();
    if source.permissions().iter().any(|permission| permission.resource.starts_with("KEY")) {
        queries.push("redis.queue_depth".into());
    }
    queries
}

/// All of it suffices, and without any one of it something is refused, by its name.
async fn exactly(servers: &[Arc<RedisServer>], make: impl Fn() -> RedisMetrics) {
    let needed: Vec<_> =
        make().permissions().into_iter().filter(|permission| permission.system == "redis").collect();
    allow(servers, &needed).await;
    let source = make();
    for query in queries(&source) {
        let sample = ask(&source, query.clone()).await.unwrap().unwrap();
        assert_eq!(
            sample.coverage.answered,
            sample.coverage.expected,
            "{query}: {:?}",
            source.unanswered().await
        );
    }
    assert_eq!(source.unanswered().await, None);
    for missing in &needed {
        let others: Vec<_> = needed.iter().filter(|permission| *permission != missing).cloned().collect();
        allow(servers, &others).await;
        // Connections that there are keep their user, whose rights are less at once.
        let source = make();
        let mut refused = Vec::new();
        for query in queries(&source) {
            if let Err(error) = ask(&source, query).await {
                is(&error, ErrorKind::Denied, Retry::Never, &["NOPERM", "ACL SETUSER", "redis here"]);
                refused.push(error.to_string());
            }
        }
        let text = refused.join("\n");
        let unanswered = source.unanswered().await.unwrap_or_default();
        let said = format!("{text}\n{unanswered}");
        let name = missing.action.to_uppercase().replace('|', " ");
        let named =
            if missing.action == "READ" { said.contains("key") } else { said.contains(&format!("{name}: ")) };
        assert!(named, "without {missing}: {said}");
    }
}

#[tokio::test]
async fn a_server_needs_its_commands_and_the_keys_of_its_queues() {
    let server = Arc::new(RedisServer::builder().start().await.unwrap());
    server.command(&["XGROUP", "CREATE", "events", "billing", "0", "MKSTREAM"]).await.unwrap();
    let at = at(server.port());
    let make = || {
        quick(RedisMetrics::server("here", at.clone(), user()))
            .with_queue(RedisQueue::list("jobs*"))
            .with_queue(RedisQueue::stream("entries"))
            .with_queue(RedisQueue::group("events", "billing"))
    };
    exactly(std::slice::from_ref(&server), make).await;
    exactly(std::slice::from_ref(&server), || {
        quick(RedisMetrics::server("here", at.clone(), user().with_database(2)))
    })
    .await;
    let without = quick(RedisMetrics::server("here", at.clone(), user())).with_pings(0);
    assert_eq!(
        redis_acl("wakala", &without.permissions()),
        "ACL SETUSER wakala resetkeys resetchannels -@all +info"
    );
    exactly(&[server], || quick(RedisMetrics::server("here", at.clone(), user())).with_pings(0)).await;
}

#[tokio::test]
async fn a_cluster_needs_to_be_told_its_nodes_and_to_be_asked_where_slots_arrive() {
    let cluster = RedisCluster::builder(2).start().await.unwrap();
    let nodes = cluster.nodes();
    let (one, other) = (
        nodes[0].text(&["CLUSTER", "MYID"]).await.unwrap(),
        nodes[1].text(&["CLUSTER", "MYID"]).await.unwrap(),
    );
    nodes[1].command(&["CLUSTER", "SETSLOT", "3300", "IMPORTING", &one]).await.unwrap();
    nodes[0].command(&["CLUSTER", "SETSLOT", "3300", "MIGRATING", &other]).await.unwrap();
    let seeds: Vec<NodeAddress> = nodes.iter().map(|node| at(node.port())).collect();
    exactly(&nodes, || {
        quick(RedisMetrics::cluster("here", seeds.clone(), user())).with_queue(RedisQueue::list("{b}jobs"))
    })
    .await;
}

#[tokio::test]
async fn sentinels_need_three_questions() {
    let site = RedisSentinels::builder("orders").with_sentinels(1).with_replicas(0).start().await.unwrap();
    let sentinel = &site.sentinels()[0];
    let make = || {
        let access = RedisAccess::new().with_user("wakala", "secret");
        quick(RedisMetrics::sentinel("here", "orders", [at(sentinel.port())], RedisAccess::new()))
            .with_sentinel_access(access)
    };
    let all = make().permissions();
    let needed: Vec<_> = all.iter().filter(|permission| permission.system == "sentinel").cloned().collect();
    let allow = async |permissions: &[Permission]| {
        let line = sentinel_acl("wakala", permissions);
        let mut words: Vec<_> = line.split(' ').collect();
        words.extend(["on", ">secret"]);
        sentinel.command(&words).await.unwrap();
    };
    allow(&needed).await;
    assert_eq!(ask(&make(), "redis.nodes").await.unwrap().unwrap().value, 1.0);
    for missing in &needed {
        let others: Vec<_> = needed.iter().filter(|permission| *permission != missing).cloned().collect();
        allow(&others).await;
        let error = ask(&make(), "redis.nodes").await.unwrap_err();
        let name = missing.action.to_uppercase().replace('|', " ");
        is(&error, ErrorKind::Denied, Retry::Never, &[&name, "NOPERM", "no Sentinel answers"]);
    }
    assert_eq!(needed.len(), 3);
}

#[tokio::test]
async fn what_there_is_not_is_refused_with_what_there_is() {
    let server = RedisServer::builder().start().await.unwrap();
    let at = at(server.port());
    // Nobody is asked.
    server.kill().await.unwrap();
    let source = RedisMetrics::server("here", at, RedisAccess::new()).with_queue(RedisQueue::list("jobs"));
    let keys = || MetricQuery::new("redis.keys");
    let cases = [
        (MetricQuery::new("redis.kyes"), "redis.queue_pending"),
        (keys().with_label("instance", "a"), "node, role"),
        (keys().with_label("role", "slave"), "any, master or replica"),
        (keys().with_label("node", "redis-0"), "host:port"),
        (keys().with_label("queue", "jobs"), "node, role"),
        (MetricQuery::new("redis.queue_depth").with_label("queue", "job"), "jobs"),
        (MetricQuery::new("redis.queue_depth").with_label("node", "a:1"), "queue"),
    ];
    for (query, hint) in cases {
        let error = ask(&source, query).await.unwrap_err();
        is(&error, ErrorKind::InvalidConfig, Retry::Never, &[hint, "redis here"]);
    }
    let nobody = RedisMetrics::cluster("here", [], RedisAccess::new());
    is(&ask(&nobody, keys()).await.unwrap_err(), ErrorKind::InvalidConfig, Retry::Never, &["nobody to ask"]);
    is(
        &ask(&nobody, "redis.queue_depth").await.unwrap_err(),
        ErrorKind::InvalidConfig,
        Retry::Never,
        &["nobody"],
    );
    let none = RedisMetrics::sentinel("here", "orders", [], RedisAccess::new());
    is(&ask(&none, keys()).await.unwrap_err(), ErrorKind::InvalidConfig, Retry::Never, &["nobody to ask"]);
    let bare = RedisMetrics::server("here", NodeAddress::new("127.0.0.1", 1), RedisAccess::new());
    let error = ask(&bare, "redis.queue_depth").await.unwrap_err();
    is(&error, ErrorKind::InvalidConfig, Retry::Never, &["with_queue"]);
}
