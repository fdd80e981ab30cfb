//! Who is who: names, and the tickets by which people get theirs back.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use chanrpc::message::code;
use chanrpc::route::{Caller, Exports, WithCaller};
use chanrpc::{Client, Fault, Handle, Id1};
use serde::{Deserialize, Serialize};

use super::{CLOSED, Failure, JOINED, OPENED, game};

const LOGIN: Id1<WithCaller<Request>, Welcome> = Id1::new("Login");

/// How long a name is kept for somebody who has lost the connection.
const KEPT: Duration = Duration::from_secs(60);
const MAX_NAMES: usize = 1000;
const MAX_LENGTH: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    name: String,
    /// From an earlier login, by which the name is taken over.
    #[serde(default)]
    ticket: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Welcome {
    name: String,
    ticket: String,
}

pub(crate) struct Login {
    me: Handle<Self>,
    /// The modules that are told of names.
    others: [Client; 2],
    names: HashMap<String, Owner>,
    /// The names of connections: what is an agent's `UserData` in Leaf.
    connections: HashMap<u64, String>,
    secret: RandomState,
}

struct Owner {
    ticket: String,
    /// `None` while the connection is lost.
    caller: Option<Caller>,
    /// The number of times that the connection was lost.
    losses: u32,
}

pub(crate) fn functions() -> Result<Exports<Login>, Failure> {
    let mut functions = Exports::exported();
    functions
        .register(OPENED, |_: &mut Login, _| ())?
        .register(CLOSED, |login, caller| login.closed(&caller))?
        .register(LOGIN, Login::login)?
        .describe(LOGIN, |signature| signature.description("gives the caller a name"));
    Ok(functions)
}

impl Login {
    pub(crate) fn new(me: Handle<Self>, others: [Client; 2]) -> Self {
        let (names, connections) = (HashMap::new(), HashMap::new());
        Self { me, others, names, connections, secret: RandomState::new() }
    }

    fn login(&mut self, WithCaller(caller, request): WithCaller<Request>) -> Result<Welcome, Fault> {
        let refuse = |message: &'static str| Err(Fault::invalid_params(message));
        let Request { name, ticket } = request;
        let name = name.trim().to_owned();
        if !(1..=MAX_LENGTH).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return refuse("a name has 1 to 16 characters");
        }
        if self.connections.contains_key(&caller.connection()) {
            return refuse("this connection has a name already");
        }
        match self.names.get(&name) {
            Some(owner) if owner.ticket != ticket => return refuse("somebody else has this name"),
            None if self.names.len() == MAX_NAMES => return refuse("too many people are here"),
            _ => {}
        }
        for other in &self.others {
            let joined = other.go(JOINED, WithCaller(caller.clone(), name.clone()));
            joined.map_err(|error| Fault::new(code::BUSY, error.to_string()))?;
        }
        let number = self.secret.hash_one((&name, caller.connection()));
        let owner = self.names.entry(name.clone()).or_insert_with(|| Owner {
            ticket: format!("{number:016x}"),
            caller: None,
            losses: 0,
        });
        // Somebody who comes back before the loss of the connection was noticed.
        if let Some(before) = owner.caller.replace(caller.clone()) {
            self.connections.remove(&before.connection());
            before.close();
        }
        self.connections.insert(caller.connection(), name.clone());
        Ok(Welcome { name, ticket: owner.ticket.clone() })
    }

    fn closed(&mut self, caller: &Caller) {
        let Some(name) = self.connections.remove(&caller.connection()) else { return };
        let Some(owner) = self.names.get_mut(&name) else { return };
        owner.caller = None;
        owner.losses += 1;
        let losses = owner.losses;
        let forget = move |login: &mut Self| {
            let is_lost = |owner: &Owner| owner.caller.is_none() && owner.losses == losses;
            if login.names.get(&name).is_some_and(is_lost) {
                login.names.remove(&name);
                // The game is told once, or its player stays until the table is full.
                let _ = login.others[1].go(game::LEFT, name);
            }
        };
        self.me.after(KEPT, forget).expect("fewer timers than SchedulerSettings::timers");
    }
}
