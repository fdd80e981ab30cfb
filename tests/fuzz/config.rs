//! Configuration files.

use std::collections::HashSet;

use chanrpc::config::Config;
use chanrpc::internals::config::{functions, rules};

/// Checks that a text is a valid configuration or gives an error that names the line.
pub(super) fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Config::parse(text, "fuzz.toml") {
        Ok(config) => {
            let names: HashSet<_> = functions(&config).iter().map(|function| &function.name).collect();
            assert_eq!(names.len(), functions(&config).len(), "two functions of one name");
            assert!(names.iter().all(|name| (1..=128).contains(&name.len())));
            assert!(rules(&config).iter().all(|rule| !rule.functions.is_empty()));
            assert_eq!(Config::parse(text, "fuzz.toml").expect("it was valid before"), config);
        }
        Err(error) => {
            let told = error.to_string();
            let line = told.strip_prefix("fuzz.toml:").and_then(|rest| rest.split(':').next()?.parse().ok());
            let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
            assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "{told}");
        }
    }
}
