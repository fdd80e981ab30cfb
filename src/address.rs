//! Addresses as written in options and configuration: one syntax for listeners and other nodes.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// The port of an address without one.
pub(crate) const DEFAULT_PORT: u16 = 7300;
/// The name of this machine, resolved without a resolver (RFC 6761, section 6.3).
const LOCALHOST: &str = "localhost";
/// Maximum length of a domain name, in bytes.
const MAX_NAME: usize = 253;
/// Maximum length of an interface name, in bytes.
const MAX_ZONE: usize = 64;

/// A host and a port, such as `127.0.0.1:7300`, `[::1]:7300`, `[fe80::1%eth0]:7300` or `board-a:7300`. The port
/// defaults to
/// 7300. Addresses that differ only in spelling are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Ip(IpAddr),
    /// A link-local IPv6 address and its interface, by name or number (RFC 4007).
    Zoned(Ipv6Addr, String),
    /// In lower case.
    Name(String),
}

impl Address {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the host as in certificates and `Host` headers: without brackets and zone.
    pub(crate) fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Zoned(ip, _) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// Returns `true` if only this machine can reach the address. Does not resolve names.
    pub(crate) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Zoned(ip, _) => ip.is_loopback(),
            Host::Name(name) => name == LOCALHOST || name.ends_with(".localhost"),
        }
    }

    /// Returns `true` if it is, or may resolve to, a socket address.
    #[cfg(feature = "cli")]
    pub(crate) fn may_be(&self, address: SocketAddr) -> bool {
        let is_host = match &self.host {
            Host::Ip(ip) => *ip == address.ip(),
            Host::Zoned(ip, _) => *ip == address.ip(),
            Host::Name(_) => true,
        };
        is_host && self.port == address.port()
    }

    /// Resolves to socket addresses, in the order to try them. Names are resolved by the system, on the blocking thread
    /// pool.
    ///
    /// # Errors
    /// If the name cannot be resolved or has no address.
    pub(crate) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        #[cfg(test)]
        if let Host::Name(name) = &self.host
            && let Some(address) = names::get(name)
        {
            return Ok(vec![address]);
        }
        let mut found = match &self.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, self.port)],
            // Independent of the hosts file, which may be missing or lack IPv6.
            Host::Name(name) if name == LOCALHOST => {
                let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
                both.map(|ip| SocketAddr::new(ip, self.port)).to_vec()
            }
            Host::Zoned(ip, zone) => match zone.parse() {
                Ok(number) => vec![SocketAddrV6::new(*ip, self.port, 0, number).into()],
                Err(_) => smol::net::resolve((format!("{ip}%{zone}"), self.port)).await?,
            },
            Host::Name(name) => smol::net::resolve((name.as_str(), self.port)).await?,
        };
        let mut seen = Vec::with_capacity(found.len());
        found.retain(|address| {
            let is_new = !seen.contains(address);
            seen.push(*address);
            is_new
        });
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains("://") {
            return Err(AddressError::Url);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inside, port) = rest.split_once(']').ok_or(AddressError::Form)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or(AddressError::Form)?),
                };
                (parse_ipv6(inside).ok_or(AddressError::Form)?, port)
            }
            None if text.matches(':').count() > 1 => return Err(AddressError::Brackets),
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                (parse_name_or_ipv4(host).ok_or(AddressError::Form)?, port)
            }
        };
        let port = match port {
            // `parse` would accept a sign.
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().map_err(|_| AddressError::Form)?
            }
            Some(_) => return Err(AddressError::Form),
            None => DEFAULT_PORT,
        };
        Ok(Self { host, port })
    }
}

/// How to reach another node: its address, after the dialect to speak unless it is JSON-RPC in lines, such as
/// `msgpack://board-a:7300`.
#[derive(Clone, Debug)]
pub(crate) struct NodeAddress {
    pub(crate) dialect: NodeDialect,
    pub(crate) address: Address,
}

/// A dialect that a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum NodeDialect {
    #[default]
    Lines,
    Headers,
    MessagePack,
    /// gRPC, for servers that are no nodes. The name `grpcs` says that they have TLS.
    #[cfg(feature = "grpc")]
    Grpc {
        needs_tls: bool,
    },
}

impl NodeDialect {
    const NAMES: &[(&str, Self)] = &[
        ("lines", Self::Lines),
        ("headers", Self::Headers),
        ("msgpack", Self::MessagePack),
        #[cfg(feature = "grpc")]
        ("grpc", Self::Grpc { needs_tls: false }),
        #[cfg(feature = "grpc")]
        ("grpcs", Self::Grpc { needs_tls: true }),
    ];
}

impl NodeDialect {
    /// Returns `true` if nodes speak it: among themselves they have topics and offers, too.
    pub(crate) fn is_of_node(self) -> bool {
        #[cfg(feature = "grpc")]
        if let Self::Grpc { .. } = self {
            return false;
        }
        true
    }
}

impl FromStr for NodeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (dialect, address) = match text.split_once("://") {
            None => (NodeDialect::default(), text),
            Some((scheme, address)) => {
                let known = NodeDialect::NAMES.iter().find(|(name, _)| *name == scheme);
                (known.ok_or(AddressError::Scheme)?.1, address)
            }
        };
        Ok(Self { dialect, address: address.parse()? })
    }
}

fn parse_ipv6(text: &str) -> Option<Host> {
    let Some((ip, zone)) = text.split_once('%') else {
        return text.parse().ok().map(|ip| Host::Ip(IpAddr::V6(ip)));
    };
    let is_allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'[' | b'%' | b'/');
    let valid = (1..=MAX_ZONE).contains(&zone.len()) && zone.bytes().all(is_allowed);
    ip.parse().ok().filter(|_| valid).map(|ip| Host::Zoned(ip, zone.to_owned()))
}

fn parse_name_or_ipv4(host: &str) -> Option<Host> {
    // Digits and dots must be a valid IPv4 address: a resolver would fail later, with a less clear error.
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse().ok().map(|ip| Host::Ip(IpAddr::V4(ip)));
    }
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let valid = host.len() <= MAX_NAME && host.bytes().all(is_allowed);
    valid.then(|| Host::Name(host.to_ascii_lowercase()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, port).fmt(f),
            Host::Zoned(ip, zone) => write!(f, "[{ip}%{zone}]:{port}"),
            Host::Name(name) => write!(f, "{name}:{port}"),
        }
    }
}

/// Why an address is invalid. Displayed as the expected form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressError {
    Form,
    /// An IPv6 address without brackets.
    Brackets,
    Url,
    /// The address of a node with an unknown dialect.
    Scheme,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "host:port, such as \"127.0.0.1:7300\", \"[::1]:7300\" or \"board-a:7300\"",
            Self::Brackets => {
                "host:port, with an IPv6 address in brackets, such as \"[::1]:7300\" or \
                 \"[fe80::1%eth0]:7300\""
            }
            #[cfg(feature = "grpc")]
            Self::Scheme => {
                "host:port, or with a dialect lines://, headers://, msgpack://, grpc:// or grpcs://, such as \
                 \"msgpack://board-a:7300\""
            }
            #[cfg(not(feature = "grpc"))]
            Self::Scheme => {
                "host:port, or with a dialect lines://, headers:// or msgpack://, such as \
                 \"msgpack://board-a:7300\""
            }
            Self::Url => "host:port and not a URL, such as \"127.0.0.1:7300\" or \"board-a:7300\"",
        })
    }
}

impl std::error::Error for AddressError {}

/// Names whose addresses tests choose, in place of a resolver.
#[cfg(test)]
pub(crate) mod names {
    use std::net::SocketAddr;
    use std::sync::Mutex;

    static NAMES: Mutex<Vec<(String, SocketAddr)>> = Mutex::new(Vec::new());

    /// Has a name resolve to an address from now on.
    pub(crate) fn set(name: &str, address: SocketAddr) {
        NAMES.lock().unwrap().push((name.to_owned(), address));
    }

    pub(super) fn get(name: &str) -> Option<SocketAddr> {
        let names = NAMES.lock().unwrap();
        names.iter().rev().find(|(other, _)| other == name).map(|(_, address)| *address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_addresses() {
        for (text, shown) in [
            ("127.0.0.1:7300", "127.0.0.1:7300"),
            ("127.0.0.1", "127.0.0.1:7300"),
            ("[0::1]:80", "[::1]:80"),
            ("[::1]", "[::1]:7300"),
            ("[FE80::1%eth0]:7300", "[fe80::1%eth0]:7300"),
            ("[fe80::1%2]", "[fe80::1%2]:7300"),
            ("LocalHost", "localhost:7300"),
            ("board_a.lan:0", "board_a.lan:0"),
            ("board:07300", "board:7300"),
        ] {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(address), "{text}");
        }
        for (text, wrong) in [
            ("", AddressError::Form),
            (":7300", AddressError::Form),
            ("board:", AddressError::Form),
            ("board:70000", AddressError::Form),
            ("board:+80", AddressError::Form),
            ("board:http", AddressError::Form),
            ("127.0.0.256:80", AddressError::Form),
            ("7300", AddressError::Form),
            ("two words:80", AddressError::Form),
            ("[::1]80", AddressError::Form),
            ("[::1:80", AddressError::Form),
            ("[board]:80", AddressError::Form),
            ("[127.0.0.1]:80", AddressError::Form),
            ("[fe80::1%]:80", AddressError::Form),
            ("[fe80::1%a/b]:80", AddressError::Form),
            ("::1", AddressError::Brackets),
            ("::1:7300", AddressError::Brackets),
            ("fe80::1%eth0:7300", AddressError::Brackets),
            ("http://board:80", AddressError::Url),
        ] {
            assert_eq!(text.parse::<Address>(), Err(wrong), "{text}");
        }
    }

    #[test]
    fn node_is_reached_in_a_dialect() {
        for (text, dialect, address) in [
            ("board-a", NodeDialect::Lines, "board-a:7300"),
            ("lines://[::1]:80", NodeDialect::Lines, "[::1]:80"),
            ("headers://board-a", NodeDialect::Headers, "board-a:7300"),
            ("msgpack://10.0.0.2:7301", NodeDialect::MessagePack, "10.0.0.2:7301"),
        ] {
            let node: NodeAddress = text.parse().unwrap();
            assert_eq!((node.dialect, node.address.to_string()), (dialect, address.to_owned()), "{text}");
        }
        for (text, wrong) in [
            ("http://board-a", AddressError::Scheme),
            ("://board-a", AddressError::Scheme),
            ("MSGPACK://board-a", AddressError::Scheme),
            ("msgpack://", AddressError::Form),
            ("msgpack://lines://board-a", AddressError::Url),
            ("board:http", AddressError::Form),
        ] {
            assert_eq!(text.parse::<NodeAddress>().unwrap_err(), wrong, "{text}");
        }
    }

    #[test]
    fn localhost_resolves_to_both_loopback_addresses() {
        let resolve = |text: &str| smol::block_on(text.parse::<Address>().unwrap().resolve()).unwrap();
        let shown = |text| resolve(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown("LOCALHOST:80"), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(shown("[fe80::1%3]:80"), ["[fe80::1%3]:80"]);
        assert_eq!(shown("10.0.0.7"), ["10.0.0.7:7300"]);
    }
}
