//! `chanrpc why`.

use std::path::PathBuf;
use std::sync::Arc;

use argh::FromArgs;

use super::{Exit, check, complain, print, serve, token, usage};
use crate::config::Rule;
use crate::route::{Access, Decision};

/// Tell by which rule of a configuration a call is allowed or denied.
///
/// Exit codes: 0 allowed, 2 usage or configuration, 5 denied, at one address at least.
#[derive(FromArgs)]
#[argh(subcommand, name = "why", help_triggers("-h", "--help"))]
pub(super) struct Why {
    /// the configuration file
    #[argh(option, arg_name = "FILE")]
    config: PathBuf,
    /// an address to look at instead of the configured ones; may be given more than once
    #[argh(option, arg_name = "ADDR")]
    listen: Vec<String>,
    /// the token that the caller presents; CHANRPC_TOKEN holds one too
    #[argh(option)]
    token: Option<String>,
    /// a file with the token that the caller presents
    #[argh(option, arg_name = "FILE")]
    token_file: Option<PathBuf>,
    /// the function's name
    #[argh(positional)]
    function: String,
}

impl Why {
    pub(super) fn run(self) -> Exit {
        if let Err(exit) = self.listen.iter().try_for_each(|address| check("--listen", address)) {
            return exit;
        }
        let token = match token::given(self.token, self.token_file) {
            Ok(token) => token.or_else(token::of_the_environment),
            Err(message) => return usage(&message),
        };
        let config = match serve::configuration(Some(&self.config), self.listen) {
            Ok(config) => config,
            Err(error) => {
                complain(format_args!("{error}"));
                return Exit::Usage;
            }
        };
        let access = Arc::new(Access::new(&config));
        let mut exit = Exit::Answered;
        for listen in &config.listen {
            if !explain(&access, &listen.address, token.as_deref(), &self.function) {
                exit = Exit::Denied;
            }
        }
        exit
    }
}

/// Prints why a call at one address is allowed or not, and tells whether it is.
fn explain(access: &Arc<Access>, address: &str, token: Option<&str>, function: &str) -> bool {
    let mut pass = access.grants_for(address);
    let refused = token.and_then(|token| pass.authenticate(token).err());
    let decision = pass.explain(function);
    let reason = match (&refused, &decision) {
        (Some(fault), _) => fault.message.to_string(),
        (None, Decision::Unrestricted) => {
            "no rule holds there, and only this machine can reach it".to_owned()
        }
        (None, Decision::Always) => "whatever the rules say".to_owned(),
        (None, Decision::Allowed { rule, pattern }) => format!("{} allows {pattern:?}", named(rule)),
        (None, Decision::Denied(_)) if access.has_rule_for(address) => format!("no rule allows {function:?}"),
        (None, Decision::Denied(_)) => "no rule holds there, so that no node starts".to_owned(),
    };
    let allowed = refused.is_none() && !matches!(decision, Decision::Denied(_));
    print(&format!("{} at {address}: {reason}", if allowed { "allowed" } else { "denied" }));
    if let Decision::Denied(rules) = decision {
        for (rule, reason) in rules {
            print(&format!("  {} {reason}", named(rule)));
        }
    }
    allowed
}

/// Where a rule stands, and its name.
fn named(rule: &Rule) -> String {
    match &rule.name {
        Some(name) => format!("{} {name:?}", rule.location),
        None => rule.location.clone(),
    }
}
