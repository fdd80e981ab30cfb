//! Calls that wait for the answer of a node, or of two: if the first one is slow, another one is asked too, and the
//! first answer counts.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_listener::Event;
use smol::Timer;
use smol::future::{FutureExt, try_zip};

use super::{BalancedRequest, Balancer, Failures};
use crate::message::RawJson;
use crate::remote::{Mode, RemoteError};

/// The answer of a node, if one has taken the call.
type Answer = Option<Result<RawJson<'static>, RemoteError>>;

impl Balancer {
    /// Asks one node after the other until one takes the call, and after `delay` a second one too.
    pub(crate) async fn ask(
        &self,
        request: &BalancedRequest,
        key: Option<u64>,
        mode: Mode,
        delay: Option<Duration>,
    ) -> Result<RawJson<'static>, RemoteError> {
        let failures = Mutex::default();
        let answer = match delay.filter(|_| mode == Mode::Call) {
            Some(delay) => self.ask_two(request, delay, &failures).await,
            None => self.ask_in_turn(request, key, mode, &failures).await,
        };
        answer.unwrap_or_else(|| {
            let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
            Err(self.nobody(failures))
        })
    }

    async fn ask_two(
        &self,
        request: &BalancedRequest,
        delay: Duration,
        failures: &Mutex<Failures>,
    ) -> Answer {
        // The error of a node that has not taken the call, or was lost with it: the other one's answer may still come.
        let unanswered = Mutex::new(None);
        let decide = |answer: Answer| match answer {
            None => Ok(()),
            Some(Err(error)) if error.is_unsent() || matches!(error, RemoteError::Lost { .. }) => {
                unanswered.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                Ok(())
            }
            Some(answer) => Err(answer),
        };
        let failed = Event::new();
        // From now on: the first call may fail at once.
        let first_failed = failed.listen();
        let first = async {
            let answer = self.ask_in_turn(request, None, Mode::Call, failures).await;
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
            if !slow.or(failed).await || !self.spend_credit() {
                return Ok(());
            }
            self.settings.metrics.forward_hedges.inc();
            let answer = decide(self.ask_in_turn(request, None, Mode::Call, failures).await);
            self.settings.metrics.forward_hedges_won.add(u64::from(answer.is_err()));
            answer
        };
        // With results swapped, `try_zip` ends at the first answer, which drops and so cancels the other call.
        let answer = try_zip(first, second).await.err();
        let unanswered = unanswered.into_inner().unwrap_or_else(PoisonError::into_inner);
        answer.or(unanswered.map(Err))
    }

    /// Asks nodes until one takes the call. Those in `failures` are not asked.
    async fn ask_in_turn(
        &self,
        request: &BalancedRequest,
        key: Option<u64>,
        mode: Mode,
        failures: &Mutex<Failures>,
    ) -> Answer {
        loop {
            let index = {
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                let index = self.choose(key, &mut failures)?;
                // Until it has answered, so that no other call of this one goes to it.
                failures.push((index, RemoteError::Deadline));
                index
            };
            let BalancedRequest { method, params, deadline, hops } = request.clone();
            let mut sent = Sent::new(self, index);
            let result = self.remote(index).send(method, params, deadline, hops, mode).await;
            sent.answered(result.as_ref().err(), mode);
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

/// A call of a node, which counts as one in flight until this is dropped.
struct Sent<'a> {
    balancer: &'a Balancer,
    index: usize,
    began: Instant,
    is_answered: bool,
}

impl<'a> Sent<'a> {
    fn new(balancer: &'a Balancer, index: usize) -> Self {
        balancer.note_sent(index);
        Self { balancer, index, began: Instant::now(), is_answered: false }
    }

    fn answered(&mut self, error: Option<&RemoteError>, mode: Mode) {
        self.is_answered = true;
        let began = (mode == Mode::Call).then_some(self.began);
        self.balancer.note_answer(self.index, began, error);
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.balancer.note_answer(self.index, None, None);
        }
    }
}
