//! The accept loop: limits on connections, and their tasks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use smol::Timer;
use smol::future::yield_now;

use super::listener::{Listener, ListenerContext};
use super::serve::{serve, with_stall_timeout};
use super::shared::Shared;
use crate::config::{Limits, host_key};
use crate::route::{PEER, PeerName};
use crate::transport::{self, Stream};

/// Connections accepted in a row before open ones run.
const ACCEPT_BUDGET: u32 = 16;
/// The shortest and the longest wait between attempts while accepting fails.
const BACKOFF: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

/// Accepts connections, and spawns a task for each.
pub(super) async fn run(node: Arc<Shared>, listener: Listener) {
    let (mut backoff, mut accepted) = (BACKOFF[0], 0_u32);
    node.add_listener(&listener);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                backoff = BACKOFF[0];
                node.metrics().accepted.inc();
                let (host, limits) = (host_key(peer.ip()), node.limits());
                if let Some(reason) = node.limit_reached(&limits, host) {
                    drop(stream);
                    node.metrics().turned_away.inc();
                    log::warn!(target: PEER, "connection from {} rejected: {reason}", PeerName(Some(peer)));
                } else {
                    // Replies are written in batches, so that Nagle's algorithm would only delay small ones.
                    let _ = stream.set_nodelay(true);
                    let _ = transport::set_keepalive(&stream, limits.keepalive);
                    spawn(&node, limits, listener.context(), host, peer, stream);
                }
                accepted = accepted.wrapping_add(1);
                // Every connection that was accepted has its task: the node may stop now.
                if accepted % ACCEPT_BUDGET == 0 {
                    yield_now().await;
                }
            }
            Err(error) => {
                node.metrics().accept_errors.inc();
                log::warn!(target: PEER, "failed to accept a connection: {error}");
                Timer::after(backoff).await;
                backoff = (backoff * 2).min(BACKOFF[1]);
            }
        }
    }
}

impl Shared {
    /// Returns the limit that rules out one more connection of a host, if one does.
    fn limit_reached(&self, limits: &Limits, host: IpAddr) -> Option<String> {
        let limit = limits.connections;
        if self.metrics().connections.get() >= limit as u64 {
            return Some(format!("{limit} are open (limits.connections)"));
        }
        let limit = limits.per_host_limit(host);
        let open = self.connections().hosts.get(&host).copied().unwrap_or(0);
        (open >= limit).then(|| format!("this host has {open} (limits.per_host)"))
    }
}

/// Spawns the task of a connection, and keeps it until the connection ends.
fn spawn(
    node: &Arc<Shared>,
    limits: Arc<Limits>,
    context: Arc<ListenerContext>,
    host: IpAddr,
    peer: SocketAddr,
    stream: impl Stream,
) {
    let mut connections = node.connections();
    connections.last_key += 1;
    let key = connections.last_key;
    // Counted here, since the task may start late.
    *connections.hosts.entry(host).or_default() += 1;
    let guard = ConnectionGuard::new(node, key, host);
    let stream = with_stall_timeout(&limits, stream);
    let task = node.executor.spawn({
        let (node, silent) = (node.clone(), node.silent.clone());
        async move {
            let _guard = guard;
            serve(&node, &limits, &context, Some(peer), stream, silent).await;
        }
    });
    connections.tasks.insert(key, task);
}

/// Counts a connection as open until it is dropped, and then removes its task.
struct ConnectionGuard {
    node: Arc<Shared>,
    key: u64,
    host: IpAddr,
}

impl ConnectionGuard {
    fn new(node: &Arc<Shared>, key: u64, host: IpAddr) -> Self {
        node.metrics().connections.inc();
        Self { node: node.clone(), key, host }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let task = self.node.connections().remove(self.key, self.host);
        if let Some(task) = task {
            task.detach();
        }
        self.node.metrics().connections.sub(1);
        self.node.shutdown.notify_ended();
    }
}
