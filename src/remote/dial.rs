//! Establishes connections to another node.

use std::io;
use std::net::SocketAddr;

use smol::Timer;
use smol::future::FutureExt;

use super::target::Target;
use super::tcp::connect;
use crate::address::{NodeAddress, NodeDialect};
use crate::codec::Dialect;
use crate::transport::Stream;

/// A connection to another node.
pub(super) struct Dial {
    pub(super) stream: Box<dyn Stream>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) dialect: Dialect,
}

/// Connects, and performs the TLS handshake if the target has TLS.
pub(super) async fn dial(target: &Target) -> io::Result<Dial> {
    let Target { address, limits, tls, .. } = target;
    #[cfg(feature = "grpc")]
    let is_http2 = target.protocol.is_some();
    #[cfg(not(feature = "grpc"))]
    let is_http2 = false;
    let timeout = async {
        Timer::after(limits.connect_timeout).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "timed out (limits.connect_timeout)"))
    };
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("an address is {error}"));
    let NodeAddress { dialect, address } = address.parse().map_err(invalid)?;
    let dialect = match dialect {
        NodeDialect::Lines => Dialect::JsonLines,
        NodeDialect::Headers => Dialect::JsonContentLength,
        NodeDialect::MessagePack => Dialect::MessagePack,
        // It has no session.
        #[cfg(feature = "grpc")]
        NodeDialect::Grpc { needs_tls } => {
            if needs_tls && tls.is_none() {
                let message =
                    "grpcs:// needs TLS: name the authorities to trust with tls = { ca = \"ca.pem\" }";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            Dialect::JsonPerFrame
        }
    };
    let dial = async {
        let (stream, peer) = connect(&address, limits).await?;
        let stream = match tls {
            None => Box::new(stream) as Box<dyn Stream>,
            Some(tls) => tls.connect(&address.to_string(), stream, is_http2).await.map_err(|error| {
                io::Error::new(error.kind(), format!("the TLS handshake failed: {error}"))
            })?,
        };
        Ok(Dial { stream, peer, dialect })
    };
    dial.or(timeout).await
}
