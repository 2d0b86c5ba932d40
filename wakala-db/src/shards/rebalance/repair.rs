//! Small changes: towards the limits, and within them towards less that is moved.

use super::problem::{Answer, Problem};

/// Exchanges are tried between so many tenants at most.
const WIDEST: usize = 600;
const ROUNDS: usize = 400;

/// From what is: as long as a move or an exchange brings the shards nearer to their limits, the cheapest of the best.
pub(super) fn repaired(problem: &Problem, limits: &[u64]) -> Option<Answer> {
    let mut answer = problem.home.clone();
    let mut sums = problem.sums(&answer);
    for _ in 0..ROUNDS.max(problem.home.len()) {
        if sums.iter().zip(limits).all(|(sum, limit)| sum <= limit) {
            return Some(answer);
        }
        let (one, other) = best_move(problem, &answer, &sums, limits)
            .or_else(|| best_exchange(problem, &answer, &sums, limits))?;
        for (tenant, to) in [Some(one), other].into_iter().flatten() {
            sums[answer[tenant]] -= problem.weight[tenant];
            sums[to] += problem.weight[tenant];
            answer[tenant] = to;
        }
    }
    None
}

type Change = ((usize, usize), Option<(usize, usize)>);

/// By how much the two shards are above their limits, after `out` left the first and `into` came from the second.
fn excess(pair: [usize; 2], out: u64, into: u64, sums: &[u64], limits: &[u64]) -> u64 {
    let [from, to] = pair;
    (sums[from] - out + into).saturating_sub(limits[from])
        + (sums[to] + out - into).saturating_sub(limits[to])
}

/// What a change adds to the cost; less than nothing where tenants come home.
fn price(problem: &Problem, answer: &[usize], tenant: usize, to: usize) -> i128 {
    let cost = i128::from(problem.cost[tenant]);
    let moved = |shard: usize| if shard == problem.home[tenant] { 0 } else { cost };
    moved(to) - moved(answer[tenant])
}

fn best_move(problem: &Problem, answer: &[usize], sums: &[u64], limits: &[u64]) -> Option<Change> {
    let mut best: Option<((u64, i128), Change)> = None;
    for tenant in (0..answer.len()).filter(|tenant| sums[answer[*tenant]] > limits[answer[*tenant]]) {
        let from = answer[tenant];
        for to in (0..problem.shards()).filter(|to| *to != from && problem.active(*to)) {
            let before = excess([from, to], 0, 0, sums, limits);
            let after = excess([from, to], problem.weight[tenant], 0, sums, limits);
            let Some(gain) = before.checked_sub(after).filter(|gain| *gain > 0) else { continue };
            let rank = (u64::MAX - gain, price(problem, answer, tenant, to));
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, ((tenant, to), None)));
            }
        }
    }
    best.map(|(_, change)| change)
}

fn best_exchange(problem: &Problem, answer: &[usize], sums: &[u64], limits: &[u64]) -> Option<Change> {
    if answer.len() > WIDEST {
        return None;
    }
    let mut best: Option<((u64, i128), Change)> = None;
    for one in (0..answer.len()).filter(|tenant| sums[answer[*tenant]] > limits[answer[*tenant]]) {
        for other in (0..answer.len()).filter(|other| answer[*other] != answer[one]) {
            let (from, to) = (answer[one], answer[other]);
            if !problem.active(from) || !problem.active(to) || problem.weight[one] <= problem.weight[other] {
                continue;
            }
            let before = excess([from, to], 0, 0, sums, limits);
            let after = excess([from, to], problem.weight[one], problem.weight[other], sums, limits);
            let Some(gain) = before.checked_sub(after).filter(|gain| *gain > 0) else { continue };
            let price = price(problem, answer, one, to) + price(problem, answer, other, from);
            let rank = (u64::MAX - gain, price);
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, ((one, to), Some((other, from)))));
            }
        }
    }
    best.map(|(_, change)| change)
}

/// Takes moves back that are not needed, and makes cheaper ones in their place, within the limits.
pub(super) fn cheapen(problem: &Problem, answer: &mut Answer, limits: &[u64]) {
    let mut sums = problem.sums(answer);
    for _ in 0..ROUNDS {
        if !take_back(problem, answer, &mut sums, limits) && !replace(problem, answer, &mut sums, limits) {
            return;
        }
    }
}

/// The dearest first.
fn moved(problem: &Problem, answer: &[usize]) -> Vec<usize> {
    let mut moved: Vec<usize> =
        (0..answer.len()).filter(|tenant| answer[*tenant] != problem.home[*tenant]).collect();
    moved.sort_by_key(|tenant| std::cmp::Reverse((problem.cost[*tenant], *tenant)));
    moved
}

fn take_back(problem: &Problem, answer: &mut Answer, sums: &mut [u64], limits: &[u64]) -> bool {
    for tenant in moved(problem, answer) {
        let (home, weight) = (problem.home[tenant], problem.weight[tenant]);
        if problem.active(home) && sums[home] + weight <= limits[home] {
            sums[answer[tenant]] -= weight;
            sums[home] += weight;
            answer[tenant] = home;
            return true;
        }
    }
    false
}

/// One that was moved goes home, and a cheaper one leaves in its place, for wherever there is room then.
fn replace(problem: &Problem, answer: &mut Answer, sums: &mut [u64], limits: &[u64]) -> bool {
    for tenant in moved(problem, answer) {
        let (home, there, weight) = (problem.home[tenant], answer[tenant], problem.weight[tenant]);
        if !problem.active(home) {
            continue;
        }
        let at_home =
            (0..answer.len()).filter(|other| answer[*other] == home && problem.home[*other] == home);
        let mut others: Vec<usize> =
            at_home.filter(|other| problem.cost[*other] < problem.cost[tenant]).collect();
        others.sort_by_key(|other| (problem.cost[*other], *other));
        for other in others {
            let less = problem.weight[other];
            if sums[home] + weight - less > limits[home] {
                continue;
            }
            let free = |shard: usize| {
                let sum = if shard == there { sums[shard] - weight } else { sums[shard] };
                shard != home && problem.active(shard) && sum + less <= limits[shard]
            };
            if let Some(to) = (0..problem.shards()).find(|shard| free(*shard)) {
                sums[there] -= weight;
                sums[home] = sums[home] + weight - less;
                sums[to] += less;
                (answer[tenant], answer[other]) = (home, to);
                return true;
            }
        }
    }
    false
}
