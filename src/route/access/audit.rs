//! The access log: one line for each call and each rejection, with the peer's address.

use std::fmt;
use std::time::Duration;

use super::super::name::MAX_NAME;
use super::rights::label;
use super::{Action, Decision, Grants};
use crate::config::Rule;
use crate::message::Fault;

/// The target of the access log, which has a rate limit of its own.
const ACCESS: &str = "chanrpc::access";

impl Grants {
    /// Logs a call that has been answered, with its fault if it failed.
    #[inline]
    pub(crate) fn log_call(&self, function: &str, fault: Option<&Fault>, time: Duration) {
        if self.is_logged() {
            let rule = match self.explain(Action::Call, function) {
                Decision::Allowed { rule, .. } => Some(rule),
                _ => None,
            };
            self.log_line(rule, &Outcome(fault.map(|fault| fault.code)), time, Some(function));
        }
    }

    /// Logs a call whose caller left before it was answered.
    pub(crate) fn log_abandoned(&self, function: &str, time: Duration) {
        if self.is_logged() {
            self.log_line(None, &"gone", time, Some(function));
        }
    }

    /// Logs something that was rejected before it was recognized as a call.
    #[inline]
    pub(crate) fn log_rejection(&self, reason: &dyn fmt::Display) {
        if self.is_logged() {
            self.log_line(None, reason, Duration::ZERO, None);
        }
    }

    #[cold]
    fn log_line(
        &self,
        rule: Option<&Rule>,
        outcome: &dyn fmt::Display,
        time: Duration,
        function: Option<&str>,
    ) {
        let (peer, rule, ms) = (self.caller().address, Quoted(rule.map(label)), time.as_secs_f64() * 1e3);
        // The caller controls the length of the function's name, so it comes last, where truncation costs nothing else.
        let function = Quoted(function);
        log::info!(target: ACCESS, "peer={peer} rule={rule} outcome={outcome} ms={ms:.3} function={function}");
    }
}

/// `ok`, or an error code.
struct Outcome(Option<i64>);

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("ok"),
            Some(code) => code.fmt(f),
        }
    }
}

/// A quoted and escaped text, which cannot forge another field of the line; `-` if absent. Truncated to the length of
/// the longest function name.
struct Quoted<'a>(Option<&'a str>);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(text) = self.0 else { return f.write_str("-") };
        match text.char_indices().nth(MAX_NAME) {
            Some((end, _)) => write!(f, "{:?}…", &text[..end]),
            None => write!(f, "{text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_cannot_forge_a_field() {
        let shown = |text: &str| Quoted(Some(text)).to_string();
        assert_eq!(shown("demo.add"), "\"demo.add\"");
        assert_eq!(shown("a\" outcome=ok\n"), "\"a\\\" outcome=ok\\n\"");
        assert_eq!(shown(&"é".repeat(129)), format!("\"{}\"…", "é".repeat(128)));
        assert_eq!(Quoted(None).to_string(), "-");
    }
}
