//! The rights of one connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::super::name::{matches, quoted};
use super::peer::PeerName;
use super::visibility::PING;
use super::{Access, Decision, DenialReason, PEER, Visibility, token_hash};
use crate::config::Rule;
use crate::message::{Fault, RawJson, code};

/// The number of wrong tokens after which a connection accepts no more. An HTTP request accepts none after the first:
/// each guess costs the guesser a connection or a request.
const MAX_WRONG_TOKENS: u8 = 5;

/// The rights of one connection.
#[derive(Clone, Debug)]
pub struct Grants {
    /// `None` if everything is allowed.
    restricted: Option<Box<Restricted>>,
    /// The caller, if there is an access log.
    logged_peer: Option<PeerName>,
}

/// Rights at a listener with rules.
#[derive(Clone, Debug)]
struct Restricted {
    access: Arc<Access>,
    /// Indices of the rules that apply to the listener.
    rules: Arc<[usize]>,
    /// Indices of the rules whose token has been presented.
    presented: Vec<usize>,
    wrong_tokens: u8,
    peer: PeerName,
}

impl Grants {
    /// The function that presents a token; a connection answers it itself.
    pub const AUTH: &str = "rpc.auth";

    /// Returns rights to call everything.
    pub fn all() -> Self {
        Self::unrestricted(false)
    }

    pub(super) fn unrestricted(is_logged: bool) -> Self {
        Self { restricted: None, logged_peer: is_logged.then(PeerName::default) }
    }

    pub(super) fn new(access: Arc<Access>, rules: Arc<[usize]>) -> Self {
        let logged_peer = access.is_logged.then(PeerName::default);
        let peer = PeerName::default();
        let restricted = Restricted { access, rules, presented: Vec::new(), wrong_tokens: 0, peer };
        Self { restricted: Some(Box::new(restricted)), logged_peer }
    }

    /// Sets the peer's address, which logs name and by which wrong tokens are counted.
    #[must_use]
    pub fn with_peer(mut self, address: SocketAddr) -> Self {
        let peer = PeerName(Some(address));
        if let Some(restricted) = &mut self.restricted {
            restricted.peer = peer;
        }
        self.logged_peer = self.logged_peer.map(|_| peer);
        self
    }

    /// Returns `true` if there is an access log.
    #[inline]
    pub(crate) fn is_logged(&self) -> bool {
        self.logged_peer.is_some()
    }

    /// Returns the caller, as far as it is known.
    pub(super) fn peer(&self) -> PeerName {
        let restricted = self.restricted.as_ref();
        self.logged_peer.or_else(|| restricted.map(|restricted| restricted.peer)).unwrap_or_default()
    }

    /// Returns how long a token that arrives now must wait before it may be [presented](Self::authenticate), because
    /// of earlier wrong tokens from the same host ([`Limits::token_delay`](crate::config::Limits)). Right and wrong
    /// tokens wait alike: a quick answer would reveal which one is right.
    pub fn token_delay(&self) -> Option<Duration> {
        self.restricted.as_ref()?.token_delay()
    }

    /// Returns the rights of a single request that carries its own token, as over HTTP: it may present one wrong
    /// token only.
    #[must_use]
    pub fn for_single_request(mut self) -> Self {
        if let Some(restricted) = &mut self.restricted {
            restricted.wrong_tokens = MAX_WRONG_TOKENS - 1;
        }
        self
    }

    /// Presents a token. From now on, what it allows is allowed in addition.
    ///
    /// # Errors
    /// A fault of [`code::DENIED`] if the token is unknown, has expired, is not valid for this listener, or follows
    /// too many wrong ones.
    pub fn authenticate(&mut self, token: &str) -> Result<(), Fault> {
        self.restricted.as_mut().map_or(Ok(()), |restricted| restricted.authenticate(token))
    }

    /// Returns the functions that may be called at this moment.
    pub fn visibility(&self) -> Visibility<'_> {
        Visibility::new(self.restricted.as_ref().map(|restricted| restricted.in_force()))
    }

    /// Answers `rpc.auth`, which presents a token. Returns `false` where no rule applies, since no token is compared
    /// there.
    ///
    /// # Errors
    /// As [`authenticate`](Self::authenticate), and [`code::INVALID_PARAMS`].
    pub fn handle_auth(&mut self, params: Option<&RawJson<'_>>) -> Result<bool, Fault> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Params {
            token: String,
        }
        // The error does not quote invalid parameters, which may contain a token.
        let params: Params = params
            .and_then(|params| serde_json::from_str(params.get()).ok())
            .ok_or_else(|| Fault::invalid_params("rpc.auth takes a token: {\"token\": \"…\"}"))?;
        self.authenticate(&params.token).map(|()| self.restricted.is_some())
    }

    /// Returns `true` if a token must be presented before anything may be called, except for what is always allowed.
    pub fn allows_nothing(&self) -> bool {
        self.restricted.as_ref().is_some_and(|restricted| restricted.allows_nothing())
    }

    /// Returns `true` if no token has been accepted, or none was needed.
    pub fn is_anonymous(&self) -> bool {
        self.restricted.as_ref().is_none_or(|restricted| restricted.presented.is_empty())
    }

    /// Checks whether a function may be called at this moment.
    ///
    /// # Errors
    /// A fault of [`code::DENIED`] if it may not.
    #[inline]
    pub fn check(&self, method: &str) -> Result<(), Fault> {
        match &self.restricted {
            None => Ok(()),
            Some(restricted) => restricted.check(method),
        }
    }

    /// Explains why a function may be called, or may not.
    pub fn explain(&self, method: &str) -> Decision<'_> {
        match &self.restricted {
            None => Decision::Unrestricted,
            Some(_) if method == PING || method == Self::AUTH => Decision::Always,
            Some(restricted) => restricted.explain(method),
        }
    }
}

impl Restricted {
    fn token_delay(&self) -> Option<Duration> {
        // Tokens beyond this number are rejected without being compared.
        let (PeerName(Some(peer)), true) = (self.peer, self.wrong_tokens < MAX_WRONG_TOKENS) else {
            return None;
        };
        self.access.throttle.delay(peer.ip(), Instant::now())
    }

    /// Returns the rules that allow something at this moment.
    fn in_force(&self) -> Vec<&Rule> {
        let now = (self.access.clock)();
        let indices = self.rules.iter().filter(|index| self.is_in_force(**index, now));
        indices.map(|index| &self.access.rules[*index]).collect()
    }

    fn is_in_force(&self, index: usize, now: SystemTime) -> bool {
        let rule = &self.access.rules[index];
        rule.expires.is_none_or(|end| end > now) && (rule.token.is_none() || self.presented.contains(&index))
    }

    fn authenticate(&mut self, token: &str) -> Result<(), Fault> {
        let reason = if self.wrong_tokens >= MAX_WRONG_TOKENS {
            "too many wrong tokens on this connection; it accepts no more"
        } else {
            let hash = token_hash(token);
            // Every token is compared, in constant time, so that the time taken reveals nothing.
            let same = |rule: &Rule| rule.token.is_some_and(|other| other.ct_eq(&hash).into());
            let rules = self.access.rules.iter().enumerate();
            let known: Vec<usize> = rules.filter(|(_, rule)| same(rule)).map(|(index, _)| index).collect();
            let here: Vec<usize> = known.iter().copied().filter(|index| self.rules.contains(index)).collect();
            let now = (self.access.clock)();
            let expired = |index: &usize| self.access.rules[*index].expires.is_some_and(|end| end <= now);
            match here.iter().find(|index| !expired(index)) {
                Some(_) => {
                    self.presented.retain(|index| !here.contains(index));
                    self.presented.extend(here);
                    return Ok(());
                }
                None if known.is_empty() => "the token is unknown",
                None if here.is_empty() => "the token is not valid for this listener",
                None => "the token has expired",
            }
        };
        // A token that was not compared reveals nothing to its sender, so it does not count as a guess.
        let is_guess = self.wrong_tokens < MAX_WRONG_TOKENS;
        self.wrong_tokens = self.wrong_tokens.saturating_add(1);
        log::warn!(target: PEER, "rejected a token from {}: {reason}", self.peer);
        if let Some(peer) = self.peer.0.filter(|_| is_guess)
            && self.access.throttle.record_wrong(peer.ip(), Instant::now())
        {
            let host = peer.ip().to_canonical();
            log::warn!(target: PEER, "many wrong tokens from {host}: delaying its tokens (limits.token_delay)");
        }
        Err(Fault::new(code::DENIED, reason))
    }

    fn check(&self, method: &str) -> Result<(), Fault> {
        if method == PING {
            return Ok(());
        }
        let mut expired = false;
        for &index in &*self.rules {
            match self.pattern(index, method) {
                Ok(_) => return Ok(()),
                Err(reason) => {
                    expired |= reason == DenialReason::Expired && self.presented.contains(&index);
                }
            }
        }
        let quoted = quoted(method);
        let message = if expired {
            format!("{quoted} is no longer allowed: the token has expired")
        } else if self.presented.is_empty() {
            format!(
                "{quoted} needs a token that allows it: present one by rpc.auth or \"Authorization: Bearer\""
            )
        } else {
            format!("{quoted} is not allowed by the token")
        };
        Err(Fault::new(code::DENIED, message))
    }

    fn explain(&self, method: &str) -> Decision<'_> {
        let mut reasons = Vec::new();
        for (index, rule) in self.access.rules.iter().enumerate() {
            let pattern = match self.rules.contains(&index) {
                true => self.pattern(index, method),
                false => Err(DenialReason::OtherListener),
            };
            match pattern {
                Ok(pattern) => return Decision::Allowed { rule, pattern },
                Err(reason) => reasons.push((rule, reason)),
            }
        }
        Decision::Denied(reasons)
    }

    fn allows_nothing(&self) -> bool {
        let now = (self.access.clock)();
        !self.rules.iter().any(|index| self.is_in_force(*index, now))
    }

    /// Returns the pattern by which a rule of this listener allows a function, or why it does not.
    fn pattern(&self, index: usize, method: &str) -> Result<&str, DenialReason> {
        let rule = &self.access.rules[index];
        let pattern = rule.functions.iter().find(|pattern| matches(pattern, method));
        let pattern = pattern.ok_or(DenialReason::NoPattern)?;
        if rule.expires.is_some_and(|end| end <= (self.access.clock)()) {
            return Err(DenialReason::Expired);
        }
        if rule.token.is_some() && !self.presented.contains(&index) {
            return Err(DenialReason::TokenMissing);
        }
        Ok(pattern)
    }
}
