//! Where the numbers of the marks stand above a chart.

use super::marks::PlacedMark;

/// Marks closer than this share a badge: their lines cannot be told apart. All lengths are CSS pixels.
const SAME: f64 = 5.0;
/// The space between two badges.
const SPACE: f64 = 3.0;
const LETTER: f64 = 7.0;
const NARROWEST: f64 = 16.0;
/// How far a badge may stand beyond the ends of the plot.
const BEYOND: f64 = 8.0;

/// The numbers of one or more marks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Badge {
    first: usize,
    last: usize,
    /// Where its marks are.
    pub(super) at: f64,
    /// Where it stands.
    pub(super) centre: f64,
    pub(super) failure: bool,
}

impl Badge {
    pub(super) fn label(&self) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}\u{2013}{}", self.first, self.last)
        }
    }

    pub(super) fn width(&self) -> f64 {
        let letters = u32::try_from(self.label().chars().count()).unwrap_or(u32::MAX);
        (f64::from(letters) * LETTER + 5.0).max(NARROWEST)
    }

    fn joined(self, next: &Self) -> Self {
        Self {
            last: next.last,
            at: f64::midpoint(self.at, next.at),
            failure: self.failure || next.failure,
            ..self
        }
    }
}

/// Badges for marks that are given in the order of time, over a plot of that width.
///
/// They keep that order, none covers another, and each stands as close to its marks as the others allow.
pub(super) fn place(marks: &[PlacedMark], end: f64, plot_width: f64) -> Vec<Badge> {
    let mut badges: Vec<Badge> = Vec::new();
    for (place, mark) in marks.iter().enumerate() {
        let at = mark.at / end * plot_width;
        let next = Badge { first: place + 1, last: place + 1, at, centre: at, failure: mark.failure };
        match badges.pop_if(|badge| at - badge.at < SAME) {
            Some(badge) => badges.push(badge.joined(&next)),
            None => badges.push(next),
        }
    }
    // More than fit side by side: the closest become one, until all fit.
    let room = plot_width + 2.0 * BEYOND;
    while badges.len() > 1 && badges.iter().map(|badge| badge.width() + SPACE).sum::<f64>() - SPACE > room {
        let gap = |n: usize| badges[n + 1].at - badges[n].at;
        let closest = (0..badges.len() - 1).min_by(|a, b| gap(*a).total_cmp(&gap(*b))).unwrap_or_default();
        let next = badges.remove(closest + 1);
        badges[closest] = badges[closest].clone().joined(&next);
    }
    spread(&mut badges, plot_width);
    badges
}

/// Badges that stand shoulder to shoulder.
struct Block {
    members: usize,
    width: f64,
    /// Where the block would best begin, by each of its members: the sum.
    wishes: f64,
}

impl Block {
    fn start(&self, plot_width: f64) -> f64 {
        let members = f64::from(u32::try_from(self.members).unwrap_or(u32::MAX));
        let latest = plot_width + BEYOND - self.width;
        (self.wishes / members).min(latest).max(-BEYOND)
    }
}

/// Moves badges aside as little as is needed, by the squares of the distances.
fn spread(badges: &mut [Badge], plot_width: f64) {
    let mut blocks: Vec<Block> = Vec::new();
    for badge in badges.iter() {
        let width = badge.width();
        let mut block = Block { members: 1, width, wishes: badge.at - width / 2.0 };
        while let Some(before) =
            blocks.pop_if(|before| before.start(plot_width) + before.width + SPACE > block.start(plot_width))
        {
            let members = f64::from(u32::try_from(block.members).unwrap_or(u32::MAX));
            let offset = before.width + SPACE;
            block = Block {
                members: before.members + block.members,
                width: offset + block.width,
                wishes: before.wishes + block.wishes - offset * members,
            };
        }
        blocks.push(block);
    }
    let mut rest = badges.iter_mut();
    for block in blocks {
        let mut left = block.start(plot_width);
        for badge in rest.by_ref().take(block.members) {
            badge.centre = left + badge.width() / 2.0;
            left += badge.width() + SPACE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn badges(times: &[f64], width: f64) -> Vec<Badge> {
        let marks: Vec<_> = times
            .iter()
            .map(|at| PlacedMark { at: *at, text: String::new(), failure: *at == 13.0 })
            .collect();
        place(&marks, 3600.0, width)
    }

    fn labels(times: &[f64]) -> Vec<String> {
        badges(times, 900.0).iter().map(Badge::label).collect()
    }

    #[test]
    fn what_has_room_stands_over_its_mark() {
        for badge in badges(&[0.0, 600.0, 1200.0, 3600.0], 900.0) {
            assert!((badge.at - badge.centre).abs() < 1e-9, "{badge:?}");
        }
    }

    #[test]
    fn marks_that_cannot_be_told_apart_share_a_badge() {
        assert_eq!(labels(&[0.0, 600.0, 605.0, 610.0, 3600.0]), ["1", "2\u{2013}4", "5"]);
        assert_eq!(labels(&[600.0; 30]), ["1\u{2013}30"]);
        assert_eq!(labels(&[600.0, 640.0, 680.0]), ["1", "2", "3"]);
        assert!(badges(&[12.0, 13.0, 14.0], 900.0)[0].failure);
    }

    #[test]
    fn no_badge_covers_another_or_leaves_the_plot() {
        let late: Vec<f64> = (1..200u32).map(|n| 3600.0 * (1.0 - 1.0 / f64::from(n))).collect();
        let even: Vec<f64> = (0..200u32).map(|n| 18.0 * f64::from(n)).collect();
        let crowd: Vec<f64> = (0..12u32).map(|n| 700.0 + 25.0 * f64::from(n)).collect();
        for (times, width) in [&late, &even, &crowd].into_iter().flat_map(|t| [(t, 900.0), (t, 290.0)]) {
            let badges = badges(times, width);
            let (first, last) = (&badges[0], &badges[badges.len() - 1]);
            assert_eq!((first.first, last.last), (1, times.len()));
            assert!(first.centre - first.width() / 2.0 >= -BEYOND - 1e-9, "{first:?}");
            assert!(last.centre + last.width() / 2.0 <= width + BEYOND + 1e-9, "{last:?}");
            for pair in badges.windows(2) {
                assert_eq!(pair[0].last + 1, pair[1].first);
                let space = pair[1].centre - pair[0].centre - f64::midpoint(pair[0].width(), pair[1].width());
                assert!(space >= SPACE - 1e-9, "{pair:?}");
            }
        }
        assert_eq!(badges(&crowd, 900.0).len(), crowd.len());
    }
}
