//! Establishes connections to another node.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smol::future::{Boxed, FutureExt, try_zip};
use smol::net::TcpStream;
use smol::{Async, Timer};

use super::target::Target;
use crate::address::{Address, NodeAddress, NodeDialect};
use crate::codec::Dialect;
use crate::transport::{StallTimeout, Stream, set_keepalive};

/// How long one address of several is tried alone before the next one is tried concurrently: the Connection Attempt
/// Delay of RFC 8305, section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

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
        let stream = connect(&address).await?;
        let peer = stream.peer_addr().ok();
        stream.set_nodelay(true)?;
        let _ = set_keepalive(&stream, limits.keepalive);
        let stream = StallTimeout::new(stream, limits.stall_timeout);
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

/// Connects. Child processes do not inherit the connection, except one spawned while it is being established.
async fn connect(address: &Address) -> io::Result<TcpStream> {
    let resolved = address.resolve().await?;
    let stream: Arc<Async<std::net::TcpStream>> = connect_any(resolved.into()).await?.into();
    // On Windows the original socket is inheritable, and its clone is not.
    stream.get_ref().try_clone()?.try_into()
}

/// Connects to the first of several addresses that accepts (RFC 8305, section 5). If none does, returns the error of
/// the first address.
fn connect_any(mut addresses: VecDeque<SocketAddr>) -> Boxed<io::Result<TcpStream>> {
    async move {
        let Some(address) = addresses.pop_front() else { return Err(io::ErrorKind::NotFound.into()) };
        let mut first = TcpStream::connect(address).boxed();
        if addresses.is_empty() {
            return first.await;
        }
        let delay = async {
            Timer::after(ATTEMPT_DELAY).await;
            None
        };
        let alone = async { Some((&mut first).await) }.or(delay).await;
        match alone {
            Some(Ok(stream)) => Ok(stream),
            Some(Err(error)) => connect_any(addresses).await.or(Err(error)),
            None => {
                // With results swapped, `try_zip` ends at the first success and waits for the other after a failure.
                let first = async { swap(first.await) };
                let others = async { swap(connect_any(addresses).await) };
                match try_zip(first, others).await {
                    Err(stream) => Ok(stream),
                    Ok((error, _)) => Err(error),
                }
            }
        }
    }
    .boxed()
}

fn swap<T, E>(result: Result<T, E>) -> Result<E, T> {
    match result {
        Ok(value) => Err(value),
        Err(error) => Ok(error),
    }
}
