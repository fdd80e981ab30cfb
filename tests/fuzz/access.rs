//! Access rules: which patterns allow which names, with which tokens.

use std::sync::Arc;

use chanrpc::internals::config::{Rule, with_rules};
use chanrpc::internals::route::{AccessInternals as _, token_hash};
use chanrpc::message::code;
use chanrpc::route::Access;

use super::source::Source;

const LISTENER: &str = "192.0.2.1:7300";

/// Checks that the rights of a connection are exactly those of its rules.
pub(super) fn access(input: &[u8]) {
    let mut source = Source::new(input);
    let mut text = || String::from_utf8_lossy(source_text(&mut source)).into_owned();
    let (open, closed, method, token) = (text(), text(), text(), text());
    let rule = |pattern: &str, token: Option<&str>| Rule {
        location: "fuzz.toml:1".to_owned(),
        functions: vec![pattern.to_owned()],
        offer: Vec::new(),
        subscribe: Vec::new(),
        publish: Vec::new(),
        name: None,
        token: token.map(token_hash),
        listen: Vec::new(),
        expires: None,
    };
    let rules = vec![rule(&open, None), rule(&closed, Some("right"))];
    let access = Arc::new(Access::new(&with_rules(rules)));
    let mut pass = access.grants_for(LISTENER);
    let ping = method == "rpc.ping";

    let before = pass.check(&method).map_err(|fault| fault.code);
    let allowed = ping || matches(open.as_bytes(), method.as_bytes());
    assert_eq!(before, if allowed { Ok(()) } else { Err(code::DENIED) }, "{open:?} {method:?}");
    assert_eq!(pass.authenticate(&token).is_ok(), token == "right");
    pass.authenticate("right").expect("one wrong token does not close the door");
    let allowed = [&open, &closed].into_iter().any(|rule| matches(rule.as_bytes(), method.as_bytes()));
    assert_eq!(pass.check(&method).is_ok(), ping || allowed, "{open:?} {closed:?} {method:?}");
}

/// Returns up to 31 bytes, preceded by their count.
fn source_text<'a>(source: &mut Source<'a>) -> &'a [u8] {
    let count = source.below(32);
    source.take(count)
}

/// Returns `true` if the pattern matches; `*` matches any text. Tries each prefix of the name.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Entry n: whether the first n bytes of the name match the pattern so far.
    let mut fits = vec![false; name.len() + 1];
    fits[0] = true;
    for sign in pattern {
        if *sign == b'*' {
            (1..fits.len()).for_each(|at| fits[at] |= fits[at - 1]);
        } else {
            (1..fits.len()).rev().for_each(|at| fits[at] = fits[at - 1] && name[at - 1] == *sign);
            fits[0] = false;
        }
    }
    fits[name.len()]
}
