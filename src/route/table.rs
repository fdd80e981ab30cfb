//! The functions of a node by name, with their providers and counters.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::access::{Access, Grants, Visibility};
use super::admission::Admission;
use super::call::{Call, CallContext, CallHead, Progress, Responder, unanswered};
use super::entry::Entry;
use super::generation::Current;
use super::listing::Listed;
use super::mailbox::Peer;
use super::names::key;
use super::offers::{Offer, Offers, Provide, taken};
use super::other_nodes::{OtherNodes, Report, Reported};
use super::registered::{Registered, Registration};
use super::topics::TopicHub;
use super::{Action, Description, Provider, ProviderKind, RegistryError, Told};
use crate::config::Limits;
use crate::message::{Fault, RawJson};
use crate::metrics::{self, FunctionStats, Metrics, ProcessMetrics, TargetStats, WorkerStats};

/// Providers by function name, and the functions that every node has.
pub(crate) struct Table {
    pub(crate) name: Arc<str>,
    pub(crate) metrics: Arc<Metrics>,
    max_hops: AtomicU32,
    pub(super) admission: Arc<Admission>,
    /// The functions that no connection offers.
    pub(super) current: Current,
    pub(super) registered: Arc<Registered>,
    pub(super) offers: Arc<Offers>,
    /// The providers of functions that were replaced or withdrawn, while their calls run.
    retired: Mutex<Vec<Arc<dyn Provider>>>,
    /// The access rules that have replaced those of the start, and their number.
    access: Mutex<Option<Arc<Access>>>,
    access_number: AtomicU64,
    /// What answers `rpc.reload`.
    pub(crate) reloader: OnceLock<Arc<dyn Provider>>,
    pub(crate) topics: Arc<TopicHub>,
    /// What answers all other names, if anything does.
    pub(super) fallback: Option<Arc<Entry>>,
    builtins: &'static [Builtin],
    /// What `rpc.list` reports of `builtins`.
    builtins_listed: OnceLock<Vec<Listed>>,
}

/// A function that every node has. It answers from the table itself, without workers and counters.
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    pub(crate) describe: fn() -> Description,
    pub(crate) answer: fn(BuiltinCall<'_>) -> Result<(), Fault>,
}

/// A call of a function that every node has.
pub(crate) struct BuiltinCall<'a> {
    pub(crate) table: &'a Table,
    /// What the caller may do, and who it is.
    pub(crate) grants: &'a Grants,
    pub(crate) params: Option<&'a RawJson<'a>>,
    /// What the call is besides its parameters.
    pub(crate) head: &'a CallHead<'a>,
    /// Set if the answer comes later, from the responder that `defer` creates.
    pub(super) is_deferred: &'a mut bool,
    pub(super) defer: &'a mut dyn FnMut() -> Responder,
    /// Where the result is appended as JSON.
    pub(crate) out: &'a mut Vec<u8>,
}

impl BuiltinCall<'_> {
    /// Has a provider answer the call.
    ///
    /// # Errors
    /// The fault with which it has answered at once.
    pub(crate) fn pass_to(self, provider: &dyn Provider) -> Result<(), Fault> {
        let Self { grants, params, out, head, is_deferred, defer, .. } = self;
        let mut progress = Progress::Unanswered;
        let context = CallContext { head, caller: grants.caller() };
        provider.call(Call::new(&context, params.cloned(), out, &mut progress, defer));
        match progress {
            Progress::Answered(result) => result,
            Progress::Unanswered => Err(unanswered()),
            Progress::Deferred => {
                *is_deferred = true;
                Ok(())
            }
        }
    }
}

impl Table {
    pub(super) fn new(name: Arc<str>, builtins: &'static [Builtin]) -> Self {
        let metrics = Arc::<Metrics>::default();
        Self {
            name,
            max_hops: AtomicU32::new(8),
            topics: Arc::new(TopicHub::new(metrics.clone())),
            metrics,
            admission: Arc::default(),
            current: Current::default(),
            registered: Arc::default(),
            offers: Arc::default(),
            retired: Mutex::default(),
            access: Mutex::default(),
            access_number: AtomicU64::new(0),
            reloader: OnceLock::new(),
            fallback: None,
            builtins,
            builtins_listed: OnceLock::new(),
        }
    }

    /// Sets the limits of forwarded calls, of topics, and of what connections offer.
    pub(crate) fn set_limits(&self, limits: &Arc<Limits>) {
        self.set_max_hops(limits.hops);
        self.offers.set_limits(limits);
        self.topics.set_limits(limits);
    }

    /// Returns how many nodes may forward a call.
    pub(crate) fn max_hops(&self) -> u32 {
        self.max_hops.load(Ordering::Relaxed)
    }

    /// Sets how many nodes may forward a call.
    pub(crate) fn set_max_hops(&self, hops: u32) {
        self.max_hops.store(hops, Ordering::Relaxed);
    }

    /// Replaces the access rules. Subscriptions and offers that the new ones do not allow end.
    pub(crate) fn set_access(&self, access: &Arc<Access>) {
        if access.number() == self.access_number.load(Ordering::Acquire) {
            return;
        }
        *self.lock_access() = Some(access.clone());
        self.access_number.store(access.number(), Ordering::Release);
        self.topics.check_rights(access);
        self.offers.check_rights(access, &self.metrics);
    }

    /// Replaces the rules of a connection by those in force.
    #[inline]
    pub(crate) fn refresh(&self, grants: &mut Grants) {
        if self.access_number.load(Ordering::Acquire) > grants.number() {
            self.follow_access(grants);
        }
    }

    #[cold]
    fn follow_access(&self, grants: &mut Grants) {
        let access = self.lock_access().clone();
        access.iter().for_each(|access| grants.follow(access));
    }

    fn lock_access(&self) -> MutexGuard<'_, Option<Arc<Access>>> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn retired(&self) -> MutexGuard<'_, Vec<Arc<dyn Provider>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a function while the node runs, in place of `replaced` if that has the same name; with its queue, or with a new
    /// one.
    ///
    /// # Errors
    /// [`RegistryError`] if its name is taken, reserved or invalid.
    pub(crate) fn register(
        &self,
        name: &str,
        description: Description,
        provider: Arc<dyn Provider>,
        replaced: Option<&Registration>,
        keeps_queue: bool,
    ) -> Result<Registration, RegistryError> {
        if self.current.find(key(name)?).is_some() {
            return Err(RegistryError::Duplicate(name.to_owned()));
        }
        let mut entry = Entry::new(name, description, provider);
        match replaced.filter(|_| keeps_queue) {
            Some(replaced) => entry.queue = replaced.queue(),
            None => entry.join(&self.admission, None),
        }
        self.registered.insert(entry, replaced)
    }

    /// Returns what is notified when a function has come or gone.
    #[cfg(feature = "nats")]
    pub(crate) fn changes(&self) -> Arc<event_listener::Event> {
        self.registered.changed.clone()
    }

    /// Lets a peer offer a function or a family, for whose calls `provide` creates a provider, until it withdraws it or its
    /// connection ends.
    ///
    /// # Errors
    /// [`code::TAKEN`] if this node or another owner provides it, [`code::BUSY`] at a limit, and
    /// [`code::INVALID_PARAMS`] for a name that is reserved or invalid.
    pub(crate) fn offer(
        &self,
        offer: Offer<Peer>,
        description: &Description,
        provide: &Provide<'_>,
    ) -> Result<(), Fault> {
        key(&offer.name)?;
        let name = offer.name.clone();
        let mut register = |members: &_, replaced: Option<&_>, keeps_queue| {
            let registered =
                self.register(&name, description.clone(), provide(members), replaced, keeps_queue);
            registered.map_err(|error| match error {
                RegistryError::Duplicate(_) => taken(&name, &self.name),
                error => error.into(),
            })
        };
        let bytes = Listed::new(&offer.name, description).verbose.len();
        self.offers.offer(offer, bytes, &self.metrics, &mut register)?;
        // One more peer may take calls that wait. They start here, outside of all locks.
        self.admission.start_waiting();
        Ok(())
    }

    /// Withdraws what a connection offers. Returns `false` if it does not.
    pub(crate) fn withdraw(&self, name: &str, connection: u64, peer: &Peer) -> bool {
        self.offers.withdraw(name, connection, peer, &self.metrics)
    }

    /// Returns the maximum that a peer may ask for as its number of calls in flight.
    pub(crate) fn max_offer_in_flight(&self) -> usize {
        self.offers.max_in_flight()
    }

    /// Visits all functions except the built-in ones.
    pub(super) fn each(&self, visit: &mut dyn FnMut(&Entry)) {
        self.current.entries().iter().for_each(|entry| visit(entry));
        // One that a later configuration provides is not called.
        let offered = self.registered.entries();
        offered.iter().filter(|it| self.current.find(it.key()).is_none()).for_each(|entry| visit(entry));
    }

    /// Visits what `rpc.list` reports of each function whose name `is_wanted`, the built-in ones last.
    pub(crate) fn each_listed(&self, is_wanted: &dyn Fn(&str) -> bool, visit: &mut dyn FnMut(&Listed)) {
        self.each(&mut |entry| match &entry.description.nodes {
            None if is_wanted(&entry.name) => visit(entry.listed()),
            None => {}
            Some(nodes) => self.each_reported(entry, &**nodes, &mut |name, describe| {
                if is_wanted(name) {
                    visit(&Listed::new(name, &describe()));
                }
            }),
        });
        let builtin = |builtin: &Builtin| Listed::new(builtin.name, &(builtin.describe)());
        let builtins = self.builtins_listed.get_or_init(|| self.builtins.iter().map(builtin).collect());
        builtins.iter().filter(|listed| is_wanted(&listed.name)).for_each(visit);
    }

    /// Visits all functions by name, also those that other nodes report of families, the built-in ones last.
    pub(crate) fn each_described(&self, visit: &mut dyn FnMut(&str, &Description)) {
        self.each(&mut |entry| match &entry.description.nodes {
            None => visit(&entry.name, &entry.description),
            Some(nodes) => {
                self.each_reported(entry, &**nodes, &mut |name, describe| visit(name, &describe()));
            }
        });
        self.builtins.iter().for_each(|builtin| visit(builtin.name, &(builtin.describe)()));
    }

    /// Visits a forwarded function, and those that another node reports of a family, as far as their calls come to it.
    fn each_reported(
        &self,
        entry: &Entry,
        nodes: &dyn OtherNodes,
        visit: &mut dyn FnMut(&str, &dyn Fn() -> Description),
    ) {
        let Report { functions, is_stale } = nodes.report();
        let told = |reported: &Reported, is_member| {
            let is_stale = is_stale || reported.is_stale;
            Some(Told { hops: reported.hops, is_stale, is_member })
        };
        let own = functions.iter().find(|reported| *reported.name == *entry.name);
        visit(&entry.name, &|| {
            let mut description = entry.description.clone();
            description.told = Some(Told { hops: 1, is_stale: false, is_member: false });
            if let Some(own) = own {
                let configured = description.signature.description.take();
                description.signature = own.signature.clone();
                let text = configured.or_else(|| own.signature.description.clone());
                description.signature.description = text;
                description.told = told(own, false);
            }
            description
        });
        let answers =
            |name: &str| self.current.find(name).is_none_or(|found| std::ptr::eq(&raw const *found, entry));
        for reported in functions.iter().filter(|reported| *reported.name != *entry.name) {
            if answers(&reported.name) {
                visit(&reported.name, &|| Description {
                    provider: entry.description.provider,
                    signature: reported.signature.clone(),
                    target: entry.description.target.clone(),
                    told: told(reported, true),
                    ..Description::default()
                });
            }
        }
    }

    /// Returns the states of the nodes that functions are forwarded to, if all functions are visible: as their
    /// descriptions, others do not see the targets.
    pub(crate) fn forwards(&self, visibility: &Visibility<'_>) -> Vec<(String, Vec<TargetStats>)> {
        let mut forwards = Vec::new();
        if visibility.includes_all() {
            self.each(&mut |entry| {
                if let Some(nodes) = &entry.description.nodes {
                    forwards.push((entry.name.clone(), nodes.targets()));
                }
            });
        }
        forwards
    }

    /// Returns the counters of all visible functions.
    pub(crate) fn stats(&self, visibility: &Visibility<'_>) -> Vec<(String, ProviderKind, FunctionStats)> {
        let mut stats = Vec::new();
        self.each(&mut |entry| {
            if visibility.includes(&entry.name) {
                stats.push((entry.name.clone(), entry.description.provider, entry.metrics.stats()));
            }
        });
        stats
    }

    /// Returns the counters of all admission limits, the node's first, except those of invisible functions.
    pub(crate) fn workers(&self, visibility: &Visibility<'_>) -> Vec<WorkerStats> {
        let mut workers = self.admission.stats();
        workers.retain(|workers| workers.function.as_ref().is_none_or(|name| visibility.includes(name)));
        workers
    }

    /// Returns the counters of the processes that provide a visible function.
    pub(crate) fn processes(&self, visibility: &Visibility<'_>) -> Vec<Arc<ProcessMetrics>> {
        let mut processes = self.current.processes();
        processes.retain(|process| process.provides(|name| visibility.includes(name)));
        processes
    }

    /// Returns the number of unanswered calls, notifications included.
    pub(super) fn in_flight(&self) -> u64 {
        // Those of removed functions last: a function that is removed meanwhile counts twice rather than not at all.
        let mut in_flight = 0;
        self.each(&mut |entry| in_flight += entry.metrics.in_flight());
        in_flight + self.registered.removed_in_flight()
    }

    /// Returns all counters in the Prometheus text format.
    pub(super) fn prometheus(&self, grants: &Grants) -> String {
        let visibility = &grants.visibility();
        let mut out = String::new();
        self.metrics.write_prometheus(&mut out);
        let mut topics = Vec::new();
        self.topics.each_published(&mut |name, events| {
            let actions = [Action::Subscribe, Action::Publish];
            if name.is_empty() || actions.into_iter().any(|action| grants.allow(action, name).is_ok()) {
                topics.push((name.to_owned(), events));
            }
        });
        metrics::write_topics(&mut out, &topics);
        let stats = self.stats(visibility);
        let stats = stats.iter().map(|(name, kind, stats)| (name.as_str(), kind.as_str(), stats.clone()));
        metrics::write_functions(&mut out, &stats);
        metrics::write_workers(&mut out, &self.workers(visibility));
        metrics::write_processes(&mut out, &self.processes(visibility));
        metrics::write_forwards(&mut out, &self.forwards(visibility));
        out
    }

    /// Returns the built-in function of that name.
    pub(super) fn find_builtin(&self, name: &str) -> Option<&'static Builtin> {
        self.builtins.iter().find(|builtin| builtin.name == name)
    }
}
