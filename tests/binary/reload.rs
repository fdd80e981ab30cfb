//! A node loads its configuration again while it serves.

use std::net::{SocketAddr, TcpStream};
use std::thread;

use serde_json::{Value, json};

use crate::processes::worker_of;
use crate::programs::{await_gate, gate, program};
use crate::support::{Client, Folder, Node, await_some, ended, eventually, scale};

/// Lets everybody reload.
const OPEN: &str =
    "[[access]]\nfunctions = ['*', 'rpc.reload']\nsubscribe = ['*']\npublish = ['*']\noffer = ['*']\n";
/// The hash of the token "a secret".
const HASH: &str = "sha256:984ca5162200734c592148f1820b71057f098573d138666b48663e4e30cd8d3a";

fn write(node: &Node, config: &str) {
    node.folder.write("config.toml", &format!("{OPEN}{config}"));
}

/// Writes a configuration and reloads it. Returns what is printed.
#[track_caller]
fn reload(node: &Node, config: &str) -> String {
    write(node, config);
    node.run("reload", &[]).result().to_owned()
}

fn start(config: &str) -> Node {
    Node::with(Folder::new(), &format!("{OPEN}{config}"))
}

fn echo(name: &str, text: &str) -> String {
    program(name, "echo", &[text], "")
}

/// Returns the addresses in the ready file, once there are as many.
#[track_caller]
fn await_addresses(node: &Node, count: usize) -> Vec<SocketAddr> {
    await_some("the node listens", || {
        let ready = node.folder.read("ready")?;
        let addresses: Vec<_> = ready.lines().map(|line| line.parse().unwrap()).collect();
        (addresses.len() == count).then_some(addresses)
    })
}

#[test]
fn functions_are_added_changed_and_withdrawn() {
    let family = "[[function]]\nname = 'c.*'\nforward = '127.0.0.1:1'\n";
    let node = start(&(echo("a", "1") + &echo("b", "1") + family));
    let mut client = node.connect();
    assert_eq!(client.call("a", &json!([])), Ok(json!([1])));
    let printed = reload(&node, &(echo("b", "2") + &echo("d", "1")));
    for change in ["function a is withdrawn", "function b has changed", "function d is new"] {
        assert!(printed.contains(change), "{printed}");
    }
    // The same connection.
    for (name, known) in
        [("a", "which was withdrawn"), ("c.x", "which was withdrawn"), ("e", "no function \"e\";")]
    {
        let fault = client.call(name, &json!([])).unwrap_err();
        assert_eq!(fault.code, -32601, "{fault:?}");
        assert!(fault.message.contains(known), "{fault:?}");
    }
    assert_eq!(client.call("b", &json!([])), Ok(json!([2])));
    assert_eq!(client.call("d", &json!([])), Ok(json!([1])));
    let names = client.call("rpc.list", &json!(["?"])).unwrap();
    assert_eq!(names, json!([]));
    // Counters of a function go on, and those of withdrawn ones are gone.
    let stats = client.call("rpc.stats", &json!([])).unwrap();
    let names: Vec<_> = stats["functions"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["b", "d"]);
    assert_eq!(reload(&node, &(echo("b", "2") + &echo("d", "1"))), "nothing has changed");
    assert!(!reload(&node, &echo("a", "3")).is_empty());
    assert_eq!(client.call("a", &json!([])), Ok(json!([3])));
}

#[test]
fn calls_in_flight_are_answered_by_what_they_were_passed_to() {
    let node = start(&(gate("concurrency = 1") + &echo("a", "1")));
    let mut client = node.connect();
    client.begin(1, "gate", &json!([node.folder.name("open")]));
    await_gate(&node.folder, "open");
    // It waits for a worker, and is for the function that has it then.
    let mut waiting = node.connect();
    waiting.begin(1, "gate", &json!(["x"]));
    eventually("it waits", || node.metric("chanrpc_calls_in_flight") == 2);
    reload(&node, &program("gate", "echo", &["{file}"], "params = { file = 'string' }\nconcurrency = 1"));
    node.folder.write("open", "");
    assert_eq!(client.reply()["result"], "opened");
    assert_eq!(waiting.reply()["result"], json!(["x"]));
    assert_eq!(client.call("gate", &json!(["x"])), Ok(json!(["x"])));
}

#[test]
fn mistake_changes_nothing_and_is_told() {
    let node = start(&echo("a", "1"));
    let mut client = node.connect();
    for (config, mistakes) in [
        ("name = 'x'\nnmae = 'y'\n[limits]\ndepth = 0\n", &["unknown key \"nmae\"", "depth"][..]),
        ("[[function]]\nname = 'b'\nforward = '127.0.0.1:1'\ntoken_file = 'nowhere'\n", &["nowhere"]),
        ("[[listen]]\naddress = '127.0.0.1:0'\ntls = { certificate = 'no', key = 'no' }\n", &[""]),
    ] {
        write(&node, config);
        let ended = node.run("reload", &[]);
        let told = ended.failed(2);
        for mistake in mistakes {
            assert!(told.contains(mistake), "{told}");
            node.await_log(mistake);
        }
        assert!(told.contains("nothing has changed"), "{told}");
        assert_eq!(client.call("a", &json!([])), Ok(json!([1])));
        let fault = client.call("rpc.reload", &json!([])).unwrap_err();
        let count = fault.data["mistakes"].as_array().map(Vec::len);
        assert_eq!((fault.code, count), (-32603, Some(mistakes.len())), "{fault:?}");
    }
    let renamed = format!("name = 'renamed'\n{OPEN}{}", echo("a", "2"));
    node.folder.write("config.toml", &renamed);
    let ended = node.run("reload", &[]);
    assert!(ended.stderr.contains("name has changed, which needs a restart"), "{ended:?}");
    assert_eq!(client.call("rpc.info", &json!([])).unwrap()["name"], "chanrpc");
    assert_eq!(client.call("a", &json!([])), Ok(json!([2])));
}

#[test]
fn file_that_cannot_be_read_holds_up_nobody() {
    let node = start(&echo("a", "1"));
    let pipe = node.folder.name("pipe");
    let mut mkfifo = std::process::Command::new("mkfifo");
    mkfifo.arg(&pipe);
    assert!(mkfifo.status().unwrap().success());
    let forward = format!("[[function]]\nname = 'b'\nforward = '127.0.0.1:1'\ntoken_file = '{pipe}'\n");
    write(&node, &forward);
    let (mut operator, mut client) = (node.connect(), node.connect());
    operator.begin(1, "rpc.reload", &json!([]));
    node.await_log("reloading the configuration");
    // The pipe has no writer: the reload waits, and nobody else.
    assert_eq!(client.call("a", &json!([])), Ok(json!([1])));
    let refused = operator.reply();
    let told = refused["error"]["data"]["mistakes"][0].as_str().unwrap();
    assert!(told.contains("more than 10 s"), "{refused}");
    // As long as it waits, there is no point in another.
    write(&node, &echo("a", "2"));
    let fault = operator.call("rpc.reload", &json!([])).unwrap_err();
    assert!(fault.data["mistakes"][0].as_str().unwrap().contains("an earlier reload"), "{fault:?}");
    await_some("the file is read", || {
        // Opened for both, it does not wait for a reader.
        drop(std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap());
        operator.call("rpc.reload", &json!([])).ok()
    });
    assert_eq!(client.call("a", &json!([])), Ok(json!([2])));
}

#[test]
fn stopping_node_refuses_reloads() {
    let mut node = start(&echo("a", "1"));
    let mut operator = node.connect();
    // It waits for a pipe, and so do those after it.
    let pipe = node.folder.name("pipe");
    let mut mkfifo = std::process::Command::new("mkfifo");
    mkfifo.arg(&pipe);
    assert!(mkfifo.status().unwrap().success());
    write(&node, &format!("[[function]]\nname = 'b'\nforward = '127.0.0.1:1'\ntoken_file = '{pipe}'\n"));
    (0..3).for_each(|number| operator.begin(number, "rpc.reload", &json!([])));
    node.await_log("reloading the configuration");
    node.signal("TERM");
    for _ in 0..3 {
        assert_eq!(operator.reply()["error"]["code"], -32014);
    }
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn reload_needs_a_rule_that_names_it() {
    for rules in ["", "[[access]]\nfunctions = ['*', 'rpc.*', 'rpc.reloa*']\n"] {
        let node = Node::with(Folder::new(), rules);
        let mut client = node.connect();
        assert_eq!(client.call("rpc.reload", &json!([])).unwrap_err().code, -32002);
        assert_eq!(client.call("rpc.list", &json!(["rpc.reload"])), Ok(json!([])));
        let ended = node.run("reload", &[]);
        assert!(ended.failed(5).contains("rpc.reload"), "{ended:?}");
    }
    let node = start("");
    assert_eq!(node.connect().call("rpc.list", &json!(["rpc.reload"])), Ok(json!(["rpc.reload"])));
    let demo = Node::demo();
    assert_eq!(demo.connect().call("rpc.reload", &json!([])).unwrap_err().code, -32002);
}

#[test]
fn withdrawn_token_ends_what_it_allowed() {
    let rule = |token: &str, more: &str| {
        let token = format!("[[access]]\ntoken = '{token}'\nfunctions = ['a', 'rpc.list']\n{more}\n");
        let operator = "[[access]]\nfunctions = ['rpc.reload', 'rpc.stats']\n";
        format!("{operator}{token}{}", echo("a", "1"))
    };
    let all = "subscribe = ['t.*']\noffer = ['own.*']\n";
    let node = Node::with(Folder::new(), &rule(HASH, all));
    let set = |config: &str| {
        node.folder.write("config.toml", config);
        node.run("reload", &[]).result().to_owned()
    };
    let mut client = node.connect();
    assert_eq!(client.call("a", &json!([])).unwrap_err().code, -32002);
    assert_eq!(client.call("rpc.auth", &json!({ "token": "a secret" })), Ok(json!(true)));
    assert_eq!(client.call("a", &json!([])), Ok(json!([1])));
    client.call("rpc.subscribe", &json!(["t.x"])).unwrap();
    client.call("rpc.offer", &json!(["own.f"])).unwrap();

    // The rule moves and is renamed; the token stays.
    set(&format!("{}\n", rule(HASH, &format!("name = 'n'\n{all}"))));
    assert_eq!(client.call("a", &json!([])), Ok(json!([1])));
    assert_eq!(node.metric("chanrpc_subscriptions"), 1);
    assert_eq!(node.metric("chanrpc_offers"), 1);

    // It only moves to another line.
    let moved = format!("# a comment\n\n{}\n", rule(HASH, &format!("name = 'n'\n{all}")));
    assert_eq!(set(&moved), "nothing has changed");

    set(&rule(&HASH.replace("984c", "0000"), all));
    let told: Vec<Value> = (0..2).map(|_| serde_json::from_str(&client.line().unwrap()).unwrap()).collect();
    for (method, reason) in [("rpc.ended", "reason"), ("rpc.withdrawn", "reason")] {
        let notice = told.iter().find(|notice| notice["method"] == method);
        let notice = notice.unwrap_or_else(|| panic!("{told:?}"));
        assert_eq!(notice["params"][reason], "the access rules have changed");
    }
    assert_eq!(client.call("a", &json!([])).unwrap_err().code, -32002);
    assert_eq!((node.metric("chanrpc_subscriptions"), node.metric("chanrpc_offers")), (0, 0));
}

#[test]
fn listeners_are_added_and_closed_and_connections_stay() {
    let listen = "[[listen]]\naddress = '127.0.0.1:0'\n";
    let node = start(listen);
    let first = node.address();
    let mut client = node.connect();
    let printed = reload(&node, &format!("{listen}[[listen]]\naddress = 'localhost:0'\nhosts = ['x']\n"));
    assert!(printed.contains("listening on "), "{printed}");
    let addresses = await_some("it listens on more", || {
        let ready = node.folder.read("ready")?;
        let addresses: Vec<SocketAddr> = ready.lines().map(|line| line.parse().unwrap()).collect();
        (addresses.len() > 1).then_some(addresses)
    });
    assert_eq!(addresses[0], first, "the socket stays");
    let mut second = Client::connect(addresses[1]);
    assert_eq!(second.call("rpc.ping", &json!([])), Ok(json!("pong")));

    node.folder.write("config.toml", &format!("{OPEN}[[listen]]\naddress = 'localhost:0'\n"));
    second.call("rpc.reload", &json!([])).unwrap();
    eventually("the first is closed", || TcpStream::connect(first).is_err());
    assert_eq!(client.call("rpc.ping", &json!([])), Ok(json!("pong")), "its connection stays");
    assert_eq!(second.call("rpc.ping", &json!([])), Ok(json!("pong")));
    await_addresses(&node, addresses.len() - 1);
    assert!(Client::connect(addresses[1]).call("rpc.ping", &json!([])).is_ok());
}

#[test]
fn address_that_is_taken_is_a_mistake() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listen = "[[listen]]\naddress = '127.0.0.1:0'\n";
    let node = start(listen);
    write(&node, &format!("{listen}[[listen]]\naddress = '{address}'\n{}", echo("a", "1")));
    let ended = node.run("reload", &[]);
    assert!(ended.failed(2).contains(&format!("cannot listen on {address}")), "{ended:?}");
    assert_eq!(node.connect().call("a", &json!([])).unwrap_err().code, -32601);
}

#[test]
fn programs_that_did_not_change_stay() {
    let same = worker_of("same", "lines", "", "");
    let node = start(&(same.clone() + &worker_of("other", "lines", "", "")));
    let mut client = node.connect();
    let pid =
        |client: &mut Client, name: &str| crate::processes::call(client, &format!("{name}.pid"), &json!([]));
    let before = ["same", "other"].map(|name| pid(&mut client, name).unwrap());
    client.begin(7, "other.hold", &json!([]));
    eventually("it has the call", || node.metric("chanrpc_process_in_flight{process=\"other\"}") == 1);
    let printed = reload(&node, &(same.clone() + &worker_of("other", "lines", "in_flight = 7", "")));
    assert!(printed.contains("process other has changed"), "{printed}");
    let mut after = node.connect();
    assert_eq!(pid(&mut after, "same").unwrap(), before[0]);
    let next = pid(&mut after, "other").unwrap();
    assert_ne!(next, before[1]);
    // The earlier one stays as long as somebody waits for it.
    assert_eq!(node.metric("chanrpc_process_in_flight{process=\"other\"}"), 1);
    client.send(
        json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": 7 } }).to_string() + "\n",
    );
    assert_eq!(client.reply()["error"]["code"], -32800);
    let has_ended = |count| node.log().matches("other exited with code 0").count() == count;
    eventually("the earlier one has ended", || has_ended(1));

    reload(&node, &same);
    assert_eq!(after.call("other.pid", &json!([])).unwrap_err().code, -32601);
    assert_eq!(pid(&mut after, "same").unwrap(), before[0]);
    eventually("the other has ended", || has_ended(2));
}

#[test]
fn workers_and_limits_apply_at_once() {
    let node = start(&gate("concurrency = 1"));
    let mut client = node.connect();
    client.begin(1, "gate", &json!([node.folder.name("never")]));
    client.begin(2, "gate", &json!([node.folder.name("open")]));
    eventually("one waits", || node.metric("chanrpc_calls_in_flight") == 2);
    node.folder.write("open", "");
    reload(&node, &gate("concurrency = 2"));
    assert_eq!(client.reply()["id"], 2, "it has a worker now");
    reload(&node, &(gate("concurrency = 2") + "[workers]\ncount = 1\nqueue = 0\n"));
    assert_eq!(client.call("gate", &json!(["x"])).unwrap_err().code, -32009, "the running call has it");
    reload(&node, &(gate("concurrency = 2") + "[limits]\nmessage = 300\nconnections = 2\n"));
    let long = json!(["x".repeat(300)]);
    assert_eq!(client.call("rpc.echo", &long), Ok(long.clone()), "a connection keeps its limits");
    let mut other = node.connect();
    assert_eq!(other.call("rpc.echo", &long).unwrap_err().code, -32007);
    assert!(node.connect().line().is_none(), "the third is turned away");
    node.folder.write("never", "");
    assert_eq!(client.reply()["id"], 1);
}

#[test]
fn topics_keep_their_connection_and_functions_have_one_more() {
    let far = start(&(echo("f", "far") + "[[topic]]\nname = 't'\n"));
    let config = |depth: u32| {
        let to = far.address();
        format!(
            "[limits]\ndepth = {depth}\n[[function]]\nname = 'f'\nforward = '{to}'\n[[topic]]\nname = 't'\nforward = '{to}'\n"
        )
    };
    let node = start(&config(100));
    let (mut client, mut publisher) = (node.connect(), far.connect());
    client.call("rpc.subscribe", &json!(["t"])).unwrap();
    let call = |client: &mut Client| {
        await_some("the node is connected", || client.call("f", &json!([])).ok());
    };
    call(&mut client);
    let before = far.metric("chanrpc_connections");
    // Others of `[limits]` need other connections.
    for depth in 101..105 {
        reload(&node, &config(depth));
        call(&mut client);
    }
    eventually("the earlier ones are closed", || far.metric("chanrpc_connections") <= before + 1);
    // These concern no connection to another node.
    let accepted = far.metric("chanrpc_connections_accepted_total");
    reload(&node, &config(104).replace("[limits]", "[limits]\nconnections = 99\nhops = 7\ndrain = '1s'"));
    assert!(client.call("f", &json!([])).is_ok());
    let asked = far.metric("chanrpc_connections_accepted_total");
    assert_eq!(asked, accepted + 1, "only that of the metrics is new");
    assert!(publisher.call("rpc.publish", &json!(["t", 1])).is_ok());
    assert_eq!(client.reply()["params"]["data"], 1);
}

#[test]
fn no_call_is_lost_and_no_memory_grows_however_often_the_node_reloads() {
    let config = |text: &str| echo("b", text) + "[[topic]]\nname = 't'\n";
    let node = start(&config("0"));
    let address = node.address();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers = (0..4_u64).map(|caller| {
        let stop = stop.clone();
        thread::spawn(move || {
            let mut client = Client::connect(address);
            let mut calls = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for number in 0..8 {
                    client.begin(number, "rpc.echo", &json!([caller, number]));
                }
                for number in 0..8 {
                    assert_eq!(client.reply()["result"], json!([caller, number]));
                }
                calls += 8;
            }
            calls
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut client = node.connect();
    let mut reload = |number: u32| {
        write(&node, &config(&number.to_string()));
        client.call("rpc.reload", &json!([])).unwrap();
        if number.is_multiple_of(50) {
            assert_eq!(client.call("b", &json!([])), Ok(json!([number])));
        }
    };
    (1..=20).for_each(&mut reload);
    node.assert_growth_below(2, || (21..=20 + scale(100)).for_each(&mut reload));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(callers.into_iter().map(ended).sum::<i32>() > 0);
}
