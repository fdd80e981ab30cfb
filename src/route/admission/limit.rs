//! One limit on concurrent calls, and its counters.

use crate::config::{WhenFull, Workers};
use crate::message::{Fault, code};
use crate::metrics::WorkerStats;
use crate::route::ProviderKind;

/// The functions that a limit applies to.
#[derive(Clone)]
pub(super) enum Scope {
    /// All functions of the node.
    Node,
    /// All functions with one kind of provider.
    Provider(ProviderKind),
    /// One function or family, with the kind of its provider.
    Function(String, ProviderKind),
}

/// Workers that the calls of one function, or of several, hold while they run.
pub(super) struct Limit {
    scope: Scope,
    workers: usize,
    /// The maximum number of queued calls.
    pub(super) queue: usize,
    pub(super) when_full: WhenFull,
    /// The maximum number of workers that a single function may hold, if it is configured.
    share: Option<usize>,
    /// The number of functions that it applies to.
    pub(super) functions: usize,
    pub(super) running: usize,
    pub(super) queued: usize,
    num_refused: u64,
    num_shed: u64,
}

impl Limit {
    pub(super) fn new(scope: Scope, workers: &Workers) -> Self {
        let mut limit = Self {
            scope,
            workers: 1,
            queue: 0,
            when_full: WhenFull::Refuse,
            share: None,
            functions: 0,
            running: 0,
            queued: 0,
            num_refused: 0,
            num_shed: 0,
        };
        limit.configure(workers);
        limit
    }

    pub(super) fn configure(&mut self, workers: &Workers) {
        let &Workers { count, queue, when_full, share } = workers;
        (self.workers, self.queue, self.when_full, self.share) = (count.max(1), queue, when_full, share);
    }

    /// Takes over the counters of calls that an earlier limit of the same functions has rejected.
    pub(super) fn take_counters(&mut self, earlier: &Self) {
        (self.num_refused, self.num_shed) = (earlier.num_refused, earlier.num_shed);
    }

    /// Returns `true` if both apply to the same functions, which share them.
    pub(super) fn is_shared_like(&self, other: &Self) -> bool {
        match (&self.scope, &other.scope) {
            (Scope::Node, Scope::Node) => true,
            (Scope::Provider(own), Scope::Provider(other)) => own == other,
            _ => false,
        }
    }

    pub(super) fn set_workers(&mut self, count: usize) {
        self.workers = count.max(1);
    }

    /// Returns `true` if a function of which `running` calls are running may start another.
    pub(super) fn has_room(&self, running: usize) -> bool {
        // A slow function must leave a worker to the others.
        let all_but_one = self.workers - usize::from(self.functions > 1);
        self.running < self.workers && running < self.share.unwrap_or(all_but_one).max(1)
    }

    /// Returns `true` if the limit applies to several functions, among them those with this kind of provider.
    pub(super) fn is_shared_by(&self, kind: ProviderKind) -> bool {
        match self.scope {
            Scope::Node => true,
            Scope::Provider(own) => own == kind,
            Scope::Function(..) => false,
        }
    }

    /// Returns `true` if the limit applies to any function. That of the node is always in use.
    pub(super) fn is_in_use(&self) -> bool {
        self.functions > 0 || matches!(self.scope, Scope::Node)
    }

    /// Counts and returns the fault of a call that can neither run nor queue.
    pub(super) fn refuse(&mut self) -> Fault {
        self.num_refused += 1;
        let message = format!("{}; try again later", self.load());
        Fault::new(code::BUSY, message).unsent()
    }

    /// Counts and returns the fault of a queued call that makes room for a newer one.
    pub(super) fn shed(&mut self) -> Fault {
        self.num_shed += 1;
        let message = format!("{}; a newer call took this one's place", self.load());
        Fault::new(code::BUSY, message).unsent()
    }

    /// Returns what is busy, and the settings that limit it: `slow is busy: 1 call runs (concurrency = 1), 0 wait (queue = 0)`.
    fn load(&self) -> String {
        let (busy, setting, table) = match &self.scope {
            Scope::Node => ("the node", "count", " in [workers]".to_owned()),
            Scope::Provider(kind) => ("the node", "count", format!(" in [workers.{}]", kind.as_str())),
            Scope::Function(name, ProviderKind::Exec) => (&**name, "concurrency", String::new()),
            Scope::Function(name, ProviderKind::Peer) => (&**name, "in_flight of rpc.offer", String::new()),
            Scope::Function(name, _) => (&**name, "workers", String::new()),
        };
        let Self { running, workers, queued, queue, .. } = self;
        let calls = if *running == 1 { "call runs" } else { "calls run" };
        format!(
            "{busy} is busy: {running} {calls} ({setting} = {workers}{table}), {queued} wait (queue = {queue})"
        )
    }

    pub(super) fn stats(&self) -> WorkerStats {
        let (level, function, provider) = match &self.scope {
            Scope::Node => ("node", None, None),
            Scope::Provider(kind) => ("provider", None, Some(kind.as_str())),
            Scope::Function(name, kind) => ("function", Some(name.clone()), Some(kind.as_str())),
        };
        WorkerStats {
            level,
            function,
            provider,
            workers: self.workers as u64,
            busy: self.running as u64,
            waiting: self.queued as u64,
            refused: self.num_refused,
            shed: self.num_shed,
        }
    }
}
