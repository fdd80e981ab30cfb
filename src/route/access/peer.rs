//! The peer of a connection in logs.

use std::fmt;
use std::net::SocketAddr;

/// The peer of a connection, as logs show it: its address, or `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerName(pub Option<SocketAddr>);

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // An IPv4 address may arrive mapped to IPv6.
            Some(address) if address.ip().to_canonical().is_ipv4() => {
                write!(f, "{}:{}", address.ip().to_canonical(), address.port())
            }
            Some(address) => address.fmt(f),
            None => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_is_shown_by_its_canonical_address() {
        let shown = |text: &str| PeerName(Some(text.parse().unwrap())).to_string();
        assert_eq!(shown("[::ffff:10.0.0.7]:80"), "10.0.0.7:80");
        assert_eq!(shown("[2001:db8::1]:80"), "[2001:db8::1]:80");
        assert_eq!(PeerName(None).to_string(), "-");
    }
}
