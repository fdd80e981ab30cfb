//! Who waits for whom, so that a wait that could never end is refused at once.
//!
//! While a function runs, its server is the *current* one of that thread. A call that is waited for from
//! inside a function makes an edge from the current server to the called one, for as long as the wait lasts.
//! An edge that would close a circle is not made: the call fails with [`CallError::WouldDeadlock`]. Calls from
//! outside of functions, the usual case, look at one thread-local and go on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::CallError;

/// One server, as the graph sees it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    id: u64,
    name: Arc<str>,
}

impl Node {
    /// A node unlike all others of this process.
    pub(super) fn new(name: Arc<str>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), name }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }
}

thread_local! {
    /// The servers whose functions run on this thread, the innermost last.
    static RUNNING: RefCell<Vec<Node>> = const { RefCell::new(Vec::new()) };
}

/// Edges: a server's id → the servers that its running function waits for.
static GRAPH: Mutex<BTreeMap<u64, Vec<Node>>> = Mutex::new(BTreeMap::new());

fn graph() -> MutexGuard<'static, BTreeMap<u64, Vec<Node>>> {
    GRAPH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes `node` the current server of this thread while `f` runs.
pub(super) fn running<T>(node: &Node, f: impl FnOnce() -> T) -> T {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            RUNNING.with_borrow_mut(Vec::pop);
        }
    }

    // A function that drives another server waits for it as long as that server's function runs.
    let _outer =
        RUNNING.with_borrow(|running| running.last().cloned()).map(|outer| Edge::insert(&outer, node));
    RUNNING.with_borrow_mut(|running| running.push(node.clone()));
    let _leave = Leave;
    f()
}

/// One wait in the graph, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Edge {
    from: u64,
    to: u64,
}

impl Edge {
    /// Enters that the current server waits for `to`; nothing is entered outside of functions.
    pub(super) fn enter(to: &Node) -> Result<Option<Self>, CallError> {
        let Some(from) = RUNNING.with_borrow(|running| running.last().cloned()) else {
            return Ok(None);
        };
        let mut graph = graph();
        if let Some(mut chain) = path(&graph, to, from.id) {
            chain.insert(0, from.name);
            return Err(CallError::WouldDeadlock { chain });
        }
        graph.entry(from.id).or_default().push(to.clone());
        Ok(Some(Self { from: from.id, to: to.id }))
    }

    fn insert(from: &Node, to: &Node) -> Self {
        graph().entry(from.id).or_default().push(to.clone());
        Self { from: from.id, to: to.id }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let mut graph = graph();
        if let Some(targets) = graph.get_mut(&self.from) {
            if let Some(at) = targets.iter().position(|node| node.id == self.to) {
                targets.swap_remove(at);
            }
            if targets.is_empty() {
                graph.remove(&self.from);
            }
        }
    }
}

/// The names from `from` along the edges to the server `goal`, if a way leads there.
fn path(graph: &BTreeMap<u64, Vec<Node>>, from: &Node, goal: u64) -> Option<Vec<Arc<str>>> {
    fn visit(
        graph: &BTreeMap<u64, Vec<Node>>,
        at: &Node,
        goal: u64,
        seen: &mut Vec<u64>,
        names: &mut Vec<Arc<str>>,
    ) -> bool {
        if seen.contains(&at.id) {
            return false;
        }
        seen.push(at.id);
        names.push(at.name.clone());
        if at.id == goal
            || graph
                .get(&at.id)
                .is_some_and(|next| next.iter().any(|node| visit(graph, node, goal, seen, names)))
        {
            return true;
        }
        names.pop();
        false
    }

    let mut names = Vec::new();
    visit(graph, from, goal, &mut Vec::new(), &mut names).then_some(names)
}
