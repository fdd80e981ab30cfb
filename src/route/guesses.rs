//! How long a host that has presented wrong tokens waits until its next one is looked at.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::host_of;

/// Wrong tokens of a host that cost it nothing.
const FREE: u32 = 5;
/// The wait after one more; each further wrong token doubles it.
const FIRST: Duration = Duration::from_millis(100);
/// After this time one wrong token is forgotten, and after as long again the next.
const FORGET: Duration = Duration::from_secs(30);
/// Wrong tokens that are remembered of a host.
const MOST: u32 = FREE + 16;
/// Hosts that are remembered. If there are more, those with the fewest wrong tokens are forgotten first.
const HOSTS: usize = 1024;

/// The hosts that have presented wrong tokens.
#[derive(Debug)]
pub(super) struct Guesses {
    longest: Duration,
    hosts: Mutex<HashMap<IpAddr, Wrong, RandomState>>,
    /// How many there are; looked at without the lock.
    count: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Wrong {
    tokens: u32,
    /// The time of the last one.
    at: Instant,
}

impl Wrong {
    /// Returns how many wrong tokens are not forgotten yet.
    fn left(self, now: Instant) -> u32 {
        let forgotten = now.saturating_duration_since(self.at).as_secs() / FORGET.as_secs();
        self.tokens.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }
}

impl Guesses {
    /// Makes hosts wait for at most `longest`; never, if that is zero.
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, hosts: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// Returns how long a token that comes now has to wait, if at all.
    pub(super) fn delay(&self, ip: IpAddr, now: Instant) -> Option<Duration> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let left = self.lock().get(&host_of(ip))?.left(now);
        let doublings = left.checked_sub(FREE + 1)?;
        Some(FIRST.saturating_mul(1 << doublings.min(MOST)).min(self.longest))
    }

    /// Counts a wrong token. Returns `true` if the host has to wait from now on.
    pub(super) fn wrong(&self, ip: IpAddr, now: Instant) -> bool {
        if self.longest.is_zero() {
            return false;
        }
        let (host, mut hosts) = (host_of(ip), self.lock());
        let tokens = hosts.get(&host).map_or(0, |wrong| wrong.left(now)).saturating_add(1).min(MOST);
        if hosts.len() >= HOSTS && !hosts.contains_key(&host) {
            hosts.retain(|_, wrong| wrong.left(now) > 0);
            let fewest = hosts.iter().min_by_key(|(_, wrong)| (wrong.left(now), wrong.at)).map(|(ip, _)| *ip);
            if let Some(fewest) = fewest.filter(|_| hosts.len() >= HOSTS) {
                hosts.remove(&fewest);
            }
        }
        hosts.insert(host, Wrong { tokens, at: now });
        self.count.store(hosts.len(), Ordering::Relaxed);
        tokens == FREE + 1
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Wrong>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(5);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_wait_doubles_up_to_the_longest_and_is_forgotten() {
        let (guesses, start) = (Guesses::new(LONGEST), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..40 {
            waits.push(guesses.delay(ip("10.0.0.7"), start).map_or(0, |wait| wait.as_millis()));
            guesses.wrong(ip("10.0.0.7"), start);
        }
        assert_eq!(waits[..13], [0, 0, 0, 0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000]);
        assert!(waits[13..].iter().all(|wait| *wait == 5000));
        assert_eq!(guesses.delay(ip("10.0.0.8"), start), None, "another host");
        let later = start + FORGET * (MOST - FREE - 1);
        assert_eq!(guesses.delay(ip("10.0.0.7"), later), Some(FIRST));
        assert_eq!(guesses.delay(ip("10.0.0.7"), later + FORGET), None);
    }

    #[test]
    fn the_beginning_is_told_once() {
        let (guesses, now) = (Guesses::new(LONGEST), Instant::now());
        let told = (0..30).filter(|_| guesses.wrong(ip("10.0.0.7"), now)).count();
        assert_eq!(told, 1);
    }

    #[test]
    fn a_network_of_64_bits_is_one_host() {
        let (guesses, now) = (Guesses::new(LONGEST), Instant::now());
        for last in 0..=FREE {
            guesses.wrong(ip(&format!("2001:db8:0:1::{last:x}")), now);
            guesses.wrong(ip("::ffff:10.0.0.7"), now);
        }
        assert!(guesses.delay(ip("2001:db8:0:1:ffff::1"), now).is_some());
        assert!(guesses.delay(ip("2001:db8:0:2::1"), now).is_none());
        assert!(guesses.delay(ip("10.0.0.7"), now).is_some());
    }

    #[test]
    fn strangers_neither_fill_the_memory_nor_push_out_who_guesses_most() {
        let (guesses, now) = (Guesses::new(LONGEST), Instant::now());
        for _ in 0..=FREE {
            guesses.wrong(ip("192.0.2.1"), now);
        }
        for stranger in 0..2 * HOSTS as u32 {
            guesses.wrong(IpAddr::V4((0x0a00_0000 + stranger).into()), now + Duration::from_millis(1));
        }
        assert_eq!(guesses.lock().len(), HOSTS);
        assert!(guesses.delay(ip("192.0.2.1"), now).is_some());
    }

    #[test]
    fn nobody_waits_if_that_is_not_wanted() {
        let (guesses, now) = (Guesses::new(Duration::ZERO), Instant::now());
        assert!((0..30).all(|_| !guesses.wrong(ip("10.0.0.7"), now)));
        assert_eq!(guesses.delay(ip("10.0.0.7"), now), None);
    }
}
