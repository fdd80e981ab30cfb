//! The servers of NATS: `[nats]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::forward::{self, ForwardTlsConfig};
use super::table::{DAY, Field, MIN_DURATION, Result, Table};
use crate::address::Address;

/// In place of the address of a listener in `[[access]]`.
pub(crate) const LISTENER: &str = "nats";

/// First parts of subjects that mean something else on a connection.
const RESERVED: [&str; 4] = ["$SRV", "-ERR", "INFO", "rpc"];
/// The port of a server whose address has none.
const PORT: u16 = 4222;

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NatsServer {
    pub(crate) address: Address,
    /// The connection must be encrypted.
    pub(crate) is_encrypted: bool,
}

impl NatsServer {
    /// Parses `nats://host:port`, `tls://host:port` or `host:port`. The port is 4222 if there is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, address) = text.split_once("://").unwrap_or(("nats", text));
        let is_encrypted = match scheme {
            "nats" => false,
            "tls" => true,
            _ => return None,
        };
        let address = address.trim_end_matches('/');
        let has_port = match address.rsplit_once(']') {
            Some((_, rest)) => rest.starts_with(':'),
            None => address.contains(':'),
        };
        let address = if has_port { address.parse() } else { format!("{address}:{PORT}").parse() };
        address.ok().map(|address| Self { address, is_encrypted })
    }
}

impl fmt::Display for NatsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_encrypted { "tls" } else { "nats" }, self.address)
    }
}

/// Servers of NATS, and what this node is to them: the `[nats]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsConfig {
    /// The servers, at least one.
    pub servers: Vec<NatsServer>,
    /// The file with the user's name and password; path as typed.
    pub user_file: Option<PathBuf>,
    /// The file with a token; path as typed.
    pub token_file: Option<PathBuf>,
    /// The file with the seed of the user's NKey; path as typed.
    pub nkey_file: Option<PathBuf>,
    /// The file with a JWT and the seed of its NKey; path as typed.
    pub creds_file: Option<PathBuf>,
    /// The TLS files, if the servers require TLS.
    pub tls: Option<ForwardTlsConfig>,
    /// The first part of the subjects of functions and topics.
    pub prefix: String,
    /// The first part of the subjects of replies.
    pub inbox: String,
    /// The name of the service.
    pub service: String,
    /// The queue group of the service: one of its members answers each call.
    pub queue: String,
    /// Patterns of the functions that others may call.
    pub offer: Vec<String>,
    /// The maximum number of calls by others that are answered at a time.
    pub in_flight: usize,
}

/// A function that others provide over NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsFunctionConfig {
    /// The subject in place of the function's name behind the prefix.
    pub subject: Option<String>,
    /// Replies are texts, not JSON.
    pub is_text: bool,
    /// The timeout of a call; by default the node's call deadline applies.
    pub timeout: Option<Duration>,
}

/// Parses the `[nats]` table of a node of that name.
pub(super) fn parse(table: &Table<'_>, name: &str) -> Result<NatsConfig> {
    table.allow(&[
        "server",
        "user_file",
        "token_file",
        "nkey_file",
        "creds_file",
        "tls",
        "prefix",
        "inbox",
        "service",
        "queue",
        "offer",
        "in_flight",
    ]);
    let server = table.require("server", "\"nats://10.0.0.1:4222\"")?;
    let servers = match server.string() {
        Ok(_) => vec![self::server(server)?],
        Err(_) => server
            .list("a server such as \"nats://10.0.0.1:4222\", or a list of servers")?
            .map(self::server)
            .collect::<Result<_>>()?,
    };
    let path = |key| table.read(key, Field::path);
    let (user_file, token_file, nkey_file) = (path("user_file"), path("token_file"), path("nkey_file"));
    let creds_file = path("creds_file");
    if [&user_file, &token_file, &nkey_file, &creds_file].into_iter().flatten().count() > 1 {
        table.note(table.fail("takes one of user_file, token_file, nkey_file and creds_file"));
    }
    let tls = table.read("tls", forward::tls);
    if table.get("tls").is_none() && servers.iter().any(|server| server.is_encrypted) {
        table.note(server.fail("a tls:// server needs the authorities to trust: tls = { ca = \"ca.pem\" }"));
    }
    let subject = |key, default: &str| table.read(key, self::subject).unwrap_or_else(|| default.to_owned());
    let (prefix, inbox) = (subject("prefix", "chanrpc"), subject("inbox", "_INBOX"));
    let service = table.read("service", |field| match field.visible_name("board")? {
        name if name.chars().all(is_of_name) => Ok(name.to_owned()),
        _ => Err(field.expected("letters, digits, - and _, such as \"board\"")),
    });
    let of_node = || name.chars().map(|c| if is_of_name(c) { c } else { '_' }).collect();
    let service = service.unwrap_or_else(of_node);
    let queue = subject("queue", "q");
    let offer =
        table.read("offer", |field| field.names("disk.*", "\"disk.*\", \"uptime\"")).unwrap_or_default();
    let mut nats = NatsConfig {
        servers,
        user_file,
        token_file,
        nkey_file,
        creds_file,
        tls,
        prefix,
        inbox,
        service,
        queue,
        offer,
        in_flight: 1024,
    };
    table.count("in_flight", 1..=65_536, &mut nats.in_flight);
    Ok(nats)
}

/// Returns `true` if a character may be in the name of a service.
pub(crate) fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// The keys of a function that is forwarded to NATS.
pub(super) const KEYS: &[&str] =
    &["name", "description", "forward", "subject", "output", "timeout", "workers", "queue", "when_full"];

/// Parses the keys of a function that is forwarded to NATS.
pub(super) fn parse_function(table: &Table<'_>) -> NatsFunctionConfig {
    let is_family = |field: Field<'_>| field.string().is_ok_and(|name| name.ends_with('*'));
    let subject = table.source.note(subject_of(table, table.get("name").is_some_and(is_family)));
    let mut function = NatsFunctionConfig { subject: subject.flatten(), is_text: false, timeout: None };
    table.choice("output", &[("json", false), ("text", true)], &mut function.is_text);
    table.duration("timeout", MIN_DURATION..=DAY, &mut function.timeout);
    function
}

/// Returns `true` if something is forwarded to NATS: under that name, and there are its servers.
pub(super) fn is_target(to: Field<'_>, config: &Config) -> bool {
    config.nats.is_some() && to.string().is_ok_and(|to| to == LISTENER)
}

/// Returns the subject that a function or topic has in place of its name behind the prefix.
pub(super) fn subject_of(table: &Table<'_>, is_family: bool) -> Result<Option<String>> {
    match table.get("subject") {
        Some(field) if is_family => {
            Err(field.fail("a family takes no subject: each of its names is behind nats.prefix"))
        }
        field => field.map(self::subject).transpose(),
    }
}

fn server(field: Field<'_>) -> Result<NatsServer> {
    let text = field.string()?;
    if text.contains('@') {
        return Err(field.fail("has a user in a server's address: put user:password into a file, user_file"));
    }
    NatsServer::parse(text).ok_or_else(|| {
        field.expected("a server such as \"nats://10.0.0.1:4222\" or \"tls://nats.example:4222\"")
    })
}

fn subject(field: Field<'_>) -> Result<String> {
    let text = field.visible_name("svc.weather")?;
    if let Some(first) = text.split('.').next().filter(|first| RESERVED.contains(first)) {
        return Err(field.fail(&format!("subjects that begin with {first} are reserved; choose another")));
    }
    let is_token = |token: &str| !token.is_empty() && !matches!(token, "*" | ">");
    if text.split('.').all(is_token) {
        return Ok(text.to_owned());
    }
    Err(field.expected("a subject without empty parts and wildcards, such as \"svc.weather\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ProviderConfig;

    fn error(text: &str) -> String {
        Config::parse(text, "a.toml").unwrap_err().to_string()
    }

    #[test]
    fn a_node_may_know_servers() {
        let text = "name = \"Board 7\"\n[nats]\nserver = \"nats://10.0.0.1\"\noffer = [\"disk.*\"]\n\
                    [[function]]\nname = \"far.*\"\nforward = \"nats\"\n\
                    [[function]]\nname = \"weather\"\nforward = \"nats\"\nsubject = \"svc.now\"\noutput = \"text\"\n\
                    [[topic]]\nname = \"attic\"\nforward = \"nats\"\nsubject = \"sensors.attic\"\n\
                    [[access]]\nlisten = [\"nats\"]\nfunctions = [\"disk.*\"]\n";
        let config = Config::parse(&text.replace("Board 7", "Board.7"), "a.toml").unwrap();
        let nats = config.nats.as_ref().unwrap();
        assert_eq!(
            (&*nats.prefix, &*nats.inbox, &*nats.queue, &*nats.service),
            ("chanrpc", "_INBOX", "q", "Board_7")
        );
        assert_eq!((nats.offer.len(), nats.in_flight), (1, 1024));
        let function = |at: usize| match &config.functions[at].provider {
            ProviderConfig::Nats(function) => function.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(function(0), NatsFunctionConfig { subject: None, is_text: false, timeout: None });
        let subject = Some("svc.now".to_owned());
        assert_eq!(function(1), NatsFunctionConfig { subject, is_text: true, timeout: None });
        assert_eq!(config.topics[0].nats, Some(Some("sensors.attic".to_owned())));
        assert_eq!(config.access[0].listen, ["nats"]);
        // Two connections: calls, and what is offered, with its results.
        let memory = |text: &str| Config::parse(text, "a.toml").unwrap().worst_case_memory(1);
        let without = "[[function]]\nname = \"far.*\"\nforward = \"b:1\"\n";
        let plain = format!("{without}[nats]\nserver = \"a\"\n");
        let offering = format!("{plain}offer = [\"*\"]\n");
        assert!(memory(without) < memory(&plain) && memory(&plain) < memory(&offering));
        assert!(memory(&offering) < memory(&format!("{offering}in_flight = 1025\n")));
        // Without servers it is the name of a host.
        let plain = Config::parse("[[function]]\nname = \"a\"\nforward = \"nats\"", "a.toml").unwrap();
        assert!(matches!(plain.functions[0].provider, ProviderConfig::Forward(_)));
    }

    #[test]
    fn an_address_has_a_scheme_and_a_port_if_it_needs_them() {
        for (text, expected) in [
            ("nats://a", "nats://a:4222"),
            ("a:5000", "nats://a:5000"),
            ("tls://a:5000/", "tls://a:5000"),
            ("[::1]", "nats://[::1]:4222"),
            ("nats://[::1]:1", "nats://[::1]:1"),
        ] {
            let shown = NatsServer::parse(text).map(|server| server.to_string());
            assert_eq!(shown.as_deref(), Some(expected), "{text}");
        }
        for text in ["", "http://a", "nats://user:pass@a:4222", "a:b"] {
            assert_eq!(NatsServer::parse(text), None, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_with_what_is_valid() {
        let with = |keys: &str| error(&format!("[nats]\n{keys}\n"));
        let server = "server = \"a\"\n";
        for (text, expected) in [
            (with(""), "needs server, such as server = \"nats://10.0.0.1:4222\""),
            (with("server = \"http://a\""), "a server such as"),
            (with("server = \"nats://u:p@a\""), "put user:password into a file, user_file"),
            (with("server = \"tls://a\""), "tls = { ca = \"ca.pem\" }"),
            (with(&format!("{server}prefix = \"a..b\"")), "a subject without empty parts"),
            (with(&format!("{server}prefix = \"rpc.a\"")), "begin with rpc are reserved"),
            (with(&format!("{server}service = \"a b\"")), "1 to 128 visible"),
            (with(&format!("{server}service = \"a.b\"")), "letters, digits, - and _"),
            (with(&format!("{server}in_flight = 0")), "from 1 to 65536"),
            (
                with(&format!("{server}user_file = \"a\"\ntoken_file = \"b\"")),
                "one of user_file, token_file, nkey_file and creds_file",
            ),
            (
                with(&format!("{server}[[function]]\nname = \"a.*\"\nforward = \"nats\"\nsubject = \"b\"")),
                "a family takes no subject",
            ),
            (
                with(&format!("{server}[[function]]\nname = \"a\"\nforward = \"nats\"\nbalance = \"first\"")),
                "a function over NATS takes no balance",
            ),
            (error("[[access]]\nlisten = [\"nats\"]\nfunctions = [\"*\"]"), "no [[listen]] has the address"),
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
