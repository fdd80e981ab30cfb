//! Drives one connection: connects, presents the token, serves the session, and reconnects.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::{FutureExt, pending, poll_once, yield_now};

use super::backoff::Backoff;
#[cfg(feature = "grpc")]
use super::backoff::MAX_BACKOFF;
use super::connection::{Connection, Status};
use super::dial::{Dial, dial};
#[cfg(feature = "grpc")]
use super::link::MailboxLink;
#[cfg(feature = "nats")]
use super::nats_driver;
use super::offering::{OfferEvent, Offering};
use super::target::{Secret, Target};
use crate::driver::drive;
use crate::route::{PeerName, Shutdown};
use crate::session::{Dialled, Session, SessionError};
use crate::transport::StreamPipe;

/// Runs a connection until it is lost, or for as long as the client exists if it is `persistent`. One that offers
/// functions ends when it is to stop.
pub(super) async fn run(connection: Arc<Connection>, persistent: bool) {
    #[cfg(feature = "nats")]
    if let Some(client) = &connection.target().nats {
        return nats_driver::run(&connection, client).await;
    }
    let stopped = async {
        match &connection.target().offering {
            Some(offering) => offering.stopped_unconnected().await,
            None => pending().await,
        }
    };
    connect_and_serve(&connection, persistent).or(stopped).await;
}

async fn connect_and_serve(connection: &Arc<Connection>, persistent: bool) {
    let Target { address, offering, .. } = connection.target();
    let mut backoff = Backoff::new();
    // A frozen node still accepts connections: it is one again when it sends something.
    let mut is_suspect = false;
    loop {
        if !is_suspect {
            connection.set_status(Status::Connecting);
        }
        let (reason, is_silent) = match dial(connection.target()).await {
            Ok(dial) => {
                #[cfg(feature = "grpc")]
                let began = Instant::now();
                let serving = serve(connection, dial, is_suspect, persistent);
                let ended = backoff.while_connected(address, serving).await;
                // A server that ends idle connections is not gone.
                #[cfg(feature = "grpc")]
                if ended.is_ok()
                    && connection.target().protocol.is_some()
                    && persistent
                    && connection.is_connected()
                    && began.elapsed() > MAX_BACKOFF
                {
                    continue;
                }
                is_suspect = ended.as_ref().is_err_and(has_vanished);
                (ended.map_or_else(|error| error.to_string(), |()| "closed".to_owned()), is_suspect)
            }
            Err(error) => (error.to_string(), false),
        };
        if offering.as_ref().is_some_and(Offering::is_stopping) {
            return;
        }
        if backoff.failed(address, &reason)
            && let Some(offering) = offering
        {
            (offering.notify)(OfferEvent::Disconnected(&reason));
        }
        if !connection.is_replaced() {
            let status = if is_silent { Status::Silent } else { Status::Disconnected };
            connection.set_status(status(reason));
        }
        if !persistent || connection.is_closed() || connection.is_replaced() {
            return;
        }
        Timer::after(backoff.next()).await;
    }
}

fn has_vanished(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    error == Some(&SessionError::Vanished)
}

/// Serves an established connection until it ends. If the node is suspect, callers may use it only when it has sent
/// something. If the connection is `persistent`, the watchers learn that a node answers on it.
async fn serve(
    connection: &Arc<Connection>,
    Dial { stream, peer, dialect }: Dial,
    is_suspect: bool,
    persistent: bool,
) -> io::Result<()> {
    let Target { address, limits, token, tls, is_watched, answers_pings, registry, offering, .. } =
        connection.target();
    #[cfg(feature = "grpc")]
    if let Some(protocol) = &connection.target().protocol {
        let link = MailboxLink::new(connection, persistent);
        return protocol.serve(stream, &link).await;
    }
    let dialled = Dialled {
        address: address.clone(),
        resolved: PeerName(peer),
        token: token.as_ref().map(|Secret(token)| token.clone()),
        keepalive: limits.keepalive,
        answers_pings: answers_pings.clone(),
        silence: if *is_watched { limits.forward_silence } else { Duration::ZERO },
        is_encrypted: tls.is_some(),
        #[cfg(feature = "nats")]
        is_broker: false,
        program: None,
    };
    let mut session = Session::dialled(registry.clone(), limits.clone(), dialect, dialled, Instant::now());
    let peer = session.peer();
    let (weak, offering_peer) = (Arc::downgrade(connection), peer.clone());
    session.when_stopping({
        let weak = weak.clone();
        move || {
            if let Some(connection) = weak.upgrade() {
                log::info!("{} is stopping", connection.target().address);
                connection.set_status(Status::Stopping);
            }
        }
    });
    if persistent {
        let weak = weak.clone();
        session.when_ponged(move || {
            if let Some(connection) = weak.upgrade() {
                connection.target().watchers().retain(|watcher| watcher());
            }
        });
    }
    if is_suspect {
        session.when_heard(move || {
            if let Some(connection) = weak.upgrade() {
                connection.set_status(Status::Connected(peer));
            }
        });
    } else {
        connection.set_status(Status::Connected(peer));
    }
    // Its answer tells that the node answers pings, or that it is no longer frozen.
    if *is_watched || is_suspect {
        session.send_ping();
    }
    let pipe = Box::new(StreamPipe::new(stream));
    let Some(offering) = offering else {
        // Lets waiting calls post their requests, so that no preface is needed: a server may not know blank lines.
        yield_now().await;
        session.write_preface(Instant::now());
        return drive(session, pipe, None, None).await;
    };
    let shutdown = Shutdown::new();
    let (stop, force) = (Some(shutdown.signal()), Some(offering.force_stop.clone()));
    let mut offered = Box::pin(async {
        offering.run(&offering_peer, limits.deadline, &shutdown).await;
        pending().await
    });
    let _ = poll_once(&mut offered).await;
    session.write_preface(Instant::now());
    offering.is_connected.store(true, Ordering::Relaxed);
    let ended = drive(session, pipe, stop, force).or(offered).await;
    offering.is_connected.store(false, Ordering::Relaxed);
    ended
}
