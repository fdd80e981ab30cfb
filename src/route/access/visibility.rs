//! Which functions a caller may see.

use super::super::name::{matches, matches_all, may_match_prefix};
use super::Action;
use crate::config::Rule;

/// Always allowed: it reveals only that the node is alive.
pub(crate) const PING: &str = "rpc.ping";

/// Loads the configuration again. Allowed only by a rule that names it, without `*`.
pub(crate) const RELOAD: &str = "rpc.reload";

/// The functions that a caller may see: those that it may call. Obtained from [`Grants`](super::Grants).
#[derive(Clone, Debug)]
pub struct Visibility<'a> {
    /// The rules in force; `None` if everything is visible.
    rules: Option<Vec<&'a Rule>>,
}

impl<'a> Visibility<'a> {
    pub(super) fn new(rules: Option<Vec<&'a Rule>>) -> Self {
        Self { rules }
    }
}

impl Visibility<'_> {
    /// Returns `true` if the function, or some function of a family (`math.*`), may be called.
    pub(crate) fn includes(&self, name: &str) -> bool {
        let Some(rules) = &self.rules else { return name != RELOAD };
        let covers = |pattern: &String| match name.strip_suffix('*') {
            _ if name == RELOAD => pattern == name,
            Some(family) => may_match_prefix(pattern, family),
            None => matches(pattern, name),
        };
        let is_implied =
            |rule: &&Rule| Action::of(name).is_some_and(|action| !action.patterns(rule).is_empty());
        name == PING || rules.iter().any(|rule| is_implied(rule) || rule.functions.iter().any(covers))
    }

    /// Returns `true` if every function may be called. Otherwise descriptions omit their target.
    pub(crate) fn includes_all(&self) -> bool {
        self.rules.as_ref().is_none_or(|rules| {
            rules.iter().any(|rule| rule.functions.iter().any(|pattern| matches_all(pattern)))
        })
    }
}
