//! Functions that a node offers at another one, to which it connects.

use std::net::{SocketAddr, TcpListener};
use std::thread;

use chanrpc::chan::{Functions, Id1};
use chanrpc::config::Config;
use chanrpc::internals::route::token_hash;
use chanrpc::node::{Node, NodeBuilder, RunningNode};
use chanrpc::remote::Remote;
use chanrpc::route::Exports;
use serde_json::{Value, json};

use crate::support::{Client, Fault, Folder, eventually};
use crate::wires::{Peer, TOKEN, Wire};

const ADD: Id1<i64, i64> = Id1::new("count.add");
const SECRET: Id1<(), i64> = Id1::new("secret");

fn functions() -> Exports<i64> {
    let mut functions = Functions::exported();
    functions
        .register(ADD, |total: &mut i64, by| {
            *total += by;
            *total
        })
        .unwrap()
        .register(SECRET, |_, ()| 42)
        .unwrap()
        .register_deferred(Id1::<(), i64>::new("count.hold"), |total, (), responder| {
            *total += 100;
            responder.reply(*total);
        })
        .unwrap();
    functions.describe("count.add", |signature| signature.names(["by"]).description("adds"));
    functions
}

fn node(name: &str, config: &str) -> NodeBuilder {
    Node::from_config(Config::parse(&format!("name = '{name}'\n{config}"), "node.toml").unwrap())
}

fn hub(config: &str) -> RunningNode {
    node("hub", &format!("{config}\n[[listen]]\naddress = '127.0.0.1:0'\n")).start().unwrap()
}

/// Starts a node that listens nowhere, and offers its functions.
fn board(to: SocketAddr, settings: &str) -> RunningNode {
    let offer = format!("[[offer]]\nto = '{to}'\nfunctions = ['count.*']\nas = 'board-a.'\n{settings}");
    node("board", &offer).serve(functions(), 0).start().unwrap()
}

#[track_caller]
fn offered(client: &mut Client, method: &str, params: &Value) -> Value {
    let mut outcome = Ok(Value::Null);
    eventually("the function is offered", || {
        outcome = client.call(method, params);
        !matches!(&outcome, Err(Fault { code: -32601, .. }))
    });
    outcome.unwrap()
}

#[test]
fn functions_of_a_node_that_listens_nowhere_are_called_under_their_prefix() {
    let hub = hub("");
    let address = hub.addresses()[0];
    let board = board(address, "");
    let mut caller = Client::connect(address);
    assert_eq!(offered(&mut caller, "board-a.count.add", &json!([5])), 5);
    assert_eq!(caller.call("board-a.count.add", &json!({ "by": 2 })), Ok(json!(7)));
    assert_eq!(caller.call("board-a.count.hold", &json!([])), Ok(json!(107)));
    eventually("each function is listed", || {
        let listed = caller.call("rpc.list", &json!(["board-a.*"])).unwrap();
        listed == json!(["board-a.count.add", "board-a.count.hold", "board-a.count.*"])
    });
    let listed = caller.call("rpc.list", &json!(["board-a.count.add", true])).unwrap();
    assert_eq!(listed[0]["provider"], "peer");
    assert_eq!(listed[0]["params"][0]["schema"], json!({ "type": "integer" }), "{listed}");
    // Errors pass through, and what is not offered cannot be called.
    let fault = caller.call("board-a.count.add", &json!(["x"])).unwrap_err();
    assert_eq!(fault.code, -32602);
    for method in ["board-a.secret", "secret", "board-a.rpc.list", "board-a.count.none"] {
        assert_eq!(caller.call(method, &json!([])).unwrap_err().code, -32601, "{method}");
    }
    smol::block_on(board.stop());
    assert_eq!(caller.call("board-a.count.add", &json!([1])).unwrap_err().code, -32601);
}

/// A node in the hands of the test.
struct Hub {
    listener: TcpListener,
    address: SocketAddr,
}

impl Hub {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// Accepts a connection. Returns it with what it offers.
    fn accept(&self) -> (Peer, Vec<Value>) {
        let mut peer = Peer::over(Wire::Lines, Client::new(self.listener.accept().unwrap().0));
        peer.client.set_limit(crate::support::LIMIT);
        // The family, and each of its functions.
        let offers = (0..3).map(|_| peer.receive()).collect();
        (peer, offers)
    }
}

fn answer_all(peer: &mut Peer, calls: &[Value]) {
    for call in calls {
        peer.answer(call, Ok(json!(true)));
    }
}

#[test]
fn the_other_node_reaches_nothing_but_what_is_offered() {
    let hub = Hub::new();
    let board = board(hub.address, "share = 'any'");
    let (mut peer, offers) = hub.accept();
    let names: Vec<_> = offers.iter().map(|offer| offer["params"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["board-a.count.*", "board-a.count.add", "board-a.count.hold"]);
    assert!(offers.iter().all(|offer| offer["method"] == "rpc.offer" && offer["params"]["share"] == "any"));
    answer_all(&mut peer, &offers);
    assert_eq!(peer.call("rpc.ping", &json!([])), Ok(json!("pong")));
    assert_eq!(peer.call("board-a.count.add", &json!([3])), Ok(json!(3)));
    for method in
        ["count.add", "board-a.secret", "secret", "rpc.list", "rpc.stats", "rpc.offer", "board-a.rpc.list"]
    {
        let fault = peer.call(method, &json!(["count.*"])).unwrap_err();
        assert_eq!(fault.code, -32601, "{method}: {fault:?}");
    }
    let fault = peer.ask(json!({ "method": "board-a.count.add", "params": [1], "meta": { "hops": 9 } }));
    assert_eq!(fault.unwrap_err().code, -32012);
    drop(board);
}

#[test]
fn lost_connection_is_established_again_and_refused_offers_are_repeated() {
    let hub = Hub::new();
    let _board = board(hub.address, "");
    drop(hub.accept());
    let (mut peer, offers) = hub.accept();
    let taken = json!({ "code": -32015, "message": "taken", "data": { "by": "another" } });
    peer.answer(&offers[0], Err(taken));
    answer_all(&mut peer, &offers[1..]);
    let again = peer.receive();
    assert_eq!(again["params"]["name"], "board-a.count.*");
    peer.answer(&again, Ok(json!(true)));
    assert_eq!(peer.call("board-a.count.add", &json!([3])), Ok(json!(3)));
}

#[test]
fn stopping_node_withdraws_and_then_answers_what_runs() {
    let hub = Hub::new();
    let board = board(hub.address, "");
    let (mut peer, offers) = hub.accept();
    answer_all(&mut peer, &offers);
    assert_eq!(peer.call("board-a.count.add", &json!([1])), Ok(json!(1)));
    let stopping = thread::spawn(|| smol::block_on(board.stop()));
    let withdrawn: Vec<_> = (0..3).map(|_| peer.receive()).collect();
    assert!(withdrawn.iter().all(|call| call["method"] == "rpc.withdraw"), "{withdrawn:?}");
    // What was sent before the other node knows is answered.
    assert_eq!(peer.call("board-a.count.add", &json!([1])), Ok(json!(2)));
    answer_all(&mut peer, &withdrawn);
    peer.client.assert_closed();
    stopping.join().unwrap();
}

#[test]
fn stopping_node_does_not_wait_for_a_node_that_is_not_there() {
    let hub = Hub::new();
    let address = hub.address;
    drop(hub);
    let board = board(address, "");
    smol::block_on(board.stop());
}

#[test]
fn token_decides_what_may_be_offered() {
    let hash: String = token_hash(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    let hub = hub(&format!(
        "[[access]]\nfunctions = ['board-a.*']\n\
         [[access]]\nname = 'board'\noffer = ['board-a.count.*']\ntoken = 'sha256:{hash}'"
    ));
    let address = hub.addresses()[0];
    let folder = Folder::new();
    folder.write("token", TOKEN);
    let board = board(address, &format!("token_file = '{}'", folder.name("token")));
    let mut caller = Client::connect(address);
    assert_eq!(offered(&mut caller, "board-a.count.add", &json!([5])), 5);
    drop(board);
}

#[test]
fn offers_pass_through_nodes_up_to_the_limit_of_hops() {
    let hub = hub("[limits]\nhops = 3");
    let address = hub.addresses()[0];
    let middle = node(
        "middle",
        &format!(
            "[[listen]]\naddress = '127.0.0.1:0'\n\
             [[offer]]\nto = '{address}'\nfunctions = ['board-a.*']\nas = 'middle.'\n[limits]\nhops = 3"
        ),
    );
    let middle = middle.start().unwrap();
    let board = Node::builder("board").serve(functions(), 0);
    let at = Remote::builder(middle.addresses()[0].to_string());
    let _board = board.offer(at, "board-a.", ["count.*"]).start().unwrap();
    let mut caller = Client::connect(address);
    // Known as a family from the start, whatever comes first.
    assert_eq!(offered(&mut caller, "middle.board-a.count.add", &json!([5])), 5);
    let call = |hops: u64| json!({ "jsonrpc": "2.0", "id": 1, "method": "middle.board-a.count.add", "params": [1], "meta": { "hops": hops } });
    assert_eq!(caller.ask(call(1).to_string())["result"], 6);
    let reply = caller.ask(call(2).to_string());
    assert_eq!(reply["error"]["code"], -32012, "{reply}");
}
