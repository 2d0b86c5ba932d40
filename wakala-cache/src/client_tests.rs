//! One node, on real servers: what the errors say must be true, and the next command finds its way back.

use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd};
use wakala_core::{Error, ErrorKind, Result, Retry};
use wakala_testbed::{RedisServer, wait_until};

use super::*;
use crate::config::RedisTls;

const SAFE: Retry = Retry::Safe { after: None };
const MINUTE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

fn address(port: u16) -> NodeAddress {
    NodeAddress::new("127.0.0.1", port)
}

fn node(port: u16, access: RedisAccess) -> Node {
    Node::new(address(port), access)
}

fn call(writes: bool) -> Call {
    Call { operation: "test", subject: "redis x".to_owned(), writes }
}

fn words(text: &str) -> Cmd {
    let mut command = Cmd::new();
    for word in text.split(' ') {
        command.arg(word);
    }
    command
}

async fn read(node: &Node, text: &str) -> Result<Value> {
    node.command(&call(false), words(text)).await
}

async fn write(node: &Node, text: &str) -> Result<Value> {
    node.command(&call(true), words(text)).await
}

async fn ended(connection: &Connection) {
    wait_until("the end of a connection", MINUTE, || async {
        connection.driver.is_finished().then_some(()).ok_or_else(|| "it is open".into())
    })
    .await
    .unwrap();
}

#[track_caller]
fn is(error: &Error, kind: ErrorKind, retry: Retry, hint: &str) {
    assert_eq!((error.kind(), error.retry()), (kind, retry), "{error:?}");
    assert!(error.chain().contains(hint), "{hint:?} is not in: {error:?}");
    assert!(error.to_string().starts_with("test on redis x: "), "{error}");
}

#[tokio::test]
async fn each_command_of_a_pipeline_has_its_own_answer() {
    let server = RedisServer::builder().start().await.unwrap();
    let node = node(server.port(), RedisAccess::new());
    let mut pipeline = Pipeline::new();
    pipeline.cmd("SET").arg("a").arg(b"\xff\x00").cmd("LLEN").arg("a").cmd("GET").arg("a");
    let answers = node.pipeline(&call(true), pipeline).await.unwrap();
    let [Ok(Value::Okay), Err(refusal), Ok(Value::BulkString(bytes))] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!((refusal.code(), bytes.as_slice()), ("WRONGTYPE", &b"\xff\x00"[..]));
    assert!(node.pipeline(&call(true), Pipeline::new()).await.unwrap().is_empty());
    is(&write(&node, "LPUSH a x").await.unwrap_err(), ErrorKind::InvalidConfig, Retry::Never, "LPUSH: ");
    is(
        &read(&node, "CLUSTER NODES").await.unwrap_err(),
        ErrorKind::InvalidConfig,
        Retry::Never,
        "not a node of a cluster",
    );
    is(&read(&node, "NONSENSE a").await.unwrap_err(), ErrorKind::Unsupported, Retry::Never, "NONSENSE: ");
}

#[tokio::test]
async fn a_server_that_was_killed_is_found_again() {
    let server = RedisServer::builder().start().await.unwrap();
    let node = node(server.port(), RedisAccess::new());
    write(&node, "SET a 1").await.unwrap();
    server.kill().await.unwrap();
    // The connection that there was may be known to be gone, or not.
    let error = write(&node, "SET a 2").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    is(&write(&node, "SET a 2").await.unwrap_err(), ErrorKind::Unavailable, SAFE, "cannot be reached");
    server.start().await.unwrap();
    assert_eq!(read(&node, "GET a").await.unwrap(), Value::BulkString(b"1".to_vec()));

    // A connection that is known to be gone is not used: even a write need not fail.
    let (connection, _) = node.connection(&call(false)).await.unwrap();
    server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
    ended(&connection).await;
    write(&node, "SET a 3").await.unwrap();

    // Between two looks: however early the loss is known, a look is answered.
    for _ in 0..10 {
        node.look(&call(false), redis::pipe().cmd("PING").to_owned(), MINUTE).await.unwrap();
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await.unwrap();
        let answers = node.look(&call(false), redis::pipe().cmd("PING").to_owned(), MINUTE).await.unwrap();
        assert!(matches!(answers[..], [Ok(_)]), "{answers:?}");
    }
}

#[tokio::test]
async fn a_lost_answer_leaves_a_write_open_and_is_not_repeated() {
    let server = RedisServer::builder().start().await.unwrap();
    let link = server.link().unwrap();
    let node = node(link.port(), RedisAccess::new());
    read(&node, "PING").await.unwrap();
    link.lose_reply_to("INCR");
    let error = write(&node, "INCR a").await.unwrap_err();
    is(&error, ErrorKind::Unavailable, Retry::ObserveFirst, "it may have taken effect");
    assert_eq!(server.text(&["GET", "a"]).await.unwrap(), "1");
    write(&node, "INCR a").await.unwrap();
    assert_eq!(server.text(&["GET", "a"]).await.unwrap(), "2");

    link.lose_reply_to("GET");
    is(&read(&node, "GET a").await.unwrap_err(), ErrorKind::Unavailable, SAFE, "was lost");
    read(&node, "PING").await.unwrap();
    link.lose_reply_to("GET");
    let answers =
        node.look(&call(false), redis::pipe().cmd("GET").arg("a").to_owned(), MINUTE).await.unwrap();
    assert_eq!(answers[0], Ok(Value::BulkString(b"2".to_vec())));
    assert_eq!(link.replies_lost(), 3);
}

#[tokio::test]
async fn a_frozen_server_is_late_on_old_and_new_connections() {
    let server = RedisServer::builder().with_password("word").start().await.unwrap();
    let access = RedisAccess::new().with_password("word").with_connect_limit(SHORT).with_reply_limit(SHORT);
    let node = node(server.port(), access);
    write(&node, "SET a 1").await.unwrap();
    server.freeze().await.unwrap();
    is(
        &write(&node, "SET a 2").await.unwrap_err(),
        ErrorKind::DeadlineExceeded,
        Retry::ObserveFirst,
        "no answer after",
    );
    // Its port still takes connections: the system does that for it.
    is(&write(&node, "SET a 3").await.unwrap_err(), ErrorKind::DeadlineExceeded, SAFE, "no connection after");
    server.thaw().await.unwrap();
    wait_until("an answer", MINUTE, || async { Ok(write(&node, "SET a 4").await.map(drop)?) }).await.unwrap();
    // The second was sent before the server was frozen, as far as anybody knows.
    assert_eq!(server.text(&["GET", "a"]).await.unwrap(), "4");
}

#[tokio::test]
async fn a_limit_of_its_own_serves_a_command_that_takes_long() {
    let server = RedisServer::builder().start().await.unwrap();
    let node = node(server.port(), RedisAccess::new().with_reply_limit(SHORT));
    let slow = || words("DEBUG SLEEP 0.6");
    let error = node.command(&call(true), slow()).await.unwrap_err();
    is(&error, ErrorKind::DeadlineExceeded, Retry::ObserveFirst, "no answer after 300ms");
    node.command_within(&call(true), slow(), MINUTE).await.unwrap();
    node.pipeline_within(&call(true), redis::pipe().add_command(slow()).to_owned(), MINUTE).await.unwrap();
}

#[tokio::test]
async fn logins_that_fail_are_denied_with_the_servers_words() {
    let server = RedisServer::builder()
        .with_password("word")
        .with_user("reader", "on >secret ~* -@all +get +select")
        .start()
        .await
        .unwrap();
    let port = server.port();
    let denied = async |access: RedisAccess, hint: &str| {
        is(&read(&node(port, access), "GET a").await.unwrap_err(), ErrorKind::Denied, Retry::Never, hint);
    };
    denied(RedisAccess::new(), "NOAUTH").await;
    denied(RedisAccess::new().with_password("wrong"), "AUTH: ").await;
    denied(RedisAccess::new().with_user("reader", "wrong"), "WRONGPASS").await;
    denied(RedisAccess::new().with_user("nobody", "word"), "WRONGPASS").await;

    let reader = RedisAccess::new().with_user("reader", "secret");
    assert_eq!(read(&node(port, reader.clone()), "GET a").await.unwrap(), Value::Nil);
    let error = read(&node(port, reader.clone()), "INFO memory").await.unwrap_err();
    is(&error, ErrorKind::Denied, Retry::Never, "INFO: ");
    is(&error, ErrorKind::Denied, Retry::Never, "'info'");

    server.command(&["SELECT", "3"]).await.unwrap();
    let third = node(port, RedisAccess::new().with_password("word").with_database(3));
    write(&third, "SET a 3").await.unwrap();
    assert_eq!(
        read(&node(port, reader.clone().with_database(3)), "GET a").await.unwrap(),
        Value::BulkString(b"3".into())
    );
    let error = read(&node(port, reader.with_database(99)), "GET a").await.unwrap_err();
    is(&error, ErrorKind::InvalidConfig, Retry::Never, "SELECT: ");

    let open = RedisServer::builder().start().await.unwrap();
    let error =
        read(&node(open.port(), RedisAccess::new().with_password("word")), "GET a").await.unwrap_err();
    is(&error, ErrorKind::InvalidConfig, Retry::Never, "leave the password out");
}

#[tokio::test]
async fn tls_is_spoken_where_it_is_expected_and_nowhere_else() {
    let server = RedisServer::builder().with_tls().unwrap().start().await.unwrap();
    let authority = || RedisTls::of_authority(server.authority().unwrap()).unwrap();
    let with = |tls: RedisTls| RedisAccess::new().with_tls(tls).with_connect_limit(SHORT * 3);
    let encrypted = node(server.port(), with(authority()));
    assert_eq!(read(&encrypted, "PING").await.unwrap(), Value::SimpleString("PONG".to_owned()));

    let plain = read(&node(server.port(), RedisAccess::new()), "PING").await.unwrap_err();
    is(&plain, ErrorKind::Unavailable, SAFE, "it may expect TLS: give it by with_tls");
    let plain =
        read(&node(server.port(), RedisAccess::new().with_password("word")), "PING").await.unwrap_err();
    is(&plain, ErrorKind::Unavailable, SAFE, "it may expect TLS: give it by with_tls");

    // It waits for the end of what it takes for a command, or answers with words.
    for _ in 0..5 {
        let error = read(&node(server.plain_port(), with(authority())), "PING").await.unwrap_err();
        assert!(error.to_string().contains("TLS at this port"), "{error:?}");
        let kinds = [ErrorKind::DeadlineExceeded, ErrorKind::InvalidConfig, ErrorKind::Unavailable];
        assert!(kinds.contains(&error.kind()) && error.retry() != Retry::ObserveFirst, "{error:?}");
    }

    let other = RedisServer::builder().with_tls().unwrap().start().await.unwrap();
    let error = read(&node(other.port(), with(authority())), "PING").await.unwrap_err();
    is(&error, ErrorKind::InvalidConfig, Retry::Never, "certificate is not believed");
    let named = authority().with_server_name("redis.example").unwrap();
    let error = read(&node(server.port(), with(named)), "PING").await.unwrap_err();
    is(&error, ErrorKind::InvalidConfig, Retry::Never, "with_server_name");
    let named = authority().with_server_name("localhost").unwrap();
    read(&node(server.port(), with(named)), "PING").await.unwrap();
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_says_so_and_gets_one() {
    let server = RedisServer::builder()
        .with_tls()
        .unwrap()
        .with_setting("tls-auth-clients", "yes")
        .start()
        .await
        .unwrap();
    let authority = || RedisTls::of_authority(server.authority().unwrap()).unwrap();
    for _ in 0..5 {
        let without = node(server.port(), RedisAccess::new().with_tls(authority()));
        let error = read(&without, "PING").await.unwrap_err();
        // Its own word for it is lost where the system throws away what a closed connection still had.
        assert!([ErrorKind::InvalidConfig, ErrorKind::Unavailable].contains(&error.kind()), "{error:?}");
        assert!(error.to_string().contains("with_certificate"), "{error:?}");
    }
    // Heard also where nothing has been asked yet.
    let without = node(server.port(), RedisAccess::new().with_tls(authority()));
    let (connection, _) = without.connection(&call(false)).await.unwrap();
    ended(&connection).await;
    assert!(connection.opening().tls.is_some(), "{:?}", connection.opening());
    // The server's own will do: it is of the authority.
    let file = |name: &str| std::fs::read_to_string(server.folder().join(name)).unwrap();
    let tls = authority().with_certificate(&file("server.crt"), &file("server.key")).unwrap();
    read(&node(server.port(), RedisAccess::new().with_tls(tls)), "PING").await.unwrap();
    assert!(authority().with_certificate(&file("server.crt"), "no key").is_err());
}

#[tokio::test]
async fn a_server_without_a_free_place_is_heard() {
    let server = RedisServer::builder().with_setting("maxclients", 2).start().await.unwrap();
    let kept = [node(server.port(), RedisAccess::new()), node(server.port(), RedisAccess::new())];
    for node in &kept {
        read(node, "PING").await.unwrap();
    }
    for access in [RedisAccess::new(), RedisAccess::new().with_password("word")] {
        let error = read(&node(server.port(), access), "PING").await.unwrap_err();
        is(&error, ErrorKind::Unavailable, SAFE, "raise maxclients");
    }
    kept[0].close().await;
    wait_until("a free place", MINUTE, || async {
        Ok(read(&node(server.port(), RedisAccess::new()), "PING").await.map(drop)?)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_server_that_reads_its_data_is_unavailable_for_now() {
    let server = RedisServer::builder()
        .with_append_only(false)
        .with_setting("loading-process-events-interval-bytes", 1024)
        .with_setting("key-load-delay", 800)
        .start()
        .await
        .unwrap();
    server.command(&["DEBUG", "POPULATE", "5000", "key", "100"]).await.unwrap();
    server.command(&["SAVE"]).await.unwrap();
    let node = node(server.port(), RedisAccess::new());
    read(&node, "GET a").await.unwrap();
    server.kill().await.unwrap();
    server.start_early().await.unwrap();
    is(&read(&node, "GET a").await.unwrap_err(), ErrorKind::Unavailable, SAFE, "LOADING");
    is(&write(&node, "SET a 1").await.unwrap_err(), ErrorKind::Unavailable, SAFE, "LOADING");
    wait_until("the end of loading", MINUTE, || async { Ok(read(&node, "GET a").await.map(drop)?) })
        .await
        .unwrap();
}

#[tokio::test]
async fn callers_share_one_connection() {
    let server = RedisServer::builder().start().await.unwrap();
    let node = node(server.port(), RedisAccess::new());
    let calls = (0..50)
        .map(|_| async { node.command(&call(false), cmd("CLIENT").arg("ID").to_owned()).await.unwrap() });
    let ids = futures::future::join_all(calls).await;
    assert!(ids.iter().all(|id| id == &ids[0]), "{ids:?}");
    assert_eq!(node.address(), &address(server.port()));
}
