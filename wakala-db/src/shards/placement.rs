//! Where a new tenant goes.

use sha2::{Digest, Sha256};
use wakala_core::{Error, ErrorKind, Result};

use super::ids::{Shard, ShardId, TenantId};

/// Set before everything that is hashed; another way to place tenants would have another.
const VERSION: &str = "wakala placement 1";

/// A home for a new tenant, among the active shards; the same for the same shards, on every machine and in every version.
///
/// Only a proposal: where a tenant is, the [`Directory`](crate::Directory) says, and it stays there when shards come and
/// go until it is moved.
///
/// It is rendezvous hashing with whole weights. A shard of weight *w* has the tickets 1 to *w*. The number of a ticket is
/// the first eight bytes, the highest first, of the SHA-256 of
///
/// ```text
/// wakala placement 1 NUL shard NUL ticket NUL tenant
/// ```
///
/// with `shard` and `ticket` in decimal digits and NUL as one zero byte. The shard with the highest number among all
/// tickets is proposed; of two with the same, the one with the lower id. So each shard is proposed in proportion to its
/// weight; another shard, or a greater weight, changes the proposal only for those tenants that now go to it; and there
/// is neither a logarithm, which machines may round differently, nor anything of the database server's.
///
/// One hash a ticket: with 20 shards of weight 100, well under a millisecond.
///
/// # Errors
/// `InsufficientCapacity` where no shard is active.
///
/// ```
/// use wakala_db::{Shard, ShardId, propose};
///
/// let shards = [1, 2, 3, 4].map(|id| Shard::new(ShardId::new(id).unwrap(), format!("shard{id}"), 5432, "app"));
/// let home = propose(&"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".parse()?, &shards)?;
/// assert!((1..=4).contains(&home.get()));
/// # Ok::<_, wakala_core::Error>(())
/// ```
pub fn propose(tenant: &TenantId, shards: &[Shard]) -> Result<ShardId> {
    let active = shards.iter().filter(|shard| shard.active);
    let best = active.map(|shard| (highest_ticket(tenant, shard), std::cmp::Reverse(shard.id))).max();
    best.map(|(_, id)| id.0).ok_or_else(|| {
        let message = "no shard is active; add one, or activate one";
        Error::new(ErrorKind::InsufficientCapacity, "propose", message).on(format!("tenant {tenant}"))
    })
}

fn highest_ticket(tenant: &TenantId, shard: &Shard) -> u64 {
    let prefix = Sha256::new_with_prefix(format!("{VERSION}\0{}\0", shard.id));
    let tickets = (1..=shard.weight).map(|ticket| {
        let hash = prefix.clone().chain_update(format!("{ticket}\0{tenant}")).finalize();
        u64::from_be_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes"))
    });
    tickets.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shard(id: i32, weight: u16) -> Shard {
        Shard::new(ShardId::new(id).unwrap(), "host", 5432, format!("d{id}")).with_weight(weight)
    }

    fn homes(shards: &[Shard]) -> Vec<i32> {
        (0..20_000).map(|n| propose(&TenantId::from(n), shards).unwrap().get()).collect()
    }

    fn counts(homes: &[i32]) -> BTreeMap<i32, usize> {
        let mut counts = BTreeMap::new();
        for home in homes {
            *counts.entry(*home).or_default() += 1;
        }
        counts
    }

    /// Computed by another program in another language; never changed, or new tenants of old and new versions would be
    /// proposed different homes.
    #[test]
    fn golden_proposals() {
        assert_eq!(highest_ticket(&TenantId::from(42), &shard(1, 1)), 0x330f85c12b594d63);
        let equal: Vec<Shard> = (1..=4).map(|id| shard(id, 1)).collect();
        let weighted = [shard(1, 1), shard(2, 2), shard(7, 10), shard(i32::MAX, 100)];
        let long = " x".repeat(100);
        let golden = [
            ("1", 3, i32::MAX),
            ("2", 4, i32::MAX),
            ("3", 2, i32::MAX),
            ("42", 4, i32::MAX),
            ("-7", 4, i32::MAX),
            ("9223372036854775807", 2, i32::MAX),
            ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", 4, 7),
            ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", 3, i32::MAX),
            ("acme", 1, 7),
            ("é", 4, i32::MAX),
            (long.as_str(), 1, i32::MAX),
        ];
        for (tenant, home, other) in golden {
            let tenant = tenant.parse().unwrap();
            assert_eq!(propose(&tenant, &equal).unwrap().get(), home, "{tenant}");
            assert_eq!(propose(&tenant, &weighted).unwrap().get(), other, "{tenant}");
        }
    }

    #[test]
    fn each_shard_is_proposed_in_proportion_to_its_weight() {
        let counts = counts(&homes(&[shard(1, 1), shard(2, 1), shard(3, 2), shard(7, 4)]));
        for (id, share) in [(1, 0.125), (2, 0.125), (3, 0.25), (7, 0.5)] {
            let found = counts[&id] as f64 / 20_000.0;
            // Six deviations of a fair draw are 0.02.
            assert!((found - share).abs() < 0.02, "shard {id}: {found}");
        }
    }

    #[test]
    fn another_shard_takes_its_share_from_all_and_changes_nothing_else() {
        let four: Vec<Shard> = (1..=4).map(|id| shard(id, 1)).collect();
        let five: Vec<Shard> = (1..=5).map(|id| shard(id, 1)).collect();
        let (before, after) = (homes(&four), homes(&five));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(old, new)| old != new).collect();
        assert!(moved.iter().all(|(_, new)| **new == 5));
        let share = moved.len() as f64 / 20_000.0;
        assert!((share - 0.2).abs() < 0.02, "{share}");

        let heavier: Vec<Shard> = (1..=4).map(|id| shard(id, if id == 2 { 2 } else { 1 })).collect();
        let after = homes(&heavier);
        assert!(before.iter().zip(&after).all(|(old, new)| old == new || *new == 2));
    }

    #[test]
    fn an_inactive_shard_is_not_proposed_and_none_at_all_is_an_error() {
        let shards = [shard(1, 1), shard(2, 9).with_active(false)];
        assert!(homes(&shards).iter().all(|home| *home == 1));
        let error = propose(&TenantId::from(1), &shards[1..]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InsufficientCapacity);
    }
}
