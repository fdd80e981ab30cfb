//! A set of numbers below a limit, which finds the next one in a few steps.

/// Bits of a word.
const BITS: usize = u64::BITS as usize;

/// A set of the numbers below its capacity: a bit for each, a bit for each word of these that is not empty, and so on
/// to a single word. Each operation looks at one or two words of each level, of which 10,000 numbers have three.
#[derive(Debug)]
pub(super) struct IndexSet {
    levels: Vec<Vec<u64>>,
}

impl IndexSet {
    pub(super) fn new(capacity: usize) -> Self {
        let (mut levels, mut words) = (Vec::new(), capacity);
        loop {
            words = words.div_ceil(BITS).max(1);
            levels.push(vec![0; words]);
            if words == 1 {
                return Self { levels };
            }
        }
    }

    pub(super) fn contains(&self, index: usize) -> bool {
        self.levels[0][index / BITS] & (1 << (index % BITS)) != 0
    }

    pub(super) fn insert(&mut self, mut index: usize) {
        for level in &mut self.levels {
            level[index / BITS] |= 1 << (index % BITS);
            index /= BITS;
        }
    }

    pub(super) fn remove(&mut self, mut index: usize) {
        for level in &mut self.levels {
            let word = &mut level[index / BITS];
            *word &= !(1 << (index % BITS));
            if *word != 0 {
                return;
            }
            index /= BITS;
        }
    }

    /// Returns the first number from `start` on, or else from the beginning.
    pub(super) fn next(&self, start: usize) -> Option<usize> {
        self.first_from(start).or_else(|| self.first_from(0))
    }

    /// Returns the first number from `start` on.
    pub(super) fn first_from(&self, mut start: usize) -> Option<usize> {
        for (height, level) in self.levels.iter().enumerate() {
            let rest = level.get(start / BITS)? & (u64::MAX << (start % BITS));
            if rest != 0 {
                let mut found = start / BITS * BITS + rest.trailing_zeros() as usize;
                for below in self.levels[..height].iter().rev() {
                    found = found * BITS + below[found].trailing_zeros() as usize;
                }
                return Some(found);
            }
            start = start / BITS + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_finds_what_a_tree_finds() {
        for capacity in [1, 63, 64, 65, 4096, 4097, 10_000] {
            let (mut set, mut tree) = (IndexSet::new(capacity), BTreeSet::new());
            let mut number = 1;
            for _ in 0..4000 {
                number = (number * 48_271) % 2_147_483_647;
                let index = number % capacity;
                if number / capacity % 3 == 0 {
                    set.insert(index);
                    tree.insert(index);
                } else {
                    set.remove(index);
                    tree.remove(&index);
                }
                let start = number / 7 % (capacity + 1);
                assert_eq!(set.contains(index), tree.contains(&index));
                assert_eq!(set.first_from(start), tree.range(start..).next().copied());
                assert_eq!(set.next(start), tree.range(start..).chain(&tree).next().copied());
            }
        }
    }
}
