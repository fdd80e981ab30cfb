//! `chanrpc why`.

use std::path::PathBuf;
use std::sync::Arc;

use argh::FromArgs;

use super::{Exit, check_address, print, print_error, serve, token, usage};
use crate::address::Address;
use crate::config::Rule;
use crate::route::{Access, Action, Decision};

/// Show which access rule of a configuration allows or denies a call, an offer or a topic.
///
/// Exit codes: 0 allowed, 2 usage or configuration, 5 denied on at least one address.
#[derive(FromArgs)]
#[argh(subcommand, name = "why", help_triggers("-h", "--help"))]
pub(super) struct Why {
    /// the configuration file
    #[argh(option, arg_name = "FILE")]
    config: PathBuf,
    /// an address to check instead of the configured ones; may be repeated
    #[argh(option, arg_name = "ADDR")]
    listen: Vec<String>,
    /// the token that the caller presents; CHANRPC_TOKEN sets one too
    #[argh(option)]
    token: Option<String>,
    /// a file with the token that the caller presents
    #[argh(option, arg_name = "FILE")]
    token_file: Option<PathBuf>,
    /// whether the function may be offered, in place of called
    #[argh(switch)]
    offer: bool,
    /// whether the topic may be subscribed to
    #[argh(switch)]
    subscribe: bool,
    /// whether may be published to the topic
    #[argh(switch)]
    publish: bool,
    /// the name of the function or topic
    #[argh(positional)]
    function: String,
}

impl Why {
    pub(super) fn run(self) -> Exit {
        if let Err(exit) =
            self.listen.iter().try_for_each(|address| check_address::<Address>("--listen", address))
        {
            return exit;
        }
        let action = match (self.offer, self.subscribe, self.publish) {
            (false, false, false) => Action::Call,
            (true, false, false) => Action::Offer,
            (false, true, false) => Action::Subscribe,
            (false, false, true) => Action::Publish,
            _ => return usage("at most one of --offer, --subscribe and --publish can be given"),
        };
        let token = match token::from_options(self.token, self.token_file) {
            Ok(token) => token.or_else(token::from_env),
            Err(message) => return usage(&message),
        };
        let config = match serve::configuration(Some(&self.config), self.listen) {
            Ok(config) => config,
            Err(error) => {
                print_error(format_args!("{error}"));
                return Exit::Usage;
            }
        };
        let access = Arc::new(Access::new(&config));
        let mut exit = Exit::Success;
        for listen in &config.listen {
            if !explain(&access, &listen.address, token.as_deref(), action, &self.function) {
                exit = Exit::Denied;
            }
        }
        exit
    }
}

/// Prints why something is allowed or denied on one address. Returns `true` if it is allowed.
fn explain(access: &Arc<Access>, address: &str, token: Option<&str>, action: Action, name: &str) -> bool {
    let mut grants = access.grants_for(address);
    let refused = token.and_then(|token| grants.authenticate(token).err());
    let decision = grants.explain(action, name);
    let reason = match (&refused, &decision) {
        (Some(fault), _) => fault.message.to_string(),
        (None, Decision::Unrestricted) => "no rule applies, and only this machine can reach it".to_owned(),
        (None, Decision::Always) => "rules do not apply to this function".to_owned(),
        (None, Decision::Allowed { rule, pattern }) => format!("{} allows {pattern:?}", describe(rule)),
        (None, Decision::Denied(_)) if access.has_rule_for(address) => format!("no rule allows {name:?}"),
        (None, Decision::Denied(_)) => "no rule applies, so a node does not start".to_owned(),
    };
    let allowed = refused.is_none() && !matches!(decision, Decision::Denied(_));
    print(&format!("{} at {address}: {reason}", if allowed { "allowed" } else { "denied" }));
    if let Decision::Denied(rules) = decision {
        for (rule, reason) in rules {
            print(&format!("  {} {reason}", describe(rule)));
        }
    }
    allowed
}

/// Formats a rule's location and its name.
fn describe(rule: &Rule) -> String {
    match &rule.name {
        Some(name) => format!("{} {name:?}", rule.location),
        None => rule.location.clone(),
    }
}
