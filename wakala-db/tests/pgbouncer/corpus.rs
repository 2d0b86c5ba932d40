//! Some hundreds of bad files: none is written, and none that comes in by another way is called a success.

use std::fs;
use std::sync::Arc;

use futures::FutureExt as _;
use wakala_core::{ErrorKind, Phase, PlaybookStep, RunContext, Setting};
use wakala_db::{Console, ConsoleRow, FileHome, PgBouncerIni, PgBouncerPools, PgBouncerVersion, PoolChange};
use wakala_testbed::PgBouncer;

use crate::rig::{Meddled, console, postgres};

fn cx() -> RunContext {
    RunContext::detached().for_step(&"pools".into(), Phase::Apply, 1)
}

/// Where a bad line goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    Databases,
    Main,
    Top,
    Users,
}

fn with_line(good: &str, place: Place, line: &str) -> String {
    let after = |header: &str| good.replacen(header, &format!("{header}{line}\n"), 1);
    match place {
        Place::Databases => after("[databases]\n"),
        Place::Main => after("[pgbouncer]\n"),
        Place::Top => format!("{line}\n{good}"),
        Place::Users => after("[users]\n"),
    }
}

/// Bad lines, from what a real process says of its keys, from the parameters of a line, and from the syntax.
fn bad_lines(config: &[ConsoleRow]) -> Vec<(Place, String)> {
    let mut lines = Vec::new();
    for row in config {
        let (key, value) = (row.text("key").unwrap(), row.text("value").unwrap_or_default());
        // Whatever has a number takes numbers only; these two are words and numbers alike.
        let values: &[&str] = if !value.is_empty() && value.parse::<f64>().is_ok() {
            &["abc", "-5", "5x", "", "0x1f", "99999999999999", "1 2"]
        } else if ["pool_mode", "auth_type", "client_tls_sslmode", "server_tls_sslmode"].contains(&key) {
            &["bogus", "", "transactions", "0"]
        } else {
            &[]
        };
        lines.extend(values.iter().map(|bad| (Place::Main, format!("{key} = {bad}"))));
    }
    for key in ["pool_size", "reserve_pool", "min_pool_size", "max_db_connections", "port"] {
        for bad in ["abc", "-3", "5x", "''", "1.5", "0x10", "99999999999", "'5"] {
            lines.push((Place::Databases, format!("bad = host=127.0.0.1 {key}={bad}")));
        }
    }
    for parameters in [
        "pool_size=0",
        "port=0",
        "port=70000",
        "pool_mode=bogus",
        "pool_mode=",
        "default_pool_size=4",
        "reserve_pool_size=20",
        "max_client_conn=5",
        "server_lifetime=60",
        "auth_dbname=x",
        "host",
        "host=a port",
        "host='a'port=5",
        "host='a",
        "=x",
        "host=a\tport=5432",
        "pool size=5",
        "host = ",
        "load_balance_hosts=disable",
        "host=a; port=5432",
    ] {
        lines.push((Place::Databases, format!("bad = {parameters}")));
    }
    for (name, parameters) in [
        ("pgbouncer", "host=127.0.0.1"),
        ("'quoted'", "host=127.0.0.1"),
        ("a b", "host=127.0.0.1"),
        ("a/b", "host=x"),
        ("\"a\"", "host=x"),
        ("", "host=x"),
    ] {
        lines.push((Place::Databases, format!("{name} = {parameters}")));
    }
    lines.push((Place::Databases, format!("{} = host=x", "d".repeat(64))));
    for parameters in
        ["pool_mode=bogus", "max_user_connections=abc", "pool_size=5", "max_user_connections=-1", "nonsense"]
    {
        lines.push((Place::Users, format!("bob = {parameters}")));
    }
    for key in [
        "reserve_pool = 5",
        "pool_size = 5",
        "max_prepared_statements = 5",
        "peer_id = 1",
        "transaction_timeout = 5",
        "nonsense = 1",
        "Pool_Mode = session",
        "cancel_wait_timeout = 1",
        "auth_ldap_options = x",
        "conffile = /etc/passwd",
        "max_db_client_connections = 1",
    ] {
        lines.push((Place::Main, key.to_owned()));
    }
    for syntax in [
        "garbage",
        "pool_mode",
        "pool_mode session",
        "pool_mode: session",
        "[databases",
        "[nonsense]",
        "[peers]",
        "[Pgbouncer]",
        "[ pgbouncer ]",
        "[pgbouncer]",
        "[users] bob = pool_mode=session",
        "%include /nowhere.ini",
        "= 5",
        "{json: 1}",
        "<<<<<<< HEAD",
        "// comment",
        "-- comment",
        "pool_mode = session ; comment",
        "é = 1",
        "nul\0 = 1",
    ] {
        lines.push((Place::Main, syntax.to_owned()));
    }
    for top in ["pool_mode = session", "\u{feff}", "<?xml?>", "[]"] {
        lines.push((Place::Top, top.to_owned()));
    }
    lines
}

/// All that a process tells of its configuration.
async fn state(console: &Console) -> Vec<ConsoleRow> {
    let mut rows = console.show("CONFIG").await.unwrap();
    rows.extend(console.show("DATABASES").await.unwrap());
    rows
}

struct Bed {
    bouncer: PgBouncer,
    good: String,
    lines: Vec<(Place, String)>,
}

async fn bed(server: &wakala_testbed::PostgresServer) -> Bed {
    let bouncer = PgBouncer::builder(server)
        .with_database("app", "pool_size=5")
        .with_setting("server_lifetime", 900)
        .start()
        .await
        .unwrap();
    bouncer.edit_config(|text| format!("[users]\nalice = pool_mode=session\n{text}")).unwrap();
    bouncer.reload().await.unwrap();
    let good = fs::read_to_string(bouncer.config_path()).unwrap();
    let lines = bad_lines(&console(&bouncer).show("CONFIG").await.unwrap());
    assert!(lines.len() >= 300, "{}", lines.len());
    Bed { bouncer, good, lines }
}

fn six() -> PoolChange {
    PoolChange::new().with_pool_size("app", 6)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_file_is_refused_before_anything_is_written() {
    let server = postgres().await;
    let Bed { bouncer, good, lines } = bed(&server).await;
    let version = PgBouncerVersion::new(1, 18);
    assert_eq!(PgBouncerIni::parse(&good).check(version), []);
    let console = console(&bouncer);
    let pools = PgBouncerPools::new(Arc::new(FileHome::new(bouncer.config_path())), [console.clone()], six());
    let desired = {
        let current = pools.read(&cx()).await.unwrap();
        pools.desired(&current.value).unwrap()
    };
    let before = state(&console).await;
    let mut told_well = 0;
    for (place, line) in &lines {
        let bad = with_line(&good, *place, line);
        assert_ne!(PgBouncerIni::parse(&bad).check(version), [], "{place:?} {line:?} passes");
        fs::write(bouncer.config_path(), &bad).unwrap();
        let include = line.starts_with("%include");
        for error in [
            pools.rehearse(&cx(), &desired).await.expect_err(line),
            pools.write(&cx(), &desired, None).await.expect_err(line),
        ] {
            let kind = if include { ErrorKind::Unsupported } else { ErrorKind::InvalidConfig };
            assert_eq!(error.kind(), kind, "{line:?}: {error}");
        }
        assert_eq!(fs::read_to_string(bouncer.config_path()).unwrap(), bad, "{line:?} was written over");
        fs::write(bouncer.config_path(), &good).unwrap();
    }
    assert_eq!(state(&console).await, before, "a process was touched");

    // The same by a change instead of a file.
    let mut values = 0;
    for (_, line) in lines.iter().filter(|(place, _)| matches!(place, Place::Main)) {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        let change = PoolChange::new().with_setting(key, value);
        let home = Arc::new(FileHome::new(bouncer.config_path()));
        let error = PgBouncerPools::new(home, [console.clone()], change)
            .step("pools")
            .plan(&cx())
            .await
            .expect_err(line);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{line:?}: {error}");
        values += 1;
    }
    assert_eq!(fs::read_to_string(bouncer.config_path()).unwrap(), good);
    assert_eq!(state(&console).await, before);

    // What PgBouncer itself would have said.
    for (place, line) in &lines {
        fs::write(bouncer.config_path(), with_line(&good, *place, line)).unwrap();
        told_well += usize::from(console.reload().await.is_ok());
    }
    println!(
        "{} bad files and {values} bad values refused; RELOAD says all is well of {told_well}",
        lines.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_after_the_check_is_never_called_a_success() {
    let server = postgres().await;
    let Bed { bouncer, good, lines } = bed(&server).await;
    let console = console(&bouncer);
    let before = state(&console).await;
    let (mut done, mut put_back) = (0, 0);
    // What has no default stays as a file made it once, so it would be found in all rounds that follow.
    for (place, line) in
        lines.into_iter().filter(|(_, line)| !line.starts_with("verbose") && !line.starts_with("conffile"))
    {
        let shown = line.clone();
        let home = Meddled::new(bouncer.config_path(), move |path| {
            let bad = with_line(&fs::read_to_string(&path).unwrap(), place, &line);
            fs::write(&path, bad).unwrap();
            async {}.boxed()
        });
        let pools = PgBouncerPools::new(home, [console.clone()], six());
        let step = pools.step("pools");
        let plan = step.plan(&cx()).await.unwrap();
        let answer = step.apply(&cx(), &plan).await;
        let now = state(&console).await;
        let Err(error) = answer else {
            // PgBouncer passed over the line, as over one of a key that needs a restart.
            let different: Vec<_> = now.iter().filter(|row| !before.contains(row)).collect();
            assert_eq!(different.len(), 1, "{shown:?}: a success, and {different:?}");
            assert_eq!(
                (different[0].text("name"), different[0].number("pool_size")),
                (Some("app"), Some(6)),
                "{shown:?}"
            );
            fs::write(bouncer.config_path(), &good).unwrap();
            console.reload().await.unwrap();
            done += 1;
            continue;
        };
        assert_eq!(now, before, "{shown:?}: {error}");
        assert_eq!(fs::read_to_string(bouncer.config_path()).unwrap(), good, "{shown:?}");
        put_back += 1;
    }
    println!("{put_back} put back, {done} without effect on what is running");
    assert!(put_back > 200, "{put_back}");
}
