//! Delays tokens from hosts that have presented wrong ones.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::host_key;

/// Wrong tokens that a host may present without a delay.
const FREE: u32 = 5;
/// The delay after one more wrong token; each further one doubles it.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// One wrong token is forgotten each time this period passes.
const FORGET_PERIOD: Duration = Duration::from_secs(30);
/// The maximum number of wrong tokens counted for a host.
const MAX_COUNT: u32 = FREE + 16;
/// The maximum number of hosts tracked. Beyond it, those with the fewest wrong tokens are evicted first.
const MAX_HOSTS: usize = 1024;

/// Counts the wrong tokens of each host, and delays further ones.
#[derive(Debug)]
pub(super) struct TokenThrottle {
    /// In microseconds.
    max_delay: AtomicU64,
    hosts: Mutex<HashMap<IpAddr, WrongTokens, RandomState>>,
    /// The number of tracked hosts, readable without the lock.
    num_hosts: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct WrongTokens {
    count: u32,
    /// When the last one was presented.
    last: Instant,
}

impl WrongTokens {
    /// Returns the number of wrong tokens that are not yet forgotten.
    fn remaining(self, now: Instant) -> u32 {
        let forgotten = now.saturating_duration_since(self.last).as_secs() / FORGET_PERIOD.as_secs();
        self.count.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }
}

impl TokenThrottle {
    /// Creates a throttle that delays tokens by at most `max_delay`; zero disables it.
    pub(super) fn new(max_delay: Duration) -> Self {
        let throttle =
            Self { max_delay: AtomicU64::new(0), hosts: Mutex::default(), num_hosts: AtomicUsize::new(0) };
        throttle.set_max_delay(max_delay);
        throttle
    }

    /// Sets the maximum delay of a token.
    pub(super) fn set_max_delay(&self, max_delay: Duration) {
        self.max_delay.store(u64::try_from(max_delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn max_delay(&self) -> Duration {
        Duration::from_micros(self.max_delay.load(Ordering::Relaxed))
    }

    /// Returns the delay of a token that arrives now, if any.
    pub(super) fn delay(&self, ip: IpAddr, now: Instant) -> Option<Duration> {
        if self.num_hosts.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let remaining = self.lock().get(&host_key(ip))?.remaining(now);
        let doublings = remaining.checked_sub(FREE + 1)?;
        Some(FIRST_DELAY.saturating_mul(1 << doublings.min(MAX_COUNT)).min(self.max_delay()))
    }

    /// Records a wrong token. Returns `true` if it is the one from which on the host's tokens are delayed.
    pub(super) fn record_wrong(&self, ip: IpAddr, now: Instant) -> bool {
        if self.max_delay().is_zero() {
            return false;
        }
        let (host, mut hosts) = (host_key(ip), self.lock());
        let count = hosts.get(&host).map_or(0, |wrong| wrong.remaining(now)).saturating_add(1).min(MAX_COUNT);
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(&host) {
            hosts.retain(|_, wrong| wrong.remaining(now) > 0);
            let fewest =
                hosts.iter().min_by_key(|(_, wrong)| (wrong.remaining(now), wrong.last)).map(|(ip, _)| *ip);
            if let Some(fewest) = fewest.filter(|_| hosts.len() >= MAX_HOSTS) {
                hosts.remove(&fewest);
            }
        }
        hosts.insert(host, WrongTokens { count, last: now });
        self.num_hosts.store(hosts.len(), Ordering::Relaxed);
        count == FREE + 1
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, WrongTokens>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_DELAY: Duration = Duration::from_secs(5);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn delay_doubles_up_to_the_maximum_and_decays() {
        let (throttle, start) = (TokenThrottle::new(MAX_DELAY), Instant::now());
        let mut delays = Vec::new();
        for _ in 0..40 {
            delays.push(throttle.delay(ip("10.0.0.7"), start).map_or(0, |delay| delay.as_millis()));
            throttle.record_wrong(ip("10.0.0.7"), start);
        }
        assert_eq!(delays[..13], [0, 0, 0, 0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000]);
        assert!(delays[13..].iter().all(|delay| *delay == 5000));
        assert_eq!(throttle.delay(ip("10.0.0.8"), start), None, "another host");
        let later = start + FORGET_PERIOD * (MAX_COUNT - FREE - 1);
        assert_eq!(throttle.delay(ip("10.0.0.7"), later), Some(FIRST_DELAY));
        assert_eq!(throttle.delay(ip("10.0.0.7"), later + FORGET_PERIOD), None);
    }

    #[test]
    fn start_of_the_delay_is_reported_once() {
        let (throttle, now) = (TokenThrottle::new(MAX_DELAY), Instant::now());
        let reported = (0..30).filter(|_| throttle.record_wrong(ip("10.0.0.7"), now)).count();
        assert_eq!(reported, 1);
    }

    #[test]
    fn ipv6_network_of_64_bits_is_one_host() {
        let (throttle, now) = (TokenThrottle::new(MAX_DELAY), Instant::now());
        for last in 0..=FREE {
            throttle.record_wrong(ip(&format!("2001:db8:0:1::{last:x}")), now);
            throttle.record_wrong(ip("::ffff:10.0.0.7"), now);
        }
        assert!(throttle.delay(ip("2001:db8:0:1:ffff::1"), now).is_some());
        assert!(throttle.delay(ip("2001:db8:0:2::1"), now).is_none());
        assert!(throttle.delay(ip("10.0.0.7"), now).is_some());
    }

    #[test]
    fn number_of_hosts_is_bounded_and_the_worst_guesser_is_not_evicted() {
        let (throttle, now) = (TokenThrottle::new(MAX_DELAY), Instant::now());
        for _ in 0..=FREE {
            throttle.record_wrong(ip("192.0.2.1"), now);
        }
        for stranger in 0..2 * MAX_HOSTS as u32 {
            throttle
                .record_wrong(IpAddr::V4((0x0a00_0000 + stranger).into()), now + Duration::from_millis(1));
        }
        assert_eq!(throttle.lock().len(), MAX_HOSTS);
        assert!(throttle.delay(ip("192.0.2.1"), now).is_some());
    }

    #[test]
    fn zero_maximum_disables_the_throttle() {
        let (throttle, now) = (TokenThrottle::new(Duration::ZERO), Instant::now());
        assert!((0..30).all(|_| !throttle.record_wrong(ip("10.0.0.7"), now)));
        assert_eq!(throttle.delay(ip("10.0.0.7"), now), None);
    }
}
