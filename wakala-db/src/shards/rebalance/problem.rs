//! Tenants and shards as numbers.

use std::collections::BTreeMap;

use wakala_core::{Error, Result};

use super::{Goal, TenantLoad};
use crate::shards::ids::{Shard, ShardId};

/// Sums of what is below it do not overflow.
const LARGEST: u64 = 1 << 62;

/// Which tenant goes where, by their places.
pub(super) type Answer = Vec<usize>;

#[derive(Debug)]
pub(super) struct Problem {
    pub(super) home: Answer,
    /// What is balanced.
    pub(super) weight: Vec<u64>,
    /// What a move costs: the bytes.
    pub(super) cost: Vec<u64>,
    total: u64,
    /// The weights of the shards, 0 for inactive ones.
    shares: Vec<u64>,
    tolerance_permille: u64,
}

impl Problem {
    pub(super) fn new(
        loads: &[&TenantLoad],
        shards: &[&Shard],
        places: &BTreeMap<ShardId, usize>,
        goal: &Goal,
    ) -> Result<Self> {
        let too_large =
            || Error::invalid("plan_moves", "the loads are too large to be added up; use larger units");
        let weigh = |load: &&TenantLoad| {
            let writes = load.writes_per_second.checked_mul(goal.bytes_per_write)?;
            load.bytes.checked_add(writes)
        };
        let weight: Vec<u64> = loads.iter().map(weigh).collect::<Option<_>>().ok_or_else(too_large)?;
        let total = weight.iter().try_fold(0_u64, |sum, weight| sum.checked_add(*weight));
        let total = total.filter(|total| *total < LARGEST).ok_or_else(too_large)?;
        Ok(Self {
            home: loads.iter().map(|load| places[&load.shard]).collect(),
            weight,
            cost: loads.iter().map(|load| load.bytes).collect(),
            total,
            shares: shards.iter().map(|shard| if shard.active { shard.weight.into() } else { 0 }).collect(),
            tolerance_permille: goal.tolerance_permille.into(),
        })
    }

    pub(super) fn shards(&self) -> usize {
        self.shares.len()
    }

    pub(super) fn active(&self, shard: usize) -> bool {
        self.shares[shard] > 0
    }

    /// What each shard may have by the goal.
    pub(super) fn limits(&self) -> Vec<u64> {
        self.limits_at(1000)
    }

    /// What each shard may have at so many thousandths of the goal.
    fn limits_at(&self, permille: u64) -> Vec<u64> {
        let all: u64 = self.shares.iter().sum();
        let most = u128::from(self.total) * u128::from(1000 + self.tolerance_permille) * u128::from(permille);
        let limit = |share: &u64| {
            let limit = most * u128::from(*share) / (u128::from(all) * 1_000_000);
            u64::try_from(limit).unwrap_or(u64::MAX).min(LARGEST)
        };
        self.shares.iter().map(limit).collect()
    }

    /// Tenants that are more than any shard may have, on a shard that may keep them.
    pub(super) fn oversized(&self) -> impl Iterator<Item = usize> {
        let largest = self.limits().into_iter().max().unwrap_or(0);
        (0..self.home.len())
            .filter(move |tenant| self.weight[*tenant] > largest && self.active(self.home[*tenant]))
    }

    /// What each shard must come to: the goal, or the one tenant that is more than that.
    pub(super) fn limits_within(&self) -> Vec<u64> {
        self.limits_for(1000)
    }

    /// The same, where the goal cannot be reached, at so many thousandths of it.
    pub(super) fn limits_for(&self, permille: u64) -> Vec<u64> {
        let mut limits = self.limits_at(permille);
        for tenant in self.oversized() {
            let limit = &mut limits[self.home[tenant]];
            *limit = (*limit).max(self.weight[tenant]);
        }
        limits
    }

    pub(super) fn sums(&self, answer: &[usize]) -> Vec<u64> {
        let mut sums = vec![0; self.shards()];
        for (tenant, shard) in answer.iter().enumerate() {
            sums[*shard] += self.weight[tenant];
        }
        sums
    }

    pub(super) fn fits(&self, answer: &[usize], limits: &[u64]) -> bool {
        self.sums(answer).iter().zip(limits).all(|(sum, limit)| sum <= limit)
    }

    pub(super) fn cost_of(&self, answer: &[usize]) -> u64 {
        let moved = answer.iter().zip(&self.home).enumerate().filter(|(_, (to, from))| to != from);
        moved.map(|(tenant, _)| self.cost[tenant]).sum()
    }
}
