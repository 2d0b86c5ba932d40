//! Others who change the same file, or the processes.

use std::fs;

use wakala_core::{ErrorKind, Observed, Phase, PlaybookStep, RunContext, Setting, Undone};
use wakala_db::PoolChange;

use crate::rig::Pair;

fn cx() -> RunContext {
    RunContext::detached().for_step(&"pools".into(), Phase::Apply, 1)
}

fn nine() -> PoolChange {
    PoolChange::new().with_pool_size("app", 9)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_edits_meanwhile_is_not_written_over() {
    let pair = Pair::start().await;
    let pools = pair.pools(nine());
    let current = pools.read(&cx()).await.unwrap();
    let desired = pools.desired(&current.value).unwrap();
    let theirs = pair.text() + "\n# by hand\n";
    fs::write(pair.path(), &theirs).unwrap();
    let error = pools.write(&cx(), &desired, current.version.as_ref()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(pair.text(), theirs);
    assert_eq!(pair.cells(Some("app"), "pool_size").await, ["5", "5"]);

    // Between plan and apply such an edit is no drift, and it stays.
    let step = pools.step("pools");
    let plan = step.plan(&cx()).await.unwrap();
    fs::write(pair.path(), pair.text() + "# and more\n").unwrap();
    step.apply(&cx(), &plan).await.unwrap();
    assert!(pair.text().ends_with("# by hand\n# and more\n"));
    assert_eq!(step.undo(&cx(), &plan).await.unwrap(), Undone::Restored);
    assert_eq!(pair.text(), theirs + "# and more\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reload_would_also_change_is_named_and_left_alone() {
    let pair = Pair::start().await;
    // An edit that nobody has reloaded, and a value that is in no file.
    let good = pair.text();
    for (spoil, words) in [
        (good.replace("server_lifetime = 900", "server_lifetime = 90"), "server_lifetime is 900 and not 90"),
        (good.replace("[pgbouncer]", "[pgbouncer]\nlog_stats = 0"), "log_stats is 1 and not 0"),
        (good.replace("\napp = ", "\nold = "), "databases.old is (none) and not there"),
    ] {
        let pools = pair.pools(PoolChange::new().with_setting("max_client_conn", 600));
        let step = pools.step("pools");
        let plan = step.plan(&cx()).await.unwrap();
        fs::write(pair.path(), &spoil).unwrap();
        let error = step.apply(&cx(), &plan).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(step.plan(&cx()).await.unwrap_err().to_string().contains(words));
        assert_eq!(pair.text(), spoil);
        assert_eq!(pair.cells(None, "server_lifetime").await, ["900", "900"]);
        fs::write(pair.path(), &good).unwrap();
    }
    // The second has the first one's users by now.
    let second = pair.one.at_port(pair.two.port());
    let client = second.connect("pgbouncer", "pgbouncer_admin").await.unwrap();
    client.simple_query("SET default_pool_size = 50").await.unwrap();
    let error = pair.pools(nine()).step("pools").plan(&cx()).await.unwrap_err();
    assert!(error.to_string().contains("on two default_pool_size is 50 and not 4"), "{error}");
    assert_eq!(pair.text(), good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_somebody_changed_since_is_drift_and_not_ours_to_undo() {
    let pair = Pair::start().await;
    let step = pair.pools(nine()).step("pools");
    let plan = step.plan(&cx()).await.unwrap();
    step.apply(&cx(), &plan).await.unwrap();
    fs::write(pair.path(), pair.text().replace("pool_size=9", "pool_size=7")).unwrap();
    for console in pair.consoles() {
        console.reload().await.unwrap();
    }
    assert!(matches!(step.observe(&cx(), &plan).await.unwrap(), Observed::Drifted(_)));
    assert_eq!(step.apply(&cx(), &plan).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(matches!(step.undo(&cx(), &plan).await.unwrap(), Undone::NotOurs(_)));
    assert_eq!(pair.cells(Some("app"), "pool_size").await, ["7", "7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_takes_in_another_is_not_touched() {
    let pair = Pair::start().await;
    fs::write(pair.path(), pair.text() + "%include /etc/hosts\n").unwrap();
    let error = pair.pools(nine()).step("pools").plan(&cx()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("%include"), "{error}");
}
