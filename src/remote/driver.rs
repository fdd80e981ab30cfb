//! Drives one connection: connects, presents the token, serves the session, and reconnects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::yield_now;

use super::connection::{Connection, Status};
use super::dial::{Dial, dial};
use super::target::{Secret, Target};
use crate::driver::drive;
use crate::route::PeerName;
use crate::session::{Dialled, Session};
use crate::transport::StreamPipe;

/// The shortest wait between attempts to connect.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// The longest wait between attempts to connect, before jitter.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Runs a connection until it is lost, or for as long as the client exists if it is `persistent`.
pub(super) async fn run(connection: Arc<Connection>, persistent: bool) {
    let address = &connection.target().address;
    let mut backoff = MIN_BACKOFF;
    let mut failure_logged = false;
    loop {
        connection.set_status(Status::Connecting);
        let reason = match dial(connection.target()).await {
            Ok(dialled) => {
                backoff = MIN_BACKOFF;
                if std::mem::take(&mut failure_logged) {
                    log::info!("reconnected to {address}");
                }
                serve(&connection, dialled).await
            }
            Err(error) => error.to_string(),
        };
        // Only the first failure is logged at the level of info.
        let level = if failure_logged { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "no connection to {address}: {reason}");
        failure_logged = true;
        connection.set_status(Status::Disconnected(reason));
        if !persistent || connection.is_closed() {
            return;
        }
        // Jitter, so that many clients of one node do not reconnect at the same moment.
        Timer::after(backoff.mul_f64(0.5 + fastrand::f64())).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Serves an established connection until it ends. Returns the reason.
async fn serve(connection: &Connection, Dial { stream, peer, dialect }: Dial) -> String {
    let Target { address, limits, token, tls, registry } = connection.target();
    let dialled = Dialled {
        address: address.clone(),
        resolved: PeerName(peer),
        token: token.as_ref().map(|Secret(token)| token.clone()),
        keepalive: limits.keepalive,
        is_encrypted: tls.is_some(),
    };
    let mut session = Session::dialled(registry.clone(), limits.clone(), dialect, dialled, Instant::now());
    let peer = session.peer();
    connection.set_status(Status::Connected(peer));
    // Lets waiting calls post their requests, so that no preface is needed: a server may not know blank lines.
    yield_now().await;
    session.write_preface(Instant::now());
    match drive(session, Box::new(StreamPipe::new(stream)), None, None).await {
        Ok(()) => "closed".to_owned(),
        Err(error) => error.to_string(),
    }
}
