//! What an access rule may allow.

use crate::config::Rule;

/// What an access rule may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// To call a function.
    Call,
    /// To offer a function.
    Offer,
    /// To subscribe to a topic.
    Subscribe,
    /// To publish to a topic.
    Publish,
}

impl Action {
    /// Returns what the built-in function of that name does with the name that it is given.
    pub(super) fn of(function: &str) -> Option<Self> {
        match function.strip_prefix("rpc.")? {
            "offer" | "withdraw" => Some(Self::Offer),
            "subscribe" | "unsubscribe" => Some(Self::Subscribe),
            "publish" => Some(Self::Publish),
            _ => None,
        }
    }

    /// Returns the patterns of the names with which a rule allows it.
    pub(super) fn patterns(self, rule: &Rule) -> &[String] {
        match self {
            Self::Call => &rule.functions,
            Self::Offer => &rule.offer,
            Self::Subscribe => &rule.subscribe,
            Self::Publish => &rule.publish,
        }
    }
}
