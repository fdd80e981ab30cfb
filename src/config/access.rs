//! The access rules: `[[access]]`.

use std::time::SystemTime;

use super::Config;
use super::listener::same_address;
use super::table::{Field, Result, Table};

pub(super) const HEADING: &str = "[[access]]";

/// Who may call what, and where: an `[[access]]` table.
#[derive(Debug, Clone, Eq)]
pub struct Rule {
    /// File and line, such as `board.toml:12`.
    pub location: String,
    /// Patterns of the functions that may be called: names in which `*` matches any text.
    pub functions: Vec<String>,
    /// Patterns of the functions that may be offered.
    pub offer: Vec<String>,
    /// Patterns of the topics that may be subscribed to.
    pub subscribe: Vec<String>,
    /// Patterns of the topics to which may be published.
    pub publish: Vec<String>,
    /// The rule's name, for people.
    pub name: Option<String>,
    /// The SHA-256 hash of the token that the caller must present. Without one, the rule applies to everybody.
    pub token: Option<[u8; 32]>,
    /// The [addresses](ListenerConfig::address) of the listeners that the rule applies to; if empty, to all.
    pub listen: Vec<String>,
    /// When the rule ceases to allow anything.
    pub expires: Option<SystemTime>,
}

/// Rules are equal wherever they stand.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        let Self { location: _, functions, offer, subscribe, publish, name, token, listen, expires } = self;
        (functions, offer, subscribe, publish)
            == (&other.functions, &other.offer, &other.subscribe, &other.publish)
            && (name, token, listen, expires) == (&other.name, &other.token, &other.listen, &other.expires)
    }
}

impl Rule {
    /// Returns `true` if the rule applies to the listener with this address.
    pub fn applies_to(&self, address: &str) -> bool {
        self.listen.is_empty() || self.listen.iter().any(|listen| same_address(listen, address))
    }
}

/// Parses an `[[access]]` table; `config` has the listeners, unless they have errors.
pub(super) fn parse(table: &Table<'_>, config: Option<&Config>) -> Rule {
    table.allow(&["functions", "offer", "subscribe", "publish", "name", "token", "listen", "expires"]);
    let patterns = |field: Field<'_>| field.names("demo.*", "\"demo.*\", \"rpc.list\"");
    if ["functions", "offer", "subscribe", "publish"].iter().all(|key| table.get(key).is_none()) {
        let example = "such as functions = [\"demo.*\", \"rpc.list\"]";
        table.note(table.fail(&format!("needs functions, offer, subscribe or publish, {example}")));
    }
    if table.get("expires").is_some() && table.get("token").is_none() {
        table.note(table.fail("has expires but no token; only rules with a token can expire"));
    }
    let listeners = |field: Field<'_>| {
        let list = field.list("a list of addresses such as [\"0.0.0.0:7300\"]")?;
        let Some(config) = config else { return Ok(Vec::new()) };
        Ok(list.filter_map(|field| field.source.note(listener(field, config))).collect())
    };
    Rule {
        location: format!("{}:{}", table.source.file, table.source.line(table.offset)),
        functions: table.read("functions", patterns).unwrap_or_default(),
        offer: table.read("offer", patterns).unwrap_or_default(),
        subscribe: table.read("subscribe", patterns).unwrap_or_default(),
        publish: table.read("publish", patterns).unwrap_or_default(),
        name: table.read("name", |field| field.visible_name("dashboard").map(str::to_owned)),
        token: table.read("token", token_hash),
        listen: table.read("listen", listeners).unwrap_or_default(),
        expires: table.read("expires", Field::datetime),
    }
}

/// Parses the hash of a token.
fn token_hash(field: Field<'_>) -> Result<[u8; 32]> {
    // The error does not quote the value, which may be a token.
    let wanted = || field.fail("expected \"sha256:\" and 64 hexadecimal digits; `chanrpc token` prints them");
    let digits = field.string()?.strip_prefix("sha256:").ok_or_else(wanted)?;
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wanted());
    }
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wanted())?;
    }
    Ok(hash)
}

/// Parses the address of a listener, and returns it as typed in the listener's own table.
fn listener(field: Field<'_>, config: &Config) -> Result<String> {
    let (address, listeners) = (field.string()?, &config.listen);
    #[cfg(feature = "nats")]
    if super::nats::is_target(field, config) {
        return Ok(address.to_owned());
    }
    match listeners.iter().find(|listen| same_address(&listen.address, address)) {
        Some(listen) => Ok(listen.address.clone()),
        None => {
            let known: Vec<_> = listeners.iter().map(|listen| listen.address.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(field.fail(&format!("no [[listen]] has the address {address:?}; known addresses: {known}")))
        }
    }
}
