//! Addresses as people write them: one form for listeners, other nodes and options.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// The port of an address that names none.
pub(crate) const DEFAULT_PORT: u16 = 7300;
/// The name that means this machine, whatever a resolver says (RFC 6761, section 6.3).
const LOCALHOST: &str = "localhost";
/// Bytes of a domain name, and of an interface's, at most.
const LONGEST: (usize, usize) = (253, 64);

/// A host and a port: `127.0.0.1:7300`, `[::1]:7300`, `[fe80::1%eth0]:7300`, `board-a:7300`, or without the port, which is
/// then 7300. Two that differ only in how they are written are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Ip(IpAddr),
    /// An IPv6 address that holds on one link only, and the interface that leads there, by name or number (RFC 4007).
    Zoned(Ipv6Addr, String),
    /// In lower case.
    Name(String),
}

impl Address {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the host as certificates and `Host` headers have it: without brackets and zone.
    pub(crate) fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Zoned(ip, _) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// Returns `true` if the text alone shows that only this machine can reach the address.
    pub(crate) fn is_local(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Zoned(ip, _) => ip.is_loopback(),
            Host::Name(name) => name == LOCALHOST || name.ends_with(".localhost"),
        }
    }

    /// Returns every address that it stands for, in the order in which they are to be tried; never none. Asks the system
    /// about names, on a thread for blocking work.
    pub(crate) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut found = match &self.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, self.port)],
            // Without a file of hosts, and without IPv6 in it, the name means the same.
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
                (ipv6(inside).ok_or(AddressError::Form)?, port)
            }
            None if text.matches(':').count() > 1 => return Err(AddressError::Brackets),
            None => {
                let (host, port) = match text.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (text, None),
                };
                (named(host).ok_or(AddressError::Form)?, port)
            }
        };
        let port = match port {
            // A sign before the number would be read too.
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().map_err(|_| AddressError::Form)?
            }
            Some(_) => return Err(AddressError::Form),
            None => DEFAULT_PORT,
        };
        Ok(Self { host, port })
    }
}

fn ipv6(text: &str) -> Option<Host> {
    let Some((ip, zone)) = text.split_once('%') else {
        return text.parse().ok().map(|ip| Host::Ip(IpAddr::V6(ip)));
    };
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'[' | b'%' | b'/');
    let valid = (1..=LONGEST.1).contains(&zone.len()) && zone.bytes().all(fits);
    ip.parse().ok().filter(|_| valid).map(|ip| Host::Zoned(ip, zone.to_owned()))
}

fn named(host: &str) -> Option<Host> {
    // What looks like an IP address has to be one: a resolver would only fail later, and less clearly.
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return host.parse().ok().map(|ip| Host::Ip(IpAddr::V4(ip)));
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let valid = host.len() <= LONGEST.0 && host.bytes().all(fits);
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

/// Says what an address looks like, to who has written something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressError {
    Form,
    Brackets,
    Url,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "host:port, such as \"127.0.0.1:7300\", \"[::1]:7300\" or \"board-a:7300\"",
            Self::Brackets => {
                "host:port, where an IPv6 address stands in brackets, such as \"[::1]:7300\" or \
                 \"[fe80::1%eth0]:7300\""
            }
            Self::Url => "host:port and no URL, such as \"127.0.0.1:7300\" or \"board-a:7300\"",
        })
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_for_all() {
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
    fn localhost_is_both_loopback_addresses_whatever_a_resolver_says() {
        let resolve = |text: &str| smol::block_on(text.parse::<Address>().unwrap().resolve()).unwrap();
        let shown = |text| resolve(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown("LOCALHOST:80"), ["127.0.0.1:80", "[::1]:80"]);
        assert_eq!(shown("[fe80::1%3]:80"), ["[fe80::1%3]:80"]);
        assert_eq!(shown("10.0.0.7"), ["10.0.0.7:7300"]);
    }
}
