//! The testbed's promises, on a real PostgreSQL and a real PgBouncer. Needs `scripts/install-postgres` to have been run.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio_postgres::error::SqlState;
use wakala_testbed::{PgBouncer, PoolMode, PostgresBuilder, PostgresServer, TestbedError, wait_until};

const MINUTE: Duration = Duration::from_secs(60);
const COUNT: &str = "SELECT count(*) FROM t";

fn builder() -> PostgresBuilder {
    PostgresServer::builder()
        .with_role("app", "secret")
        .with_role("other", "word")
        .with_database("shop", "app")
        .with_database("books", "other")
}

async fn with_table() -> PostgresServer {
    let server = builder().start().await.unwrap();
    let client = server.connect("shop", "app").await.unwrap();
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    server
}

fn processes_with(text: &str) -> Vec<String> {
    let list = Command::new("ps").args(["-eo", "pid,args"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    list.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

async fn wait_gone(folder: &Path) {
    let name = folder.to_str().unwrap();
    wait_until(&format!("end of everything in {name}"), MINUTE, || async {
        let processes = processes_with(name);
        match (processes.is_empty(), folder.exists()) {
            (true, false) => Ok(()),
            (_, exists) => Err(format!("{processes:?}, folder exists: {exists}").into()),
        }
    })
    .await
    .unwrap();
}

async fn data_folder(server: &PostgresServer) -> std::path::PathBuf {
    let data = server.value("postgres", "SHOW data_directory").await.unwrap();
    Path::new(&data).parent().unwrap().to_owned()
}

#[tokio::test]
async fn roles_databases_and_settings_are_as_asked() {
    let server = builder().with_max_connections(23).with_setting("work_mem", "5MB").start().await.unwrap();
    assert_eq!(server.value("postgres", "SHOW max_connections").await.unwrap(), "23");
    assert_eq!(server.value("postgres", "SHOW work_mem").await.unwrap(), "5MB");
    assert_eq!(server.value("postgres", "SHOW fsync").await.unwrap(), "off");
    assert_eq!(server.value("postgres", "SHOW listen_addresses").await.unwrap(), "127.0.0.1");
    // A shadow of a session user would hide who may do what.
    let url = server.url("shop", "app").unwrap();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client
        .query_one("SELECT current_user::text, rolsuper FROM pg_roles WHERE rolname = current_user", &[]);
    let row = row.await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("app", false));

    let mut wrong = server.config("shop", "app").unwrap();
    wrong.password("wrong");
    let error = wrong.connect(tokio_postgres::NoTls).await.err().unwrap();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
    let error = server.url("shop", "nobody").unwrap_err();
    assert!(error.to_string().contains("with_role"), "{error}");
}

#[tokio::test]
async fn fsync_can_be_on_and_bad_settings_are_told() {
    let server = PostgresServer::builder().with_fsync(true).start().await.unwrap();
    assert_eq!(server.value("postgres", "SHOW fsync").await.unwrap(), "on");

    let error = PostgresServer::builder().with_setting("max_connections", "many").start().await.unwrap_err();
    assert!(matches!(error, TestbedError::Server { .. }), "{error}");
    assert!(error.to_string().contains("invalid value for parameter \"max_connections\""), "{error}");
}

#[tokio::test]
async fn what_was_committed_survives_kills_and_stops_at_the_same_port() {
    let server = with_table().await;
    let port = server.port();
    let client = server.connect("shop", "app").await.unwrap();
    for round in 2..5 {
        client_insert(&server, round).await;
        if round % 2 == 0 {
            server.kill().await.unwrap();
        } else {
            server.stop().await.unwrap();
        }
        assert!(server.connect("shop", "app").await.is_err(), "it still answers");
        server.start().await.unwrap();
        assert_eq!(server.value("shop", COUNT).await.unwrap(), round.to_string());
        assert_eq!(server.port(), port);
    }
    assert!(client.is_closed());
    assert!(server.log_tail().contains("database system is ready"), "{}", server.log_tail());
}

async fn client_insert(server: &PostgresServer, n: i32) {
    let client = server.connect("shop", "app").await.unwrap();
    client.execute("INSERT INTO t VALUES ($1)", &[&n]).await.unwrap();
}

#[tokio::test]
async fn a_frozen_server_answers_nothing_until_it_is_thawed() {
    let server = with_table().await;
    let client = server.connect("shop", "app").await.unwrap();
    server.freeze().await.unwrap();
    let answer = tokio::spawn(async move { client.query_one(COUNT, &[]).await });
    let early = tokio::time::timeout(Duration::from_millis(300), server.connect("shop", "app")).await;
    assert!(early.is_err() && !answer.is_finished(), "a frozen server answers");
    server.thaw().await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_link_can_be_cut_frozen_and_restored() {
    let server = with_table().await;
    let link = server.link().unwrap();
    let through = server.at_port(link.port());
    let client = through.connect("shop", "app").await.unwrap();
    assert_eq!(client.query_one(COUNT, &[]).await.unwrap().get::<_, i64>(0), 1);

    link.cut().await.unwrap();
    assert!(client.query_one(COUNT, &[]).await.is_err(), "a cut link carries answers");
    let refused = std::net::TcpStream::connect(("127.0.0.1", link.port())).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    link.restore().await.unwrap();
    let client = through.connect("shop", "app").await.unwrap();
    link.freeze().await.unwrap();
    let answer = tokio::spawn(async move { client.query_one(COUNT, &[]).await });
    let early = tokio::time::timeout(Duration::from_millis(300), through.connect("shop", "app")).await;
    assert!(early.is_err() && !answer.is_finished(), "a frozen link carries answers");
    link.restore().await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_lost_reply_is_a_broken_connection_after_a_commit() {
    let server = with_table().await;
    let link = server.link().unwrap();
    let mut client = server.at_port(link.port()).connect("shop", "app").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (2)", &[]).await.unwrap();
    assert_eq!(link.replies_lost(), 0);
    link.lose_reply_to("COMMIT");
    let error = transaction.commit().await.unwrap_err();
    assert!(error.as_db_error().is_none() && client.is_closed(), "{error}");
    assert_eq!(link.replies_lost(), 1);
    assert_eq!(server.value("shop", COUNT).await.unwrap(), "2");
}

#[tokio::test]
async fn a_reply_is_held_back_on_one_connection() {
    let server = with_table().await;
    let link = server.link().unwrap();
    let through = server.at_port(link.port());
    let client = through.connect("shop", "app").await.unwrap();
    link.hold_reply_at("comes later");
    let answer = tokio::spawn(async move { client.simple_query("SELECT 'comes ' || 'later'").await });
    link.reply_held().await.unwrap();
    // Others go on, and the text is looked for once.
    let other = through.connect("shop", "app").await.unwrap();
    other.simple_query("SELECT 'comes ' || 'later'").await.unwrap();
    assert!(!answer.is_finished(), "it came");
    link.restore().await.unwrap();
    answer.await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_left_of_a_dropped_server() {
    let server = with_table().await;
    let bouncer = PgBouncer::builder(&server).start().await.unwrap();
    let _client = bouncer.connect("shop", "app").await.unwrap();
    let folder = data_folder(&server).await;
    let bouncer_folder = bouncer.config_path().parent().unwrap().to_owned();
    assert!(!processes_with(folder.to_str().unwrap()).is_empty());
    server.freeze().await.unwrap();
    drop((bouncer, server));
    wait_gone(&folder).await;
    wait_gone(&bouncer_folder).await;
}

const KILLED: &str = "WAKALA_TESTBED_KILLED";

#[test]
fn nothing_is_left_after_the_death_of_the_process() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "starts_servers_and_waits_to_be_killed", "--ignored", "--nocapture"])
        .env(KILLED, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let folders: Vec<String> = lines
        .map_while(Result::ok)
        .filter_map(|line| line.rsplit_once("folder ").map(|(_, folder)| folder.to_owned()))
        .take(2)
        .collect();
    assert_eq!(folders.len(), 2, "the child did not start its servers");
    child.kill().unwrap();
    child.wait().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for folder in folders {
        runtime.block_on(wait_gone(Path::new(&folder)));
    }
}

#[tokio::test]
#[ignore = "run by nothing_is_left_after_the_death_of_the_process, which kills it"]
async fn starts_servers_and_waits_to_be_killed() {
    assert!(std::env::var_os(KILLED).is_some(), "only to be run by another test");
    let server = with_table().await;
    let bouncer = PgBouncer::builder(&server).start().await.unwrap();
    let _client = bouncer.connect("shop", "app").await.unwrap();
    println!("folder {}", data_folder(&server).await.display());
    println!("folder {}", bouncer.config_path().parent().unwrap().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn pgbouncer_shares_few_server_connections_among_many_clients() {
    let server = with_table().await;
    let bouncer = PgBouncer::builder(&server).with_default_pool_size(2).start().await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(bouncer.connect("shop", "app").await.unwrap());
    }
    let mut processes = std::collections::BTreeSet::new();
    for client in &clients {
        let rows = client.simple_query("SELECT pg_backend_pid()").await.unwrap();
        processes.extend(rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }));
    }
    assert!((1..=2).contains(&processes.len()), "{processes:?}");
    // Its own database is another pool, whose role is checked too.
    let books = bouncer.connect("books", "other").await.unwrap();
    books.batch_execute("SELECT 1").await.unwrap();
    let mut wrong = bouncer.config("shop", "app").unwrap();
    wrong.password("wrong");
    assert!(wrong.connect(tokio_postgres::NoTls).await.is_err(), "a wrong password is let in");
}

#[tokio::test]
async fn the_admin_console_shows_what_a_reload_changed() {
    let server = builder().start().await.unwrap();
    let bouncer = PgBouncer::builder(&server)
        .with_pool_mode(PoolMode::Session)
        .with_database("shop", "pool_size=5")
        .start()
        .await
        .unwrap();
    let shop = async || {
        let databases = bouncer.show("DATABASES").await.unwrap();
        databases.into_iter().find(|database| database["name"] == "shop").unwrap()
    };
    assert_eq!(shop().await["pool_size"], "5");
    let config = bouncer.show("CONFIG").await.unwrap();
    let mode = config.iter().find(|row| row["key"] == "pool_mode").unwrap();
    assert_eq!(mode["value"], "session");

    bouncer.edit_config(|config| config.replace("pool_size=5", "pool_size=9")).unwrap();
    assert_eq!(shop().await["pool_size"], "5");
    bouncer.reload().await.unwrap();
    assert_eq!(shop().await["pool_size"], "9");
    let (console, connection) =
        tokio_postgres::connect(&bouncer.admin_url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    console.batch_execute("SHOW VERSION").await.unwrap();
}

#[tokio::test]
async fn pgbouncer_comes_back_at_its_port_and_outlives_its_server() {
    let server = with_table().await;
    let link = server.link().unwrap();
    let bouncer = PgBouncer::builder(&server).with_server_link(&link).start().await.unwrap();
    let answers = async || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        bouncer.connect("shop", "app").await?.batch_execute(COUNT).await?;
        Ok(())
    };
    answers().await.unwrap();
    for _ in 0..2 {
        bouncer.restart().await.unwrap();
        answers().await.unwrap();
    }
    bouncer.kill().await.unwrap();
    assert!(answers().await.is_err(), "a killed PgBouncer answers");
    bouncer.start().await.unwrap();
    link.cut().await.unwrap();
    bouncer.admin().await.unwrap();
    link.restore().await.unwrap();
    server.kill().await.unwrap();
    server.start().await.unwrap();
    wait_until("answers through PgBouncer", MINUTE, answers).await.unwrap();
}
