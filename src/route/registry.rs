//! Dispatches calls to the providers of their functions.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access::Grants;
use super::call::{Call, CallHead, Progress, Responder, unanswered};
use super::name::quoted;
use super::table::{Builtin, Entry, Table};
use crate::chan::Kind;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;

/// The functions of a node and their providers. Built once by a [`RegistryBuilder`](super::RegistryBuilder), then
/// shared.
pub struct Registry {
    pub(super) table: Table,
    pub(super) max_hops: u32,
}

impl Registry {
    /// Passes a call to the provider of its function, queues it for a worker, or answers why neither is possible.
    /// Built-in functions report only the functions that `grants` allows.
    ///
    /// Appends a result that is available at once to `out`, and returns `Some`; with a fault, what was appended is to be
    /// discarded. Returns `None` if the answer comes later, through the responder that `defer` has created.
    ///
    /// `clock` is when the function starts, and is advanced to when it returns, so that a series of calls reads the
    /// time once for each.
    pub(crate) fn call(
        &self,
        head: &CallHead<'_>,
        params: Option<RawJson<'_>>,
        grants: &Grants,
        clock: &mut Instant,
        out: &mut Vec<u8>,
        defer: &mut dyn FnMut() -> Responder,
    ) -> Option<Result<(), Fault>> {
        let entry = match self.find(head.method, head.hops) {
            Ok(Found::Entry(entry)) => entry,
            Ok(Found::Builtin(builtin)) => {
                let answer = (builtin.answer)(&self.table, &grants.visibility(), params.as_ref(), out);
                *clock = Instant::now();
                return Some(answer);
            }
            Err(fault) => return Some(Err(fault)),
        };
        let mut progress = Progress::Unanswered;
        match entry.queue {
            None => {
                let mut defer = || defer().measured(&entry.metrics);
                entry.provider.call(Call::new(head, params, out, &mut progress, &mut defer));
            }
            Some(queue) => {
                let mut permit = self.table.admission.try_acquire(queue);
                let is_admitted = permit.is_some();
                let mut defer = || defer().measured(&entry.metrics).holding(permit.take());
                let call = Call::new(head, params, out, &mut progress, &mut defer);
                if is_admitted {
                    entry.provider.call(call);
                } else {
                    self.table.admission.enqueue(queue, call);
                }
            }
        }
        let began = std::mem::replace(clock, Instant::now());
        let answer = match progress {
            Progress::Deferred => return None,
            Progress::Answered(result) => result,
            Progress::Unanswered => Err(unanswered()),
        };
        entry.metrics.record_inline(clock.saturating_duration_since(began), answer.as_ref().err());
        Some(answer)
    }

    /// Returns `true` if the function exists and is known to have no result.
    pub(crate) fn has_no_result(&self, method: &str) -> bool {
        self.table.find(method).is_some_and(|entry| entry.description.signature.kind == Some(Kind::Zero))
    }

    /// Returns the timeout configured for a function, if any.
    pub(crate) fn timeout(&self, method: &str) -> Option<Duration> {
        self.table.find(method)?.description.timeout
    }

    fn find(&self, method: &str, hops: u32) -> Result<Found<'_>, Fault> {
        if hops > self.max_hops {
            let message = format!("the call was forwarded more than {} times (limits.hops)", self.max_hops);
            return Err(Fault::new(code::HOP_LIMIT, message).through(self.name()));
        }
        if let Some(entry) = self.table.find(method) {
            return Ok(Found::Entry(entry));
        }
        self.table.find_builtin(method).map(Found::Builtin).ok_or_else(|| {
            let message = format!("no function {}; rpc.list returns the available ones", quoted(method));
            Fault::new(code::UNKNOWN_FUNCTION, message)
        })
    }

    /// Returns the node's name.
    pub fn name(&self) -> &Arc<str> {
        &self.table.name
    }

    /// Returns the node's counters.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.table.metrics
    }

    /// Returns all counters in the Prometheus text format; those of functions, for the functions that `grants` allows.
    pub(crate) fn prometheus(&self, grants: &Grants) -> String {
        self.table.prometheus(&grants.visibility())
    }

    /// Returns the number of unanswered calls, notifications included.
    pub fn in_flight(&self) -> u64 {
        self.table.in_flight()
    }

    /// Rejects the calls that wait for a worker, and aborts those that providers still run.
    pub async fn stop(&self) {
        self.table.admission.close();
        for (_, entry) in self.table.entries() {
            entry.provider.stop().await;
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.table.entries().map(|(name, _)| name).collect::<Vec<_>>();
        f.debug_struct("Registry")
            .field("name", self.name())
            .field("functions", &names)
            .finish_non_exhaustive()
    }
}

/// What answers a name.
enum Found<'a> {
    Entry(&'a Entry),
    Builtin(&'static Builtin),
}
