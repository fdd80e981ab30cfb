//! Who offers what, as a model and step by step.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proptest::prelude::*;

use super::super::{Action, Grants};
use super::*;

const EACH: usize = 3;
const ALL: usize = 6;

/// A place in the registry: its limit while it is registered.
struct Registered(Rc<RefCell<BTreeMap<String, Vec<usize>>>>, String, Cell<usize>);

impl Slot for Registered {
    fn resize(&self, calls: usize) {
        self.2.set(calls);
    }

    fn take_waiting(&self, _: &Self) {}
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

fn right() -> Right {
    Grants::all().right(Action::Offer, "")
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
        let mut directory = Directory::<u64, Registered>::new(Maximum { each: EACH, all: ALL, bytes: 100 });
        let registered = Rc::new(RefCell::new(BTreeMap::<String, Vec<usize>>::new()));
        let mut model = Model::new();
        for step in steps {
            let expected = expect(&mut model, &step);
            match step {
                Step::Offer { connection, name, share, in_flight } => {
                    let register = |_: &Arc<Members<u64>>, replaced: Option<&Registered>, _| {
                        let earlier = registered.borrow().get(&name).map_or(0, Vec::len);
                        assert_eq!(replaced.is_some(), earlier == 1, "{name}");
                        registered.borrow_mut().entry(name.clone()).or_default().push(in_flight);
                        Ok::<_, ()>(Registered(registered.clone(), name.clone(), Cell::new(in_flight)))
                    };
                    let offer = Offer {
                        name: name.clone().into(), connection, owner: owner(connection), right: right(),
                        peer: connection, in_flight, share, knows_meta: false,
                    };
                    let told = directory.offer(offer, 1, register);
                    let told = told.map(|replaced| replaced.peers.iter().map(|(told, _)| *told).collect());
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
            prop_assert_eq!((directory.functions.len(), directory.bytes), (model.len(), model.len()));
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
            connection: connection as u64, owner: owner(0), right: right(), peer: connection, limit: *limit,
            in_flight: Arc::default(),
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
    let members = Members::new();
    for connection in 0..3 {
        let (owner, in_flight) = (owner(0), Arc::default());
        let member = Member { connection, owner, right: right(), peer: connection, limit: 1, in_flight };
        assert!(members.put(member, false).is_empty());
    }
    let chosen: Vec<_> = (0..6).map(|_| *members.choose().unwrap().peer()).collect();
    assert_eq!(chosen, [1, 2, 0, 1, 2, 0]);
    assert!(members.remove(1) && !members.remove(1));
    let chosen: Vec<_> = (0..4).map(|_| *members.choose().unwrap().peer()).collect();
    assert_eq!(chosen.iter().filter(|peer| **peer == 2).count(), 2, "{chosen:?}");
    assert!(members.remove(0) && members.remove(2) && members.choose().is_none());
}
