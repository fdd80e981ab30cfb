//! Rooms, in which everybody gets what anybody says.

use std::collections::{HashMap, VecDeque};

use async_channel::Receiver;
use chanrpc::Fault;
use chanrpc::route::{Caller, Exports, WithCaller};
use chanrpc::{Id0, Id1};
use serde::{Deserialize, Serialize};

use super::{CLOSED, Failure, JOINED, OPENED};

const ENTER: Id1<WithCaller<Room>, Vec<String>> = Id1::new("Enter");
const SAY: Id0<WithCaller<Said>> = Id0::new("Say");
/// Does nothing until the operator says so, and lets all others wait meanwhile.
pub(crate) const PAUSE: Id0<()> = Id0::number(2);

const MAX_TEXT: usize = 300;
const MAX_ROOM: usize = 20;
/// The number of lines that somebody who enters a room gets.
const HISTORY: usize = 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Room {
    room: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    text: String,
}

/// Pushed to everybody in a room.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line<'a> {
    from: &'a str,
    text: &'a str,
}

pub(crate) struct Chat {
    people: HashMap<u64, Person>,
    /// The last names and texts of the rooms where somebody is.
    history: HashMap<String, VecDeque<(String, String)>>,
    resume: Receiver<()>,
}

struct Person {
    caller: Caller,
    name: Option<String>,
    room: Option<String>,
}

pub(crate) fn functions() -> Result<Exports<Chat>, Failure> {
    let mut functions = Exports::exported();
    functions
        .register(OPENED, |chat: &mut Chat, caller| {
            chat.people.insert(caller.connection(), Person { caller, name: None, room: None });
        })?
        .register(CLOSED, |chat, caller| {
            let left = chat.people.remove(&caller.connection()).and_then(|person| person.room);
            chat.left(left.as_deref());
        })?
        .register(JOINED, |chat, WithCaller(caller, name)| {
            // A connection that is closed already is not there.
            if let Some(person) = chat.people.get_mut(&caller.connection()) {
                person.name = Some(name);
            }
        })?
        .register(ENTER, Chat::enter)?
        .register(SAY, Chat::say)?
        .register_async(PAUSE, |chat, ()| {
            Box::pin(async {
                let _ = chat.resume.recv().await;
            })
        })?;
    functions
        .describe(ENTER, |signature| {
            signature.description("moves the caller to a room, and returns who is there")
        })
        .describe(SAY, |signature| signature.description("sends a text to everybody in the caller's room"));
    Ok(functions)
}

impl Chat {
    pub(crate) fn new(resume: Receiver<()>) -> Self {
        Self { people: HashMap::new(), history: HashMap::new(), resume }
    }

    fn enter(&mut self, WithCaller(caller, Room { room }): WithCaller<Room>) -> Result<Vec<String>, Fault> {
        if !(1..=MAX_ROOM).contains(&room.chars().count()) {
            return Err(Fault::invalid_params("the name of a room has 1 to 20 characters"));
        }
        let person = self.people.get_mut(&caller.connection()).filter(|person| person.name.is_some());
        let person = person.ok_or_else(|| Fault::invalid_params("log in first"))?;
        let left = person.room.replace(room.clone());
        self.left(left.as_deref().filter(|left| *left != room));
        self.push(&room, "People", &self.names(&room));
        for (from, text) in self.history.get(&room).into_iter().flatten().rev() {
            let _ = caller.send("Chat", &Line { from, text });
        }
        Ok(self.names(&room))
    }

    fn say(&mut self, WithCaller(caller, Said { text }): WithCaller<Said>) -> Result<(), Fault> {
        let text = text.trim();
        if !(1..=MAX_TEXT).contains(&text.chars().count()) {
            return Err(Fault::invalid_params("a text has 1 to 300 characters"));
        }
        let Some(Person { name: Some(from), room: Some(room), .. }) = self.people.get(&caller.connection())
        else {
            return Err(Fault::invalid_params("enter a room first"));
        };
        self.push(room, "Chat", &Line { from, text });
        let history = self.history.entry(room.clone()).or_default();
        history.truncate(HISTORY - 1);
        history.push_front((from.clone(), text.to_owned()));
        Ok(())
    }

    fn names(&self, room: &str) -> Vec<String> {
        let mut names: Vec<_> = self.in_room(room).filter_map(|person| person.name.clone()).collect();
        names.sort();
        names
    }

    /// Tells those in a room that somebody has left it.
    fn left(&mut self, room: Option<&str>) {
        let Some(room) = room else { return };
        let names = self.names(room);
        if names.is_empty() {
            self.history.remove(room);
        }
        self.push(room, "People", &names);
    }

    fn in_room<'a>(&'a self, room: &'a str) -> impl Iterator<Item = &'a Person> {
        self.people.values().filter(move |person| person.room.as_deref() == Some(room))
    }

    fn push(&self, room: &str, what: &str, data: &impl Serialize) {
        for person in self.in_room(room) {
            // Somebody who reads too slowly misses it. One who has left is told so by CLOSED.
            let _ = person.caller.send(what, data);
        }
    }
}
