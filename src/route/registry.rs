//! Dispatches calls to the providers of their functions.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access::{Caller, Grants};
use super::admission::QueueSlot;
use super::call::{Call, CallContext, CallHead, Progress, Responder, unanswered};
use super::caught::Caught;
use super::entry::Entry;
use super::generation::{FunctionCache, Generation};
use super::name::quoted;
use super::registered::Registration;
use super::table::{Builtin, BuiltinCall, Table};
use super::topics::{TopicHub, covers};
use super::{Description, Provider, RegistryError};
use crate::chan::Kind;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;

/// The functions of a node and their providers. Built by a [`RegistryBuilder`](super::RegistryBuilder), then shared; further
/// functions may come and go.
pub struct Registry {
    pub(super) table: Table,
}

impl Registry {
    /// Registers `provider` for the function `name`, or for a family of functions if `name` ends in `.*`, until the
    /// result is dropped. Access rules, the limit of the `description`, and those of all functions and of all with the
    /// same kind of provider apply to it as if it had been registered with the builder.
    ///
    /// # Errors
    /// [`RegistryError`] if the name is taken, reserved (`rpc.`, `$/`) or invalid. What the builder has registered takes
    /// all names that it answers, those of its families included.
    // Only tests register so far.
    #[cfg_attr(not(feature = "internals"), allow(dead_code))]
    pub(crate) fn register(
        &self,
        name: &str,
        description: Description,
        provider: impl Provider,
    ) -> Result<Registration, RegistryError> {
        self.table.register(name, description, Arc::new(Caught::new(provider)), None, false)
    }

    /// Replaces the access rules of a connection by those in force.
    #[inline]
    pub(crate) fn refresh(&self, grants: &mut Grants) {
        self.table.refresh(grants);
    }

    /// Passes a call to the provider of its function, queues it for a worker, or answers why neither is possible.
    /// Built-in functions report only the functions that `grants` allows.
    ///
    /// Appends a result that is available at once to `out`, and returns `Some`; with a fault, what was appended is to be
    /// discarded. Returns `None` if the answer comes later, through the responder that `defer` has created.
    ///
    /// `cache` is for the calls of one connection. `clock` is when the function starts, and is advanced to when it
    /// returns, so that a series of calls reads the time once for each.
    #[allow(clippy::too_many_arguments, reason = "a session has them apart")]
    pub(crate) fn call(
        &self,
        cache: &mut FunctionCache,
        head: &CallHead<'_>,
        params: Option<RawJson<'_>>,
        grants: &Grants,
        clock: &mut Instant,
        out: &mut Vec<u8>,
        defer: &mut dyn FnMut() -> Responder,
    ) -> Option<Result<(), Fault>> {
        let generation = self.table.current.read(cache);
        let registered;
        let entry = match self.find(generation, head.method, head.hops) {
            Ok(Found::Fixed(entry)) => entry,
            Ok(Found::Registered(entry)) => {
                registered = entry;
                &*registered
            }
            Ok(Found::Builtin(builtin)) => {
                let params = params.as_ref();
                let is_deferred = &mut false;
                let call = BuiltinCall { table: &self.table, grants, params, head, is_deferred, defer, out };
                let answer = (builtin.answer)(call);
                *clock = Instant::now();
                return if *is_deferred { None } else { Some(answer) };
            }
            Err(fault) => return Some(Err(fault)),
        };
        let mut progress = Progress::Unanswered;
        let context = &CallContext { head, caller: grants.caller() };
        match entry.queue.as_ref().map(QueueSlot::index) {
            None => {
                let mut defer = || defer().measured(&entry.metrics);
                entry.provider.call(Call::new(context, params, out, &mut progress, &mut defer));
            }
            Some(queue) => {
                let mut permit = self.table.admission.try_acquire(queue);
                let is_admitted = permit.is_some();
                let mut defer = || defer().measured(&entry.metrics).holding(permit.take());
                let call = Call::new(context, params, out, &mut progress, &mut defer);
                if is_admitted {
                    entry.provider.call(call);
                } else {
                    self.table.admission.enqueue(queue, &entry.provider, call);
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

    /// Passes on a call that came under another name. Built-in functions cannot be called so.
    pub(crate) fn relay(&self, method: &str, mut call: Call<'_>) {
        let (caller, params) = (call.caller(), call.take_params());
        self.relay_as(method, caller, params, call);
    }

    /// As [`relay`](Self::relay), for another caller, and with these parameters.
    pub(crate) fn relay_as(
        &self,
        method: &str,
        caller: &Caller,
        params: Option<RawJson<'_>>,
        call: Call<'_>,
    ) {
        let Some(entry) = self.entry(&mut FunctionCache::default(), method) else {
            let message = format!("no function {}", quoted(method));
            return call.reply(Err(Fault::new(code::UNKNOWN_FUNCTION, message)));
        };
        let head = CallHead { method, deadline: call.deadline(), hops: call.hops() };
        let context = CallContext { head: &head, caller };
        let responder = call.defer().measured(&entry.metrics);
        let Some(queue) = entry.queue.as_ref().map(QueueSlot::index) else {
            return entry.provider.call(Call::with_responder(&context, params, responder));
        };
        let permit = self.table.admission.try_acquire(queue);
        let is_admitted = permit.is_some();
        let call = Call::with_responder(&context, params, responder.holding(permit));
        if is_admitted {
            entry.provider.call(call);
        } else {
            self.table.admission.enqueue(queue, &entry.provider, call);
        }
    }

    /// Returns `true` if the function exists and is known to have no result.
    pub(crate) fn has_no_result(&self, cache: &mut FunctionCache, method: &str) -> bool {
        self.entry(cache, method).is_some_and(|entry| entry.description.signature.kind == Some(Kind::Zero))
    }

    /// Returns the timeout configured for a function, if any.
    pub(crate) fn timeout(&self, cache: &mut FunctionCache, method: &str) -> Option<Duration> {
        self.entry(cache, method)?.description.timeout
    }

    /// Returns `true` if the parameters of a function are known to have no names, but positions.
    #[cfg(feature = "grpc")]
    pub(crate) fn takes_positions(&self, method: &str) -> bool {
        let is_position = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        let entry = self.table.current.find(method).or_else(|| self.table.registered.find(method));
        entry.is_some_and(|entry| {
            let params = entry.description.signature.params.as_deref().unwrap_or_default();
            !params.is_empty() && params.iter().all(|param| is_position(&param.name))
        })
    }

    fn entry(&self, cache: &mut FunctionCache, method: &str) -> Option<Arc<Entry>> {
        let generation = self.table.current.read(cache);
        generation
            .and_then(|generation| generation.functions.find(method))
            .cloned()
            .or_else(|| self.table.registered.find(method))
    }

    fn find<'a>(
        &self,
        generation: Option<&'a Generation>,
        method: &str,
        hops: u32,
    ) -> Result<Found<'a>, Fault> {
        let max_hops = self.table.max_hops();
        if hops > max_hops {
            let message = format!("the call was forwarded more than {max_hops} times (limits.hops)");
            return Err(Fault::new(code::HOP_LIMIT, message).through(self.name()));
        }
        if let Some(entry) = generation.and_then(|generation| generation.functions.find(method)) {
            return Ok(Found::Fixed(entry));
        }
        if let Some(builtin) = self.table.find_builtin(method) {
            return Ok(Found::Builtin(builtin));
        }
        let other = self.table.registered.find(method).or_else(|| self.table.fallback.clone());
        other.map(Found::Registered).ok_or_else(|| {
            let is_withdrawn =
                generation.is_some_and(|it| it.withdrawn.iter().any(|name| covers(name, method)));
            let why = if is_withdrawn { ", which was withdrawn" } else { "" };
            let message = format!("no function {}{why}; rpc.list returns the available ones", quoted(method));
            Fault::new(code::UNKNOWN_FUNCTION, message)
        })
    }

    /// Returns the node's name.
    pub fn name(&self) -> &Arc<str> {
        &self.table.name
    }

    /// Returns the topics.
    pub(crate) fn topics(&self) -> &Arc<TopicHub> {
        &self.table.topics
    }

    /// Returns the functions.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Returns the node's counters.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.table.metrics
    }

    /// Returns all counters in the Prometheus text format; those of functions, for the functions that `grants` allows.
    pub(crate) fn prometheus(&self, grants: &Grants) -> String {
        self.table.prometheus(grants)
    }

    /// Returns the number of unanswered calls, notifications included.
    pub fn in_flight(&self) -> u64 {
        self.table.in_flight()
    }

    /// Rejects the calls that wait for a worker, and aborts those that providers still run.
    pub async fn stop(&self) {
        self.table.admission.close();
        let mut providers = Vec::new();
        self.table.each(&mut |entry| providers.push(entry.provider.clone()));
        providers.append(&mut self.table.retired());
        // All of them are asked before the first is waited for.
        let stopping: Vec<_> = providers.iter().map(|provider| provider.stop()).collect();
        for stopped in stopping {
            stopped.await;
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Vec::new();
        self.table.each(&mut |entry| names.push(entry.name.clone()));
        f.debug_struct("Registry")
            .field("name", self.name())
            .field("functions", &names)
            .finish_non_exhaustive()
    }
}

/// What answers a name.
enum Found<'a> {
    Fixed(&'a Entry),
    Registered(Arc<Entry>),
    Builtin(&'static Builtin),
}
