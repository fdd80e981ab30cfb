//! Access rules: who may call which function, at which listener.

mod action;
mod audit;
mod caller;
mod decision;
mod grants;
mod peer;
mod rights;
mod throttle;
mod visibility;

pub(crate) use action::Action;
pub use caller::Caller;
pub(crate) use caller::Owner;
pub use decision::{Decision, DenialReason};
pub use grants::Grants;
pub use peer::PeerName;
pub(crate) use rights::{Right, RightEnd};
pub use visibility::Visibility;
pub(crate) use visibility::{PING, RELOAD};

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::name::matches_all;
use crate::config::{Config, ListenerConfig, Rule};
use rights::Rights;
use throttle::TokenThrottle;

/// The log target of events that a peer can cause. The log sink limits it to a few lines a second.
pub(crate) const PEER: &str = "chanrpc::peer";

/// Returns the hash that represents a token in the configuration. Tokens are random and long, so that a fast hash is
/// as good as a slow one.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Tells the time, by which rules expire.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The access rules of a configuration, shared by all connections.
///
/// A call is allowed if any rule allows it. A listener without rules allows everything if it is reachable from this
/// machine only, and nothing otherwise. `rpc.ping` is always allowed.
pub struct Access {
    rules: Vec<Rule>,
    /// Everything is allowed everywhere.
    is_unrestricted: bool,
    /// There is an access log.
    is_logged: bool,
    throttle: Arc<TokenThrottle>,
    clock: Clock,
    /// How many rules there were before, which it replaces.
    number: u64,
}

impl Access {
    /// Creates the access rules of a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            rules: config.access.clone(),
            is_unrestricted: false,
            is_logged: config.access_log,
            throttle: Arc::new(TokenThrottle::new(config.limits.token_delay)),
            clock: Arc::new(SystemTime::now),
            number: 0,
        }
    }

    /// Creates the access rules of a later configuration of the same node, or returns these if they are the same. Wrong
    /// tokens stay counted.
    pub(crate) fn succeed(self: &Arc<Self>, config: &Config) -> Arc<Self> {
        let locations =
            |rules: &[Rule]| -> Vec<String> { rules.iter().map(|rule| rule.location.clone()).collect() };
        if self.rules == config.access
            && locations(&self.rules) == locations(&config.access)
            && self.is_logged == config.access_log
        {
            return self.clone();
        }
        Arc::new(Self {
            rules: config.access.clone(),
            is_unrestricted: self.is_unrestricted,
            is_logged: config.access_log,
            throttle: self.throttle.clone(),
            clock: self.clock.clone(),
            number: self.number + 1,
        })
    }

    /// Sets the maximum delay of a token.
    pub(crate) fn set_token_delay(&self, max_delay: Duration) {
        self.throttle.set_max_delay(max_delay);
    }

    /// Returns a number that is larger than those of the rules that these replace.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Allows everything everywhere.
    pub fn unrestricted() -> Self {
        Self {
            rules: Vec::new(),
            is_unrestricted: true,
            is_logged: false,
            throttle: Arc::new(TokenThrottle::new(Duration::ZERO)),
            clock: Arc::new(SystemTime::now),
            number: 0,
        }
    }

    /// Replaces the system's clock, for tests.
    #[cfg(feature = "internals")]
    #[must_use]
    pub(crate) fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Returns the initial rights of a connection that arrives at the listener with this configured address.
    pub(crate) fn grants_for(self: &Arc<Self>, listener: &str) -> Grants {
        let rules: Arc<[usize]> = self.rules_at(listener).map(|(index, _)| index).collect();
        let is_unrestricted =
            self.is_unrestricted || (rules.is_empty() && ListenerConfig::new(listener).is_local());
        #[cfg(feature = "nats")]
        let is_unrestricted = is_unrestricted || self.is_open_over_nats(listener);
        let rights = (!is_unrestricted).then(|| Arc::new(Rights::new(self.clone(), rules)));
        Grants::at_listener(listener, self, rights)
    }

    /// Returns `true` if this is where calls over NATS arrive, and no rule names it: then all that is offered there may be
    /// called.
    #[cfg(feature = "nats")]
    fn is_open_over_nats(&self, listener: &str) -> bool {
        let is_it = |name: &str| name == crate::config::NATS_LISTENER;
        is_it(listener) && !self.rules.iter().any(|rule| rule.listen.iter().any(|name| is_it(name)))
    }

    /// Returns `true` if any rule applies to the listener with this configured address.
    pub(crate) fn has_rule_for(&self, listener: &str) -> bool {
        self.rules_at(listener).next().is_some()
    }

    /// Returns the rule that lets everybody call every function at the listener with this configured address.
    pub(crate) fn public_rule(&self, listener: &str) -> Option<&Rule> {
        let is_public =
            |rule: &&Rule| rule.token.is_none() && rule.functions.iter().any(|pattern| matches_all(pattern));
        self.rules_at(listener).map(|(_, rule)| rule).find(is_public)
    }

    fn rules_at(&self, listener: &str) -> impl Iterator<Item = (usize, &Rule)> {
        self.rules.iter().enumerate().filter(move |(_, rule)| rule.applies_to(listener))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("unrestricted", &self.is_unrestricted)
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}
