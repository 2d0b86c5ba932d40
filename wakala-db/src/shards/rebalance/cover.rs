//! The cheapest tenants of one shard that bring it down to what it may have.

/// A tenant by its place, what it takes off its shard (never nothing), and what its move costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) tenant: usize,
    pub(super) weight: u64,
    pub(super) cost: u64,
}

/// Tenants that weigh at least what is needed.
#[derive(Clone, Debug)]
pub(super) struct Cover {
    pub(super) items: Vec<Item>,
    /// No cover is cheaper than this.
    pub(super) least: u64,
}

/// As many tenants are searched through; of more, a choice of all sizes.
const WIDEST: usize = 200;
const NODES: u32 = 60_000;

/// The best first: what takes off the most for its cost, and of those the heaviest.
pub(super) fn sort(items: &mut [Item]) {
    items.sort_by(|a, b| {
        let (x, y) = (u128::from(a.cost) * u128::from(b.weight), u128::from(b.cost) * u128::from(a.weight));
        x.cmp(&y).then(b.weight.cmp(&a.weight)).then(a.tenant.cmp(&b.tenant))
    });
}

/// What it costs at least to take off `need`, where `best` takes off the most for its cost.
pub(super) fn least(need: u64, best: Item) -> u64 {
    let cost = (u128::from(need) * u128::from(best.cost)).div_ceil(u128::from(best.weight));
    u64::try_from(cost).unwrap_or(u64::MAX)
}

/// The cheapest of `items`, which are sorted, that weigh at least `need`; `None` where all do not.
pub(super) fn cover(items: &[Item], need: u64) -> Option<Cover> {
    let all: u64 = items.iter().map(|item| item.weight).sum();
    if all < need {
        return None;
    }
    let first = greedy(items, need);
    let mut search = Search {
        items: choice(items, need),
        rest: Vec::new(),
        chosen: Vec::new(),
        best_cost: first.iter().map(|item| item.cost).sum(),
        best: first,
        nodes: NODES,
    };
    search.rest = suffixes(&search.items);
    let whole = search.items.len() == items.len();
    search.descend(0, need, 0);
    let proven = whole && search.nodes > 0;
    let fraction = items.first().map_or(0, |best| least(need, *best));
    Some(Cover { least: if proven { search.best_cost } else { fraction }, items: search.best })
}

/// What all from each place on weigh.
pub(super) fn suffixes(items: &[Item]) -> Vec<u64> {
    let mut rest = vec![0; items.len() + 1];
    for (place, item) in items.iter().enumerate().rev() {
        rest[place] = rest[place + 1] + item.weight;
    }
    rest
}

/// What fits into the need, in order; then the cheapest that brings the rest.
fn greedy(items: &[Item], need: u64) -> Vec<Item> {
    let (mut left, mut chosen, mut others) = (need, Vec::new(), Vec::new());
    for item in items {
        if item.weight <= left {
            left -= item.weight;
            chosen.push(*item);
        } else {
            others.push(*item);
        }
    }
    if left > 0
        && let Some(last) = others.into_iter().filter(|item| item.weight >= left).min_by_key(|item| item.cost)
    {
        chosen.push(last);
    } else if left > 0 {
        return items.to_vec();
    }
    chosen
}

/// All, or where there are too many: the cheapest that suffices alone, and of the smaller ones a choice of all sizes.
fn choice(items: &[Item], need: u64) -> Vec<Item> {
    if items.len() <= WIDEST {
        return items.to_vec();
    }
    let alone = items.iter().filter(|item| item.weight >= need).min_by_key(|item| item.cost);
    let mut smaller: Vec<Item> = items.iter().filter(|item| item.weight < need).copied().collect();
    smaller.sort_by_key(|item| (item.weight, item.tenant));
    let step = smaller.len().div_ceil(WIDEST - 1).max(1);
    let mut chosen: Vec<Item> = smaller.into_iter().step_by(step).chain(alone.copied()).collect();
    sort(&mut chosen);
    chosen
}

struct Search {
    items: Vec<Item>,
    rest: Vec<u64>,
    chosen: Vec<Item>,
    best: Vec<Item>,
    best_cost: u64,
    nodes: u32,
}

impl Search {
    fn descend(&mut self, place: usize, need: u64, cost: u64) {
        if need == 0 {
            if cost < self.best_cost {
                self.best_cost = cost;
                self.best = self.chosen.clone();
            }
            return;
        }
        if self.nodes == 0 || self.rest[place] < need {
            return;
        }
        self.nodes -= 1;
        let item = self.items[place];
        if cost + least(need, item) >= self.best_cost {
            return;
        }
        self.chosen.push(item);
        self.descend(place + 1, need.saturating_sub(item.weight), cost + item.cost);
        self.chosen.pop();
        // Without it, its equals are of no use either.
        let same = |other: &&Item| (other.weight, other.cost) == (item.weight, item.cost);
        let equals = self.items[place..].iter().take_while(same).count();
        self.descend(place + equals, need, cost);
    }
}
