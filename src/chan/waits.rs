//! Who waits for whom, so that a wait that could never end is refused at once.
//!
//! While a function runs, its server is the *current* one of that thread. A call that is waited for from
//! inside a function makes an edge from the current server to the called one, until the wait or the function ends.
//! An edge that would close a circle is not made: the call fails with [`CallError::WouldDeadlock`]. Calls from
//! outside of functions, the usual case, look at one thread-local and go on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::CallError;
#[cfg(chanrpc_loom)]
use super::sync::LocalCell as _;
use super::sync::thread_cell;

/// One server, as the graph sees it.
#[derive(Debug)]
pub(crate) struct Node {
    id: u64,
    name: Arc<str>,
}

impl Node {
    /// A node unlike all others of this process.
    pub(crate) fn new(name: Arc<str>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        graph().names.insert(id, name.clone());
        Self { id, name }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        graph().names.remove(&self.id);
    }
}

/// The function that runs on this thread.
#[derive(Clone, Copy)]
struct Current {
    server: u64,
    /// Whether it waited for anything.
    waited: bool,
}

thread_cell!(CURRENT: Option<Current> = None);

/// The server whose function runs on this thread, which is about to wait.
fn waiting() -> Option<u64> {
    let Current { server, .. } = CURRENT.get()?;
    CURRENT.set(Some(Current { server, waited: true }));
    Some(server)
}

#[derive(Default)]
struct Graph {
    names: BTreeMap<u64, Arc<str>>,
    /// By server: what its running function waits for.
    edges: BTreeMap<u64, Vec<Target>>,
    serial: u64,
}

struct Target {
    serial: u64,
    server: u64,
}

static GRAPH: Mutex<Graph> = Mutex::new(Graph { names: BTreeMap::new(), edges: BTreeMap::new(), serial: 0 });

fn graph() -> MutexGuard<'static, Graph> {
    GRAPH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A function that runs, with pauses.
pub(crate) struct Function {
    server: u64,
    waited: bool,
}

impl Function {
    pub(crate) fn new(node: &Node) -> Self {
        Self { server: node.id, waited: false }
    }

    /// Makes the function's server the current one of this thread while `f` runs.
    pub(crate) fn within<T>(&mut self, f: impl FnOnce() -> T) -> T {
        struct Leave<'a> {
            function: &'a mut Function,
            outer: Option<Current>,
        }
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.function.waited |= CURRENT.replace(self.outer).is_some_and(|current| current.waited);
            }
        }

        let server = self.server;
        // A function that runs another server's waits for it as long as that runs.
        let _edge = waiting().map(|outer| graph().insert(outer, server));
        let outer = CURRENT.replace(Some(Current { server, waited: false }));
        let _leave = Leave { function: self, outer };
        f()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        if self.waited {
            forget(self.server);
        }
    }
}

/// The current function has ended, and another one of the same server follows.
pub(super) fn ended() {
    if let Some(Current { server, waited: true }) = CURRENT.get() {
        CURRENT.set(Some(Current { server, waited: false }));
        forget(server);
    }
}

/// A call that outlives the function which made it is waited for by somebody else.
fn forget(server: u64) {
    graph().edges.remove(&server);
}

/// One wait in the graph, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Edge {
    from: u64,
    serial: u64,
}

impl Edge {
    /// Enters that the current server waits for `to`; nothing is entered outside of functions.
    pub(crate) fn enter(to: &Node) -> Result<Option<Self>, CallError> {
        let Some(from) = waiting() else { return Ok(None) };
        let mut graph = graph();
        match graph.path(to.id, from) {
            None => Ok(Some(graph.insert(from, to.id))),
            Some(mut chain) => {
                chain.insert(0, from);
                let name = |id: &u64| graph.names.get(id).cloned().unwrap_or_else(|| Arc::from("?"));
                Err(CallError::WouldDeadlock { chain: chain.iter().map(name).collect() })
            }
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let mut graph = graph();
        if let Some(targets) = graph.edges.get_mut(&self.from) {
            targets.retain(|target| target.serial != self.serial);
            if targets.is_empty() {
                graph.edges.remove(&self.from);
            }
        }
    }
}

impl Graph {
    fn insert(&mut self, from: u64, to: u64) -> Edge {
        self.serial += 1;
        let serial = self.serial;
        self.edges.entry(from).or_default().push(Target { serial, server: to });
        Edge { from, serial }
    }

    /// The servers from `from` along the edges to `goal`, if a way leads there.
    fn path(&self, from: u64, goal: u64) -> Option<Vec<u64>> {
        let mut seen = Vec::new();
        let mut way = Vec::new();
        self.visit(from, goal, &mut seen, &mut way).then_some(way)
    }

    fn visit(&self, at: u64, goal: u64, seen: &mut Vec<u64>, way: &mut Vec<u64>) -> bool {
        if seen.contains(&at) {
            return false;
        }
        seen.push(at);
        way.push(at);
        let next = || self.edges.get(&at).into_iter().flatten();
        if at == goal || next().any(|target| self.visit(target.server, goal, seen, way)) {
            return true;
        }
        way.pop();
        false
    }
}
