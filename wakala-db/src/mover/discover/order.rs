//! Parents before children.

/// The places of `count` things so that of each edge `(child, parent)` the parent comes first; otherwise in the given
/// order. Where edges make a circle, it is entered at its first.
pub(super) fn parents_first(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut parents = vec![Vec::new(); count];
    for (child, parent) in edges.iter().filter(|(child, parent)| child != parent) {
        parents[*child].push(*parent);
    }
    let mut order = Vec::with_capacity(count);
    let mut seen = vec![false; count];
    for first in 0..count {
        // Each entry: a thing, and which of its parents is next. No recursion, whatever the depth.
        let mut path = vec![(first, 0)];
        while let Some((thing, next)) = path.pop() {
            if next == 0 {
                if seen[thing] {
                    continue;
                }
                seen[thing] = true;
            }
            match parents[thing].get(next) {
                Some(parent) => path.extend([(thing, next + 1), (*parent, 0)]),
                None => order.push(thing),
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_and_circles_end() {
        assert_eq!(parents_first(3, &[]), [0, 1, 2]);
        assert_eq!(parents_first(3, &[(0, 2), (2, 1), (0, 0)]), [1, 2, 0]);
        assert_eq!(parents_first(4, &[(0, 3), (1, 3), (2, 0)]), [3, 0, 1, 2]);
        let circle = parents_first(3, &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!(circle, [2, 1, 0]);
        let deep: Vec<_> = (0..100_000).map(|child| (child, child + 1)).collect();
        assert_eq!(parents_first(100_001, &deep).first(), Some(&100_000));
    }
}
