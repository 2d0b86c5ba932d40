//! Which tenants to move.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use wakala_core::{Error, ErrorKind, Result};

use self::problem::Problem;
use super::ids::{Shard, ShardId, TenantId};

mod cover;
mod joint;
mod problem;
mod repair;
mod solve;
#[cfg(test)]
mod tests;
mod whole;

/// How large a tenant is, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TenantLoad {
    /// The tenant.
    pub tenant: TenantId,
    /// Where the directory has it.
    pub shard: ShardId,
    /// What its rows and their part of the indexes take: what a move copies.
    pub bytes: u64,
    /// How many rows it changes in a second; 0 where that does not matter.
    pub writes_per_second: u64,
}

impl TenantLoad {
    /// A tenant of that size, of which writes do not matter.
    pub fn new(tenant: TenantId, shard: ShardId, bytes: u64) -> Self {
        Self { tenant, shard, bytes, writes_per_second: 0 }
    }

    /// How many rows it changes in a second.
    #[must_use]
    pub fn with_writes_per_second(mut self, writes: u64) -> Self {
        self.writes_per_second = writes;
        self
    }
}

/// What a plan shall reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Goal {
    /// By how many thousandths a shard may be above its fair share: 50 unless said otherwise.
    ///
    /// The fair share is the load of all, divided by the weights of the active shards.
    pub tolerance_permille: u32,
    /// As how many bytes one write a second counts: 0 unless said otherwise, which balances by size alone.
    pub bytes_per_write: u64,
}

impl Default for Goal {
    fn default() -> Self {
        Self { tolerance_permille: 50, bytes_per_write: 0 }
    }
}

impl Goal {
    /// By how many thousandths a shard may be above its fair share.
    #[must_use]
    pub fn with_tolerance_permille(mut self, tolerance: u32) -> Self {
        self.tolerance_permille = tolerance;
        self
    }

    /// As how many bytes one write a second counts.
    #[must_use]
    pub fn with_bytes_per_write(mut self, bytes: u64) -> Self {
        self.bytes_per_write = bytes;
        self
    }
}

/// One tenant's move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedMove {
    /// The tenant.
    pub tenant: TenantId,
    /// Where it is.
    pub from: ShardId,
    /// Where it goes.
    pub to: ShardId,
    /// What is copied.
    pub bytes: u64,
}

/// What a shard has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ShardLoad {
    /// How many tenants.
    pub tenants: u64,
    /// Their size.
    pub bytes: u64,
    /// What they change in a second.
    pub writes_per_second: u64,
    /// What is balanced: bytes, and what the writes count as.
    pub load: u64,
}

/// A shard before and after a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedShard {
    /// The shard.
    pub shard: Shard,
    /// What it has now.
    pub before: ShardLoad,
    /// What it will have.
    pub after: ShardLoad,
    /// What it may have by the goal, in the unit of [`ShardLoad::load`]; 0 for one that is inactive.
    pub limit: u64,
}

/// Which tenants to move. Its `Display` is a table for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MovePlan {
    /// In the order in which to make them, the smallest first: what goes wrong goes wrong with little. Where a shard both
    /// gives and takes, which is rare, it may be above its limit on the way.
    pub moves: Vec<PlannedMove>,
    /// In the order of their numbers.
    pub shards: Vec<PlannedShard>,
    /// What all moves copy.
    pub bytes: u64,
    /// What all tenants have.
    pub total_bytes: u64,
    /// Whether every shard is within the goal afterwards. Where that is not possible with these tenants, or was not found,
    /// the plan comes as near to it as was found.
    pub reached: bool,
    /// Tenants that are alone more than any shard may have: they stay, and the others make room.
    pub oversized: Vec<TenantId>,
}

/// Chooses tenants to move so that no shard is above its fair share by more than the goal's tolerance, inactive shards are
/// emptied, and as few bytes as possible are moved.
///
/// As a rule only shards that have too much lose tenants, and no more than they must; a new shard is given nothing beyond
/// that. The bytes are within a thousandth of the fewest possible where that can be proven in little time, which is the
/// rule; otherwise what a bounded search finds. The
/// same input gives the same plan, whatever the order of the loads. With ten thousand tenants it takes well under a second.
///
/// # Errors
/// `InvalidConfig` where a tenant is there twice or on a shard that is not, a shard is there twice or has no weight, or all
/// loads together do not fit; `InsufficientCapacity` where no shard is active.
pub fn plan_moves(loads: &[TenantLoad], shards: &[Shard], goal: &Goal) -> Result<MovePlan> {
    let mut loads: Vec<&TenantLoad> = loads.iter().collect();
    loads.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    let mut shards: Vec<&Shard> = shards.iter().collect();
    shards.sort_by_key(|shard| shard.id);
    let places = check(&loads, &shards)?;
    let problem = Problem::new(&loads, &shards, &places, goal)?;
    let answer = solve::solve(&problem);

    let mut moves = Vec::new();
    for (n, load) in loads.iter().enumerate() {
        let to = shards[answer[n]].id;
        if to != load.shard {
            moves.push(PlannedMove { tenant: load.tenant.clone(), from: load.shard, to, bytes: load.bytes });
        }
    }
    moves.sort_by(|a, b| (a.bytes, &a.tenant).cmp(&(b.bytes, &b.tenant)));
    let sums = |places: &[usize]| {
        let mut sums = vec![ShardLoad::default(); shards.len()];
        for (n, load) in loads.iter().enumerate() {
            let sum = &mut sums[places[n]];
            sum.tenants += 1;
            sum.bytes += load.bytes;
            sum.writes_per_second += load.writes_per_second;
            sum.load += problem.weight[n];
        }
        sums
    };
    let limits = problem.limits();
    let planned = shards.iter().zip(sums(&problem.home).into_iter().zip(sums(&answer))).zip(limits);
    let shards: Vec<PlannedShard> = planned
        .map(|((shard, (before, after)), limit)| PlannedShard {
            shard: (*shard).clone(),
            before,
            after,
            limit,
        })
        .collect();
    Ok(MovePlan {
        bytes: moves.iter().map(|planned| planned.bytes).sum(),
        total_bytes: loads.iter().map(|load| load.bytes).sum(),
        reached: problem.fits(&answer, &problem.limits_within()),
        oversized: problem.oversized().map(|n| loads[n].tenant.clone()).collect(),
        moves,
        shards,
    })
}

/// The places of the shards by their numbers.
fn check(loads: &[&TenantLoad], shards: &[&Shard]) -> Result<BTreeMap<ShardId, usize>> {
    let mut places = BTreeMap::new();
    for (place, shard) in shards.iter().enumerate() {
        shard.check("plan_moves")?;
        if places.insert(shard.id, place).is_some() {
            return Err(Error::invalid("plan_moves", "it is there twice").on(format!("shard {}", shard.id)));
        }
    }
    if shards.iter().all(|shard| !shard.active) {
        let message = "no shard is active; add one, or activate one";
        return Err(Error::new(ErrorKind::InsufficientCapacity, "plan_moves", message));
    }
    for load in loads {
        if !places.contains_key(&load.shard) {
            let message = format!("it is on shard {}, which is not among the shards", load.shard);
            return Err(Error::invalid("plan_moves", message).on(format!("tenant {}", load.tenant)));
        }
    }
    if let Some(twice) = loads.windows(2).find(|pair| pair[0].tenant == pair[1].tenant) {
        let message = "it is there twice; a tenant is on one shard";
        return Err(Error::invalid("plan_moves", message).on(format!("tenant {}", twice[0].tenant)));
    }
    Ok(places)
}

impl fmt::Display for MovePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |load: u64, planned: &PlannedShard, fair: f64| {
            if planned.shard.active { format!("{:.0} %", 100.0 * load as f64 / fair) } else { "-".to_owned() }
        };
        writeln!(
            f,
            "{:>6}  {:>9}  {:>9}  {:>10}  {:>10}  {:>7}  {:>7}",
            "shard", "tenants", "after", "size", "after", "of fair", "after"
        )?;
        let total: u64 = self.shards.iter().map(|planned| planned.before.load).sum();
        let active = self.shards.iter().filter(|planned| planned.shard.active);
        let weights: f64 = active.map(|planned| f64::from(planned.shard.weight)).sum();
        for planned in &self.shards {
            let PlannedShard { shard, before, after, .. } = planned;
            let fair = (total as f64 * f64::from(shard.weight) / weights).max(1.0);
            writeln!(
                f,
                "{:>6}  {:>9}  {:>9}  {:>10}  {:>10}  {:>7}  {:>7}{}",
                shard.id.to_string(),
                before.tenants,
                after.tenants,
                Bytes(before.bytes).to_string(),
                Bytes(after.bytes).to_string(),
                share(before.load, planned, fair),
                share(after.load, planned, fair),
                if shard.active { "" } else { "  inactive" },
            )?;
        }
        for planned in &self.moves {
            let PlannedMove { tenant, from, to, bytes } = planned;
            writeln!(f, "move {tenant}: shard {from} -> {to}, {}", Bytes(*bytes))?;
        }
        for tenant in &self.oversized {
            writeln!(f, "tenant {tenant} alone is more than any shard may have: it stays")?;
        }
        if !self.reached {
            writeln!(f, "the goal is not reached; this comes as near to it as was found")?;
        }
        let part = 100.0 * self.bytes as f64 / self.total_bytes.max(1) as f64;
        write!(
            f,
            "{} moves, {} of {} ({part:.1} %)",
            self.moves.len(),
            Bytes(self.bytes),
            Bytes(self.total_bytes)
        )
    }
}

/// For people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for larger in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        if unit == "B" { write!(f, "{} B", self.0) } else { write!(f, "{value:.1} {unit}") }
    }
}
