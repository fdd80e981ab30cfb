//! The parameters of what subscribes, publishes and offers.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use chanrpc::config::Config;
use chanrpc::internals::codec::Dialect;
use chanrpc::internals::route::{Grants, RegistryInternals, registry_from_config};
use chanrpc::internals::session::Session;
use chanrpc::node::Node;
use serde_json::Value;

const CONFIG: &str = "[limits]\ntopics = 4\nsubscriptions = 3\nevents = 4\noutput = 4096\noffers = 2\n\
                      [[topic]]\nname = 'a.*'\nkeep = 2\n[[topic]]\nname = 'b'\nwhen_full = 'end'\n";
const METHODS: [&str; 5] = ["rpc.subscribe", "rpc.publish", "rpc.unsubscribe", "rpc.offer", "rpc.withdraw"];

/// Each line is a call: its first byte chooses the function, the others are the parameters. Every call has one answer, all
/// output is JSON, and nothing is left of a connection that has ended.
pub fn topics(input: &[u8]) {
    let config = Config::parse(CONFIG, "fuzz").expect("a valid configuration");
    let executor = Arc::new(smol::Executor::new());
    let registry = registry_from_config(&config, &executor).expect("a valid configuration").build();
    // Sets the limits of the topics.
    let _node = Node::new(executor, registry.clone(), config.limits.clone());
    let (limits, now) = (Arc::new(config.limits), Instant::now());
    let new =
        |dialect| Session::new(registry.clone(), limits.clone(), dialect, Grants::all(), now).reachable();
    let (mut session, mut other) = (new(Dialect::JsonLines), new(Dialect::JsonLines));
    let cx = &Context::from_waker(Waker::noop());
    let mut asked = 0;
    for (id, line) in input.split(|byte| *byte == b'\n').enumerate() {
        let Some((choice, params)) = line.split_first() else { continue };
        let method = METHODS[usize::from(*choice) % METHODS.len()];
        // Some are another connection's.
        let session = if choice & 0x80 == 0 { &mut session } else { &mut other };
        let start = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":");
        session.input().extend([start.as_bytes(), params, b"}\n"].concat());
        session.received(now);
        asked += 1;
    }
    let mut answers = 0;
    let mut failed = false;
    for mut session in [session, other] {
        // A turn may end early on a slow machine.
        while session.poll_replies(cx, now).is_ready() || session.has_yielded() {
            answers += read(&mut session);
        }
        answers += read(&mut session);
        failed |= session.has_failed();
    }
    assert!(answers == asked || failed, "{answers} answers to {asked} calls");
    let metrics = RegistryInternals::metrics(&*registry);
    assert_eq!((metrics.subscriptions.get(), metrics.offers.get()), (0, 0), "something is left");
}

/// Reads all output. Returns the number of answers.
fn read(session: &mut Session) -> usize {
    let output = session.take_output();
    let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let messages = lines.map(|line| serde_json::from_slice::<Value>(line).expect("output is JSON"));
    messages.filter(|message| message.get("method").is_none()).count()
}
