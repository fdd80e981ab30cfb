//! A game of cards for two to four: five cards each, in each trick everybody plays one, and the highest takes it. Who
//! takes a trick begins the next one; most tricks win.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use chanrpc::route::{Caller, Exports, WithCaller};
use chanrpc::{Fault, Id0, Id1};
use serde::{Deserialize, Serialize};

use super::{CLOSED, Failure, JOINED, OPENED};

const SIT: Id0<WithCaller<Place>> = Id0::new("Sit");
const DEAL: Id0<WithCaller<()>> = Id0::new("Deal");
/// Returns the number of the player's cards that are left.
const PLAY: Id1<WithCaller<Played>, usize> = Id1::new("Play");
/// The name of somebody who does not come back.
pub(crate) const LEFT: Id0<String> = Id0::number(2);

const HAND: usize = 5;
const MAX_SEATS: usize = 4;
const MAX_TABLE: usize = 20;
const RANKS: [&str; 13] = ["2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K", "A"];
const SUITS: [char; 4] = ['C', 'D', 'H', 'S'];

/// A card, such as `10H`. The higher rank is higher, and among equals the suit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Card(u8);

impl Card {
    fn name(self) -> String {
        format!("{}{}", RANKS[usize::from(self.0 / 4)], SUITS[usize::from(self.0 % 4)])
    }
}

impl Serialize for Card {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name().serialize(serializer)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Place {
    table: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Played {
    card: String,
}

#[derive(Default)]
pub(crate) struct Game {
    people: HashMap<u64, Person>,
    tables: HashMap<String, Table>,
}

struct Person {
    caller: Caller,
    name: Option<String>,
    table: Option<String>,
}

/// What everybody at a table sees.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Table {
    seats: Vec<Seat>,
    /// Whose turn it is, while a game goes on.
    turn: Option<String>,
    /// Who took the last trick.
    taken: Option<String>,
    /// Who has won the last game: several if they have as many tricks.
    winners: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Seat {
    name: String,
    /// Whether the player is connected.
    here: bool,
    #[serde(rename = "Cards", serialize_with = "count")]
    hand: Vec<Card>,
    /// The card in the current trick, or in the last one until the next begins.
    card: Option<Card>,
    tricks: usize,
}

/// Others see only the number of cards.
fn count<S: serde::Serializer>(hand: &[Card], serializer: S) -> Result<S::Ok, S::Error> {
    hand.len().serialize(serializer)
}

pub(crate) fn functions() -> Result<Exports<Game>, Failure> {
    let mut functions = Exports::exported();
    functions
        .register(OPENED, |game: &mut Game, caller| {
            game.people.insert(caller.connection(), Person { caller, name: None, table: None });
        })?
        .register(CLOSED, |game, caller| game.closed(&caller))?
        .register(JOINED, |game, WithCaller(caller, name)| {
            if let Some(person) = game.people.get_mut(&caller.connection()) {
                person.name = Some(name);
            }
        })?
        .register(LEFT, |game, name| game.left(&name))?
        .register(SIT, Game::sit)?
        .register(DEAL, |game, WithCaller(caller, ())| game.change(&caller, |table, _| table.deal()))?
        .register(PLAY, |game, WithCaller(caller, Played { card })| {
            game.change(&caller, |table, name| table.play(name, &card))
        })?;
    functions
        .describe(SIT, |signature| signature.description("gives the caller a seat at a table"))
        .describe(DEAL, |signature| signature.description("begins a game at the caller's table"))
        .describe(PLAY, |signature| signature.description("plays a card, and returns how many are left"));
    Ok(functions)
}

fn refuse<T>(message: impl Into<std::borrow::Cow<'static, str>>) -> Result<T, Fault> {
    Err(Fault::invalid_params(message))
}

impl Game {
    /// Sits down, or returns to the seat that is kept.
    fn sit(&mut self, WithCaller(caller, Place { table }): WithCaller<Place>) -> Result<(), Fault> {
        if !(1..=MAX_TABLE).contains(&table.chars().count()) {
            return refuse("the name of a table has 1 to 20 characters");
        }
        let Some(Person { name: Some(name), table: at, .. }) = self.people.get_mut(&caller.connection())
        else {
            return refuse("log in first");
        };
        let (name, before) = (name.clone(), at.take());
        self.leave(before.filter(|before| *before != table).as_deref(), &name);
        let place = self.tables.entry(table.clone()).or_default();
        place.seat(&name)?;
        self.people.entry(caller.connection()).and_modify(|person| person.table = Some(table.clone()));
        self.show(&table);
        Ok(())
    }

    /// Changes the table of a caller, and shows it to everybody there.
    fn change<T>(
        &mut self,
        caller: &Caller,
        change: impl FnOnce(&mut Table, &str) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let Some(Person { name: Some(name), table: Some(at), .. }) = self.people.get(&caller.connection())
        else {
            return refuse("sit down first");
        };
        let (name, at) = (name.clone(), at.clone());
        let Some(table) = self.tables.get_mut(&at) else { return refuse("sit down first") };
        let changed = change(table, &name)?;
        self.show(&at);
        Ok(changed)
    }

    /// The connection is lost; the seat is kept.
    fn closed(&mut self, caller: &Caller) {
        let Some(Person { name: Some(name), table: Some(at), .. }) = self.people.remove(&caller.connection())
        else {
            return;
        };
        // Somebody who has come back already has another connection.
        let is_here = self.people.values().any(|other| other.name.as_deref() == Some(&name));
        if let Some(seat) = self.tables.get_mut(&at).and_then(|table| table.seat_of(&name)) {
            seat.here = is_here;
        }
        self.show(&at);
    }

    fn left(&mut self, name: &str) {
        let tables: Vec<_> = self.tables.keys().cloned().collect();
        tables.iter().for_each(|at| self.leave(Some(at), name));
    }

    /// Gives up a seat. A game goes on without the player.
    fn leave(&mut self, at: Option<&str>, name: &str) {
        let Some((at, table)) = at.and_then(|at| Some((at, self.tables.get_mut(at)?))) else { return };
        table.leave(name);
        if table.seats.is_empty() {
            self.tables.remove(at);
        }
        self.show(at);
    }

    /// Sends a table to everybody who sits there, and to each the own hand.
    fn show(&self, at: &str) {
        let Some(table) = self.tables.get(at) else { return };
        for Person { caller, name, table: own } in self.people.values() {
            if own.as_deref() == Some(at) {
                // Without the last state there is a next one, or CLOSED.
                let _ = caller.send("Table", table);
                let seat = table.seats.iter().find(|seat| Some(&seat.name) == name.as_ref());
                let _ = caller.send("Hand", seat.map_or(&[][..], |seat| &seat.hand));
            }
        }
    }
}

impl Table {
    fn seat_of(&mut self, name: &str) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.name == name)
    }

    fn seat(&mut self, name: &str) -> Result<(), Fault> {
        if let Some(seat) = self.seat_of(name) {
            seat.here = true;
            return Ok(());
        }
        if self.seats.len() == MAX_SEATS {
            return refuse("all seats are taken");
        }
        let name = name.to_owned();
        self.seats.push(Seat { name, here: true, hand: Vec::new(), card: None, tricks: 0 });
        Ok(())
    }

    fn deal(&mut self) -> Result<(), Fault> {
        if self.turn.is_some() {
            return refuse("a game goes on");
        }
        if self.seats.len() < 2 {
            return refuse("it takes two to play");
        }
        let mut deck: Vec<_> = (0..52).map(Card).collect();
        let random = RandomState::new();
        deck.sort_by_cached_key(|card| random.hash_one(card.0));
        for seat in &mut self.seats {
            seat.hand = deck.split_off(deck.len() - HAND);
            seat.hand.sort();
            (seat.card, seat.tricks) = (None, 0);
        }
        self.winners.clear();
        self.taken = None;
        self.turn = Some(self.seats[0].name.clone());
        Ok(())
    }

    fn play(&mut self, name: &str, card: &str) -> Result<usize, Fault> {
        match &self.turn {
            None => return refuse("deal first"),
            Some(turn) if turn != name => return refuse(format!("it is the turn of {turn}")),
            Some(_) => {}
        }
        let Some(seat) = self.seat_of(name) else { return refuse("sit down first") };
        let Some(at) = seat.hand.iter().position(|own| own.name() == card) else {
            return refuse("this is none of your cards");
        };
        let played = seat.hand.remove(at);
        let left = seat.hand.len();
        // The cards of the last trick lie until the next one begins.
        if let Some(_before) = self.taken.take() {
            self.seats.iter_mut().for_each(|seat| seat.card = None);
        }
        if let Some(seat) = self.seat_of(name) {
            seat.card = Some(played);
        }
        self.go_on(name);
        Ok(left)
    }

    /// Passes the turn on after `name`, or gives the trick to the highest card.
    fn go_on(&mut self, name: &str) {
        let start = self.seats.iter().position(|seat| seat.name == name).map_or(0, |at| at + 1);
        let count = self.seats.len();
        let next = (start..start + count).map(|at| &self.seats[at % count]);
        if let Some(next) = next.clone().find(|seat| seat.card.is_none() && !seat.hand.is_empty()) {
            self.turn = Some(next.name.clone());
            return;
        }
        let Some(highest) = self.seats.iter_mut().max_by_key(|seat| seat.card) else { return };
        highest.tricks += 1;
        self.taken = Some(highest.name.clone());
        self.turn = self.taken.clone();
        if self.seats.iter().all(|seat| seat.hand.is_empty()) {
            self.turn = None;
            let most = self.seats.iter().map(|seat| seat.tricks).max();
            let winners = self.seats.iter().filter(|seat| Some(seat.tricks) == most);
            self.winners = winners.map(|seat| seat.name.clone()).collect();
        }
    }

    fn leave(&mut self, name: &str) {
        let Some(at) = self.seats.iter().position(|seat| seat.name == name) else { return };
        let before = self.seats[(at + self.seats.len() - 1) % self.seats.len()].name.clone();
        self.seats.remove(at);
        if self.seats.len() < 2 {
            self.turn = None;
            self.seats.iter_mut().for_each(|seat| (seat.hand, seat.card) = (Vec::new(), None));
        } else if self.turn.as_deref() == Some(name) {
            self.go_on(&before);
        }
    }
}
