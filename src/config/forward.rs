//! Functions that another node provides: `forward`.

use std::path::PathBuf;
use std::time::Duration;

use super::table::{DAY, Field, MIN_DURATION, Result, Table};
use crate::address::NodeAddress;

/// The other nodes that provide a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardConfig {
    /// The nodes, at least one, in the order of the file.
    pub to: Vec<ForwardTarget>,
    /// The timeout of a call; by default the node's call deadline applies.
    pub timeout: Option<Duration>,
    /// Which of several nodes is asked.
    pub balance: Balance,
    /// The parameter by which calls are distributed, in place of `balance`: a name, or a position.
    pub key: Option<String>,
    /// A call may run twice.
    pub repeatable: bool,
    /// How long a node has to answer before another one is asked too.
    pub hedge: Option<Duration>,
    /// The method of a gRPC server, `package.Service/Method`; for a family, `package.Service`.
    #[cfg(feature = "grpc")]
    pub method: Option<String>,
}

impl ForwardConfig {
    /// Creates the configuration of a function without further settings.
    pub fn new(to: Vec<ForwardTarget>) -> Self {
        Self {
            to,
            timeout: None,
            balance: Balance::default(),
            key: None,
            repeatable: false,
            hedge: None,
            #[cfg(feature = "grpc")]
            method: None,
        }
    }
}

impl ForwardTarget {
    /// Creates a node without a token and without TLS.
    pub fn new(to: &str) -> Self {
        Self {
            to: to.to_owned(),
            token_file: None,
            tls: None,
            #[cfg(feature = "grpc")]
            descriptors: None,
        }
    }
}

/// Which of several nodes is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Balance {
    /// The one with the fewest calls in flight.
    #[default]
    Least,
    /// The first that is connected.
    First,
    /// One after the other.
    Turns,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ForwardTarget {
    /// Host and port, after the dialect if it is not the usual one, as typed.
    pub to: String,
    /// The file with the token to present to the other node; path as typed.
    pub token_file: Option<PathBuf>,
    /// The TLS files, if the other node requires TLS.
    pub tls: Option<ForwardTlsConfig>,
    /// The descriptors of a gRPC server; it is asked for them if there are none. Path as typed.
    #[cfg(feature = "grpc")]
    pub descriptors: Option<PathBuf>,
}

/// The TLS files for connections to another node, in PEM; paths as typed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ForwardTlsConfig {
    /// The authorities that must have issued the other node's certificate.
    pub ca: PathBuf,
    /// The certificate to present to the other node, and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The keys of a forwarded function.
pub(super) const KEYS: &[&str] = &[
    "name",
    "description",
    "forward",
    "timeout",
    "token_file",
    "tls",
    "balance",
    "key",
    "repeatable",
    "hedge",
    #[cfg(feature = "grpc")]
    "descriptors",
    #[cfg(feature = "grpc")]
    "service",
    #[cfg(feature = "grpc")]
    "method",
    "workers",
    "queue",
    "when_full",
];

/// Parses the keys of a forwarded function.
pub(super) fn parse(table: &Table<'_>, to: Field<'_>) -> ForwardConfig {
    let token_file = table.read("token_file", Field::path);
    let tls = table.read("tls", self::tls);
    let targets = match to.string() {
        Ok(_) => target(to, to, &token_file, &tls, true).map(|target| vec![target]),
        Err(_) => nodes(to, &token_file, &tls),
    };
    let mut forward = ForwardConfig::new(table.source.note(targets).unwrap_or_default());
    let balances = [("least", Balance::Least), ("first", Balance::First), ("turns", Balance::Turns)];
    table.choice("balance", &balances, &mut forward.balance);
    forward.key = table.read("key", |field| field.visible_name("player").map(str::to_owned));
    forward.repeatable = table.read("repeatable", Field::boolean).unwrap_or_default();
    #[cfg(feature = "grpc")]
    if !forward.to.is_empty() {
        forward.method = table.source.note(grpc_method(table, &mut forward.to)).flatten();
    }
    table.duration("timeout", MIN_DURATION..=DAY, &mut forward.timeout);
    table.duration("hedge", MIN_DURATION..=DAY, &mut forward.hedge);
    // What is wrong itself is told already.
    let may_repeat =
        forward.repeatable || table.get("repeatable").is_some_and(|field| field.boolean().is_err());
    let nodes = to.value.get_ref().as_array().map_or(1, |nodes| nodes.len());
    if let Some(field) = table.get("hedge") {
        let missing = match (table.get("key"), may_repeat, nodes) {
            (Some(_), _, _) => {
                "calls with the same key go to the same node, so no other is asked; remove key or hedge"
            }
            (None, false, _) => "a call may then run twice, so it needs repeatable = true",
            (None, true, 1) => "a second node is asked, so forward must be a list of nodes",
            (None, true, _) => return forward,
        };
        table.note(field.fail(missing));
    }
    forward
}

/// Parses a list of nodes, each with the token and TLS files of the function unless it has its own.
fn nodes(
    list: Field<'_>,
    token_file: &Option<PathBuf>,
    tls: &Option<ForwardTlsConfig>,
) -> Result<Vec<ForwardTarget>> {
    let node = |node: Field<'_>| match node.table("an element of forward") {
        None => target(node, node, token_file, tls, true),
        Some(own) => {
            own.allow(&["to", "token_file", "tls"]);
            let own_token = own.read("token_file", Field::path).or_else(|| token_file.clone());
            let own_tls = own.read("tls", self::tls).or_else(|| tls.clone());
            target(node, own.require("to", "\"10.0.0.2:7300\"")?, &own_token, &own_tls, true)
        }
    };
    let nodes = list.list("a node such as \"10.0.0.2:7300\", or a list of nodes")?;
    Ok(nodes.filter_map(|element| list.source.note(node(element))).collect())
}

/// Parses what a function is called by gRPC servers, and adds their descriptors.
#[cfg(feature = "grpc")]
fn grpc_method(table: &Table<'_>, targets: &mut [ForwardTarget]) -> Result<Option<String>> {
    let is_grpc = |target: &ForwardTarget| target.to.starts_with("grpc");
    let fields = ["descriptors", "service", "method"].map(|key| table.get(key));
    if !targets.iter().any(is_grpc) {
        return match fields.into_iter().flatten().next() {
            Some(field) => Err(field.fail("only for a gRPC server: forward = \"grpc://10.0.0.2:50051\"")),
            None => Ok(None),
        };
    }
    if !targets.iter().all(is_grpc) {
        return Err(table.fail("forwards to gRPC servers or to nodes, not to both"));
    }
    let [descriptors, service, method] = fields;
    let descriptors = descriptors.map(Field::path).transpose()?;
    targets.iter_mut().for_each(|target| target.descriptors.clone_from(&descriptors));
    let is_family =
        table.get("name").and_then(|name| name.string().ok()).is_some_and(|name| name.ends_with('*'));
    let (found, other, key, example) = match is_family {
        true => (service, method, "service", "greeter.v1.Greeter"),
        false => (method, service, "method", "greeter.v1.Greeter/SayHello"),
    };
    if let Some(other) = other {
        return Err(other.fail(&format!(
            "{} has {key} = {example:?}",
            if is_family { "a family" } else { "one function" }
        )));
    }
    let found = match found {
        Some(found) => found,
        None => table.require(key, &format!("{example:?}"))?,
    };
    let name = found.visible_name(example)?;
    if name.split('/').count() != example.split('/').count() || name.split(['/', '.']).any(str::is_empty) {
        return Err(found.expected(&format!("a name such as {example:?}")));
    }
    Ok(Some(name.to_owned()))
}

/// Parses another node: its address, in a string or a table, and what connections to it need. For functions it may be a
/// gRPC server.
pub(super) fn target(
    to: Field<'_>,
    address: Field<'_>,
    token_file: &Option<PathBuf>,
    tls: &Option<ForwardTlsConfig>,
    may_be_grpc: bool,
) -> Result<ForwardTarget> {
    let (address, parsed) = address.address::<NodeAddress>()?;
    if !may_be_grpc && !parsed.dialect.is_of_node() {
        return Err(to.fail("a gRPC server has functions only; name a node"));
    }
    if parsed.address.port() == 0 {
        return Err(to.fail(&format!(
            "{address:?} has port 0, which cannot be connected to; name the other node's port"
        )));
    }
    Ok(ForwardTarget { token_file: token_file.clone(), tls: tls.clone(), ..ForwardTarget::new(address) })
}

/// Parses the `tls` of connections to another node. The trusted authorities are explicit; the machine's own are never
/// used.
pub(super) fn tls(field: Field<'_>) -> Result<ForwardTlsConfig> {
    let wanted = "a table with the file of the authorities to trust, { ca = \"ca.pem\" }";
    let table = field.table("tls").ok_or_else(|| field.expected(wanted))?;
    table.allow(&["ca", "certificate", "key"]);
    let ca = table.require("ca", "\"ca.pem\"")?.path()?;
    let identity = match (table.get("certificate"), table.get("key")) {
        (Some(certificate), Some(key)) => Some((certificate.path()?, key.path()?)),
        (None, None) => None,
        _ => return Err(table.fail("needs certificate and key, or neither")),
    };
    Ok(ForwardTlsConfig { ca, identity })
}
