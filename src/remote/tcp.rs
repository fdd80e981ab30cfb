//! Connections over TCP to any of the addresses of a name.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smol::future::{Boxed, FutureExt, try_zip};
use smol::net::TcpStream;
use smol::{Async, Timer};

use crate::address::Address;
use crate::config::Limits;
use crate::transport::{StallTimeout, set_keepalive};

/// How long one address of several is tried alone before the next one is tried concurrently: the Connection Attempt
/// Delay of RFC 8305, section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects. Child processes do not inherit the connection, except one spawned while it is being established.
pub(super) async fn connect(
    address: &Address,
    limits: &Limits,
) -> io::Result<(StallTimeout<TcpStream>, Option<SocketAddr>)> {
    let resolved = address.resolve().await?;
    let stream: Arc<Async<std::net::TcpStream>> = connect_any(resolved.into()).await?.into();
    // On Windows the original socket is inheritable, and its clone is not.
    let stream: TcpStream = stream.get_ref().try_clone()?.try_into()?;
    let peer = stream.peer_addr().ok();
    stream.set_nodelay(true)?;
    let _ = set_keepalive(&stream, limits.keepalive);
    Ok((StallTimeout::new(stream, limits.stall_timeout), peer))
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

#[cfg(test)]
mod tests {
    use smol::net::TcpListener;

    use super::*;
    use crate::address::names;
    use crate::remote::{Balanced, Policy, Remote};

    /// Long enough for a busy machine.
    const LIMIT: Duration = Duration::from_secs(20);

    /// Returns the next connection.
    fn accept(listener: &TcpListener) -> TcpStream {
        let timeout = async {
            Timer::after(LIMIT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        smol::block_on(async { listener.accept().await.map(|(stream, _)| stream) }.or(timeout)).unwrap()
    }

    /// Moves a name to another address, and ends what listens at the first one. Clients must follow.
    fn assert_followed<C>(name: &str, connect: impl FnOnce() -> C) {
        let [first, second] = [(); 2].map(|()| smol::block_on(TcpListener::bind("127.0.0.1:0")).unwrap());
        names::set(name, first.local_addr().unwrap());
        let _client = connect();
        let stream = accept(&first);
        names::set(name, second.local_addr().unwrap());
        drop((stream, first));
        accept(&second);
    }

    #[test]
    fn a_name_is_resolved_for_each_attempt_to_connect() {
        assert_followed("one.test", || Remote::connect("one.test:7300"));
        assert_followed("several.test", || {
            let nodes = ["several.test:7300", "127.0.0.1:1"].map(Remote::builder);
            Balanced::connect(nodes, Policy::default())
        });
        #[cfg(feature = "grpc")]
        assert_followed("grpc.test", || Remote::connect("grpc://grpc.test:7300"));
        #[cfg(feature = "nats")]
        assert_followed("nats.test", || Remote::connect("nats://nats.test:4222"));
    }
}
