//! Makes connections to another node.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smol::future::{Boxed, FutureExt, try_zip};
use smol::net::TcpStream;
use smol::{Async, Timer};

use super::Target;
use crate::address::Address;
use crate::transport::{StallTimeout, Stream, set_keepalive};

/// How long an address of several is tried before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects, and shakes hands if TLS is spoken there.
pub(super) async fn dial(target: &Target) -> io::Result<Box<dyn Stream>> {
    let Target { address, limits, tls, .. } = target;
    let late = async {
        Timer::after(limits.connect_timeout).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time (limits.connect_timeout)"))
    };
    let dialled = async {
        let stream = connect(address).await?;
        stream.set_nodelay(true)?;
        let _ = set_keepalive(&stream, limits.keepalive);
        let stream = StallTimeout::new(stream, limits.stall_timeout);
        match tls {
            None => Ok(Box::new(stream) as Box<dyn Stream>),
            Some(tls) => tls
                .connect(address, stream)
                .await
                .map_err(|error| io::Error::new(error.kind(), format!("the TLS handshake failed: {error}"))),
        }
    };
    dialled.or(late).await
}

/// Connects. No program that starts while the connection is open inherits it, unless it starts while it is made.
async fn connect(address: &str) -> io::Result<TcpStream> {
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("an address is {error}"));
    let address: Address = address.parse().map_err(wrong)?;
    let found = address.resolve().await?;
    let stream: Arc<Async<std::net::TcpStream>> = connect_to_any(found.into()).await?.into();
    // On Windows this one would be inherited, and its clone is not.
    stream.get_ref().try_clone()?.try_into()
}

/// Connects to the first of several addresses that takes it. One that neither takes nor refuses it has a head start only
/// (RFC 8305, section 5). If none does, the error is that of the first.
fn connect_to_any(mut addresses: VecDeque<SocketAddr>) -> Boxed<io::Result<TcpStream>> {
    async move {
        let Some(address) = addresses.pop_front() else { return Err(io::ErrorKind::NotFound.into()) };
        let mut first = TcpStream::connect(address).boxed();
        if addresses.is_empty() {
            return first.await;
        }
        let late = async {
            Timer::after(HEAD_START).await;
            None
        };
        let early = async { Some((&mut first).await) }.or(late).await;
        match early {
            Some(Ok(stream)) => Ok(stream),
            Some(Err(error)) => connect_to_any(addresses).await.or(Err(error)),
            None => {
                // The first success ends both, and a failure leaves it to the other.
                let first = async { swapped(first.await) };
                let other = async { swapped(connect_to_any(addresses).await) };
                match try_zip(first, other).await {
                    Err(stream) => Ok(stream),
                    Ok((error, _)) => Err(error),
                }
            }
        }
    }
    .boxed()
}

fn swapped<T, E>(result: Result<T, E>) -> Result<E, T> {
    match result {
        Ok(value) => Err(value),
        Err(error) => Ok(error),
    }
}
