//! A lobby for people: browsers log in, chat in rooms and play cards. Its parts are those of a game server of Leaf: the
//! gate (this file), and the modules login, chat and game, each a scheduler with a loop of its own. A slow chat delays no
//! card.
//!
//! `cargo run --example lobby [ADDRESS [LEAF-ADDRESS]]`, then open the page in two windows. Clients of Leaf use the
//! second address. On the terminal, `pause` makes the chat wait until `resume`; `quit` or the end of the input stops.

mod chat;
mod game;
mod login;

use std::io;
use std::sync::Arc;
use std::thread;

use chanrpc::config::Config;
use chanrpc::route::{Caller, Exports, WithCaller};
use chanrpc::{Client, Id0, Node, Scheduler};
use smol::Executor;

type Failure = Box<dyn std::error::Error + Send + Sync>;

// Events of connections, for every module.
const OPENED: Id0<Caller> = Id0::new("opened");
const CLOSED: Id0<Caller> = Id0::new("closed");
/// Login tells the others a caller's name. Like all functions whose id is a number, it is not called over the network.
const JOINED: Id0<WithCaller<String>> = Id0::number(1);

/// What everybody may call. Players with Leaf's messages call the same functions.
const CONFIG: &str = "
[[listen]]
address = 'PAGE'

[[listen]]
address = 'LEAF'
dialect = 'leaf'

[[access]]
functions = ['Login', 'Enter', 'Say', 'Sit', 'Deal', 'Play', 'rpc.ping']
";

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut address = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let config = CONFIG.replace("PAGE", &address("127.0.0.1:7310"));
    let config = Config::parse(&config.replace("LEAF", &address("127.0.0.1:7311")), "lobby")?;

    let executor = Arc::new(Executor::new());
    let resume = async_channel::unbounded();
    let paused = resume.1;
    let (chat_functions, chat) = start(&executor, chat::functions()?, |_| chat::Chat::new(paused));
    let (game_functions, game) = start(&executor, game::functions()?, |_| game::Game::default());
    let others = [chat.clone(), game.clone()];
    let (login_functions, login) =
        start(&executor, login::functions()?, |me| login::Login::new(me.clone(), others));

    let mut node = Node::from_config(config)
        .export(&login_functions, &login)
        .export(&chat_functions, &chat)
        .export(&game_functions, &game);
    for module in [&login, &chat, &game] {
        node = node.sessions(module, OPENED, CLOSED);
    }
    let node = node
        .page("/", "text/html; charset=utf-8", include_str!("page/index.html"))
        .page("/lobby.js", "text/javascript; charset=utf-8", include_str!("page/lobby.js"))
        .page("/lobby.css", "text/css; charset=utf-8", include_str!("page/lobby.css"))
        .executor(&executor)
        .start()?;
    let (stop, stopped) = async_channel::bounded::<()>(1);
    let addresses = node.addresses().to_vec();
    let running = thread::spawn(move || {
        smol::block_on(executor.run(async {
            let _ = stopped.recv().await;
            node.stop().await;
        }));
    });
    println!("open http://{}/ in two windows; clients of Leaf: {}", addresses[0], addresses[1]);

    for line in io::stdin().lines() {
        match line?.trim() {
            "pause" => chat.go(chat::PAUSE, ())?,
            "resume" => resume.0.try_send(())?,
            "quit" => break,
            other => println!("{other:?} is neither pause, resume nor quit"),
        }
    }
    drop(stop);
    running.join().map_err(|_| "the node has panicked".into())
}

/// Starts a module. Returns its functions and a client of it.
fn start<S: Send + 'static>(
    executor: &Arc<Executor<'static>>,
    functions: Exports<S>,
    state: impl FnOnce(&chanrpc::Handle<S>) -> S,
) -> (Exports<S>, Client) {
    let module = Scheduler::new(executor, functions.clone(), state);
    let client = module.client();
    executor.spawn(module.run()).detach();
    (functions, client)
}
