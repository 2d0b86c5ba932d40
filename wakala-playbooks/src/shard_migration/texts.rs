//! Numbers for people, and what Postgres must allow.

use wakala_core::{Permission, ResourceKey};
use wakala_db::{MoveSpec, ShardId, TenantId};

pub(super) fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

pub(super) fn bytes(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.1} GB", value / 1e9),
    }
}

/// That a shard takes part in a move: one at a time.
pub(super) fn slot_of(shard: ShardId) -> ResourceKey {
    format!("shards/{shard}/move").into()
}

pub(super) fn key_of(tenant: &TenantId) -> ResourceKey {
    format!("tenants/{tenant}").into()
}

/// Both shards, and all tenants.
pub(super) fn everything(spec: &MoveSpec) -> Vec<ResourceKey> {
    let shards = [slot_of(spec.source), slot_of(spec.destination)];
    shards.into_iter().chain(spec.tenants.iter().map(key_of)).collect()
}

/// What the mover's role needs on both shards. Those that are grants are in the words of `sql_grants`; a superuser has all.
pub(super) fn permissions(spec: &MoveSpec) -> Vec<Permission> {
    let mut needed = vec![Permission::new("postgres", "SET", "PARAMETER session_replication_role")];
    for shard in [spec.source, spec.destination] {
        needed.extend([
            Permission::new("postgres role", "REPLICATION", format!("on shard {shard}")),
            Permission::new("postgres role", "CREATE", format!("on the database of shard {shard}")),
            Permission::new(
                "postgres role",
                "ownership",
                format!(
                    "of the tables of {} with a column {}, on shard {shard}",
                    spec.schemas.join(", "),
                    spec.tenant_column
                ),
            ),
        ]);
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_the_unit_that_fits() {
        let texts: Vec<_> = [999, 1_000, 1_250_000, 3_000_000_000].map(bytes).into();
        assert_eq!(texts, ["999 B", "1 kB", "1.2 MB", "3.0 GB"]);
        assert_eq!((counted(1, "tenant"), counted(2, "tenant")), ("1 tenant".into(), "2 tenants".into()));
    }
}
