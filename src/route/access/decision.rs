//! Why something is allowed or denied, as `chanrpc why` explains it.

use std::fmt;

use crate::config::Rule;

/// Why a function may be called, or may not.
#[derive(Clone, Debug)]
pub enum Decision<'a> {
    /// No rule applies, and none is required.
    Unrestricted,
    /// The function is always allowed.
    Always,
    /// A rule allows the function.
    Allowed {
        /// The rule.
        rule: &'a Rule,
        /// The pattern of the rule that matches the function.
        pattern: &'a str,
    },
    /// No rule allows the function: every rule, with the reason why it does not.
    Denied(Vec<(&'a Rule, DenialReason)>),
}

/// Why a rule does not allow a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialReason {
    /// The rule applies to other listeners.
    OtherListener,
    /// None of the rule's patterns matches the name.
    NoPattern,
    /// The rule has expired.
    Expired,
    /// The rule's token has not been presented.
    TokenMissing,
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherListener => "applies to other listeners",
            Self::NoPattern => "does not cover the name",
            Self::Expired => "has expired",
            Self::TokenMissing => "needs its token",
        })
    }
}
