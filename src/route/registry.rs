//! Dispatches calls to the providers of their functions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access::Grants;
use super::builder::RegistryBuilder;
use super::builtin::Builtin;
use super::call::{Call, CallRef};
use super::name::quoted;
use super::table::{Entry, Table};
use crate::chan::Kind;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;

/// The functions of a node and their providers. Built once by a [`RegistryBuilder`], then shared.
pub struct Registry {
    pub(super) table: Table,
    pub(super) max_hops: u32,
}

impl Registry {
    /// Starts building a registry for the node `name`.
    pub fn builder(name: impl Into<Arc<str>>) -> RegistryBuilder {
        let registry = Self { table: Table::new(name.into()), max_hops: 8 };
        RegistryBuilder { registry, node: None, providers: BTreeMap::new(), functions: BTreeMap::new() }
    }

    /// Answers a call that can be answered without waiting: appends the result as JSON to `out`, or returns the fault.
    ///
    /// Returns `None` and leaves `out` as it was if the call has to wait; it must then be passed to
    /// [`call`](Self::call).
    ///
    /// `clock` is when the function starts, and is advanced to when it ends, so that a series of calls reads the time
    /// once for each.
    ///
    /// Built-in functions report only the functions that `grants` allows.
    pub(crate) fn try_call(
        &self,
        call: &CallRef<'_>,
        grants: &Grants,
        out: &mut Vec<u8>,
        clock: &mut Instant,
    ) -> Option<Result<(), Fault>> {
        let start = out.len();
        let entry = match self.find(call.method, call.hops) {
            Ok(Found::Entry(entry)) => entry,
            Ok(Found::Builtin(builtin)) => {
                let answer = builtin.answer(&self.table, &grants.visibility(), call.params.as_ref(), out);
                *clock = Instant::now();
                return Some(answer);
            }
            Err(fault) => return Some(Err(fault)),
        };
        // Without a free worker the call has to wait for one, or is rejected.
        let _permit = match entry.queue {
            Some(queue) => Some(self.table.admission.try_acquire(queue)?),
            None => None,
        };
        let answer = entry.provider.try_call(call, out);
        let began = std::mem::replace(clock, Instant::now());
        match &answer {
            Some(answer) => {
                entry.metrics.record_inline(clock.saturating_duration_since(began), answer.as_ref().err());
            }
            None => out.truncate(start),
        }
        answer
    }

    /// Passes a call to the provider of its function, or answers that there is none. Unlike with
    /// [`try_call`](Self::try_call), built-in functions report every function.
    pub(crate) fn call(&self, mut call: Call<'_>) {
        match self.find(call.method, call.hops) {
            Ok(Found::Entry(entry)) => {
                call.responder.measure(&entry.metrics);
                match entry.queue {
                    Some(queue) => self.table.admission.admit(queue, call),
                    None => entry.provider.call(call),
                }
            }
            Ok(Found::Builtin(builtin)) => {
                let mut out = Vec::new();
                let grants = Grants::all();
                let answer =
                    builtin.answer(&self.table, &grants.visibility(), call.params.as_ref(), &mut out);
                call.responder.send(answer.and_then(|()| RawJson::written(out)));
            }
            Err(fault) => call.responder.send(Err(fault)),
        }
    }

    /// Returns `true` if the function exists and is known to have no result.
    pub(crate) fn has_no_result(&self, method: &str) -> bool {
        self.table.find(method).is_some_and(|entry| entry.provider.describe().kind == Some(Kind::Zero))
    }

    /// Returns the timeout configured for a function, if any.
    pub(crate) fn timeout(&self, method: &str) -> Option<Duration> {
        self.table.find(method)?.provider.timeout()
    }

    fn find(&self, method: &str, hops: u32) -> Result<Found<'_>, Fault> {
        if hops > self.max_hops {
            let message = format!("the call was forwarded more than {} times (limits.hops)", self.max_hops);
            return Err(Fault::new(code::HOP_LIMIT, message).through(self.name()));
        }
        if let Some(entry) = self.table.find(method) {
            return Ok(Found::Entry(entry));
        }
        Builtin::from_name(method).map(Found::Builtin).ok_or_else(|| {
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
    Builtin(Builtin),
}
