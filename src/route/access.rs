//! Who may call what, where.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::audit::PeerName;
use super::builtin::matches;
use super::guesses::Guesses;
use super::registry::quoted;
use crate::config::{Config, Listen, Rule};
use crate::message::{Fault, RawJson, code};

/// What a peer can cause is logged under this target, which the log sink keeps to a few lines a second.
pub(crate) const PEER: &str = "chanrpc::peer";
/// Allowed always: who asks whether somebody is there learns nothing more.
const PING: &str = "rpc.ping";
/// After so many wrong tokens a connection takes none any more, and a request over HTTP after one: guessing costs a
/// connection, or a request, each time.
const WRONG_TOKENS: u8 = 5;

/// Returns the hash by which a rule knows a token. Tokens are random and long, so a fast hash is as good as a slow one.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Who may call what, where: the rules of a configuration, shared by all connections.
///
/// A call is allowed if a rule allows it. At a listener that no rule holds at, everything is allowed if only this
/// machine can reach it, and else nothing. `rpc.ping` is always allowed.
pub struct Access {
    rules: Vec<Rule>,
    /// Everything is allowed everywhere.
    open: bool,
    /// There is an access log.
    is_logged: bool,
    guesses: Guesses,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

impl Access {
    /// Takes the rules of a configuration.
    pub fn new(config: &Config) -> Self {
        let guesses = Guesses::new(config.limits.token_delay);
        let (rules, is_logged) = (config.access.clone(), config.access_log);
        Self { rules, open: false, is_logged, guesses, clock: Box::new(SystemTime::now) }
    }

    /// Allows everything everywhere.
    pub fn open() -> Self {
        let guesses = Guesses::new(Duration::ZERO);
        Self { rules: Vec::new(), open: true, is_logged: false, guesses, clock: Box::new(SystemTime::now) }
    }

    /// Tells the time by another clock than the system's: that of a test.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Returns the rights of whoever comes in by the listener with this address, as it is configured.
    pub fn visitor(self: &Arc<Self>, listener: &str) -> Pass {
        let audit = self.is_logged.then(PeerName::default);
        let here: Arc<[usize]> = self.rules_at(listener).map(|(index, _)| index).collect();
        if self.open || (here.is_empty() && Listen::at(listener).is_local()) {
            return Pass { rights: None, audit };
        }
        let (access, peer) = (self.clone(), PeerName::default());
        let rights = Rights { access, here, presented: Vec::new(), wrong: 0, peer };
        Pass { rights: Some(Box::new(rights)), audit }
    }

    /// Tells whether there is a rule for the listener with this address.
    pub fn guards(&self, listener: &str) -> bool {
        self.rules_at(listener).next().is_some()
    }

    /// Returns the rule by which everybody may call everything at the listener with this address.
    pub fn opens(&self, listener: &str) -> Option<&Rule> {
        let opens = |rule: &&Rule| {
            rule.token.is_none() && rule.functions.iter().any(|pattern| is_everything(pattern))
        };
        self.rules_at(listener).map(|(_, rule)| rule).find(opens)
    }

    fn rules_at(&self, listener: &str) -> impl Iterator<Item = (usize, &Rule)> {
        self.rules.iter().enumerate().filter(move |(_, rule)| rule.holds_at(listener))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("open", &self.open)
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

/// The rights of one connection.
#[derive(Clone, Debug)]
pub struct Pass {
    /// `None` if everything is allowed.
    rights: Option<Box<Rights>>,
    /// Who calls, if there is an access log.
    audit: Option<PeerName>,
}

#[derive(Clone, Debug)]
struct Rights {
    access: Arc<Access>,
    /// The rules that hold at the listener.
    here: Arc<[usize]>,
    /// Those whose token was presented.
    presented: Vec<usize>,
    wrong: u8,
    peer: PeerName,
}

impl Pass {
    /// The function that presents a token, which a connection answers itself.
    pub const AUTH: &str = "rpc.auth";

    /// Returns a pass that allows everything.
    pub fn open() -> Self {
        Self { rights: None, audit: None }
    }

    /// The pass of a connection from that address, which logs then name.
    #[must_use]
    pub fn of_peer(mut self, address: SocketAddr) -> Self {
        let peer = PeerName(Some(address));
        if let Some(rights) = &mut self.rights {
            rights.peer = peer;
        }
        self.audit = self.audit.map(|_| peer);
        self
    }

    /// Returns `true` if calls are logged.
    #[inline]
    pub(crate) fn is_logged(&self) -> bool {
        self.audit.is_some()
    }

    /// Returns who calls, as far as that is known.
    pub(super) fn peer(&self) -> PeerName {
        self.audit.or_else(|| self.rights.as_ref().map(|rights| rights.peer)).unwrap_or_default()
    }

    /// Returns how long a token that comes now must wait before it is [presented](Self::present), because others of the
    /// same host were wrong ([`Limits::token_delay`](crate::config::Limits)). Whether it is right makes no difference: a
    /// quick answer would tell.
    pub fn token_delay(&self) -> Option<Duration> {
        self.rights.as_ref()?.token_delay()
    }

    /// The pass of one of many requests, to which a peer brings its token each time: it takes one wrong token only.
    #[must_use]
    pub fn of_one_request(mut self) -> Self {
        if let Some(rights) = &mut self.rights {
            rights.wrong = WRONG_TOKENS - 1;
        }
        self
    }

    /// Presents a token. What it allows is allowed too from now on.
    ///
    /// # Errors
    /// A fault of [`code::DENIED`] if the token is unknown, expired, not for this listener, or comes after too many
    /// wrong ones.
    pub fn present(&mut self, token: &str) -> Result<(), Fault> {
        self.rights.as_mut().map_or(Ok(()), |rights| rights.present(token))
    }

    /// Returns what its holder may see of the functions that there are, at this moment.
    pub fn sight(&self) -> Sight<'_> {
        Sight(self.rights.as_ref().map(|rights| rights.in_force()))
    }

    /// Answers `rpc.auth`, which presents a token: `false` where no rule holds, since no token is compared there.
    ///
    /// # Errors
    /// Those of [`present`](Self::present), and [`code::INVALID_PARAMS`].
    pub fn authorize(&mut self, params: Option<&RawJson<'_>>) -> Result<bool, Fault> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Params {
            token: String,
        }
        // What is wrong with the parameters is not quoted: they may hold a token all the same.
        let params: Params = params
            .and_then(|params| serde_json::from_str(params.get()).ok())
            .ok_or_else(|| Fault::invalid_params("rpc.auth takes a token: {\"token\": \"…\"}"))?;
        self.present(&params.token).map(|()| self.rights.is_some())
    }

    /// Returns `true` if nothing may be called, but for what always may, until a token is presented.
    pub fn allows_nothing(&self) -> bool {
        self.rights.as_ref().is_some_and(|rights| rights.allow_nothing())
    }

    /// Tells whether no token was presented, or none was needed.
    pub fn is_anonymous(&self) -> bool {
        self.rights.as_ref().is_none_or(|rights| rights.presented.is_empty())
    }

    /// Says whether a function may be called, at this moment.
    ///
    /// # Errors
    /// A fault of [`code::DENIED`].
    #[inline]
    pub fn check(&self, method: &str) -> Result<(), Fault> {
        match &self.rights {
            None => Ok(()),
            Some(rights) => rights.check(method),
        }
    }

    /// Says why a function may be called, or may not.
    pub fn decide(&self, method: &str) -> Decision<'_> {
        match &self.rights {
            None => Decision::Open,
            Some(_) if method == PING || method == Pass::AUTH => Decision::Always,
            Some(rights) => rights.decide(method),
        }
    }
}

/// What somebody may see of the functions that there are: those that they may call.
#[derive(Clone, Debug)]
pub struct Sight<'a>(Option<Vec<&'a Rule>>);

impl Sight<'_> {
    /// Tells whether a function, or some function of a family (`math.*`), may be called.
    pub(super) fn shows(&self, name: &str) -> bool {
        let Some(rules) = &self.0 else { return true };
        let covers = |pattern: &String| match name.strip_suffix('*') {
            Some(family) => reaches(pattern, family),
            None => matches(pattern, name),
        };
        name == PING || rules.iter().any(|rule| rule.functions.iter().any(covers))
    }

    /// Tells whether everything may be called. Only then nothing is held back of what is told of a function.
    pub(super) fn shows_all(&self) -> bool {
        self.0.as_ref().is_none_or(|rules| {
            rules.iter().any(|rule| rule.functions.iter().any(|pattern| is_everything(pattern)))
        })
    }
}

/// Tells whether a pattern covers a name that begins so.
fn reaches(pattern: &str, beginning: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.starts_with(beginning),
        Some((first, _)) => first.starts_with(beginning) || beginning.starts_with(first),
    }
}

fn is_everything(pattern: &str) -> bool {
    !pattern.is_empty() && pattern.bytes().all(|byte| byte == b'*')
}

impl Rights {
    fn token_delay(&self) -> Option<Duration> {
        // More than this many are refused unseen.
        let (PeerName(Some(peer)), true) = (self.peer, self.wrong < WRONG_TOKENS) else { return None };
        self.access.guesses.delay(peer.ip(), Instant::now())
    }

    /// The rules that allow something, at this moment.
    fn in_force(&self) -> Vec<&Rule> {
        let now = (self.access.clock)();
        let rules = self.here.iter().map(|index| (index, &self.access.rules[*index]));
        let holds = |(index, rule): &(&usize, &Rule)| {
            rule.expires.is_none_or(|end| end > now)
                && (rule.token.is_none() || self.presented.contains(index))
        };
        rules.filter(holds).map(|(_, rule)| rule).collect()
    }

    fn present(&mut self, token: &str) -> Result<(), Fault> {
        let refused = if self.wrong >= WRONG_TOKENS {
            "too many wrong tokens came by this connection, which takes no more"
        } else {
            let hash = token_hash(token);
            // All are compared, and each to its end: the time tells nothing.
            let same = |rule: &Rule| rule.token.is_some_and(|other| other.ct_eq(&hash).into());
            let rules = self.access.rules.iter().enumerate();
            let known: Vec<usize> = rules.filter(|(_, rule)| same(rule)).map(|(index, _)| index).collect();
            let here: Vec<usize> = known.iter().copied().filter(|index| self.here.contains(index)).collect();
            let now = (self.access.clock)();
            let expired = |index: &usize| self.access.rules[*index].expires.is_some_and(|end| end <= now);
            match here.iter().find(|index| !expired(index)) {
                Some(_) => {
                    self.presented.retain(|index| !here.contains(index));
                    self.presented.extend(here);
                    return Ok(());
                }
                None if known.is_empty() => "the token is unknown",
                None if here.is_empty() => "the token is not for this listener",
                None => "the token has expired",
            }
        };
        // One that is not looked at tells its sender nothing.
        let is_guess = self.wrong < WRONG_TOKENS;
        self.wrong = self.wrong.saturating_add(1);
        log::warn!(target: PEER, "a token of {} was refused: {refused}", self.peer);
        if let Some(peer) = self.peer.0.filter(|_| is_guess)
            && self.access.guesses.wrong(peer.ip(), Instant::now())
        {
            let host = peer.ip().to_canonical();
            log::warn!(target: PEER, "many wrong tokens of {host}: further ones wait (limits.token_delay)");
        }
        Err(Fault::new(code::DENIED, refused))
    }

    fn check(&self, method: &str) -> Result<(), Fault> {
        if method == PING {
            return Ok(());
        }
        let mut expired = false;
        for &index in &*self.here {
            match self.judge(index, method) {
                Ok(_) => return Ok(()),
                Err(reason) => expired |= reason == Reason::Expired && self.presented.contains(&index),
            }
        }
        let quoted = quoted(method);
        let message = if expired {
            format!("{quoted} is not allowed any more: the token has expired")
        } else if self.presented.is_empty() {
            format!("{quoted} needs a token that allows it, by rpc.auth or \"Authorization: Bearer\"")
        } else {
            format!("{quoted} is not among what the token allows")
        };
        Err(Fault::new(code::DENIED, message))
    }

    fn decide(&self, method: &str) -> Decision<'_> {
        let mut reasons = Vec::new();
        for (index, rule) in self.access.rules.iter().enumerate() {
            let judged = match self.here.contains(&index) {
                true => self.judge(index, method),
                false => Err(Reason::Elsewhere),
            };
            match judged {
                Ok(pattern) => return Decision::Allowed { rule, pattern },
                Err(reason) => reasons.push((rule, reason)),
            }
        }
        Decision::Denied(reasons)
    }

    fn allow_nothing(&self) -> bool {
        let now = (self.access.clock)();
        let counts = |index: &usize| {
            let rule = &self.access.rules[*index];
            rule.expires.is_none_or(|end| now < end)
                && (rule.token.is_none() || self.presented.contains(index))
        };
        !self.here.iter().any(counts)
    }

    /// Returns the pattern by which a rule that holds here allows a function, or why it does not.
    fn judge(&self, index: usize, method: &str) -> Result<&str, Reason> {
        let rule = &self.access.rules[index];
        let pattern =
            rule.functions.iter().find(|pattern| matches(pattern, method)).ok_or(Reason::Functions)?;
        if rule.expires.is_some_and(|end| end <= (self.access.clock)()) {
            return Err(Reason::Expired);
        }
        if rule.token.is_some() && !self.presented.contains(&index) {
            return Err(Reason::Token);
        }
        Ok(pattern)
    }
}

/// Why a function may be called, or may not.
#[derive(Clone, Debug)]
pub enum Decision<'a> {
    /// There is no rule, and none is needed.
    Open,
    /// It is allowed whatever the rules say.
    Always,
    /// A rule allows it.
    Allowed {
        /// Which one.
        rule: &'a Rule,
        /// The pattern that covers the function.
        pattern: &'a str,
    },
    /// No rule allows it: all rules, and why each does not.
    Denied(Vec<(&'a Rule, Reason)>),
}

/// Why a rule does not allow a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It holds at other listeners.
    Elsewhere,
    /// None of its patterns covers the function.
    Functions,
    /// It has expired.
    Expired,
    /// Its token was not presented.
    Token,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elsewhere => "holds at other listeners",
            Self::Functions => "does not cover the function",
            Self::Expired => "has expired",
            Self::Token => "needs its token",
        })
    }
}
