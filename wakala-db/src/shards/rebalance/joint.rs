//! Who goes, and where to, at once: where what each shard would give away does not fit.

use super::cover::{Item, least};
use super::problem::{Answer, Problem};
use super::solve::Source;

/// More tenants than that are not searched through: there, what is given away is small beside the room.
const WIDEST: usize = 400;

/// The cheapest answer found, if it is cheaper than the `known` one.
pub(super) fn search(
    problem: &Problem,
    sources: &[Source],
    room: &[u64],
    known: Option<u64>,
    nodes: u32,
) -> Option<Answer> {
    if sources.iter().map(|source| source.items.len()).sum::<usize>() > WIDEST {
        return None;
    }
    let mut later = vec![0; sources.len() + 1];
    for (place, source) in sources.iter().enumerate().rev() {
        later[place] = later[place + 1] + source.cover.least;
    }
    let mut search = Search {
        sources,
        later,
        room: room.to_vec(),
        answer: problem.home.clone(),
        best: None,
        best_cost: known.unwrap_or(u64::MAX),
        nodes,
    };
    search.descend(0, 0, sources.first()?.need, 0);
    search.best
}

struct Search<'a> {
    sources: &'a [Source],
    /// What the sources from here on cost at least.
    later: Vec<u64>,
    room: Vec<u64>,
    answer: Answer,
    best: Option<Answer>,
    best_cost: u64,
    nodes: u32,
}

impl Search<'_> {
    fn descend(&mut self, source: usize, place: usize, need: u64, cost: u64) {
        if need == 0 {
            let next = source + 1;
            if next == self.sources.len() {
                if cost < self.best_cost {
                    self.best_cost = cost;
                    self.best = Some(self.answer.clone());
                }
            } else if cost + self.later[next] < self.best_cost {
                self.descend(next, 0, self.sources[next].need, cost);
            }
            return;
        }
        let Source { items, all, rest, .. } = &self.sources[source];
        let Some(item) = items.get(place).copied() else { return };
        if self.nodes == 0
            || rest[place] < need
            || cost + least(need, item) + self.later[source + 1] >= self.best_cost
        {
            return;
        }
        self.nodes -= 1;
        self.send(source, place, item, need, cost);
        if !all {
            let same = |other: &&Item| (other.weight, other.cost) == (item.weight, item.cost);
            let equals = items[place..].iter().take_while(same).count();
            self.descend(source, place + equals, need, cost);
        }
    }

    /// Tries every shard with room, the tightest first; of those with the same room, one.
    fn send(&mut self, source: usize, place: usize, item: Item, need: u64, cost: u64) {
        let mut shards: Vec<usize> =
            (0..self.room.len()).filter(|shard| self.room[*shard] >= item.weight).collect();
        shards.sort_by_key(|shard| self.room[*shard]);
        shards.dedup_by_key(|shard| self.room[*shard]);
        let home = self.answer[item.tenant];
        for shard in shards {
            self.room[shard] -= item.weight;
            self.answer[item.tenant] = shard;
            self.descend(source, place + 1, need.saturating_sub(item.weight), cost + item.cost);
            self.room[shard] += item.weight;
        }
        self.answer[item.tenant] = home;
    }
}
