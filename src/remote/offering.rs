//! Offers functions at another node: on each connection anew, and again while somebody else has them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use smol::Timer;

use crate::message::{Fault, RawJson, code};
use crate::route::{Peer, PeerError, Shutdown, ShutdownSignal};

/// The first wait before an offer that was refused is repeated. Each further one takes twice as long.
const MIN_RETRY: Duration = Duration::from_secs(1);
/// The longest wait before an offer that was refused is repeated.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What a connection offers at the other node.
pub(crate) struct Offering {
    /// Returns the name of each function, and the parameters of `rpc.offer` for it.
    pub(crate) offers: Box<dyn Fn() -> Vec<(String, RawJson<'static>)> + Send + Sync>,
    /// Receives what becomes of it.
    pub(crate) notify: Box<dyn Fn(OfferEvent<'_>) + Send + Sync>,
    /// Then everything is withdrawn, and the connection ends when all calls are answered.
    pub(crate) stop: ShutdownSignal,
    /// Then the calls that are left are answered with an error.
    pub(crate) force_stop: ShutdownSignal,
    /// There is a connection.
    pub(crate) is_connected: AtomicBool,
}

/// What becomes of an offer.
pub(crate) enum OfferEvent<'a> {
    /// The other node has accepted everything.
    Accepted,
    /// The other node has refused a function. It is offered again if it may be free later.
    Refused(&'a str, &'a Fault),
    /// There is no connection, for this reason.
    Disconnected(&'a str),
}

impl Offering {
    /// Returns `true` after the signal to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_given()
    }

    /// Completes at the signal to stop if there is no connection then. One that exists ends by itself.
    pub(super) async fn stopped_unconnected(&self) {
        self.stop.clone().await;
        if self.is_connected.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// Offers the functions over a connection, until it ends. At the signal to stop, withdraws them and then stops
    /// `connection`.
    pub(super) async fn run(&self, peer: &Peer, timeout: Duration, connection: &Shutdown) {
        let mut pending = (self.offers)();
        let names: Vec<_> = pending.iter().map(|(name, _)| name.clone()).collect();
        let offering = async {
            let (mut wait, mut is_first, mut is_accepted) = (MIN_RETRY, true, true);
            while !pending.is_empty() {
                let mut refused = Vec::new();
                for (offer, result) in call_all(peer, "rpc.offer", pending, timeout).await {
                    match result {
                        Ok(_) => {}
                        Err(PeerError::Fault(fault)) => {
                            if is_first {
                                (self.notify)(OfferEvent::Refused(&offer.0, &fault));
                            }
                            match fault.code {
                                code::TAKEN | code::BUSY => refused.push(offer),
                                _ => is_accepted = false,
                            }
                        }
                        // The connection ends.
                        Err(PeerError::Unsent(_) | PeerError::Lost(_)) => is_accepted = false,
                        Err(PeerError::Busy | PeerError::Deadline) => refused.push(offer),
                    }
                }
                if refused.is_empty() {
                    break;
                }
                pending = refused;
                is_first = false;
                Timer::after(wait.mul_f64(0.5 + fastrand::f64())).await;
                wait = (wait * 2).min(MAX_RETRY);
            }
            if is_accepted {
                (self.notify)(OfferEvent::Accepted);
            }
            std::future::pending::<()>().await;
        };
        futures_lite::future::or(offering, self.stop.clone()).await;
        for name in names {
            let id = peer.reserve();
            let params = RawJson::of(&[name]).ok();
            let deadline = Some(Instant::now() + timeout);
            peer.call(id, "rpc.withdraw".into(), params, deadline, 0, false, drop);
        }
        connection.begin();
        std::future::pending::<()>().await;
    }
}

/// Calls a function with each of several parameters, all at once.
async fn call_all(
    peer: &Peer,
    method: &'static str,
    calls: Vec<(String, RawJson<'static>)>,
    timeout: Duration,
) -> Vec<((String, RawJson<'static>), Result<RawJson<'static>, PeerError>)> {
    let (sender, replies) = async_channel::bounded(calls.len().max(1));
    let deadline = Some(Instant::now() + timeout);
    for call in calls {
        let (sender, id) = (sender.clone(), peer.reserve());
        let params = Some(call.1.clone());
        peer.call(id, method.into(), params, deadline, 0, false, move |result| {
            let _ = sender.try_send((call, result));
        });
    }
    drop(sender);
    let mut results = Vec::new();
    while let Ok(result) = replies.recv().await {
        results.push(result);
    }
    results
}

impl fmt::Debug for Offering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offering").finish_non_exhaustive()
    }
}
