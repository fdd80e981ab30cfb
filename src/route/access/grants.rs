//! The rights of one connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::super::mailbox::Peer;
use super::caller::Caller;
use super::rights::{Right, Rights};
use super::visibility::{PING, RELOAD};
use super::{Access, Action, Decision, PEER, Visibility};
use crate::message::{Fault, RawJson, code};

/// The number of wrong tokens after which a connection accepts no more. An HTTP request accepts none after the first:
/// each guess costs the guesser a connection or a request.
const MAX_WRONG_TOKENS: u8 = 5;

/// The rights of one connection.
#[derive(Clone, Debug)]
pub struct Grants {
    caller: Caller,
    /// There is an access log.
    is_logged: bool,
    wrong_tokens: u8,
    /// The configured address of the listener; `None` if no rules apply to the connection, whatever they are.
    listener: Option<Arc<str>>,
    /// The number of the rules.
    number: u64,
}

impl Grants {
    /// The function that presents a token; a connection answers it itself.
    pub const AUTH: &str = "rpc.auth";

    /// Returns rights to call everything.
    pub fn all() -> Self {
        let (caller, is_logged, wrong_tokens) = (Caller::local(), false, 0);
        Self { caller, is_logged, wrong_tokens, listener: None, number: u64::MAX }
    }

    /// Returns the rights at a listener: all if `rights` is `None`.
    pub(super) fn at_listener(listener: &str, access: &Access, rights: Option<Arc<Rights>>) -> Self {
        let (is_logged, number) = (access.is_logged, access.number);
        let (caller, listener) = (Caller::new(rights), Some(listener.into()));
        Self { caller, is_logged, wrong_tokens: 0, listener, number }
    }

    /// Returns the number of the rules, which is larger than that of earlier ones.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Returns the configured address of the listener, if rules may apply to it.
    pub(crate) fn listener(&self) -> Option<&str> {
        self.listener.as_deref()
    }

    /// Replaces the rules by later ones. Of the tokens that were presented, those count that they know.
    pub(crate) fn follow(&mut self, access: &Arc<Access>) {
        let Some(listener) = &self.listener else { return };
        let mut next = access.grants_for(listener);
        if let (Some(earlier), Some(rights)) = (&self.caller.rights, &mut next.caller.rights) {
            Arc::make_mut(rights).present(&earlier.presented_tokens());
        }
        (self.caller.rights, self.is_logged, self.number) = (next.caller.rights, next.is_logged, next.number);
    }

    /// Returns the rights of a new connection. Logs name its peer, and wrong tokens are counted by its address.
    #[must_use]
    pub(crate) fn for_connection(mut self, peer: Option<SocketAddr>) -> Self {
        self.caller.connect(peer);
        self
    }

    /// Sets the [dialect](Caller::dialect) that the caller speaks.
    pub(crate) fn set_dialect(&mut self, dialect: &'static str) {
        self.caller.set_dialect(dialect);
    }

    /// Lets functions reach the other end of the connection.
    pub(crate) fn set_peer(&mut self, peer: Peer) {
        self.caller.set_peer(peer);
    }

    /// Returns the caller.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Returns `true` if there is an access log.
    #[inline]
    pub(crate) fn is_logged(&self) -> bool {
        self.is_logged
    }

    /// Returns how long a token that arrives now must wait before it may be [presented](Self::authenticate), because
    /// of earlier wrong tokens from the same host ([`Limits::token_delay`](crate::config::Limits)). Right and wrong
    /// tokens wait alike: a quick answer would reveal which one is right.
    pub fn token_delay(&self) -> Option<Duration> {
        let access = &self.caller.rights.as_ref()?.access;
        // Tokens beyond this number are rejected without being compared.
        let peer = self.caller.address().filter(|_| self.wrong_tokens < MAX_WRONG_TOKENS)?;
        access.throttle.delay(peer.ip(), Instant::now())
    }

    /// Returns the rights of a single request that carries its own token, as over HTTP: it may present one wrong
    /// token only.
    #[must_use]
    pub fn for_single_request(mut self) -> Self {
        self.wrong_tokens = MAX_WRONG_TOKENS - 1;
        self
    }

    /// Presents a token. From now on, what it allows is allowed in addition.
    ///
    /// # Errors
    /// A fault of [`code::DENIED`] if the token is unknown, has expired, is not valid for this listener, or follows
    /// too many wrong ones.
    pub fn authenticate(&mut self, token: &str) -> Result<(), Fault> {
        let Some(rights) = &mut self.caller.rights else { return Ok(()) };
        let reason = if self.wrong_tokens >= MAX_WRONG_TOKENS {
            "too many wrong tokens on this connection; it accepts no more"
        } else {
            match rights.rules_of(token) {
                Ok(rules) => {
                    let presented = &mut Arc::make_mut(rights).presented;
                    presented.retain(|index| !rules.contains(index));
                    presented.extend(rules);
                    return Ok(());
                }
                Err(reason) => reason,
            }
        };
        // A token that was not compared reveals nothing to its sender, so it does not count as a guess.
        let is_guess = self.wrong_tokens < MAX_WRONG_TOKENS;
        self.wrong_tokens = self.wrong_tokens.saturating_add(1);
        let peer = self.caller.address;
        log::warn!(target: PEER, "rejected a token from {peer}: {reason}");
        if let Some(peer) = peer.0.filter(|_| is_guess)
            && rights.access.throttle.record_wrong(peer.ip(), Instant::now())
        {
            let host = peer.ip().to_canonical();
            log::warn!(target: PEER, "many wrong tokens from {host}: delaying its tokens (limits.token_delay)");
        }
        Err(Fault::new(code::DENIED, reason))
    }

    /// Returns the functions that may be called at this moment.
    pub fn visibility(&self) -> Visibility<'_> {
        Visibility::new(self.caller.rights.as_ref().map(|rights| rights.in_force()))
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
        self.authenticate(&params.token).map(|()| self.caller.rights.is_some())
    }

    /// Returns `true` if a token must be presented before anything may be called, except for what is always allowed.
    pub fn allows_nothing(&self) -> bool {
        self.caller.rights.as_ref().is_some_and(|rights| rights.allows_nothing())
    }

    /// Returns `true` if no token has been accepted, or none was needed.
    pub fn is_anonymous(&self) -> bool {
        self.caller.rights.as_ref().is_none_or(|rights| rights.presented.is_empty())
    }

    /// Checks whether a function may be called at this moment.
    ///
    /// # Errors
    /// A fault of [`code::DENIED`] if it may not.
    #[inline]
    pub fn check(&self, method: &str) -> Result<(), Fault> {
        match &self.caller.rights {
            None => Ok(()),
            Some(rights) => rights.check(Action::Call, method),
        }
    }

    /// Checks whether something may be done with the function or topic `name` at this moment.
    ///
    /// # Errors
    /// A fault of [`code::DENIED`] if it may not.
    pub(crate) fn allow(&self, action: Action, name: &str) -> Result<(), Fault> {
        self.caller.rights.as_ref().map_or(Ok(()), |rights| rights.check(action, name))
    }

    /// Returns the right to an action that is allowed now.
    pub(crate) fn right(&self, action: Action, name: &str) -> Right {
        let rights = self.caller.rights.as_ref();
        let tokens = rights.map(|rights| rights.presented_tokens()).unwrap_or_default();
        let end = rights.and_then(|rights| rights.end(action, name));
        Right { action, listener: self.listener.clone(), tokens, end }
    }

    /// Returns `true` if a rule in force allows to call [`RELOAD`] by its name.
    pub(crate) fn allow_reload(&self) -> bool {
        self.caller.rights.as_ref().is_some_and(|rights| rights.check(Action::Call, RELOAD).is_ok())
    }

    /// Explains why something may be done with the function or topic `name`, or may not.
    pub(crate) fn explain(&self, action: Action, name: &str) -> Decision<'_> {
        match &self.caller.rights {
            None if name == RELOAD => Decision::Denied(Vec::new()),
            None => Decision::Unrestricted,
            Some(_) if action == Action::Call && (name == PING || name == Self::AUTH) => Decision::Always,
            Some(rights) => rights.explain(action, name),
        }
    }
}
