//! Drives the connection to NATS: connects, subscribes, reconnects, and moves when a server stops.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::{Boxed, FutureExt};

use super::backoff::Backoff;
use super::connection::{Connection, Status};
use super::nats::{Established, NatsClient, establish};
use super::target::Target;
use crate::codec::Codec;
use crate::codec::jsonrpc::DecodeLimits;
use crate::codec::nats::{FLUSH, Nats};
use crate::config::Limits;
use crate::driver::drive;
use crate::route::{Peer, PeerName, Shutdown};
use crate::session::{Dialled, Session};
use crate::transport::StreamPipe;

/// How long the server may take to confirm that subscriptions have ended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection to a server that stops is subscribed beside the next one, until all servers know of that.
const OVERLAP: Duration = Duration::from_secs(1);

/// Keeps a connection to one of the servers, until the client is to stop and has answered everything.
pub(super) async fn run(connection: &Arc<Connection>, client: &NatsClient) {
    let mut links = Links::default();
    let connected = keep_connected(connection, client, &mut links);
    match client.settings.role.stop() {
        None => connected.await,
        Some((stop, _)) => {
            connected.or(stop).await;
            client.settings.role.lost();
            links.retire_all(client);
            poll_fn(|cx| links.poll_retired(cx)).await;
        }
    }
}

async fn keep_connected(connection: &Arc<Connection>, client: &NatsClient, links: &mut Links) {
    let Target { address, limits, .. } = connection.target();
    let mut backoff = Backoff::new();
    loop {
        if links.current.is_none() {
            connection.set_status(Status::Connecting);
        }
        let attempt = pin!(establish(client, limits));
        let reason = match links.beside(connection, client, attempt).await {
            Ok(established) => {
                let server = established.server.to_string();
                let link = link(connection, client, established);
                links.leave(client);
                client.settings.role.subscribe(&link.peer);
                connection.set_status(Status::Connected(link.peer.clone()));
                connection.target().watchers().retain(|watcher| watcher());
                links.current = Some(link);
                match backoff.while_connected(&server, links.until_left(client)).await {
                    Some(reason) => {
                        client.settings.role.lost();
                        reason
                    }
                    None => {
                        log::info!("{server} is about to stop: connecting to another server");
                        "the server is about to stop".to_owned()
                    }
                }
            }
            Err(error) => error.to_string(),
        };
        if links.current.is_none() {
            backoff.failed(address, &reason);
            connection.set_status(Status::Disconnected(reason));
        }
        if connection.is_closed() {
            return;
        }
        let wait = pin!(Timer::after(backoff.next()));
        links.beside(connection, client, wait).await;
    }
}

/// A session with a server.
struct Link {
    /// The server's id.
    server: String,
    peer: Peer,
    driven: Boxed<io::Result<()>>,
    /// Ends it when everything is answered.
    shutdown: Arc<Shutdown>,
}

/// The session that calls use, and those that answer what they have.
#[derive(Default)]
struct Links {
    current: Option<Link>,
    /// Those that are subscribed until then.
    leaving: Vec<(Link, Timer)>,
    retired: Vec<Link>,
}

impl Links {
    /// Drives all of them. Returns why the current one has ended.
    fn poll(&mut self, client: &NatsClient, cx: &mut Context<'_>) -> Poll<String> {
        self.leaving.retain_mut(|(link, _)| link.driven.as_mut().poll(cx).is_pending());
        let is_due = |(_, timer): &mut (Link, Timer)| Pin::new(timer).poll(cx).is_ready();
        let due: Vec<_> = self.leaving.extract_if(.., is_due).collect();
        due.into_iter().for_each(|(link, _)| self.retire(client, link));
        let _ = self.poll_retired(cx);
        let Some(link) = &mut self.current else { return Poll::Pending };
        link.driven.as_mut().poll(cx).map(|ended| {
            self.current = None;
            ended.map_or_else(|error| error.to_string(), |()| "closed".to_owned())
        })
    }

    /// Completes when none is left that answers what it has.
    fn poll_retired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.retired.retain_mut(|link| link.driven.as_mut().poll(cx).is_pending());
        if self.retired.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits for something else.
    async fn beside<F: Future>(
        &mut self,
        connection: &Connection,
        client: &NatsClient,
        mut other: Pin<&mut F>,
    ) -> F::Output {
        poll_fn(|cx| {
            if let Poll::Ready(reason) = self.poll(client, cx) {
                client.settings.role.lost();
                connection.set_status(Status::Disconnected(reason));
            }
            other.as_mut().poll(cx)
        })
        .await
    }

    /// Waits until the current session ends, and returns why; or `None` if its server is about to stop.
    async fn until_left(&mut self, client: &NatsClient) -> Option<String> {
        poll_fn(|cx| {
            if let Poll::Ready(reason) = self.poll(client, cx) {
                return Poll::Ready(Some(reason));
            }
            let stopping = client.servers().stopping.clone();
            match &self.current {
                Some(link) if stopping.as_ref() == Some(&link.server) => Poll::Ready(None),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Makes room for another current session.
    fn leave(&mut self, client: &NatsClient) {
        match self.current.take() {
            Some(link) if client.settings.role.may_overlap() => {
                self.leaving.push((link, Timer::after(OVERLAP)));
            }
            Some(link) => self.retire(client, link),
            None => {}
        }
    }

    fn retire_all(&mut self, client: &NatsClient) {
        let leaving = std::mem::take(&mut self.leaving).into_iter().map(|(link, _)| link);
        for link in leaving.chain(self.current.take()) {
            self.retire(client, link);
        }
    }

    /// Ends the subscriptions of a session, and then the session when it has answered what it has received.
    fn retire(&mut self, client: &NatsClient, link: Link) {
        client.settings.role.unsubscribe(&link.peer);
        let (shutdown, id) = (link.shutdown.clone(), link.peer.reserve());
        let deadline = Some(Instant::now() + FLUSH_TIMEOUT);
        link.peer.call(id, FLUSH.into(), None, deadline, 0, false, move |_| shutdown.begin());
        self.retired.push(link);
    }
}

/// Starts a session.
fn link(connection: &Connection, client: &NatsClient, established: Established) -> Link {
    let Target { limits, registry, .. } = connection.target();
    let Established { stream, received, peer, server, info, framer, is_encrypted } = established;
    // The server reads and writes at any time, so that this end reads whatever happens to calls.
    let own = Limits {
        message: limits.message.min(info.max_payload),
        in_flight: client.settings.in_flight,
        ..(**limits).clone()
    };
    let decode_limits = DecodeLimits { depth: limits.depth, batch: limits.batch };
    let codec = Codec::of(Box::new(framer), &Nats, own.message, decode_limits);
    let dialled = Dialled {
        address: server.to_string(),
        resolved: PeerName(peer),
        keepalive: limits.keepalive,
        silence: limits.forward_silence,
        answers_pings: Arc::new(AtomicBool::new(true)),
        is_encrypted,
        is_broker: true,
        ..Dialled::default()
    };
    let mut session = Session::brokered(registry.clone(), Arc::new(own), codec, dialled, Instant::now());
    let peer = session.peer();
    session.input().extend_from_slice(&received);
    if !received.is_empty() {
        session.received(Instant::now());
    }
    let shutdown = Arc::new(Shutdown::new());
    let force = client.settings.role.stop().map_or_else(|| shutdown.force_signal(), |(_, force)| force);
    let pipe = Box::new(StreamPipe::new(stream));
    let driven = Box::pin(drive(session, pipe, Some(shutdown.signal()), Some(force)));
    Link { server: info.id, peer, driven, shutdown }
}
