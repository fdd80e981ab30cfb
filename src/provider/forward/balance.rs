//! Which of several nodes answers a call.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;

use crate::config::Balance;

/// A node that is over this many times slower than the fastest is passed over.
const SLOW: u64 = 2;
/// But it is given one call of this number, since it may be fast again.
const PROBE: usize = 32;

/// What is known of a node that could be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) index: usize,
    /// An attempt to connect is under way, so that a call would wait.
    pub(super) is_connecting: bool,
    /// Calls without an answer.
    pub(super) in_flight: usize,
    /// How long its answers take, in microseconds; 0 if unknown.
    pub(super) mean: u64,
}

/// Chooses one of the `candidates`, which are in the order of the configuration. The `turn` is another number for each
/// call. Calls with the same `key` go to the same node, as long as it is connected.
pub(super) fn choose(
    balance: Balance,
    turn: usize,
    key: Option<u64>,
    candidates: &[Candidate],
) -> Option<usize> {
    let is_any_connected = candidates.iter().any(|candidate| !candidate.is_connecting);
    let usable: Vec<_> =
        candidates.iter().filter(|candidate| candidate.is_connecting != is_any_connected).collect();
    let in_turn = |among: &[&Candidate]| among.get(turn % among.len().max(1)).map(|one| one.index);
    match (balance, key) {
        (_, Some(key)) => usable.iter().max_by_key(|one| weight(key, one.index)).map(|one| one.index),
        (Balance::First, None) => usable.first().map(|one| one.index),
        (Balance::Turns, None) => in_turn(&usable),
        (Balance::Least, None) => {
            let fastest =
                usable.iter().map(|one| one.mean).filter(|mean| *mean > 0).min().unwrap_or_default();
            let is_slow = |one: &&&Candidate| one.mean > fastest * SLOW && !turn.is_multiple_of(PROBE);
            let quick: Vec<_> = usable.iter().filter(|one| !is_slow(one)).copied().collect();
            let fewest = quick.iter().map(|one| one.in_flight).min()?;
            let idlest: Vec<_> = quick.into_iter().filter(|one| one.in_flight == fewest).collect();
            in_turn(&idlest)
        }
    }
}

/// Returns how much a node is preferred for a key. If a node is lost, only its keys go elsewhere.
fn weight(key: u64, index: usize) -> u64 {
    mix(key ^ mix(index as u64))
}

/// Returns a number for a key, the same in each run.
pub(super) fn hash(value: &impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    value.hash(&mut hasher);
    mix(hasher.finish())
}

/// Spreads numbers evenly: the output step of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(index: usize, in_flight: usize, mean: u64) -> Candidate {
        Candidate { index, is_connecting: false, in_flight, mean }
    }

    fn shares(balance: Balance, candidates: &[Candidate]) -> Vec<usize> {
        let mut shares = vec![0; candidates.len()];
        for turn in 0..960 {
            shares[choose(balance, turn, None, candidates).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn equal_nodes_get_equal_shares_unless_the_first_is_preferred() {
        let equal = [up(0, 3, 10), up(1, 3, 12), up(2, 3, 0)];
        assert_eq!(shares(Balance::Least, &equal), [320, 320, 320]);
        assert_eq!(shares(Balance::Turns, &equal), [320, 320, 320]);
        assert_eq!(shares(Balance::First, &equal), [960, 0, 0]);
    }

    #[test]
    fn a_busy_or_slow_node_is_passed_over() {
        assert_eq!(shares(Balance::Least, &[up(0, 1, 10), up(1, 0, 10)]), [0, 960]);
        let slow = shares(Balance::Least, &[up(0, 0, 10), up(1, 0, 1000), up(2, 0, 10)]);
        assert!((1..48).contains(&slow[1]), "{slow:?}");
    }

    #[test]
    fn a_node_that_connects_is_waited_for_only_if_none_is_connected() {
        let connecting = |index| Candidate { is_connecting: true, ..up(index, 0, 0) };
        for balance in [Balance::Least, Balance::First, Balance::Turns] {
            for key in [None, Some(7)] {
                let choose = |candidates: &[Candidate]| choose(balance, 5, key, candidates);
                assert_eq!(choose(&[connecting(0), up(1, 9, 9), connecting(2)]), Some(1));
                assert!(choose(&[connecting(0), connecting(2)]).is_some());
                assert_eq!(choose(&[]), None);
            }
        }
    }

    #[test]
    fn a_key_keeps_its_node_when_others_come_and_go() {
        let all = [up(0, 0, 0), up(1, 0, 0), up(2, 0, 0)];
        let mut counts = [0; 3];
        for key in 0..3000 {
            let key = Some(hash(&key));
            let chosen = choose(Balance::Least, 0, key, &all).unwrap();
            counts[chosen] += 1;
            for gone in (0..3).filter(|gone| *gone != chosen) {
                let left: Vec<_> = all.iter().filter(|one| one.index != gone).copied().collect();
                assert_eq!(choose(Balance::Least, 1, key, &left), Some(chosen));
            }
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
