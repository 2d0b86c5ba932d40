//! Making the schema, and what the store says of one that is not as it should be.

use futures::future::join_all;
use wakala_core::store::Takeover;
use wakala_core::{ErrorKind, Retry, RunStore};
use wakala_db::{PostgresStore, SchemaName};

use crate::rig::{DATABASE, OWNER, bouncer, create, fresh, keys, pool, same, server, terms, unique};

async fn without_schema() -> PostgresStore {
    PostgresStore::new(pool(server().await, OWNER, 2)).with_schema(unique("none"))
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let store = fresh(server().await, 2).await;
    create(&store, "a", &["x"]).await.unwrap();
    for _ in 0..2 {
        store.migrate().await.unwrap();
    }
    assert_eq!(store.list().await.unwrap().len(), 1);
    let sql = format!("SELECT string_agg(version::text, ' ') FROM {}.schema_version", store.schema());
    assert_eq!(server().await.value(DATABASE, &sql).await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_migrate_at_once_also_through_pgbouncer() {
    let store = without_schema().await;
    let mut hosts: Vec<PostgresStore> = Vec::new();
    for _ in 0..4 {
        hosts.push(same(&store, server().await, 1));
        hosts.push(same(&store, bouncer().await, 1));
    }
    for answer in join_all(hosts.iter().map(PostgresStore::migrate)).await {
        answer.unwrap();
    }
    create(&hosts[0], "a", &["x"]).await.unwrap();
    assert_eq!(hosts[1].list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_missing_schema_says_what_to_do_and_can_be_made_later() {
    let store = without_schema().await;
    for error in [store.check().await.unwrap_err(), create(&store, "a", &["x"]).await.unwrap_err()] {
        assert_eq!((error.kind(), error.retry()), (ErrorKind::InvalidConfig, Retry::Never), "{error:?}");
        assert!(error.to_string().contains("run migrate once"), "{error}");
        assert!(error.to_string().contains(store.schema().as_str()), "{error}");
    }
    store.migrate().await.unwrap();
    create(&store, "a", &["x"]).await.unwrap();
}

#[tokio::test]
async fn an_older_schema_asks_for_a_migration() {
    let store = fresh(server().await, 2).await;
    let sql = format!("DELETE FROM {}.schema_version", store.schema());
    server().await.execute(DATABASE, &sql).await.unwrap();
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("run migrate once"), "{error}");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let store = fresh(server().await, 2).await;
    let sql = format!("INSERT INTO {}.schema_version (version) VALUES (99)", store.schema());
    server().await.execute(DATABASE, &sql).await.unwrap();
    for error in [
        store.migrate().await.unwrap_err(),
        store.check().await.unwrap_err(),
        create(&store, "a", &["x"]).await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unsupported, Retry::Never), "{error:?}");
        assert!(error.to_string().contains("a later version of wakala made it (99"), "{error}");
    }
    let sql = format!("SELECT count(*) FROM {}.run", store.schema());
    assert_eq!(server().await.value(DATABASE, &sql).await.unwrap(), "0");
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing() {
    // Somebody has a table of that name already.
    let store = without_schema().await;
    let schema = store.schema();
    let sql = format!("CREATE SCHEMA {schema} AUTHORIZATION {OWNER}; CREATE TABLE {schema}.letter ()");
    server().await.execute(DATABASE, &sql).await.unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(error.to_string().contains("\"letter\" already exists"), "{error}");
    let sql = format!("SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'");
    assert_eq!(server().await.value(DATABASE, &sql).await.unwrap(), "1");
}

#[tokio::test]
async fn schemas_do_not_share_runs_and_may_have_odd_names() {
    let odd: SchemaName = "Ops \"1\"; --é".parse().unwrap();
    let store = PostgresStore::new(pool(server().await, OWNER, 2)).with_schema(odd);
    store.migrate().await.unwrap();
    let other = fresh(server().await, 2).await;
    for store in [&store, &other] {
        create(store, "a", &["x"]).await.unwrap();
        assert_eq!(store.list().await.unwrap().len(), 1);
        store.load(&"a".into()).await.unwrap();
        assert!(store.mail(&"a".into(), 0).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_files_can_be_applied_by_hand() {
    let schema = unique("by_hand");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/migrations/0001_runs.sql");
    let sql = std::fs::read_to_string(file).unwrap();
    let sql = format!(
        "BEGIN; CREATE SCHEMA {schema}; SET LOCAL search_path TO {schema}, pg_temp; {sql}; \
         INSERT INTO schema_version (version) VALUES (1); COMMIT"
    );
    let owner = server().await.connect(DATABASE, OWNER).await.unwrap();
    owner.batch_execute(&sql).await.unwrap();
    let store = PostgresStore::new(pool(server().await, OWNER, 2)).with_schema(schema);
    store.migrate().await.unwrap();
    create(&store, "a", &["x"]).await.unwrap();
}

#[tokio::test]
async fn what_is_written_is_on_disk_whatever_the_role_says() {
    let store = fresh(server().await, 2).await;
    create(&store, "a", &["x"]).await.unwrap();
    let mut client = server().await.connect(DATABASE, OWNER).await.unwrap();
    for (set, seen) in [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")] {
        client.batch_execute(&format!("SET synchronous_commit TO {set}")).await.unwrap();
        let schema = store.schema();
        for call in [
            "append('a', 1, -1, '', '')",
            "create_run('a', '', 1, '', '', '{}', '{}')",
            "acquire('b', '', 1, '{}', false)",
            "send('b', '')",
        ] {
            let transaction = client.transaction().await.unwrap();
            transaction.query_one(&format!("SELECT * FROM {schema}.{call}"), &[]).await.unwrap();
            let row =
                transaction.query_one("SELECT current_setting('synchronous_commit')", &[]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), seen, "{call} where it was {set}");
        }
    }
}

#[tokio::test]
async fn an_isolation_level_that_hides_claims_is_refused() {
    let store = fresh(server().await, 2).await;
    let mut config = server().await.config(DATABASE, OWNER).unwrap();
    let levels = [("repeatable read", false), ("serializable", true), ("read committed", true)];
    for (n, (level, works)) in levels.into_iter().enumerate() {
        config.options(format!("-c default_transaction_isolation={}", level.replace(' ', "\\ ")));
        let manager = deadpool_postgres::Manager::new(config.clone(), tokio_postgres::NoTls);
        let pool = deadpool_postgres::Pool::builder(manager).build().unwrap();
        let store = PostgresStore::new(pool).with_schema(store.schema().clone());
        // Making a schema is not claiming.
        store.migrate().await.unwrap();
        let run = format!("run-{n}");
        let answer = create(&store, &run, &[&run]).await;
        assert_eq!(answer.is_ok(), works, "{level}: {answer:?}");
        if let Err(error) = answer {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains("default_transaction_isolation"), "{error}");
            let acquired = store.acquire(&"run".into(), &keys(&["x"]), &terms("o"), Takeover::Lapsed).await;
            assert_eq!(acquired.unwrap_err().kind(), ErrorKind::InvalidConfig);
        }
    }
}
