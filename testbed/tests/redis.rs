//! The testbed's promises, on real Redis and Valkey servers. Needs `scripts/install-redis` to have been run.

use std::time::Duration;

use wakala_testbed::{
    RedisCluster, RedisFlavour, RedisMember, RedisSentinels, RedisServer, TestbedError, wait_until,
};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn settings_users_and_passwords_are_as_asked() {
    let server = RedisServer::builder()
        .with_max_memory(20_000_000)
        .with_setting("maxclients", 77)
        .with_password("word")
        .with_user("reader", "on >secret ~* +get +ping")
        .start()
        .await
        .unwrap();
    assert_eq!(server.text(&["CONFIG", "GET", "maxmemory"]).await.unwrap(), "maxmemory\n20000000");
    assert_eq!(server.info("clients").await.unwrap()["maxclients"], "77");
    let users = server.text(&["ACL", "LIST"]).await.unwrap();
    assert!(users.contains("user reader on") && users.contains("+get"), "{users}");
    let url = format!("redis://:wrong@127.0.0.1:{}", server.port());
    let client = redis::Client::open(url).unwrap();
    let error = client.get_multiplexed_async_connection().await.unwrap_err();
    assert_eq!(error.kind(), redis::ErrorKind::AuthenticationFailed, "{error}");

    let error = RedisServer::builder().with_setting("maxclients", "many").start().await.unwrap_err();
    assert!(
        matches!(error, TestbedError::Server { .. }) && error.to_string().contains("maxclients"),
        "{error}"
    );
}

#[tokio::test]
async fn what_was_written_survives_kills_and_stops_at_the_same_port() {
    let server = RedisServer::builder().start().await.unwrap();
    let port = server.port();
    for round in 0..4 {
        server.command(&["RPUSH", "list", "x"]).await.unwrap();
        let pid = server.pid().await.unwrap();
        if round % 2 == 0 {
            server.kill().await.unwrap();
        } else {
            server.stop().await.unwrap();
        }
        assert!(server.command(&["PING"]).await.is_err(), "it still answers");
        server.start().await.unwrap();
        assert_ne!(server.pid().await.unwrap(), pid);
        assert_eq!(server.text(&["LLEN", "list"]).await.unwrap(), (round + 1).to_string());
        assert_eq!(server.port(), port);
    }
}

#[tokio::test]
async fn a_frozen_server_answers_nothing_until_it_is_thawed() {
    let server = RedisServer::builder().start().await.unwrap();
    server.freeze().await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), server.command(&["PING"])).await;
    assert!(early.is_err(), "a frozen server answers");
    server.thaw().await.unwrap();
    assert_eq!(server.text(&["PING"]).await.unwrap(), "PONG");
}

#[tokio::test]
async fn a_server_with_tls_speaks_nothing_else_at_its_port() {
    let server = RedisServer::builder().with_tls().unwrap().start().await.unwrap();
    assert!(server.authority().unwrap().contains("BEGIN CERTIFICATE"));
    assert_ne!(server.port(), server.plain_port());
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.port())).unwrap();
    let answer = async {
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<String>(&mut connection).await
    };
    assert!(answer.await.is_err(), "it speaks without TLS");
}

#[tokio::test]
async fn a_cluster_with_replicas_and_empty_masters_agrees_and_grows_and_fails_over() {
    let cluster = RedisCluster::builder(3)
        .with_replicas(1)
        .with_empty_masters(1)
        .with_node_timeout(Duration::from_secs(1))
        .start()
        .await
        .unwrap();
    let members = cluster.members(&cluster.node(5)).await.unwrap();
    let mut counts: Vec<_> = members.iter().filter(|m| m.is("master")).map(RedisMember::slot_count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 5461, 5461, 5462]);
    assert_eq!(members.iter().filter(|member| member.is("slave")).count(), 3);

    let spare = cluster.add_node().await.unwrap();
    assert_eq!(cluster.members(&spare).await.unwrap().len(), 1);
    cluster.wait_agreed().await.unwrap();

    let master = cluster.node(0).text(&["CLUSTER", "MYID"]).await.unwrap();
    assert_eq!(cluster.node_with_id(&master).await.unwrap().port(), cluster.node(0).port());
    let replica = cluster.node(4);
    assert_eq!(replica.info("replication").await.unwrap()["role"], "slave");
    cluster.node(0).kill().await.unwrap();
    wait_until("failover", MINUTE, || async {
        let role = replica.info("replication").await?["role"].clone();
        if role == "master" { Ok(()) } else { Err(role.into()) }
    })
    .await
    .unwrap();
    cluster.node(0).start().await.unwrap();
    cluster.wait_agreed().await.unwrap();
    assert_eq!(cluster.node(0).info("replication").await.unwrap()["role"], "slave");
}

#[tokio::test]
async fn sentinels_know_the_master_and_replace_it() {
    let site = RedisSentinels::builder("orders")
        .with_nodes(|node| node.with_password("word"))
        .with_sentinel_password("watch")
        .start()
        .await
        .unwrap();
    let port = site.master_port().await.unwrap();
    assert_eq!(port, site.servers()[0].port());
    site.server_at(port).unwrap().kill().await.unwrap();
    let new = site.wait_failover(port).await.unwrap();
    assert_eq!(new, site.servers()[1].port());
}

#[tokio::test]
async fn valkey_has_atomic_slot_migration() {
    if RedisFlavour::Valkey.is_left_out("valkey_has_atomic_slot_migration") {
        return;
    }
    let cluster = RedisCluster::builder(2).with_flavour(RedisFlavour::Valkey).start().await.unwrap();
    cluster.node(0).command(&["SET", "{06S}key", "value"]).await.unwrap();
    assert_eq!(cluster.node(0).text(&["CLUSTER", "KEYSLOT", "{06S}key"]).await.unwrap(), "0");
    let target = cluster.node(1).text(&["CLUSTER", "MYID"]).await.unwrap();
    let words = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "0", "0", "NODE", &target];
    cluster.node(0).command(&words).await.unwrap();
    wait_until("the slot at its target", MINUTE, || async {
        Ok(cluster.node(1).text(&["GET", "{06S}key"]).await.map(|value| assert_eq!(value, "value"))?)
    })
    .await
    .unwrap();
    assert!(RedisFlavour::Valkey.cli().unwrap().is_file());
}
