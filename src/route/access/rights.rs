//! What the rules of a listener allow to one caller.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use subtle::ConstantTimeEq;

use super::super::name::{matches, quoted};
use super::visibility::{PING, RELOAD};
use super::{Access, Action, Clock, Decision, DenialReason, token_hash};
use crate::config::Rule;
use crate::message::{Fault, code};

/// The SHA-256 of a token.
pub(super) type TokenHash = [u8; 32];

/// Rights at a listener with rules.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    pub(super) access: Arc<Access>,
    /// Indices of the rules that apply to the listener.
    rules: Arc<[usize]>,
    /// Indices of the rules whose token has been presented.
    pub(super) presented: Vec<usize>,
}

impl Rights {
    pub(super) fn new(access: Arc<Access>, rules: Arc<[usize]>) -> Self {
        Self { access, rules, presented: Vec::new() }
    }

    /// Returns the rules that allow something at this moment.
    pub(super) fn in_force(&self) -> Vec<&Rule> {
        let now = (self.access.clock)();
        let indices = self.rules.iter().filter(|index| self.is_in_force(**index, now));
        indices.map(|index| &self.access.rules[*index]).collect()
    }

    /// Returns the hashes of the tokens that have been presented.
    pub(super) fn presented_tokens(&self) -> Vec<TokenHash> {
        let mut tokens = Vec::new();
        for token in self.presented.iter().filter_map(|index| self.access.rules[*index].token) {
            if !tokens.contains(&token) {
                tokens.push(token);
            }
        }
        tokens
    }

    /// Returns the names of the rules whose tokens have been presented, each once and in their order.
    pub(super) fn presented_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for name in self.presented.iter().map(|index| label(&self.access.rules[*index]).to_owned()) {
            if let Err(at) = names.binary_search(&name) {
                names.insert(at, name);
            }
        }
        names
    }

    /// Presents tokens that were accepted under earlier rules.
    pub(super) fn present(&mut self, tokens: &[TokenHash]) {
        let is_known =
            |index: &usize| self.access.rules[*index].token.is_some_and(|token| tokens.contains(&token));
        self.presented = self.rules.iter().copied().filter(is_known).collect();
    }

    /// Returns when an action that is allowed now ceases to be; `None` if never.
    pub(super) fn end(&self, action: Action, name: &str) -> Option<RightEnd> {
        let allowing = self.rules.iter().filter(|index| self.pattern(**index, action, name).is_ok());
        let ends = allowing.map(|index| self.access.rules[*index].expires);
        let at = ends.reduce(|one, other| Some(one?.max(other?)))??;
        Some(RightEnd { clock: self.access.clock.clone(), at })
    }

    fn is_in_force(&self, index: usize, now: SystemTime) -> bool {
        let rule = &self.access.rules[index];
        rule.expires.is_none_or(|end| end > now) && (rule.token.is_none() || self.presented.contains(&index))
    }

    /// Returns the indices of the rules that a token belongs to here, or why it is rejected.
    pub(super) fn rules_of(&self, token: &str) -> Result<Vec<usize>, &'static str> {
        let hash = token_hash(token);
        // Every token is compared, in constant time, so that the time taken reveals nothing.
        let same = |rule: &Rule| rule.token.is_some_and(|other| other.ct_eq(&hash).into());
        let rules = self.access.rules.iter().enumerate();
        let known: Vec<usize> = rules.filter(|(_, rule)| same(rule)).map(|(index, _)| index).collect();
        let here: Vec<usize> = known.iter().copied().filter(|index| self.rules.contains(index)).collect();
        let now = (self.access.clock)();
        let expired = |index: &usize| self.access.rules[*index].expires.is_some_and(|end| end <= now);
        match here.iter().find(|index| !expired(index)) {
            Some(_) => Ok(here),
            None if known.is_empty() => Err("the token is unknown"),
            None if here.is_empty() => Err("the token is not valid for this listener"),
            None => Err("the token has expired"),
        }
    }

    pub(super) fn check(&self, action: Action, name: &str) -> Result<(), Fault> {
        if action == Action::Call && name == PING {
            return Ok(());
        }
        let mut expired = false;
        for &index in &*self.rules {
            match self.pattern(index, action, name) {
                Ok(_) => return Ok(()),
                Err(reason) => {
                    expired |= reason == DenialReason::Expired && self.presented.contains(&index);
                }
            }
        }
        let what = match action {
            Action::Call => quoted(name),
            Action::Offer => format!("offering {}", quoted(name)),
            Action::Subscribe => format!("subscribing to {}", quoted(name)),
            Action::Publish => format!("publishing to {}", quoted(name)),
        };
        let message = if expired {
            format!("{what} is no longer allowed: the token has expired")
        } else if self.presented.is_empty() {
            format!(
                "{what} needs a token that allows it: present one by rpc.auth or \"Authorization: Bearer\""
            )
        } else {
            format!("{what} is not allowed by the token")
        };
        Err(Fault::new(code::DENIED, message))
    }

    pub(super) fn explain(&self, action: Action, name: &str) -> Decision<'_> {
        let mut reasons = Vec::new();
        for (index, rule) in self.access.rules.iter().enumerate() {
            let pattern = match self.rules.contains(&index) {
                true => self.pattern(index, action, name),
                false => Err(DenialReason::OtherListener),
            };
            match pattern {
                Ok(pattern) => return Decision::Allowed { rule, pattern },
                Err(reason) => reasons.push((rule, reason)),
            }
        }
        Decision::Denied(reasons)
    }

    pub(super) fn allows_nothing(&self) -> bool {
        let now = (self.access.clock)();
        !self.rules.iter().any(|index| self.is_in_force(*index, now))
    }

    /// Returns the pattern by which a rule of this listener allows something, or why it does not.
    fn pattern(&self, index: usize, action: Action, name: &str) -> Result<&str, DenialReason> {
        let rule = &self.access.rules[index];
        // A reload is allowed by its name only.
        let covers = |pattern: &&String| matches(pattern, name) && (name != RELOAD || *pattern == name);
        let pattern = action.patterns(rule).iter().find(covers);
        // Who may do something with some names may call the function for it, which checks the name.
        let implied = || Action::of(name).filter(|_| action == Action::Call)?.patterns(rule).first();
        let pattern = pattern.or_else(implied);
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

/// The right to something that goes on, such as a subscription.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    pub(super) action: Action,
    /// The configured address of the listener; `None` if no rules apply to the connection.
    pub(super) listener: Option<Arc<str>>,
    pub(super) tokens: Vec<TokenHash>,
    /// When it ends.
    pub(crate) end: Option<RightEnd>,
}

impl Right {
    /// Returns `true` if other rules give the right to `name` too, for at least as long.
    pub(crate) fn persists(&self, access: &Arc<Access>, name: &str) -> bool {
        let grants = self.listener.as_ref().map(|listener| access.grants_for(listener));
        let Some(mut rights) = grants.and_then(|grants| grants.caller().rights.clone()) else { return true };
        let rights = Arc::make_mut(&mut rights);
        rights.present(&self.tokens);
        let at = |end: Option<&RightEnd>| end.map(|end| end.at);
        let is_sooner = match (at(rights.end(self.action, name).as_ref()), at(self.end.as_ref())) {
            (Some(end), Some(earlier)) => end < earlier,
            (end, _) => end.is_some(),
        };
        rights.check(self.action, name).is_ok() && !is_sooner
    }

    /// Returns `true` if it has not ended.
    pub(crate) fn is_in_force(&self) -> bool {
        self.end.as_ref().is_none_or(|end| !end.has_passed())
    }
}

/// When a right ends, since the rules that give it expire.
#[derive(Clone)]
pub(crate) struct RightEnd {
    clock: Clock,
    at: SystemTime,
}

impl fmt::Debug for RightEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)
    }
}

impl RightEnd {
    pub(crate) fn has_passed(&self) -> bool {
        self.at <= (self.clock)()
    }

    /// Returns the time until then.
    pub(crate) fn remaining(&self) -> Duration {
        self.at.duration_since((self.clock)()).unwrap_or_default()
    }
}

/// Returns the rule's name, or its location in the configuration file.
pub(super) fn label(rule: &Rule) -> &str {
    rule.name.as_deref().unwrap_or(&rule.location)
}
