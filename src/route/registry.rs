//! Who answers a call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Provider;
use super::access::Pass;
use super::admission::{Admission, Level};
use super::builtin::{self, Builtin};
use super::call::{Ask, Call};
use super::table::{Entry, Table, Taken};
use crate::config::Workers;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;

/// Which provider answers which name. Built once by a [`Builder`], then shared.
pub struct Registry {
    table: Table,
    max_hops: u32,
}

impl Registry {
    /// Starts a registry for the node `name`.
    pub fn builder(name: impl Into<Arc<str>>) -> Builder {
        let registry = Self { table: Table::new(name.into()), max_hops: 8 };
        Builder { registry, node: None, providers: BTreeMap::new(), functions: BTreeMap::new() }
    }

    /// Answers what takes no waiting: appends the result as JSON to `out`, or says what is wrong. Of `None`, which
    /// leaves nothing in `out`, [`call`](Self::call) takes care.
    ///
    /// The function's time runs from `clock`, which is moved on to its end: for a row of calls the time is asked for
    /// once a call.
    ///
    /// What the node tells of its functions is what `pass` allows.
    pub fn prompt(
        &self,
        ask: &Ask<'_>,
        pass: &Pass,
        out: &mut Vec<u8>,
        clock: &mut Instant,
    ) -> Option<Result<(), Fault>> {
        let start = out.len();
        let entry = match self.find(ask.method, ask.hops) {
            Ok(Found::Entry(entry)) => entry,
            Ok(Found::Builtin(builtin)) => {
                let answer = builtin.answer(&self.table, &pass.sight(), ask.params.as_ref(), out);
                *clock = Instant::now();
                return Some(answer);
            }
            Err(fault) => return Some(Err(fault)),
        };
        // Without a free worker the call waits for one, or is refused.
        let _held = match entry.lane {
            Some(lane) => Some(self.table.admission.hold(lane)?),
            None => None,
        };
        let answer = entry.provider.prompt(ask, out);
        let began = std::mem::replace(clock, Instant::now());
        match &answer {
            Some(answer) => {
                entry.metrics.prompt(clock.saturating_duration_since(began), answer.as_ref().err());
            }
            None => out.truncate(start),
        }
        answer
    }

    /// Hands a call to the provider of its name, or answers why there is none. Whoever asks the node itself by this way,
    /// and not by [`prompt`](Self::prompt), sees everything.
    pub fn call(&self, mut call: Call<'_>) {
        match self.find(call.method, call.hops) {
            Ok(Found::Entry(entry)) => {
                call.reply.meter(&entry.metrics);
                match entry.lane {
                    Some(lane) => self.table.admission.admit(lane, call),
                    None => entry.provider.call(call),
                }
            }
            Ok(Found::Builtin(builtin)) => {
                let mut out = Vec::new();
                let answer =
                    builtin.answer(&self.table, &Pass::open().sight(), call.params.as_ref(), &mut out);
                call.reply.send(answer.and_then(|()| RawJson::written(out)));
            }
            Err(fault) => call.reply.send(Err(fault)),
        }
    }

    /// Tells whether a name is that of a function without a result.
    pub fn gives_nothing(&self, method: &str) -> bool {
        self.table.find(method).is_some_and(|entry| entry.provider.describe().kind == Some("0"))
    }

    /// Returns how long a call of a function may take, if that is configured for it.
    pub fn timeout(&self, method: &str) -> Option<Duration> {
        self.table.find(method)?.provider.timeout()
    }

    fn find(&self, method: &str, hops: u32) -> Result<Found<'_>, Fault> {
        if hops > self.max_hops {
            let message = format!("the call was passed on more than {} times (limits.hops)", self.max_hops);
            return Err(Fault::new(code::HOP_LIMIT, message).through(self.name()));
        }
        if let Some(entry) = self.table.find(method) {
            return Ok(Found::Entry(entry));
        }
        Builtin::from_name(method).map(Found::Builtin).ok_or_else(|| {
            let message = format!("no function {}; rpc.list names those there are", quoted(method));
            Fault::new(code::UNKNOWN_FUNCTION, message)
        })
    }

    /// Returns the node's name.
    pub fn name(&self) -> &Arc<str> {
        &self.table.name
    }

    /// Returns what the node counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.table.metrics
    }

    /// Returns everything that is counted, in Prometheus's text format, of functions as far as `pass` allows their calls.
    pub fn prometheus(&self, pass: &Pass) -> String {
        self.table.prometheus(&pass.sight())
    }

    /// Returns how many calls are not answered yet, notifications included.
    pub fn in_flight(&self) -> u64 {
        self.table.in_flight()
    }

    /// Ends what providers still run, and what waits for a worker.
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

/// Bytes of the longest name that a function can have.
const LONGEST_NAME: usize = 128;

/// A name as errors quote it: only as much as could be one.
pub(super) fn quoted(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        None => format!("{name:?}"),
        Some((end, _)) => format!("{:?}…", &name[..end]),
    }
}

/// What answers a name.
enum Found<'a> {
    Entry(&'a Entry),
    Builtin(Builtin),
}

/// Collects providers for a [`Registry`].
#[derive(Debug)]
pub struct Builder {
    registry: Registry,
    node: Option<Workers>,
    providers: BTreeMap<&'static str, Workers>,
    functions: BTreeMap<String, Workers>,
}

impl Builder {
    /// Bounds how many nodes may pass a call on; 8 by default.
    #[must_use]
    pub fn max_hops(mut self, hops: u32) -> Self {
        self.registry.max_hops = hops;
        self
    }

    /// Has `provider` answer `name`, or every name of a family if `name` ends in `.*`.
    ///
    /// # Errors
    /// [`RegistryError`] if the name is taken, reserved (`rpc.`, `$/`) or unfit.
    pub fn provide(
        &mut self,
        name: &str,
        description: Option<String>,
        provider: impl Provider,
    ) -> Result<&mut Self, RegistryError> {
        if name.starts_with(builtin::PREFIX) || name.starts_with("$/") {
            return Err(RegistryError::Reserved(name.to_owned()));
        }
        let key = match name.strip_suffix('*') {
            Some(prefix) if prefix.len() > 1 && prefix.ends_with('.') => prefix,
            None if !name.ends_with('.') => name,
            _ => return Err(RegistryError::Unfit(name.to_owned())),
        };
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"\"\\*".contains(&byte);
        if key.is_empty() || key.len() > LONGEST_NAME || !key.bytes().all(fits) {
            return Err(RegistryError::Unfit(name.to_owned()));
        }
        let entered = self.registry.table.insert(key, description, Arc::new(provider));
        entered.map_err(|Taken| RegistryError::Duplicate(name.to_owned()))?;
        Ok(self)
    }

    /// Bounds how many calls of all functions together run at once. Those of `rpc.*` are not counted.
    pub fn node_workers(&mut self, workers: Workers) -> &mut Self {
        self.node = Some(workers);
        self
    }

    /// Bounds how many calls run at once of all functions with one sort of provider, as [`Description::provider`]
    /// names it.
    ///
    /// [`Description::provider`]: super::Description::provider
    pub fn provider_workers(&mut self, kind: &'static str, workers: Workers) -> &mut Self {
        self.providers.insert(kind, workers);
        self
    }

    /// Bounds how many calls of the function or family `name` run at once, in place of what its provider says.
    ///
    /// # Errors
    /// [`RegistryError::Absent`] if no provider has been entered for it.
    pub fn function_workers(&mut self, name: &str, workers: Workers) -> Result<&mut Self, RegistryError> {
        if !self.registry.table.entries().any(|(entered, _)| entered == name) {
            return Err(RegistryError::Absent(name.to_owned()));
        }
        self.functions.insert(name.to_owned(), workers);
        Ok(self)
    }

    /// Ends the collection.
    pub fn build(self) -> Arc<Registry> {
        let Self { mut registry, node, providers, mut functions } = self;
        let mut members: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, entry) in registry.table.entries() {
            *members.entry(entry.provider.describe().provider).or_default() += 1;
        }
        let mut admission = Admission::default();
        let of_all = members.values().sum();
        let node = node.map(|workers| admission.gate(Level::Node, &shared(workers, of_all)));
        let mut gates = BTreeMap::new();
        for (kind, workers) in providers {
            if let Some(count) = members.get(kind) {
                gates.insert(kind, admission.gate(Level::Provider(kind), &shared(workers, *count)));
            }
        }
        for (name, entry) in registry.table.entries_mut() {
            let kind = entry.provider.describe().provider;
            let own = functions.remove(&name).or_else(|| entry.provider.workers());
            let own = own.map(|workers| admission.gate(Level::Function(name, kind), &workers));
            let path: Vec<_> = own.into_iter().chain(gates.get(kind).copied()).chain(node).collect();
            if !path.is_empty() {
                entry.lane = Some(admission.lane(entry.provider.clone(), path));
            }
        }
        registry.table.admission = Arc::new(admission);
        Arc::new(registry)
    }
}

/// What `functions` functions share: a slow one must leave a worker to the others.
fn shared(mut workers: Workers, functions: usize) -> Workers {
    if functions > 1 && workers.share.is_none() {
        workers.share = Some(workers.count.saturating_sub(1));
    }
    workers
}

/// Says why a name was not taken into a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// Nothing answers that name.
    Absent(String),
    /// Something answers that name already.
    Duplicate(String),
    /// Names that begin with `rpc.` or `$/` are the protocol's.
    Reserved(String),
    /// A name has 1 to 128 visible ASCII characters, no quotes or backslashes, no dot at its end, and `*` only in
    /// a final `.*`.
    Unfit(String),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(name) => write!(f, "function {name:?} is not there; provide it before its workers"),
            Self::Duplicate(name) => write!(f, "function {name:?} is there twice"),
            Self::Reserved(name) => {
                write!(f, "function {name:?}: names that begin with \"rpc.\" or \"$/\" are reserved")
            }
            Self::Unfit(name) => write!(
                f,
                "function {name:?}: a name has 1 to 128 visible ASCII characters without quotes and backslashes; \
                 \"*\" may only end a family, as in \"math.*\""
            ),
        }
    }
}

impl std::error::Error for RegistryError {}
