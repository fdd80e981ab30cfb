//! The addresses that a node listens on: `[[listen]]`.

use std::path::PathBuf;

use super::Config;
use super::leaf::{self, LeafConfig};
use super::table::{Field, Result, Table};
use crate::address::Address;
use crate::origin;

/// One address that the node listens on: a `[[listen]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Host and port as typed, such as `127.0.0.1:7300`, `[fe80::1%eth0]:7300` or `localhost:7300`. A host name means all
    /// addresses that it resolves to. Port 0 selects a free port; the default port is 7300.
    pub address: String,
    /// Further host names by which HTTP clients and pages may address the listener.
    pub hosts: Vec<String>,
    /// Origins of foreign pages that may call the listener, such as `https://app.example`; in lower case.
    pub origins: Vec<String>,
    /// The framing of Leaf's protocol, for a listener that serves Leaf clients only.
    pub(crate) leaf: Option<LeafConfig>,
    /// The TLS files, for a listener that serves TLS only.
    pub(crate) tls: Option<ListenerTlsConfig>,
}

/// The TLS files of a listener, in PEM; paths as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTlsConfig {
    /// The certificate, followed by the chain to its authority.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities that must have issued each caller's certificate. By default callers need no certificate.
    pub client_ca: Option<PathBuf>,
}

impl ListenerConfig {
    /// Creates the configuration of a listener at `address`, with defaults for everything else.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), hosts: Vec::new(), origins: Vec::new(), leaf: None, tls: None }
    }

    /// Returns `true` if the address, as typed, is reachable from this machine only: a loopback address or `localhost`.
    pub(crate) fn is_local(&self) -> bool {
        self.address.parse().is_ok_and(|address: Address| address.is_loopback())
    }

    /// Returns `true` if the listener has this address, in whatever notation.
    pub(crate) fn is_at(&self, address: &Address) -> bool {
        self.address.parse().as_ref() == Ok(address)
    }
}

/// Returns `true` if two addresses differ only in notation.
pub(super) fn same_address(a: &str, b: &str) -> bool {
    match (a.parse::<Address>(), b.parse::<Address>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// Parses a `[[listen]]` table; `config` has the tables before it.
pub(super) fn parse(table: &Table<'_>, config: &Config) -> ListenerConfig {
    table.allow(&["address", "hosts", "origins", "dialect", "leaf", "tls"]);
    let address = table.read_required("address", "\"127.0.0.1:7300\"", |field| {
        let (address, parsed) = field.address::<Address>()?;
        // Port 0 selects another port each time, so it never conflicts.
        if parsed.port() != 0 && config.listen.iter().any(|other| other.is_at(&parsed)) {
            return Err(field.fail(&format!("{address} is listened on twice; each address may appear once")));
        }
        Ok(address.to_owned())
    });
    ListenerConfig {
        address: address.unwrap_or_default(),
        hosts: table.read("hosts", hosts).unwrap_or_default(),
        origins: table.read("origins", origins).unwrap_or_default(),
        leaf: table.source.note(leaf::parse(table, config.limits.message)).flatten(),
        tls: table.read("tls", tls),
    }
}

/// Parses host names, and returns them in lower case.
fn hosts(field: Field<'_>) -> Result<Vec<String>> {
    let wanted = "names without a port, such as [\"board-a\", \"board-a.lan\"]";
    let host = |field: Field<'_>| {
        let host = field.string()?;
        let is_valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if !(1..=253).contains(&host.len()) || !host.bytes().all(is_valid) {
            return Err(field.expected(wanted));
        }
        Ok(host.to_ascii_lowercase())
    };
    field.list(wanted)?.map(host).collect()
}

/// Parses origins, and returns them in the form that [`origin::normalize`] produces.
fn origins(field: Field<'_>) -> Result<Vec<String>> {
    let wanted = "origins: scheme and host such as [\"https://app.example\"], or exactly what the client sends, such as \
                  \"file://\" or \"null\"";
    field
        .list(wanted)?
        .map(|field| origin::normalize(field.string()?).ok_or_else(|| field.expected(wanted)))
        .collect()
}

/// Parses the `tls` of a listener.
fn tls(field: Field<'_>) -> Result<ListenerTlsConfig> {
    let example = "{ certificate = \"node.pem\", key = \"node.key\" }";
    let table =
        field.table("tls").ok_or_else(|| field.expected(&format!("a table of files such as {example}")))?;
    table.allow(&["certificate", "key", "client_ca"]);
    Ok(ListenerTlsConfig {
        certificate: table.read_required("certificate", "\"node.pem\"", Field::path).unwrap_or_default(),
        key: table.read_required("key", "\"node.key\"", Field::path).unwrap_or_default(),
        client_ca: table.read("client_ca", Field::path),
    })
}
