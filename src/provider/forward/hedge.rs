//! Calls that two nodes may run: if the first one is slow, another one is asked too, and the first answer counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event;
use smol::Timer;
use smol::future::{FutureExt, try_zip};

use super::{Attempt, Forward, Inner, Request, cancelled};
use crate::message::RawJson;
use crate::remote::{Mode, RemoteError};

/// The answer of a node, if one has taken the call.
type Answer = Option<Result<RawJson<'static>, RemoteError>>;

impl Forward {
    /// Answers a call. Asks one node, and after `delay` another one.
    pub(super) async fn hedge(self, attempt: Attempt, delay: Duration) {
        let (inner, Attempt { request, responder, failures, .. }) = (&*self.0, attempt);
        let failures = Mutex::new(failures);
        let failed = Event::new();
        // From now on: the first call may fail at once.
        let first_failed = failed.listen();
        let first = async {
            let answer = inner.ask(&request, &failures).await;
            failed.notify(usize::MAX);
            decide(answer)
        };
        let second = async {
            let slow = async {
                Timer::after(delay).await;
                true
            };
            let failed = async {
                first_failed.await;
                false
            };
            if !slow.or(failed).await || !inner.spend_credit() {
                return Ok(());
            }
            inner.settings.metrics.forward_hedges.inc();
            let answer = inner.ask(&request, &failures).await;
            inner.settings.metrics.forward_hedges_won.add(u64::from(answer.is_some()));
            decide(answer)
        };
        // With results swapped, `try_zip` ends at the first answer, which drops and so cancels the other call.
        let answered = async { Some(try_zip(first, second).await) };
        let cancelled_by_caller = async {
            responder.cancelled().await;
            None
        };
        let ended = answered.or(cancelled_by_caller).await;
        let result = match ended {
            Some(Err(answer)) => inner.result(answer),
            Some(Ok(_)) => {
                let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
                Err(inner.fault(&inner.nobody(failures)))
            }
            None => Err(cancelled()),
        };
        responder.send(result);
    }
}

impl Inner {
    /// Asks nodes until one takes the call. Those in `failures` are not asked.
    async fn ask(&self, request: &Request, failures: &Mutex<Vec<(usize, RemoteError)>>) -> Answer {
        loop {
            let index = {
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                let index = self.choose(None, &mut failures)?;
                // Until it has answered, so that no other call of this one goes to it.
                failures.push((index, RemoteError::Deadline));
                index
            };
            let Request { method, params, deadline, hops } = request.clone();
            let (node, began) = (&self.nodes[index], Instant::now());
            node.in_flight.fetch_add(1, Ordering::Relaxed);
            let asked = InFlight(&node.in_flight);
            let result = node.remote.send(method.into(), params, deadline, hops, Mode::Call).await;
            drop(asked);
            node.note_answer(began.elapsed(), result.as_ref().err());
            match result {
                Err(error) if self.may_repeat(&error, deadline) => {
                    let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                    failures.iter_mut().filter(|(asked, _)| *asked == index).for_each(|(_, reason)| {
                        *reason = error.clone();
                    });
                }
                result => return Some(result),
            }
        }
    }
}

/// Counts a call of a node until it is dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn decide(answer: Answer) -> Result<(), Result<RawJson<'static>, RemoteError>> {
    answer.map_or(Ok(()), Err)
}
