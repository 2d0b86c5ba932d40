//! Every tenant on every shard: what few tenants allow.

use super::problem::{Answer, Problem};

/// More tenants than that are not searched through: it would not come far.
const WIDEST: usize = 120;

/// The cheapest answer found within the limits, if it is cheaper than the `known` one.
pub(super) fn search(problem: &Problem, limits: &[u64], known: Option<u64>, nodes: u32) -> Option<Answer> {
    if problem.home.len() > WIDEST {
        return None;
    }
    let mut order: Vec<usize> =
        (0..problem.home.len()).filter(|tenant| problem.weight[*tenant] > 0).collect();
    order.sort_by_key(|tenant| (std::cmp::Reverse(problem.weight[*tenant]), problem.home[*tenant], *tenant));
    // Thousandths of the least that a unit of weight costs.
    let rate =
        |tenant: &usize| u128::from(problem.cost[*tenant]) * 1000 / u128::from(problem.weight[*tenant]);
    let mut search = Search {
        rate: order.iter().map(rate).min().unwrap_or(0),
        room: limits.to_vec(),
        waiting: problem.sums(&problem.home),
        answer: problem.home.clone(),
        best: None,
        best_cost: known.unwrap_or(u64::MAX),
        nodes,
        problem,
        order,
    };
    search.descend(0, 0);
    search.best
}

struct Search<'a> {
    problem: &'a Problem,
    /// The heaviest first.
    order: Vec<usize>,
    rate: u128,
    /// What each shard may still be given.
    room: Vec<u64>,
    /// What is at home there and not yet decided about.
    waiting: Vec<u64>,
    answer: Answer,
    best: Option<Answer>,
    best_cost: u64,
    nodes: u32,
}

impl Search<'_> {
    /// What must still leave its shard, at the least that it may cost.
    fn owed(&self) -> u64 {
        let owed: u64 =
            self.waiting.iter().zip(&self.room).map(|(waiting, room)| waiting.saturating_sub(*room)).sum();
        u64::try_from(u128::from(owed) * self.rate / 1000).unwrap_or(u64::MAX)
    }

    fn descend(&mut self, place: usize, cost: u64) {
        if self.nodes == 0 || cost.saturating_add(self.owed()) >= self.best_cost {
            return;
        }
        self.nodes -= 1;
        let Some(tenant) = self.order.get(place).copied() else {
            self.best_cost = cost;
            self.best = Some(self.answer.clone());
            return;
        };
        let (home, weight) = (self.problem.home[tenant], self.problem.weight[tenant]);
        self.waiting[home] -= weight;
        for shard in self.choices(place, tenant) {
            let price = if shard == home { 0 } else { self.problem.cost[tenant] };
            self.room[shard] -= weight;
            self.answer[tenant] = shard;
            self.descend(place + 1, cost + price);
            self.room[shard] += weight;
        }
        self.answer[tenant] = home;
        self.waiting[home] += weight;
    }

    /// Home first, then where there is the most room beside what is at home there. Of equal tenants of one home, none goes
    /// to an earlier shard than the one before it.
    fn choices(&self, place: usize, tenant: usize) -> Vec<usize> {
        let problem = self.problem;
        let (home, weight) = (problem.home[tenant], problem.weight[tenant]);
        let rank = |shard: usize| if shard == home { 0 } else { shard + 1 };
        let least = place.checked_sub(1).map(|before| self.order[before]).filter(|before| {
            (problem.home[*before], problem.weight[*before], problem.cost[*before])
                == (home, weight, problem.cost[tenant])
        });
        let least = least.map_or(0, |before| rank(self.answer[before]));
        let mut choices: Vec<usize> = (0..self.room.len())
            .filter(|shard| self.room[*shard] >= weight && rank(*shard) >= least)
            .collect();
        choices.sort_by_key(|shard| {
            let free = self.room[*shard].saturating_sub(self.waiting[*shard]);
            (*shard != home, std::cmp::Reverse(free), *shard)
        });
        choices
    }
}
