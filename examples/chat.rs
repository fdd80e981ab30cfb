//! A player's loop calls a chat server on another node, and plays on while the reply is pending.
//!
//! Nothing here depends on time: the chat replies when a card is on the table.

use std::sync::Arc;
use std::time::Duration;

use chanrpc::{CallError, Functions, Handle, Id0, Id1, Node, Remote, Responder, Scheduler};
use smol::Executor;

// Functions of the chat, in a crate that both programs share.
const SAY: Id1<(String, String), usize> = Id1::new("chat.say");
/// Replies to what was said so far, and returns how much that was.
const WAKE: Id1<(), usize> = Id1::new("chat.wake");

// Functions of a player.
const TALK: Id0<String> = Id0::new("talk");
const PLAY: Id0<u32> = Id0::new("play");

/// Delays all replies until it is woken.
#[derive(Default)]
struct Chat {
    waiting: Vec<Responder<usize>>,
}

struct Player {
    me: Handle<Player>,
    chat: Remote,
    events: Vec<String>,
}

impl Player {
    fn talk(&mut self, text: String) {
        self.events.push(format!("says {text:?}"));
        // The loop continues at once; the callback runs on it when the reply of the other node is there.
        let call = self.me.call(&self.chat, SAY, ("Ann".into(), text)).timeout(Duration::from_secs(20));
        let called = call.then(|player, listeners: Result<usize, CallError>| {
            player.events.push(match listeners {
                Ok(listeners) => format!("was heard by {listeners}"),
                Err(error) => format!("was not heard: {error}"),
            });
        });
        called.expect("fewer calls are pending than the settings allow");
    }

    fn play(&mut self, card: u32) {
        self.events.push(format!("plays card {card}"));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The other node: any program, on any machine.
    let mut functions = Functions::exported();
    functions
        .register_deferred(SAY, |chat: &mut Chat, _, responder| chat.waiting.push(responder))?
        .register(WAKE, |chat, ()| chat.waiting.drain(..).map(|responder| responder.reply(3)).count())?;
    let node = Node::builder("chat").serve(functions, Chat::default()).listen("127.0.0.1:0").start()?;

    // The player.
    let executor = Arc::new(Executor::new());
    let chat = Remote::builder(node.addresses()[0].to_string()).executor(&executor).connect();
    let mut functions = Functions::new();
    functions.register(TALK, Player::talk)?.register(PLAY, Player::play)?;
    let player = Scheduler::new(&executor, functions, |me| Player {
        me: me.clone(),
        chat: chat.clone(),
        events: Vec::new(),
    });
    let (client, handle) = (player.client(), player.handle());
    let player = executor.spawn(player.run());

    let player = smol::block_on(executor.run(async {
        client.call(TALK, "hello".into()).await?;
        client.call(PLAY, 7).await?;
        // Only now the chat replies to what was said before.
        while chat.call(WAKE, ()).await? == 0 {}
        handle.drain(Duration::from_secs(20)).await;
        Ok::<_, CallError>(player.await)
    }))?;
    player.events.iter().for_each(|event| println!("Ann {event}"));
    assert_eq!(player.events, ["says \"hello\"", "plays card 7", "was heard by 3"]);
    Ok(())
}
