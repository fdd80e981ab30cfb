//! Which of several nodes answers a call.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;

use crate::config::Balance;

/// One call of this number tries a node that is slower than others, since it may be fast again.
const PROBE: usize = 32;
/// A node that takes this many times as long as the fastest is slow.
const SLOW: u64 = 4;

/// What is known of a node that could be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) index: usize,
    pub(super) readiness: Readiness,
    /// Calls without an answer.
    pub(super) in_flight: usize,
    /// How long its answers take, in microseconds; 0 if unknown.
    pub(super) mean: u64,
}

/// Whether a node can take a call. One of the best nodes is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Readiness {
    Connected,
    /// An attempt to connect is under way, so that a call would wait.
    Connecting,
    /// It has refused calls of this function.
    Refusing,
}

/// Chooses one of the `candidates`. The `turn` is another number for each call; `None` if the candidates are in the order
/// in which it is their turn, and not in that of the configuration. Calls with the same `key` go to the same node, as
/// long as it is connected.
pub(super) fn choose(
    balance: Balance,
    turn: Option<usize>,
    key: Option<u64>,
    candidates: &[Candidate],
) -> Option<usize> {
    let best = candidates.iter().map(|candidate| candidate.readiness).min()?;
    let usable: Vec<_> = candidates.iter().filter(|candidate| candidate.readiness == best).collect();
    let in_turn = |among: &[&Candidate], turn: Option<usize>| {
        among.get(turn.unwrap_or(0) % among.len()).map(|one| one.index)
    };
    match (balance, key) {
        (_, Some(key)) => usable.iter().max_by_key(|one| weight(key, one.index)).map(|one| one.index),
        (Balance::First, None) => usable.first().map(|one| one.index),
        (Balance::Turns, None) => in_turn(&usable, turn),
        (Balance::Least, None) if turn.is_some_and(is_probe) => {
            in_turn(&usable, turn.map(|turn| turn / PROBE))
        }
        (Balance::Least, None) => {
            let fastest = usable.iter().map(|one| one.mean).filter(|mean| *mean > 0).min().unwrap_or(1);
            // A node that takes four times as long as the fastest gets a call when that has four. Times that differ by less
            // are taken as equal: those of equal nodes do too.
            let slowness = |one: &Candidate| match one.mean / fastest {
                0..SLOW => 0,
                times => times.ilog2().min(16),
            };
            let cost = |one: &Candidate| (one.in_flight + 1) << slowness(one);
            let least = usable.iter().map(|one| cost(one)).min()?;
            let cheapest: Vec<_> = usable.into_iter().filter(|one| cost(one) == least).collect();
            in_turn(&cheapest, turn)
        }
    }
}

/// Returns `true` if the call of this turn goes to the node whose turn it is, even if others are faster.
pub(super) fn is_probe(turn: usize) -> bool {
    turn.is_multiple_of(PROBE)
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
pub(super) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(index: usize, in_flight: usize, mean: u64) -> Candidate {
        Candidate { index, readiness: Readiness::Connected, in_flight, mean }
    }

    fn shares(balance: Balance, candidates: &[Candidate]) -> Vec<usize> {
        let mut shares = vec![0; candidates.len()];
        for turn in 0..960 {
            shares[choose(balance, Some(turn), None, candidates).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn equal_nodes_get_equal_shares_unless_the_first_is_preferred() {
        let equal = [up(0, 3, 10), up(1, 3, 12), up(2, 3, 0)];
        let least = shares(Balance::Least, &equal);
        assert!(least.iter().all(|share| (300..340).contains(share)), "{least:?}");
        assert_eq!(shares(Balance::Turns, &equal), [320, 320, 320]);
        assert_eq!(shares(Balance::First, &equal), [960, 0, 0]);
    }

    #[test]
    fn a_busy_or_slow_node_is_passed_over() {
        let busy = shares(Balance::Least, &[up(0, 1, 10), up(1, 0, 10)]);
        assert!(busy[0] < 20, "{busy:?}");
        for count in 2..=33 {
            let mut nodes: Vec<_> = (0..count).map(|index| up(index, 0, 10)).collect();
            nodes[count - 1].mean = 1000;
            let mut tried = 0;
            for turn in 0..count * PROBE {
                tried += usize::from(choose(Balance::Least, Some(turn), None, &nodes) == Some(count - 1));
            }
            assert_eq!(tried, 1, "of {count} nodes");
        }
    }

    #[test]
    fn a_slow_node_helps_out_when_the_others_are_busy() {
        assert_eq!(choose(Balance::Least, Some(1), None, &[up(0, 2, 10), up(1, 0, 45)]), Some(0));
        assert_eq!(choose(Balance::Least, Some(1), None, &[up(0, 4, 10), up(1, 0, 45)]), Some(1));
    }

    #[test]
    fn a_node_that_refuses_is_the_last_choice() {
        let refusing = |index| Candidate { readiness: Readiness::Refusing, ..up(index, 0, 1) };
        for balance in [Balance::Least, Balance::First, Balance::Turns] {
            for turn in 0..64 {
                assert_eq!(choose(balance, Some(turn), None, &[refusing(0), up(1, 9, 9)]), Some(1));
                assert_eq!(choose(balance, Some(turn), Some(3), &[refusing(0), up(1, 9, 9)]), Some(1));
            }
            assert_eq!(choose(balance, Some(5), None, &[refusing(0)]), Some(0));
        }
    }

    #[test]
    fn a_node_that_connects_is_waited_for_only_if_none_is_connected() {
        let connecting = |index| Candidate { readiness: Readiness::Connecting, ..up(index, 0, 0) };
        for balance in [Balance::Least, Balance::First, Balance::Turns] {
            for key in [None, Some(7)] {
                let choose = |candidates: &[Candidate]| choose(balance, Some(5), key, candidates);
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
            let chosen = choose(Balance::Least, Some(0), key, &all).unwrap();
            counts[chosen] += 1;
            for gone in (0..3).filter(|gone| *gone != chosen) {
                let left: Vec<_> = all.iter().filter(|one| one.index != gone).copied().collect();
                assert_eq!(choose(Balance::Least, Some(1), key, &left), Some(chosen));
            }
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
