//! The access log: a line for each call and each refusal, with who it was.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::access::{Decision, Pass};
use crate::config::Rule;
use crate::message::Fault;

/// The target of the access log, which has a limit of its own.
const ACCESS: &str = "chanrpc::access";
/// Characters of a function's name that are shown. No name that exists is longer.
const NAME: usize = 128;

/// Who is at the other end of a connection, as logs have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerName(pub(crate) Option<SocketAddr>);

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // An IPv4 address may come as one of IPv6.
            Some(address) if address.ip().to_canonical().is_ipv4() => {
                write!(f, "{}:{}", address.ip().to_canonical(), address.port())
            }
            Some(address) => address.fmt(f),
            None => f.write_str("-"),
        }
    }
}

impl Pass {
    /// Logs a call that was answered, or refused with a fault, if there is an access log.
    #[inline]
    pub(crate) fn log_call(&self, function: &str, fault: Option<&Fault>, time: Duration) {
        if self.is_logged() {
            let rule = match self.decide(function) {
                Decision::Allowed { rule, .. } => Some(rule),
                _ => None,
            };
            self.log_line(rule, &Outcome(fault.map(|fault| fault.code)), time, Some(function));
        }
    }

    /// Logs a call that its caller has left before it was answered.
    pub(crate) fn log_given_up(&self, function: &str, time: Duration) {
        if self.is_logged() {
            self.log_line(None, &"gone", time, Some(function));
        }
    }

    /// Logs that something was refused before it was known to be a call.
    #[inline]
    pub(crate) fn log_refusal(&self, reason: &dyn fmt::Display) {
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
        let (peer, rule, ms) = (self.peer(), Quoted(rule.map(named)), time.as_secs_f64() * 1e3);
        // What a caller can make long comes last, so that no cut takes anything else.
        let function = Quoted(function);
        log::info!(target: ACCESS, "peer={peer} rule={rule} outcome={outcome} ms={ms:.3} function={function}");
    }
}

/// What people call a rule.
fn named(rule: &Rule) -> &str {
    rule.name.as_deref().unwrap_or(&rule.place)
}

/// `ok`, or an error's code.
struct Outcome(Option<i64>);

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("ok"),
            Some(code) => code.fmt(f),
        }
    }
}

/// A text that cannot end its quotes, and so adds nothing to a line. `-` if there is none.
struct Quoted<'a>(Option<&'a str>);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(text) = self.0 else { return f.write_str("-") };
        match text.char_indices().nth(NAME) {
            Some((end, _)) => write!(f, "{:?}…", &text[..end]),
            None => write!(f, "{text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_forges_a_field() {
        let shown = |text: &str| Quoted(Some(text)).to_string();
        assert_eq!(shown("demo.add"), "\"demo.add\"");
        assert_eq!(shown("a\" outcome=ok\n"), "\"a\\\" outcome=ok\\n\"");
        assert_eq!(shown(&"é".repeat(129)), format!("\"{}\"…", "é".repeat(128)));
        assert_eq!(Quoted(None).to_string(), "-");
    }

    #[test]
    fn a_peer_is_named_by_its_own_address() {
        let shown = |text: &str| PeerName(Some(text.parse().unwrap())).to_string();
        assert_eq!(shown("[::ffff:10.0.0.7]:80"), "10.0.0.7:80");
        assert_eq!(shown("[2001:db8::1]:80"), "[2001:db8::1]:80");
        assert_eq!(PeerName(None).to_string(), "-");
    }
}
