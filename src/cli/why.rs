//! `chanrpc why`.

use std::path::PathBuf;
use std::sync::Arc;

use super::activation::Passed;
use super::arguments::{Arguments, Command, Count, Operand, Opt};
use super::serve::{CONFIG, LISTEN, addresses};
use super::{Exit, print, print_error, setup, token};
use crate::config::Rule;
use crate::route::{Access, Action, Decision};

const OFFER: Opt = Opt::switch("--offer", "whether the function may be offered, in place of called");
const SUBSCRIBE: Opt = Opt::switch("--subscribe", "whether the topic NAME may be subscribed to");
const PUBLISH: Opt = Opt::switch("--publish", "whether may be published to the topic NAME");
const JSON: Opt = Opt::switch("--json", "print one line of JSON");

pub(super) const WHY: Command = Command {
    name: "why",
    about: "Show which access rule of a configuration allows or denies a call, an offer or a topic.",
    operands: &[Operand { name: "NAME", about: "the name of the function or topic", count: Count::One }],
    options: &[&[CONFIG, LISTEN, OFFER, SUBSCRIBE, PUBLISH, JSON, token::TOKEN_OPTION, token::TOKEN_FILE]],
    notes: "Exit codes: 0 allowed, 2 usage or configuration, 5 denied on at least one address.",
    run,
};

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    let action = match (arguments.has(&OFFER), arguments.has(&SUBSCRIBE), arguments.has(&PUBLISH)) {
        (false, false, false) => Action::Call,
        (true, false, false) => Action::Offer,
        (false, true, false) => Action::Subscribe,
        (false, false, true) => Action::Publish,
        _ => return Err("at most one of --offer, --subscribe and --publish can be given".to_owned()),
    };
    let as_json = arguments.has(&JSON);
    let listen = addresses(&mut arguments)?;
    let token = token::from_options(&mut arguments)?;
    let file = arguments.take(&CONFIG).map(PathBuf::from).ok_or("--config FILE is missing")?;
    let name = arguments.operands.pop().unwrap_or_default();
    let config = match setup::configuration(Some(&file), listen, &Passed::default()) {
        Ok(config) => config,
        Err(error) => {
            print_error(format_args!("{error}"));
            return Ok(Exit::Usage);
        }
    };
    let access = Arc::new(Access::new(&config));
    let mut exit = Exit::Success;
    let mut texts = Vec::new();
    let listeners = config.listen.iter().map(|listen| &*listen.address);
    #[cfg(feature = "nats")]
    let listeners = {
        // Tokens mean nothing to those who call over NATS.
        let offers = config.nats.as_ref().is_some_and(|nats| !nats.offer.is_empty()) && token.is_none();
        listeners.chain(offers.then_some(crate::config::NATS_LISTENER))
    };
    for listener in listeners {
        let verdict = Verdict::of(&access, listener, token.as_deref(), action, &name);
        if !verdict.allowed {
            exit = Exit::Denied;
        }
        texts.push(if as_json { verdict.json() } else { verdict.text() });
    }
    print(&if as_json { format!("[{}]", texts.join(",")) } else { texts.join("\n") });
    Ok(exit)
}

/// Whether an action on one address is allowed, and why.
struct Verdict<'a> {
    address: &'a str,
    allowed: bool,
    reason: String,
    /// The rules that do not allow it.
    denied_by: Vec<String>,
}

impl<'a> Verdict<'a> {
    fn of(access: &Arc<Access>, address: &'a str, token: Option<&str>, action: Action, name: &str) -> Self {
        let mut grants = access.grants_for(address);
        let refused = token.and_then(|token| grants.authenticate(token).err());
        let decision = grants.explain(action, name);
        let reason = match (&refused, &decision) {
            (Some(fault), _) => fault.message.to_string(),
            (None, Decision::Unrestricted) => {
                "no rule applies, and only this machine can reach it".to_owned()
            }
            (None, Decision::Always) => "rules do not apply to this function".to_owned(),
            (None, Decision::Allowed { rule, pattern }) => format!("{} allows {pattern:?}", describe(rule)),
            (None, Decision::Denied(_)) if access.has_rule_for(address) => {
                format!("no rule allows {name:?}")
            }
            (None, Decision::Denied(_)) => "no rule applies, so a node does not start".to_owned(),
        };
        let allowed = refused.is_none() && !matches!(decision, Decision::Denied(_));
        let mut denied_by = Vec::new();
        if let Decision::Denied(rules) = decision {
            denied_by.extend(rules.into_iter().map(|(rule, reason)| format!("{} {reason}", describe(rule))));
        }
        Self { address, allowed, reason, denied_by }
    }

    fn text(&self) -> String {
        let Self { address, reason, .. } = self;
        let mut text = format!("{} at {address}: {reason}", if self.allowed { "allowed" } else { "denied" });
        for rule in &self.denied_by {
            text.push_str("\n  ");
            text.push_str(rule);
        }
        text
    }

    fn json(&self) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        format!(
            "{{\"address\":{},\"allowed\":{},\"reason\":{},\"denied_by\":{}}}",
            quoted(self.address),
            self.allowed,
            quoted(&self.reason),
            serde_json::to_string(&self.denied_by).unwrap_or_default()
        )
    }
}

/// Formats a rule's location and its name.
fn describe(rule: &Rule) -> String {
    match &rule.name {
        Some(name) => format!("{} {name:?}", rule.location),
        None => rule.location.clone(),
    }
}
