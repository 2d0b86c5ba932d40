//! From what is needed to who goes where.

use super::cover::{Cover, Item, cover, sort, suffixes};
use super::joint;
use super::problem::{Answer, Problem};
use super::{repair, whole};

/// By how much it is tried further each time the goal cannot be reached, in thousandths.
const STEP: u64 = 50;
/// How near to the least that can be reached, in thousandths of the goal.
const FINE: u64 = 5;
/// How many steps each search may take: towards the goal, and where that cannot be reached.
const THOROUGH: u32 = 400_000;
const BRIEF: u32 = 20_000;
/// Beyond so many times the goal, everything stays where it is.
const FARTHEST: u64 = 1_000_000;

/// The shards that have too much, and what they give away.
pub(super) struct Source {
    pub(super) need: u64,
    /// Whether it must give away all.
    pub(super) all: bool,
    pub(super) items: Vec<Item>,
    /// What all of them from each place on weigh.
    pub(super) rest: Vec<u64>,
    pub(super) cover: Cover,
}

/// An answer within the goal, or as near to it as can be found.
pub(super) fn solve(problem: &Problem) -> Answer {
    let mut answer = nearest(problem);
    // Those that are no load to anybody may be on a shard still that is to be emptied.
    let limits = problem.limits_within();
    let sums = problem.sums(&answer);
    let active = (0..problem.shards()).filter(|shard| problem.active(*shard));
    if let Some(roomiest) = active.max_by_key(|shard| (limits[*shard].saturating_sub(sums[*shard]), *shard)) {
        for (tenant, shard) in answer.iter_mut().enumerate() {
            if problem.weight[tenant] == 0 && !problem.active(*shard) {
                *shard = roomiest;
            }
        }
    }
    answer
}

fn nearest(problem: &Problem) -> Answer {
    if let Some(answer) = within(problem, &problem.limits_within(), THOROUGH) {
        return answer;
    }
    let (mut low, mut high, mut found) = (1000, 1000, None);
    while found.is_none() && high < FARTHEST {
        low = high;
        high += (high * STEP / 1000).max(1);
        found = within(problem, &problem.limits_for(high), BRIEF);
    }
    while high - low > FINE {
        let middle = low + (high - low) / 2;
        match within(problem, &problem.limits_for(middle), BRIEF) {
            Some(answer) => (high, found) = (middle, Some(answer)),
            None => low = middle,
        }
    }
    found.unwrap_or_else(|| problem.home.clone())
}

/// An answer in which no shard has more than its limit, at little cost.
fn within(problem: &Problem, limits: &[u64], nodes: u32) -> Option<Answer> {
    let sums = problem.sums(&problem.home);
    if sums.iter().zip(limits).all(|(sum, limit)| sum <= limit) {
        return Some(problem.home.clone());
    }
    let room: Vec<u64> = sums.iter().zip(limits).map(|(sum, limit)| limit.saturating_sub(*sum)).collect();
    let (mut found, mut least): (Option<Answer>, u64) = (None, 0);
    let cost = |answer: &Option<Answer>| answer.as_ref().map(|answer| problem.cost_of(answer));
    if let Some(sources) = sources(problem, limits, &sums, &room) {
        least = sources.iter().map(|source| source.cover.least).sum();
        let chosen: Vec<Item> = sources.iter().flat_map(|source| source.cover.items.clone()).collect();
        found = pack(problem, chosen, &room);
        if cost(&found).is_none_or(|cost| far(cost, least)) {
            let searched = joint::search(problem, &sources, &room, cost(&found), nodes);
            found = searched.or(found);
        }
    }
    if found.is_none() {
        found = repair::repaired(problem, limits);
    }
    if let Some(answer) = found.as_mut().filter(|answer| far(problem.cost_of(answer), least)) {
        repair::cheapen(problem, answer, limits);
    }
    if cost(&found).is_none_or(|cost| far(cost, least)) {
        found = whole::search(problem, limits, cost(&found), nodes).or(found);
    }
    found
}

/// Whether searching on is worth while: beyond a thousandth above what cannot be done without, it is.
fn far(cost: u64, least: u64) -> bool {
    cost > least + least / 1000
}

/// What each shard with too much can give away, and must.
fn sources(problem: &Problem, limits: &[u64], sums: &[u64], room: &[u64]) -> Option<Vec<Source>> {
    let widest = room.iter().copied().max().unwrap_or(0);
    let mut sources = Vec::new();
    for shard in (0..problem.shards()).filter(|shard| sums[*shard] > limits[*shard]) {
        let here = (0..problem.home.len()).filter(|tenant| problem.home[*tenant] == shard);
        let mut items: Vec<Item> = here
            .map(|tenant| Item { tenant, weight: problem.weight[tenant], cost: problem.cost[tenant] })
            .filter(|item| (1..=widest).contains(&item.weight))
            .collect();
        sort(&mut items);
        let need = sums[shard] - limits[shard];
        let all = !problem.active(shard);
        let cover = if all {
            let cost = items.iter().map(|item| item.cost).sum();
            let whole = items.iter().map(|item| item.weight).sum::<u64>() == need;
            whole.then(|| Cover { items: items.clone(), least: cost })?
        } else {
            cover(&items, need)?
        };
        sources.push(Source { need, all, rest: suffixes(&items), items, cover });
    }
    Some(sources)
}

/// Puts what is given away where there is room: where there is the most, or where it fits best, or wherever it does.
fn pack(problem: &Problem, mut items: Vec<Item>, room: &[u64]) -> Option<Answer> {
    items.sort_by(|a, b| b.weight.cmp(&a.weight).then(a.tenant.cmp(&b.tenant)));
    let place = |choose: fn(&(u64, usize)) -> u64| {
        let mut room = room.to_vec();
        let mut answer = problem.home.clone();
        for item in &items {
            let fitting = room.iter().copied().zip(0..).filter(|(room, _)| *room >= item.weight);
            let (_, shard) = fitting.min_by_key(choose)?;
            room[shard] -= item.weight;
            answer[item.tenant] = shard;
        }
        Some(answer)
    };
    place(|(room, _)| u64::MAX - room).or_else(|| place(|(room, _)| *room))
}
