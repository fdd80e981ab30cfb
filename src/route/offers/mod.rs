//! Functions that peers offer: who offers what, who takes over from whom, and which peer gets a call.
//!
//! A connection owns what it offers, through a value that it holds as long as it lives. Nothing else keeps an offer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::Provider;
use super::access::{Access, Owner, Right};
use super::mailbox::{Held, OFFERS, Peer};
use super::registered::Registration;
use crate::config::Limits;
use crate::message::{Fault, RawJson, code};
use crate::metrics::Metrics;

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
    pub(crate) right: Right,
    pub(crate) peer: P,
    /// The maximum number of calls that the peer takes at a time.
    pub(crate) in_flight: usize,
    pub(crate) share: Share,
    /// The peer reads a fifth element of a request in MessagePack-RPC.
    pub(crate) knows_meta: bool,
}

/// A peer that offers a function.
pub(crate) struct Member<P> {
    connection: u64,
    owner: Owner,
    right: Right,
    peer: P,
    limit: usize,
    /// Shared with its successor when it renews its offer.
    in_flight: Arc<AtomicUsize>,
}

impl<P> Member<P> {
    /// Returns `true` while its owner may offer the function.
    fn is_in_force(&self) -> bool {
        self.right.is_in_force()
    }
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
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(Turns { members: Vec::new(), last: 0 }) })
    }

    /// Returns the peer that gets the next call: the one with the fewest calls in flight; of several, each in turn. One
    /// with room comes before those that have none. `None` if all have gone, or may no longer offer the function.
    pub(crate) fn choose(&self) -> Option<Place<P>> {
        let mut state = self.lock();
        let count = state.members.len();
        let turns = (1..=count).map(|turn| (state.last + turn) % count);
        let turns = turns.filter(|at| state.members[*at].is_in_force());
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

    /// Returns `true` if there is no member but that of a connection.
    fn has_only(&self, connection: u64) -> bool {
        self.lock().members.iter().all(|member| member.connection == connection)
    }

    /// Returns another owner of whom another connection may offer the function.
    fn other_owner(&self, owner: &Owner, connection: u64) -> Option<Owner> {
        let state = self.lock();
        let others = state.members.iter().filter(|member| member.connection != connection);
        let other = others.filter(|member| member.is_in_force()).find(|member| member.owner != *owner);
        other.map(|member| member.owner.clone())
    }

    /// Adds a member in place of an earlier one of the same connection, whose calls it still runs, or in place of all.
    /// Returns those of other connections that it replaces.
    fn put(&self, mut member: Member<P>, replaces_all: bool) -> Vec<Arc<Member<P>>> {
        let mut state = self.lock();
        let mut replaced = Vec::new();
        state.members.retain(|other| {
            let is_earlier = other.connection == member.connection;
            if is_earlier {
                member.in_flight = other.in_flight.clone();
            } else if replaces_all {
                replaced.push(other.clone());
            }
            !is_earlier && !replaces_all
        });
        state.members.push(Arc::new(member));
        replaced
    }

    /// Removes the member of a connection. Returns `false` if it was none.
    fn remove(&self, connection: u64) -> bool {
        let mut state = self.lock();
        let before = state.members.len();
        state.members.retain(|member| member.connection != connection);
        state.members.len() < before
    }

    /// Returns the members whose right is not `valid`: their connections and peers.
    fn without(&self, is_valid: impl Fn(&Right) -> bool) -> Vec<(u64, P)>
    where
        P: Clone,
    {
        let state = self.lock();
        let invalid = state.members.iter().filter(|member| !is_valid(&member.right));
        invalid.map(|member| (member.connection, member.peer.clone())).collect()
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
    /// Sets the maximum number of concurrent calls. Starts none.
    fn resize(&self, calls: usize);
    /// Takes the calls that wait for an earlier registration of the function. Starts none.
    fn take_waiting(&self, earlier: &Self);
}

impl Slot for Registration {
    fn resize(&self, calls: usize) {
        self.set_workers(calls);
    }

    fn take_waiting(&self, earlier: &Self) {
        Registration::take_waiting(self, earlier);
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
    /// The descriptions of all functions together are too long.
    Descriptions,
    /// The registry does not accept it.
    Registry(E),
}

/// Who offers what.
pub(super) struct Directory<P, R> {
    functions: FxHashMap<Box<str>, Offered<P, R>>,
    /// The number of functions that each connection offers.
    connections: FxHashMap<u64, usize>,
    /// The size of all descriptions.
    bytes: usize,
    limits: Maximum,
}

/// Maximum numbers of offers.
#[derive(Clone, Copy)]
pub(super) struct Maximum {
    /// Of one connection.
    each: usize,
    all: usize,
    /// The size of the descriptions of all.
    bytes: usize,
}

impl Maximum {
    fn of(limits: &Limits) -> Self {
        // The list of all functions must fit into a message, and descriptions grow in that of rpc.discover.
        Self { each: limits.offers, all: limits.offered, bytes: limits.message / 4 }
    }
}

struct Offered<P, R> {
    share: Share,
    members: Arc<Members<P>>,
    registration: R,
    /// The size of its description.
    bytes: usize,
}

/// What an offer has replaced. The registration is dropped outside of the lock.
pub(super) struct Replaced<P, R> {
    /// The connections that offered it, and their peers.
    pub(super) peers: Vec<(u64, P)>,
    _registration: Option<R>,
}

impl<P: Clone, R: Slot> Directory<P, R> {
    pub(super) fn new(limits: Maximum) -> Self {
        Self { functions: FxHashMap::default(), connections: FxHashMap::default(), bytes: 0, limits }
    }

    /// Returns the number of offers.
    pub(super) fn count(&self) -> usize {
        self.connections.values().sum()
    }

    /// Adds an offer with a description of a size. `register` adds the function to the registry, in place of an earlier
    /// registration, whose queue it keeps if it is told so.
    pub(super) fn offer<E>(
        &mut self,
        offer: Offer<P>,
        bytes: usize,
        register: impl FnOnce(&Arc<Members<P>>, Option<&R>, bool) -> Result<R, E>,
    ) -> Result<Replaced<P, R>, Refused<E>> {
        let Offer { name, connection, owner, right, peer, in_flight, share, .. } = offer;
        let current = self.functions.get(&name);
        let is_renewed = current.is_some_and(|current| current.members.has(connection));
        if !is_renewed {
            if self.connections.get(&connection).is_some_and(|offers| *offers >= self.limits.each) {
                return Err(Refused::Connection);
            }
            if self.count() >= self.limits.all {
                return Err(Refused::Node);
            }
        }
        let is_shared = |current: &&Offered<P, R>| (current.share, share) == (Share::Any, Share::Any);
        let taken = current.filter(|current| !is_shared(current));
        if let Some(other) = taken.and_then(|current| current.members.other_owner(&owner, connection)) {
            return Err(Refused::Taken(other));
        }
        let member = Member { connection, owner, right, peer, limit: in_flight, in_flight: Arc::default() };
        let mut replaced = Replaced { peers: Vec::new(), _registration: None };
        if let Some(current) = current.filter(is_shared) {
            current.members.put(member, false);
            current.registration.resize(current.members.capacity());
        } else {
            let total = self.bytes - current.map_or(0, |current| current.bytes) + bytes;
            if total > self.limits.bytes {
                return Err(Refused::Descriptions);
            }
            // The calls that wait are for the new member as well. Those that run take none of its places, unless it runs
            // them itself.
            let (members, keeps_queue, later) = match current {
                Some(current) => {
                    (current.members.clone(), current.members.has_only(connection), Some(member))
                }
                None => {
                    let members = Members::new();
                    members.put(member, true);
                    (members, false, None)
                }
            };
            let earlier = current.map(|current| &current.registration);
            let registration = register(&members, earlier, keeps_queue).map_err(Refused::Registry)?;
            for member in later.map_or_else(Vec::new, |member| members.put(member, true)) {
                self.discount(member.connection);
                replaced.peers.push((member.connection, member.peer.clone()));
            }
            registration.resize(members.capacity());
            self.bytes = total;
            let offered = Offered { share, members, registration, bytes };
            if let Some(earlier) = self.functions.insert(name.clone(), offered) {
                if !keeps_queue {
                    self.functions[&name].registration.take_waiting(&earlier.registration);
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
        self.bytes -= last.as_ref().map_or(0, |offered| offered.bytes);
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
/// Adds an offered function to the registry, in place of an earlier registration, whose queue it keeps or not.
type Register<'a> =
    dyn FnMut(&Arc<Members<Peer>>, Option<&Registration>, bool) -> Result<Registration, Fault> + 'a;

/// What the connections of a node offer.
pub(crate) struct Offers {
    directory: Mutex<Directory<Peer, Registration>>,
    /// The maximum that a peer may ask for as its number of calls in flight.
    max_in_flight: AtomicUsize,
}

impl Offers {
    pub(super) fn new(limits: &Limits) -> Self {
        let max_in_flight = AtomicUsize::new(limits.in_flight);
        Self { directory: Mutex::new(Directory::new(Maximum::of(limits))), max_in_flight }
    }

    /// Sets the limits of what is offered from now on.
    pub(super) fn set_limits(&self, limits: &Limits) {
        self.max_in_flight.store(limits.in_flight, Ordering::Relaxed);
        self.lock().limits = Maximum::of(limits);
    }

    pub(super) fn max_in_flight(&self) -> usize {
        self.max_in_flight.load(Ordering::Relaxed)
    }

    /// Withdraws the offers that other access rules do not allow, or only for a shorter time, and tells the peers.
    pub(super) fn check_rights(&self, access: &Arc<Access>, metrics: &Metrics) {
        let mut invalid = Vec::new();
        for (name, offered) in &self.lock().functions {
            let members = offered.members.without(|right| right.persists(access, name));
            invalid.extend(members.into_iter().map(|member| (name.clone(), member)));
        }
        for (name, (connection, peer)) in invalid {
            if self.withdraw(&name, connection, &peer, metrics) {
                tell_withdrawn(&peer, &name, "the access rules have changed");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Directory<Peer, Registration>> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an offer, with a description of a size, until it is withdrawn, taken over or its connection ends. `register` adds its function to the
    /// registry.
    ///
    /// # Errors
    /// [`code::TAKEN`], [`code::BUSY`], or what `register` returns.
    pub(super) fn offer(
        self: &Arc<Self>,
        offer: Offer<Peer>,
        bytes: usize,
        metrics: &Arc<Metrics>,
        register: &mut Register<'_>,
    ) -> Result<(), Fault> {
        let (name, connection, peer) = (offer.name.clone(), offer.connection, offer.peer.clone());
        // Before the first call can come.
        peer.watch(offer.knows_meta);
        let replaced = self.change(metrics, |directory| {
            let replaced = directory.offer(offer, bytes, register)?;
            let guards = replaced.peers.iter().filter_map(|(other, peer)| directory.release(*other, peer));
            let mut guards: Vec<Held> = guards.map(|guard| guard as _).collect();
            if peer.held(OFFERS) == 0 {
                let (offers, metrics) = (self.clone(), metrics.clone());
                let guard = Guard { offers, connection: Some(connection), metrics };
                // The connection may have ended meanwhile: then this is the guard.
                guards.extend(peer.hold((OFFERS, Box::default()), Box::new(guard)));
            }
            Ok((replaced, guards))
        });
        let (replaced, _guards) = replaced.map_err(|refused: Refused<_>| refused.into_fault(&name, self))?;
        if !replaced.peers.is_empty() {
            metrics.offers_taken_over.inc();
            for (_, earlier) in &replaced.peers {
                tell_withdrawn(earlier, &name, "taken over");
            }
        }
        Ok(())
    }

    /// Withdraws an offer of a connection. Returns `false` if there is none.
    pub(super) fn withdraw(&self, name: &str, connection: u64, peer: &Peer, metrics: &Metrics) -> bool {
        let (withdrawn, _guard) = self.change(metrics, |directory| {
            (directory.withdraw(name, connection), directory.release(connection, peer))
        });
        withdrawn.iter().flatten().for_each(Registration::fail_waiting);
        withdrawn.is_some()
    }

    /// Changes the directory. What `change` returns is dropped outside of the lock.
    fn change<R>(
        &self,
        metrics: &Metrics,
        change: impl FnOnce(&mut Directory<Peer, Registration>) -> R,
    ) -> R {
        let mut directory = self.lock();
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
        Self::new(&Limits::default())
    }
}

/// Tells a peer that it no longer offers a function.
fn tell_withdrawn(peer: &Peer, name: &str, reason: &str) {
    #[derive(serde::Serialize)]
    struct Withdrawn<'a> {
        name: &'a str,
        reason: &'a str,
    }
    let params = RawJson::of(&Withdrawn { name, reason }).ok();
    peer.call(peer.reserve(), WITHDRAWN.into(), params, None, 0, true, drop);
}

/// Withdraws what a connection offers when the connection drops it.
struct Guard {
    offers: Arc<Offers>,
    /// `None` once it offers nothing.
    connection: Option<u64>,
    metrics: Arc<Metrics>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(connection) = self.connection else { return };
        let left = self.offers.change(&self.metrics, |directory| directory.leave(connection));
        left.iter().for_each(Registration::fail_waiting);
    }
}

impl Directory<Peer, Registration> {
    /// Returns the guard of a connection that offers nothing any longer. It withdraws nothing, even if the connection
    /// offers something before it is dropped.
    fn release(&self, connection: u64, peer: &Peer) -> Option<Box<Guard>> {
        if self.connections.contains_key(&connection) {
            return None;
        }
        let mut guard = peer.release(&(OFFERS, Box::default()))?.downcast::<Guard>().ok()?;
        guard.connection = None;
        Some(guard)
    }
}

impl Refused<Fault> {
    fn into_fault(self, name: &str, offers: &Offers) -> Fault {
        let Maximum { each, all, bytes } = offers.lock().limits;
        match self {
            Self::Taken(owner) => taken(name, &owner.to_string()),
            Self::Connection => {
                Fault::new(code::BUSY, format!("this connection offers {each} functions (limits.offers)"))
            }
            Self::Node => {
                Fault::new(code::BUSY, format!("connections offer {all} functions (limits.offered)"))
            }
            Self::Descriptions => {
                let message = format!(
                    "the functions that connections offer have descriptions of {bytes} bytes (a quarter of limits.message)"
                );
                Fault::new(code::BUSY, message)
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
mod tests;
