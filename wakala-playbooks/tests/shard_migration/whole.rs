//! Healthy runs, and going back.

use wakala_core::{Approval, Revert, RunHandle, Status};
use wakala_db::MoveOptions;
use wakala_playbooks::shard_migration::MoveSite;

use crate::rig::{Rig, Start};

const TOTAL: &str = "SELECT sum(balance) FROM account WHERE tenant_id IN (1, 2)";

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_moved_and_cleaned_up_only_once_somebody_says_so() {
    let rig = Rig::new(3, 100).await;
    let host = rig.host("first", &[1, 2], MoveOptions::default());
    let process = rig.process(MoveSite::new(host.clone()), &host);

    let text = process.engine.plan(&process.playbook).await.unwrap().to_string();
    let ports = [&rig.servers[0], &rig.servers[1]].map(|server| server.port().to_string());
    let mut text = text.replace(&ports[0], "<port 1>").replace(&ports[1], "<port 2>");
    for (from, to) in [("(sha256 ", ")"), ("made ", ",")] {
        let start = text.find(from).unwrap() + from.len();
        let end = start + text[start..].find(to).unwrap();
        text.replace_range(start..end, "<>");
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shard_migration/plan.txt");
    if std::env::var_os("WAKALA_BLESS").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(golden).unwrap());

    let run = RunHandle::new("first");
    let report = process
        .drives(Start::Anew(&run), true, async || {
            assert_eq!([rig.shard_of(1).await, rig.shard_of(2).await, rig.shard_of(3).await], [2, 2, 1]);
            let app = rig.app(2).await;
            app.batch_execute("UPDATE account SET balance = 5 WHERE tenant_id = 1").await.unwrap();
            // What happens there goes back as long as nobody has decided.
            crate::rig::until("the way back", async || rig.value(1, TOTAL).await == "1100").await;
        })
        .await;
    assert_eq!(report.status, Status::Succeeded, "{report}");
    assert_eq!(rig.value(2, TOTAL).await, "1100");
    assert_eq!(rig.value(1, "SELECT count(*), min(tenant_id) FROM account").await, "300");
    assert_eq!(rig.value(1, "SELECT count(*) FROM entry WHERE tenant_id < 3").await, "0");
    rig.assert_clean().await;

    // What is cleaned up cannot be taken back, and says so.
    let report = process.engine.revert(&process.playbook, &run.by("ana"), Revert::Everything).await.unwrap();
    assert_eq!(report.status, Status::Stuck, "{report}");
    assert!(report.to_string().contains("move the tenants back by a move of its own"), "{report}");
    assert_eq!(rig.value(2, TOTAL).await, "1100");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_cleanup_all_is_taken_back_with_what_happened_since() {
    let rig = Rig::new(3, 40).await;
    let host = rig.host("there_and_back", &[1, 2], MoveOptions::default());
    let process = rig.process(MoveSite::new(host.clone()), &host);
    let run = RunHandle::new("back").by("ana");
    let report = process
        .drives(Start::Anew(&run), false, async || {
            let app = rig.app(2).await;
            app.batch_execute("UPDATE account SET balance = 5 WHERE tenant_id = 2").await.unwrap();
        })
        .await;
    assert_eq!(report.status, Status::Held, "{report}");
    assert_eq!([rig.shard_of(1).await, rig.shard_of(2).await], [2, 2]);

    // Whoever reverts has a host of their own.
    drop(host);
    let other = rig.host("there_and_back", &[1, 2], MoveOptions::default());
    let process = rig.process(MoveSite::new(other.clone()), &other);
    let report = process.engine.revert(&process.playbook, &run, Revert::Everything).await.unwrap();
    assert_eq!(report.status, Status::Compensated, "{report}");
    assert_eq!([rig.shard_of(1).await, rig.shard_of(2).await], [1, 1]);
    assert_eq!(rig.value(1, TOTAL).await, "520");
    assert_eq!(rig.value(2, "SELECT count(*) FROM account").await, "0");
    rig.assert_clean().await;
    rig.app(1).await.batch_execute("UPDATE account SET balance = 6 WHERE tenant_id = 2").await.unwrap();
    let plan = process.engine.plan(&process.playbook).await.unwrap();
    assert_eq!(plan.refusals().count(), 0, "{plan}");
    drop(Approval::of(&plan, "nobody"));
}
