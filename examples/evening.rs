//! An evening of cards: players chat and play at the same time, with an intentionally slow chat server. See lobby/ for a
//! game with people in browsers.
//!
//! Each player is a scheduler. It calls the chat and the table asynchronously, so a pending reply of the chat does not
//! stop the player. Nothing here depends on time: the chat replies when told to, which happens after all cards are on
//! the table.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chanrpc::chan::{CallError, Client, Functions, Id0, Id1, Responder, Server, ServerSettings};
use chanrpc::sched::{Handle, Scheduler};
use smol::Executor;

type Name = &'static str;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A timeout that is only reached in case of a fault.
const TIMEOUT: Duration = Duration::from_secs(20);

// Functions of a player.
const SAY: Id0<&str> = Id0::new("say");
const PLAY: Id0<u32> = Id0::new("play");
/// Returns when all cards played so far are on the table.
const LAID: Id0<()> = Id0::new("laid");

// Functions of the chat.
const REMARK: Id1<(Name, &str), usize> = Id1::new("remark");
/// Replies to all remarks so far.
const ANSWER: Id0<()> = Id0::new("answer");

// Functions of the table.
const LAY: Id1<(Name, u32), usize> = Id1::new("lay");

/// Records an event.
const NOTE: Id0<Event> = Id0::new("note");

/// An event, recorded in the order in which it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A player has said something; the reply of the chat is pending.
    Said { player: Name },
    /// The chat has replied.
    Heard { player: Name, listeners: usize },
    /// A player has played a card; the reply of the table is pending.
    Played { player: Name, card: u32 },
    /// The card is on the table.
    Laid { player: Name, card: u32 },
    /// The table has replied.
    Seen { player: Name, card: u32 },
    /// The chat was told to reply.
    ChatWakes,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said { player } => write!(f, "{player} says something"),
            Self::Heard { player, listeners } => write!(f, "{player} was heard by {listeners}"),
            Self::Played { player, card } => write!(f, "{player} plays card {card}"),
            Self::Laid { player, card } => write!(f, "    card {card} of {player} lies on the table"),
            Self::Seen { player, card } => write!(f, "{player} sees card {card} on the table"),
            Self::ChatWakes => f.write_str("the chat wakes up"),
        }
    }
}

/// Delays all replies until told to send them.
struct Chat {
    diary: Client,
    owed: Vec<Responder<usize>>,
}

impl Chat {
    fn functions() -> Result<Functions<Self>, Failure> {
        let mut functions = Functions::new();
        functions
            .register_deferred(REMARK, |chat: &mut Self, _, responder| chat.owed.push(responder))?
            .register(ANSWER, |chat, ()| {
                note(&chat.diary, Event::ChatWakes);
                let listeners = chat.owed.len();
                chat.owed.drain(..).for_each(|responder| responder.reply(listeners));
            })?;
        Ok(functions)
    }
}

/// Replies to cards immediately.
struct Table {
    diary: Client,
    cards: Vec<(Name, u32)>,
}

impl Table {
    fn functions() -> Result<Functions<Self>, Failure> {
        let mut functions = Functions::new();
        functions.register(LAY, |table: &mut Self, (player, card)| {
            note(&table.diary, Event::Laid { player, card });
            table.cards.push((player, card));
            table.cards.len()
        })?;
        Ok(functions)
    }
}

struct Player {
    name: Name,
    me: Handle<Self>,
    chat: Client,
    table: Client,
    diary: Client,
    /// Cards without a reply from the table yet.
    open: usize,
    /// Callers waiting until there are none.
    laid: Vec<Responder<()>>,
}

impl Player {
    fn functions() -> Result<Functions<Self>, Failure> {
        let mut functions = Functions::new();
        functions.register(SAY, Self::say)?.register(PLAY, Self::play)?.register_deferred(
            LAID,
            |player, (), responder| match player.open {
                0 => responder.reply(()),
                _ => player.laid.push(responder),
            },
        )?;
        Ok(functions)
    }

    fn say(&mut self, text: &'static str) {
        let player = self.name;
        note(&self.diary, Event::Said { player });
        let call = self.me.call(&self.chat, REMARK, (player, text)).then(move |me, listeners| {
            note(&me.diary, Event::Heard { player, listeners: answered(listeners) });
        });
        call.expect("fewer calls are pending than SchedulerSettings::calls allows");
    }

    fn play(&mut self, card: u32) {
        let player = self.name;
        note(&self.diary, Event::Played { player, card });
        self.open += 1;
        let call = self.me.call(&self.table, LAY, (player, card)).then(move |me, on_table| {
            answered(on_table);
            note(&me.diary, Event::Seen { player, card });
            me.open -= 1;
            if me.open == 0 {
                me.laid.drain(..).for_each(|responder| responder.reply(()));
            }
        });
        call.expect("fewer calls are pending than SchedulerSettings::calls allows");
    }
}

fn answered<T>(result: Result<T, CallError>) -> T {
    result.unwrap_or_else(|error| panic!("an answer was lost: {error}"))
}

fn note(diary: &Client, event: Event) {
    diary.go(NOTE, event).unwrap_or_else(|refused| panic!("{event:?} was not noted: {refused}"));
}

/// Runs players with these names, who chat and play `cards` cards each, and returns the events.
pub(crate) async fn evening(
    executor: &Arc<Executor<'static>>,
    names: &[Name],
    cards: u32,
) -> Result<Vec<Event>, Failure> {
    // The diary, the chat and the table are servers: each ends with its last client and returns its state.
    let mut notes = Functions::new();
    notes.register(NOTE, |events: &mut Vec<Event>, event| events.push(event))?;
    let roomy = ServerSettings::default().name("diary").capacity(4096);
    let diary = Server::with_settings(Vec::new(), notes, roomy);
    let chat = Server::new(Chat { diary: diary.client(), owed: Vec::new() }, Chat::functions()?);
    let table = Server::new(Table { diary: diary.client(), cards: Vec::new() }, Table::functions()?);

    // All players share one function table; each has its own state and loop.
    let functions = Arc::new(Player::functions()?);
    let mut players = Vec::new();
    for &name in names {
        let player = Scheduler::new(executor, functions.clone(), |me| Player {
            name,
            me: me.clone(),
            chat: chat.client(),
            table: table.client(),
            diary: diary.client(),
            open: 0,
            laid: Vec::new(),
        });
        players.push((player.client(), player.handle(), executor.spawn(player.run())));
    }
    let chat_client = chat.client();
    let diary = executor.spawn(diary.run());
    let chat = executor.spawn(chat.run());
    let table = executor.spawn(table.run());

    // Each player talks before the first card and again before the last one. The chat does not reply yet.
    for card in 1..=cards {
        for (player, ..) in &players {
            if card == 1 || card == cards {
                player.go(SAY, "good evening")?;
            }
            player.go(PLAY, card)?;
        }
    }
    // All cards are played nevertheless. This would time out if the chat delayed a player.
    for (player, ..) in &players {
        player.call(LAID, ()).timeout(TIMEOUT).await?;
    }
    chat_client.call(ANSWER, ()).await?;

    // Draining waits for the callbacks of all pending calls.
    drop(chat_client);
    for (player, me, ended) in players {
        drop(player);
        if !me.drain(TIMEOUT).await {
            return Err("a player is still waiting for an answer".into());
        }
        ended.await;
    }
    drop((chat.await, table.await));
    Ok(diary.await)
}

fn main() -> Result<(), Failure> {
    let executor = Arc::new(Executor::new());
    let events = smol::block_on(executor.run(evening(&executor, &["Ann", "Ben", "Cleo"], 3)))?;
    for event in events {
        println!("{event}");
    }
    Ok(())
}
