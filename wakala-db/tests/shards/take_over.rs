//! Tables that were sharded before the directory: the runbook's own, and others.

use futures::future::join_all;
use wakala_core::ErrorKind;
use wakala_db::{Directory, Existing, TakenOver};

use crate::rig::{CONTROL, OWNER, bouncer, empty, epoch, pool, same, server, shard, tenant, unique};

/// The runbook's section "Sharding Implementation", in a schema of the test's own.
const RUNBOOK: &str = "
    ALTER TABLE tenants ADD COLUMN shard_id INTEGER DEFAULT 1;
    UPDATE tenants
    SET shard_id = (hashtext(tenant_id::text) % 4) + 1
    WHERE shard_id = 1;
    CREATE TABLE shard_config (
      shard_id INTEGER PRIMARY KEY,
      host VARCHAR(255) NOT NULL,
      port INTEGER DEFAULT 5432,
      database VARCHAR(255) NOT NULL,
      active BOOLEAN DEFAULT true
    );
    INSERT INTO shard_config VALUES
      (1, 'shard1.wakala.com', 5432, 'wakala_shard1', true),
      (2, 'shard2.wakala.com', 5432, 'wakala_shard2', true),
      (3, 'shard3.wakala.com', 5432, 'wakala_shard3', true),
      (4, 'shard4.wakala.com', 5432, 'wakala_shard4', true);";

struct Old {
    schema: String,
    directory: Directory,
}

impl Old {
    /// A schema with what `sql` makes in it, and an empty directory.
    async fn with(sql: &str) -> Self {
        let schema = unique("old").to_string();
        let old = Self { schema, directory: empty(server().await, 2).await };
        old.sql(&format!("CREATE SCHEMA {} AUTHORIZATION {OWNER}", old.schema)).await;
        old.sql(sql).await;
        old
    }

    async fn runbook(id: &str, tenants: &str) -> Self {
        let made =
            format!("CREATE TABLE tenants (tenant_id {id} PRIMARY KEY, name text); {tenants}; {RUNBOOK}");
        Self::with(&made).await
    }

    async fn sql(&self, sql: &str) {
        let all = format!("SET search_path TO {}; SET ROLE {OWNER}; {sql}", self.schema);
        let all = if sql.starts_with("CREATE SCHEMA") { sql.to_owned() } else { all };
        server().await.execute(CONTROL, &all).await.unwrap();
    }

    async fn value(&self, sql: &str) -> String {
        server().await.value(CONTROL, &sql.replace("OLD.", &format!("{}.", self.schema))).await.unwrap()
    }

    fn existing(&self) -> Existing {
        Existing::default().with_schema(&self.schema)
    }

    async fn take_over(&self) -> wakala_core::Result<TakenOver> {
        self.directory.take_over(&self.existing()).await
    }

    /// The lines of the list of what is wrong.
    async fn wrong(&self) -> Vec<String> {
        let error = self.take_over().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
        assert_eq!(self.directory.shards().await.unwrap(), []);
        assert_eq!(self.directory.placements(None, 1).await.unwrap(), []);
        error.to_string().lines().skip(1).map(|line| line.trim().to_owned()).collect()
    }
}

#[tokio::test]
async fn the_runbooks_tables_are_refused_with_every_number_that_no_shard_has() {
    let old = Old::runbook(
        "uuid",
        "INSERT INTO tenants SELECT gen_random_uuid(), 'n' FROM generate_series(1, 1000)",
    )
    .await;
    let before =
        old.value("SELECT md5(string_agg(t::text, ';' ORDER BY tenant_id)) FROM OLD.tenants t").await;
    let wrong = old.wrong().await;
    assert_eq!(wrong.len(), 3, "{wrong:#?}");
    for (line, number) in wrong.iter().zip(["0", "-1", "-2"]) {
        assert!(line.contains(&format!("on shard {number}, and there is no such shard")), "{line}");
        let count = old.value(&format!("SELECT count(*) FROM OLD.tenants WHERE shard_id = {number}")).await;
        assert!(line.starts_with(&format!("{count} tenants (")) && count != "0", "{line}");
    }
    // Corrected as the rows really are, it goes.
    old.sql("UPDATE tenants SET shard_id = 1 WHERE shard_id < 1").await;
    let taken = old.take_over().await.unwrap();
    assert_eq!((taken.shards, taken.tenants, taken.known), (4, 1000, 0));
    let after = old.value("SELECT md5(string_agg(t::text, ';' ORDER BY tenant_id)) FROM OLD.tenants t").await;
    assert_ne!(before, after, "the correction counts");

    let shards = old.directory.shards().await.unwrap();
    assert_eq!(shards.len(), 4);
    assert_eq!((shards[1].host.as_str(), shards[1].port), ("shard2.wakala.com", 5432));
    let placements = old.directory.placements(None, 10_000).await.unwrap();
    assert_eq!(placements.len(), 1000);
    for placement in placements.iter().step_by(50) {
        assert_eq!(placement.epoch, epoch(1));
        let sql = format!("SELECT shard_id FROM OLD.tenants WHERE tenant_id = '{}'", placement.tenant);
        assert_eq!(old.value(&sql).await, placement.shard.to_string());
    }
    let again = old.take_over().await.unwrap();
    assert_eq!((again.shards, again.tenants, again.known), (0, 0, 1000));
    let unchanged =
        old.value("SELECT md5(string_agg(t::text, ';' ORDER BY tenant_id)) FROM OLD.tenants t").await;
    assert_eq!(after, unchanged);
}

#[tokio::test]
async fn everything_that_is_wrong_is_in_one_list() {
    let old = Old::with(
        "CREATE TABLE tenants (tenant_id text, shard_id text);
         INSERT INTO tenants VALUES ('a', NULL), (NULL, '1'), ('', '1'), ('b', '1'), ('b', '1'), ('c', '3'), ('d', 'x'),
                                    ('e', '01'), ('f', '1');
         CREATE TABLE shard_config (shard_id int, host text, port int, database text, active boolean);
         INSERT INTO shard_config VALUES (1, 'h', 5432, 'a', true), (2, 'h', 5432, 'a', true), (3, 'h', 5432, 'c', false),
                                         (0, 'h', 5432, 'd', true), (5, '', 5432, 'e', true), (6, 'h', NULL, 'f', true),
                                         (7, 'h', 5432, 'g', NULL), (8, 'h', 70000, 'h', true);",
    )
    .await;
    let wrong = old.wrong().await.join("\n");
    for line in [
        "shard 0: shards are numbered from 1",
        "shard 2 (h:5432/a) and shard 1 are the same database",
        "shard 5: it has no host",
        "shard 6: its port is no number from 1 to 65535",
        "shard 7: whether it is active is \"NULL\"",
        "shard 8: its port is no number from 1 to 65535",
        "1 tenant (a) without a shard",
        "1 tenant (c) on shard 3 (h:5432/c), which is inactive",
        "1 tenant (d) on shard x, and there is no such shard",
        "1 tenant (e) on shard 01, and there is no such shard",
        "1 rows without a tenant's id",
        "1 rows whose tenant's id is empty or has more than 200 bytes",
        "1 tenant (b) in more than one row",
    ] {
        assert!(wrong.contains(line), "{line} is missing in\n{wrong}");
    }
    assert_eq!(wrong.lines().count(), 13, "{wrong}");
}

#[tokio::test]
async fn a_later_take_over_adds_what_is_new_and_leaves_what_was_moved() {
    let old = Old::runbook("bigint", "INSERT INTO tenants VALUES (1, 'n'), (2, 'n')").await;
    old.sql("UPDATE tenants SET shard_id = tenant_id").await;
    old.take_over().await.unwrap();
    old.directory.flip(&tenant("1"), epoch(1), shard(4), epoch(2)).await.unwrap();
    old.sql("INSERT INTO tenants (tenant_id, shard_id) VALUES (3, 3)").await;
    let taken = old.take_over().await.unwrap();
    assert_eq!((taken.shards, taken.tenants, taken.known), (0, 1, 2));
    let placement = old.directory.find(&tenant("1")).await.unwrap().unwrap();
    assert_eq!((placement.shard, placement.epoch), (shard(4), epoch(2)));

    // The runbook's way to move a tenant, afterwards.
    old.sql("UPDATE tenants SET shard_id = 4; UPDATE shard_config SET host = 'new' WHERE shard_id = 2").await;
    let error = old.take_over().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    for line in [
        "1 tenant (2) on shard 4 here, and on shard 2 in the directory",
        "1 tenant (3) on shard 4 here, and on shard 3 in the directory",
        "shard 2 (new:5432/wakala_shard2) is shard 2 (shard2.wakala.com:5432/wakala_shard2) in the directory",
    ] {
        assert!(error.to_string().contains(line), "{line} is missing in {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_take_over_at_once() {
    let old = Old::runbook("int", "INSERT INTO tenants SELECT n, 'n' FROM generate_series(1, 2000) n").await;
    old.sql("UPDATE tenants SET shard_id = 1 + tenant_id % 4").await;
    let hosts: Vec<_> = [&**server().await, &**bouncer().await]
        .into_iter()
        .cycle()
        .take(6)
        .map(|access| same(&old.directory, access, 1))
        .collect();
    let existing = old.existing();
    let answers = join_all(hosts.iter().map(|host| host.take_over(&existing))).await;
    let taken: Vec<TakenOver> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(taken.iter().map(|taken| taken.tenants).sum::<u64>(), 2000, "{taken:?}");
    assert_eq!(taken.iter().map(|taken| taken.shards).sum::<u64>(), 4, "{taken:?}");
}

#[tokio::test]
async fn other_names_and_the_label_of_old_clients() {
    for id in ["uuid", "text", "varchar(40)"] {
        let one = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        let old = Old::with(&format!(
            "CREATE TABLE \"Customers\" (id {id} PRIMARY KEY, \"Home\" smallint NOT NULL);
             INSERT INTO \"Customers\" VALUES ('{one}', 1);
             CREATE TABLE nodes (no bigint, addr text, p text, db name, up text);
             INSERT INTO nodes VALUES (1, 'h', '5432', 'a', 'yes'), (2, 'h', '5432', 'b', 'yes');"
        ))
        .await;
        let existing = old
            .existing()
            .with_tenants("Customers", "id", "Home")
            .with_shards("nodes")
            .with_shard_columns(["no", "addr", "p", "db", "up"]);
        old.directory.take_over(&existing).await.unwrap();
        let home = format!("SELECT \"Home\" FROM OLD.\"Customers\" WHERE id = '{one}'");

        old.directory.flip(&tenant(one), epoch(1), shard(2), epoch(2)).await.unwrap();
        assert_eq!(old.value(&home).await, "1", "nobody asked for it");
        let keeping = old.directory.clone().with_legacy_column(existing.clone());
        keeping.flip(&tenant(one), epoch(2), shard(1), epoch(3)).await.unwrap();
        keeping.flip(&tenant(one), epoch(3), shard(2), epoch(4)).await.unwrap();
        assert_eq!(old.value(&home).await, "2");
        keeping.flip(&tenant(one), epoch(1), shard(1), epoch(5)).await.unwrap_err();
        assert_eq!(old.value(&home).await, "2");

        // A tenant that old clients made: the column's default is wrong, and put right. One without a row is none.
        let other = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        old.sql(&format!("INSERT INTO \"Customers\" VALUES ('{other}', 1)")).await;
        keeping.register(&tenant(other), shard(2)).await.unwrap();
        assert_eq!(old.value(&home.replace(one, other)).await, "2");
        keeping.register(&tenant("c0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), shard(2)).await.unwrap();
    }
}

#[tokio::test]
async fn a_label_that_cannot_be_written_keeps_the_directory_as_it_was() {
    let old = Old::runbook("int", "INSERT INTO tenants VALUES (1, 'n')").await;
    old.sql("UPDATE tenants SET shard_id = 1").await;
    old.take_over().await.unwrap();
    let misnamed =
        old.directory.clone().with_legacy_column(old.existing().with_tenants("tenants", "tenant_id", "home"));
    let error = misnamed.flip(&tenant("1"), epoch(1), shard(2), epoch(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("\"home\""), "{error}");
    old.sql("ALTER TABLE tenants ADD CHECK (shard_id = 1)").await;
    let keeping = old.directory.clone().with_legacy_column(old.existing());
    keeping.flip(&tenant("1"), epoch(1), shard(2), epoch(2)).await.unwrap_err();
    assert_eq!(old.directory.find(&tenant("1")).await.unwrap().unwrap().epoch, epoch(1));
    let ops = Directory::new(pool(server().await, CONTROL, "ops", 1), old.directory.schema().clone());
    assert_eq!(ops.take_over(&old.existing()).await.unwrap_err().kind(), ErrorKind::Denied);
}
