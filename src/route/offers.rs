//! Functions that peers offer: who offers what, who takes over from whom, and which peer gets a call.
//!
//! A connection owns what it offers, through a value that it holds as long as it lives. Nothing else keeps an offer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::Provider;
use super::access::Owner;
use super::mailbox::Peer;
use super::registered::Registration;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;

/// The kind of value by which a connection holds its offers.
const HELD: &str = "offers";
/// Notifies a peer that it no longer offers a function.
const WITHDRAWN: &str = "rpc.withdrawn";

/// Whether several peers may offer a function at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// One peer.
    One,
    /// Any number, each of which may answer.
    Any,
}

/// What a peer offers.
#[derive(Clone)]
pub(crate) struct Offer<P> {
    pub(crate) name: Box<str>,
    /// The number of the peer's connection.
    pub(crate) connection: u64,
    pub(crate) owner: Owner,
    pub(crate) peer: P,
    /// The maximum number of calls that the peer takes at a time.
    pub(crate) in_flight: usize,
    pub(crate) share: Share,
}

/// A peer that offers a function.
pub(crate) struct Member<P> {
    connection: u64,
    owner: Owner,
    peer: P,
    limit: usize,
    in_flight: AtomicUsize,
}

/// The peers that offer one function.
pub(crate) struct Members<P> {
    state: Mutex<Turns<P>>,
}

struct Turns<P> {
    members: Vec<Arc<Member<P>>>,
    /// The place of the one that got the last call.
    last: usize,
}

/// One call of a peer, until this is dropped.
pub(crate) struct Place<P>(Arc<Member<P>>);

impl<P> Place<P> {
    pub(crate) fn peer(&self) -> &P {
        &self.0.peer
    }
}

impl<P> Drop for Place<P> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<P> Members<P> {
    fn new(first: Arc<Member<P>>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(Turns { members: vec![first], last: 0 }) })
    }

    /// Returns the peer that gets the next call: the one with the fewest calls in flight; of several, each in turn. One
    /// with room comes before those that have none. `None` if all have gone.
    pub(crate) fn choose(&self) -> Option<Place<P>> {
        let mut state = self.lock();
        let count = state.members.len();
        let turns = (1..=count).map(|turn| (state.last + turn) % count);
        let load = |at: &usize| {
            let member = &state.members[*at];
            let in_flight = member.in_flight.load(Ordering::Relaxed);
            (in_flight >= member.limit, in_flight)
        };
        let at = turns.min_by_key(load)?;
        state.last = at;
        let member = state.members[at].clone();
        member.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Place(member))
    }

    /// Returns the number of calls that all of them take at a time.
    fn capacity(&self) -> usize {
        self.lock().members.iter().map(|member| member.limit).sum()
    }

    fn has(&self, connection: u64) -> bool {
        self.lock().members.iter().any(|member| member.connection == connection)
    }

    fn other_owner(&self, owner: &Owner) -> Option<Owner> {
        let state = self.lock();
        state.members.iter().map(|member| &member.owner).find(|other| *other != owner).cloned()
    }

    /// Adds a member, in place of an earlier one of the same connection.
    fn add(&self, member: Arc<Member<P>>) {
        self.remove(member.connection);
        self.lock().members.push(member);
    }

    /// Removes the member of a connection. Returns `false` if it was none.
    fn remove(&self, connection: u64) -> bool {
        let mut state = self.lock();
        let before = state.members.len();
        state.members.retain(|member| member.connection != connection);
        state.members.len() < before
    }

    fn take_all(&self) -> Vec<Arc<Member<P>>> {
        std::mem::take(&mut self.lock().members)
    }

    fn is_empty(&self) -> bool {
        self.lock().members.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Turns<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A function's place in the registry.
pub(super) trait Slot {
    /// Sets the maximum number of concurrent calls.
    fn resize(&self, calls: usize);
}

impl Slot for Registration {
    fn resize(&self, calls: usize) {
        self.set_workers(calls);
    }
}

/// Why a function cannot be offered.
#[derive(Debug)]
pub(super) enum Refused<E> {
    /// Another owner offers it.
    Taken(Owner),
    /// The connection offers as many as it may.
    Connection,
    /// All connections together do.
    Node,
    /// The registry does not accept it.
    Registry(E),
}

/// Who offers what.
pub(super) struct Directory<P, R> {
    functions: FxHashMap<Box<str>, Offered<P, R>>,
    /// The number of functions that each connection offers.
    connections: FxHashMap<u64, usize>,
    /// Maximum of one connection, and of all.
    limits: (usize, usize),
}

struct Offered<P, R> {
    share: Share,
    members: Arc<Members<P>>,
    registration: R,
}

/// What an offer has replaced. The registration is dropped outside of the lock.
pub(super) struct Replaced<P, R> {
    pub(super) peers: Vec<P>,
    _registration: Option<R>,
}

impl<P: Clone, R: Slot> Directory<P, R> {
    pub(super) fn new(each: usize, all: usize) -> Self {
        Self { functions: FxHashMap::default(), connections: FxHashMap::default(), limits: (each, all) }
    }

    /// Returns the number of offers.
    pub(super) fn count(&self) -> usize {
        self.connections.values().sum()
    }

    /// Adds an offer. `register` adds the function to the registry, in place of an earlier registration.
    pub(super) fn offer<E>(
        &mut self,
        offer: Offer<P>,
        register: impl FnOnce(&Arc<Members<P>>, Option<&R>) -> Result<R, E>,
    ) -> Result<Replaced<P, R>, Refused<E>> {
        let Offer { name, connection, owner, peer, in_flight, share } = offer;
        let current = self.functions.get(&name);
        let is_renewed = current.is_some_and(|current| current.members.has(connection));
        if !is_renewed {
            if self.connections.get(&connection).is_some_and(|offers| *offers >= self.limits.0) {
                return Err(Refused::Connection);
            }
            if self.count() >= self.limits.1 {
                return Err(Refused::Node);
            }
        }
        let is_shared = |current: &&Offered<P, R>| (current.share, share) == (Share::Any, Share::Any);
        let taken = current.filter(|current| !is_shared(current));
        if let Some(other) = taken.and_then(|current| current.members.other_owner(&owner)) {
            return Err(Refused::Taken(other));
        }
        let member = Member { connection, owner, peer, limit: in_flight, in_flight: AtomicUsize::new(0) };
        let member = Arc::new(member);
        let mut replaced = Replaced { peers: Vec::new(), _registration: None };
        if let Some(current) = current.filter(is_shared) {
            current.members.add(member);
            current.registration.resize(current.members.capacity());
        } else {
            let members = Members::new(member);
            let registration = register(&members, current.map(|current| &current.registration));
            let registration = registration.map_err(Refused::Registry)?;
            let offered = Offered { share, members, registration };
            if let Some(earlier) = self.functions.insert(name, offered) {
                for member in earlier.members.take_all() {
                    if member.connection != connection {
                        self.discount(member.connection);
                        replaced.peers.push(member.peer.clone());
                    }
                }
                replaced._registration = Some(earlier.registration);
            }
        }
        if !is_renewed {
            *self.connections.entry(connection).or_default() += 1;
        }
        Ok(replaced)
    }

    /// Removes an offer of a connection; `None` if there is none. Returns the registration to drop, if it was the last
    /// for its function.
    pub(super) fn withdraw(&mut self, name: &str, connection: u64) -> Option<Option<R>> {
        let offered = self.functions.get(name)?;
        if !offered.members.remove(connection) {
            return None;
        }
        offered.registration.resize(offered.members.capacity());
        let is_last = offered.members.is_empty();
        self.discount(connection);
        let last = if is_last { self.functions.remove(name) } else { None };
        Some(last.map(|offered| offered.registration))
    }

    /// Removes all offers of a connection. Returns the registrations to drop.
    pub(super) fn leave(&mut self, connection: u64) -> Vec<R> {
        if !self.connections.contains_key(&connection) {
            return Vec::new();
        }
        let offered = self.functions.iter().filter(|(_, offered)| offered.members.has(connection));
        let names: Vec<_> = offered.map(|(name, _)| name.clone()).collect();
        names.iter().filter_map(|name| self.withdraw(name, connection)?).collect()
    }

    fn discount(&mut self, connection: u64) {
        if let Some(offers) = self.connections.get_mut(&connection) {
            *offers -= 1;
            if *offers == 0 {
                self.connections.remove(&connection);
            }
        }
    }
}

/// Creates the provider of an offered function.
pub(crate) type Provide<'a> = dyn Fn(&Arc<Members<Peer>>) -> Arc<dyn Provider> + 'a;
/// Adds an offered function to the registry, in place of an earlier registration.
type Register<'a> = dyn FnMut(&Arc<Members<Peer>>, Option<&Registration>) -> Result<Registration, Fault> + 'a;

/// What the connections of a node offer.
pub(crate) struct Offers {
    directory: Mutex<Directory<Peer, Registration>>,
    /// The maximum that a peer may ask for as its number of calls in flight.
    pub(crate) max_in_flight: usize,
}

impl Offers {
    /// Creates an empty directory for `each` offers a connection and `all` a node.
    pub(super) fn new(each: usize, all: usize, max_in_flight: usize) -> Self {
        Self { directory: Mutex::new(Directory::new(each, all)), max_in_flight }
    }

    /// Adds an offer until it is withdrawn, taken over or its connection ends. `register` adds its function to the
    /// registry.
    ///
    /// # Errors
    /// [`code::TAKEN`], [`code::BUSY`], or what `register` returns.
    pub(super) fn offer(
        self: &Arc<Self>,
        offer: Offer<Peer>,
        metrics: &Arc<Metrics>,
        register: &mut Register<'_>,
    ) -> Result<(), Fault> {
        let (name, connection, peer) = (offer.name.clone(), offer.connection, offer.peer.clone());
        let replaced = self.change(metrics, |directory| directory.offer(offer, register));
        let replaced = replaced.map_err(|refused| refused.into_fault(&name, self))?;
        if !replaced.peers.is_empty() {
            metrics.offers_taken_over.inc();
            let params = RawJson::of(&Withdrawn { name: &name, reason: "taken over" }).ok();
            for earlier in &replaced.peers {
                let id = earlier.reserve();
                earlier.call(id, WITHDRAWN.into(), params.clone(), None, 0, true, drop);
            }
        }
        if peer.held(HELD) == 0 {
            let guard = Guard { offers: self.clone(), connection, metrics: metrics.clone() };
            // The connection may have ended meanwhile: then this drops the guard.
            drop(peer.hold((HELD, Box::default()), Box::new(guard)));
        }
        peer.watch();
        Ok(())
    }

    /// Withdraws an offer of a connection. Returns `false` if there is none.
    pub(super) fn withdraw(&self, name: &str, connection: u64, peer: &Peer, metrics: &Metrics) -> bool {
        let (withdrawn, is_last) = self.change(metrics, |directory| {
            let withdrawn = directory.withdraw(name, connection);
            (withdrawn, !directory.connections.contains_key(&connection))
        });
        if is_last {
            drop(peer.release(&(HELD, Box::default())));
        }
        withdrawn.is_some()
    }

    /// Changes the directory. What `change` returns is dropped outside of the lock.
    fn change<R>(
        &self,
        metrics: &Metrics,
        change: impl FnOnce(&mut Directory<Peer, Registration>) -> R,
    ) -> R {
        let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let before = directory.count();
        let changed = change(&mut directory);
        let after = directory.count();
        drop(directory);
        if after > before {
            metrics.offers.inc();
        } else {
            metrics.offers.sub((before - after) as u64);
        }
        changed
    }
}

impl Default for Offers {
    fn default() -> Self {
        let crate::config::Limits { offers, offered, in_flight, .. } = crate::config::Limits::default();
        Self::new(offers, offered, in_flight)
    }
}

#[derive(serde::Serialize)]
struct Withdrawn<'a> {
    name: &'a str,
    reason: &'a str,
}

/// Withdraws what a connection offers when the connection drops it.
struct Guard {
    offers: Arc<Offers>,
    connection: u64,
    metrics: Arc<Metrics>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.offers.change(&self.metrics, |directory| directory.leave(self.connection)));
    }
}

impl Refused<Fault> {
    fn into_fault(self, name: &str, offers: &Offers) -> Fault {
        let (each, all) = offers.directory.lock().unwrap_or_else(PoisonError::into_inner).limits;
        match self {
            Self::Taken(owner) => taken(name, &owner.to_string()),
            Self::Connection => {
                Fault::new(code::BUSY, format!("this connection offers {each} functions (limits.offers)"))
            }
            Self::Node => {
                Fault::new(code::BUSY, format!("connections offer {all} functions (limits.offered)"))
            }
            Self::Registry(fault) => fault,
        }
    }
}

/// Returns the fault for a function that somebody else provides.
pub(super) fn taken(name: &str, by: &str) -> Fault {
    #[derive(serde::Serialize)]
    struct By<'a> {
        by: &'a str,
    }
    Fault::new(code::TAKEN, format!("{name:?} is taken by {by}")).with_data(&By { by })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::{BTreeMap, BTreeSet};
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;

    const EACH: usize = 3;
    const ALL: usize = 6;

    /// A place in the registry: its limit while it is registered.
    struct Registered(Rc<RefCell<BTreeMap<String, Vec<usize>>>>, String, Cell<usize>);

    impl Slot for Registered {
        fn resize(&self, calls: usize) {
            self.2.set(calls);
        }
    }

    impl Drop for Registered {
        fn drop(&mut self) {
            self.0.borrow_mut().get_mut(&self.1).unwrap().pop();
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Offer { connection: u64, name: String, share: Share, in_flight: usize },
        Withdraw { connection: u64, name: String },
        Leave(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let name = || prop_oneof!["a", "b.*", "c", "d"];
        prop_oneof![
            5 => (0..6_u64, name(), any::<bool>(), 1..4_usize).prop_map(|(connection, name, is_any, in_flight)| {
                let share = if is_any { Share::Any } else { Share::One };
                Step::Offer { connection, name, share, in_flight }
            }),
            2 => (0..6_u64, name()).prop_map(|(connection, name)| Step::Withdraw { connection, name }),
            1 => (0..6_u64).prop_map(Step::Leave),
        ]
    }

    /// Connections 0 to 2 have one owner, the others another one.
    fn owner(connection: u64) -> Owner {
        Owner::Connection(connection / 3)
    }

    type Model = BTreeMap<String, (Share, BTreeMap<u64, usize>)>;

    /// Returns whether an offer is accepted, and who is told that they lost it.
    fn expect(model: &mut Model, step: &Step) -> Result<BTreeSet<u64>, ()> {
        let of = |model: &Model, connection: &u64| {
            model.values().filter(|(_, members)| members.contains_key(connection)).count()
        };
        let mut told = BTreeSet::new();
        match step {
            Step::Offer { connection, name, share, in_flight } => {
                let total: usize = model.values().map(|(_, members)| members.len()).sum();
                let is_new = !model.get(name).is_some_and(|(_, members)| members.contains_key(connection));
                if is_new && (of(model, connection) >= EACH || total >= ALL) {
                    return Err(());
                }
                let current = model.entry(name.clone()).or_insert((*share, BTreeMap::new()));
                if (current.0, *share) != (Share::Any, Share::Any) {
                    if current.1.keys().any(|other| owner(*other) != owner(*connection)) {
                        return Err(());
                    }
                    told.extend(current.1.keys().filter(|other| *other != connection));
                    *current = (*share, BTreeMap::new());
                }
                current.1.insert(*connection, *in_flight);
            }
            Step::Withdraw { connection, name } => {
                if let Some((_, members)) = model.get_mut(name) {
                    members.remove(connection);
                }
            }
            Step::Leave(connection) => {
                model.values_mut().for_each(|(_, members)| _ = members.remove(connection));
            }
        }
        model.retain(|_, (_, members)| !members.is_empty());
        Ok(told)
    }

    proptest! {
        #[test]
        fn offers_belong_to_their_connections_and_nothing_else_remains(
            steps in proptest::collection::vec(step(), 1..60),
        ) {
            let mut directory = Directory::<u64, Registered>::new(EACH, ALL);
            let registered = Rc::new(RefCell::new(BTreeMap::<String, Vec<usize>>::new()));
            let mut model = Model::new();
            for step in steps {
                let expected = expect(&mut model, &step);
                match step {
                    Step::Offer { connection, name, share, in_flight } => {
                        let register = |_: &Arc<Members<u64>>, replaced: Option<&Registered>| {
                            let earlier = registered.borrow().get(&name).map_or(0, Vec::len);
                            assert_eq!(replaced.is_some(), earlier == 1, "{name}");
                            registered.borrow_mut().entry(name.clone()).or_default().push(in_flight);
                            Ok::<_, ()>(Registered(registered.clone(), name.clone(), Cell::new(in_flight)))
                        };
                        let offer = Offer {
                            name: name.clone().into(), connection, owner: owner(connection), peer: connection,
                            in_flight, share,
                        };
                        let told = directory.offer(offer, register);
                        let told = told.map(|replaced| replaced.peers.iter().copied().collect());
                        prop_assert_eq!(told.map_err(|_| ()), expected);
                    }
                    Step::Withdraw { connection, name } => drop(directory.withdraw(&name, connection)),
                    Step::Leave(connection) => drop(directory.leave(connection)),
                }
                let of = |connection: u64| model.values().filter(|(_, all)| all.contains_key(&connection)).count();
                for connection in 0..6 {
                    let counted = directory.connections.get(&connection).copied().unwrap_or_default();
                    prop_assert_eq!(counted, of(connection));
                }
                prop_assert_eq!(directory.functions.len(), model.len());
                for (name, (share, members)) in &model {
                    let offered = &directory.functions[&**name];
                    prop_assert_eq!(offered.share, *share);
                    prop_assert_eq!(offered.registration.2.get(), members.values().sum::<usize>());
                    let found: BTreeSet<_> =
                        offered.members.lock().members.iter().map(|member| member.connection).collect();
                    prop_assert_eq!(found, members.keys().copied().collect());
                }
                for (name, all) in &*registered.borrow() {
                    prop_assert_eq!(all.len(), usize::from(model.contains_key(name)));
                }
            }
        }

        #[test]
        fn calls_go_where_the_fewest_run_and_round_in_turns(
            limits in proptest::collection::vec(1..5_usize, 1..6),
            ends in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let member = |(connection, limit): (usize, &usize)| Arc::new(Member {
                connection: connection as u64, owner: owner(0), peer: connection, limit: *limit,
                in_flight: AtomicUsize::new(0),
            });
            let members = Members { state: Mutex::new(Turns {
                members: limits.iter().enumerate().map(member).collect(), last: 0,
            }) };
            let mut places = Vec::new();
            let mut running = vec![0; limits.len()];
            for end in ends {
                if places.len() < limits.iter().sum() {
                    let place = members.choose().unwrap();
                    let at = *place.peer();
                    let with_room = |at: &usize| running[*at] < limits[*at];
                    let fewest = (0..limits.len()).filter(with_room).map(|at| running[at]).min().unwrap();
                    prop_assert!(running[at] == fewest && running[at] < limits[at], "{at} of {running:?}");
                    running[at] += 1;
                    places.push(place);
                }
                if end.index(3) == 0 {
                    let place = places.swap_remove(end.index(places.len()));
                    running[*place.peer()] -= 1;
                }
            }
        }
    }

    #[test]
    fn idle_members_take_turns() {
        let member = |connection| {
            let in_flight = AtomicUsize::new(0);
            Arc::new(Member { connection, owner: owner(0), peer: connection, limit: 1, in_flight })
        };
        let members = Members::new(member(0));
        members.add(member(1));
        members.add(member(2));
        let chosen: Vec<_> = (0..6).map(|_| *members.choose().unwrap().peer()).collect();
        assert_eq!(chosen, [1, 2, 0, 1, 2, 0]);
        assert!(members.remove(1) && !members.remove(1));
        let chosen: Vec<_> = (0..4).map(|_| *members.choose().unwrap().peer()).collect();
        assert_eq!(chosen.iter().filter(|peer| **peer == 2).count(), 2, "{chosen:?}");
        assert!(members.take_all().len() == 2 && members.choose().is_none());
    }
}
