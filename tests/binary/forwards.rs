//! What a node tells of the functions that it forwards: what the other nodes tell, and in what state they are.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::support::{Client, Folder, Node, Relay, eventually, fake_node, listen, run};

fn forwarding(name: &str, to: &[SocketAddr], more: &str) -> Node {
    let to: Vec<_> = to.iter().map(ToString::to_string).collect();
    Node::with(Folder::new(), &format!("[[function]]\nname = '{name}'\nforward = {to:?}\n{more}\n"))
}

/// Returns what a node lists under a pattern.
fn list(client: &mut Client, pattern: &str) -> Vec<Value> {
    let listed = client.call("rpc.list", &json!([pattern, true])).unwrap();
    listed.as_array().unwrap().clone()
}

fn names(listed: &[Value]) -> Vec<&str> {
    listed.iter().map(|function| function["name"].as_str().unwrap()).collect()
}

/// Returns a function as a node lists it.
fn listed(client: &mut Client, name: &str) -> Option<Value> {
    list(client, name).into_iter().find(|function| function["name"] == name)
}

/// Waits until a node lists a function with its parameters.
#[track_caller]
fn described(client: &mut Client, name: &str) -> Value {
    let mut found = Value::Null;
    eventually(&format!("{name} is described"), || {
        found = listed(client, name).unwrap_or_default();
        found["params"].is_array()
    });
    found
}

/// Returns the only node that the only forward has, from `rpc.stats`.
fn target(client: &mut Client) -> Value {
    client.call("rpc.stats", &json!([])).unwrap()["forwards"][0]["targets"][0].clone()
}

#[test]
fn functions_of_a_family_are_listed_as_the_other_node_lists_them() {
    let far = Node::demo();
    let near = forwarding("demo.*", &[far.address()], "");
    let mut client = near.connect();
    described(&mut client, "demo.add");
    let theirs = list(&mut far.connect(), "demo.*");
    let mut ours = list(&mut client, "demo.*");
    let family = ours.remove(0);
    assert_eq!(family["name"], "demo.*");
    assert_eq!(family["targets"][0]["state"], "up", "{family}");
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        for member in ["name", "kind", "params", "result", "description", "errors"] {
            assert_eq!(ours[member], theirs[member], "{member}");
        }
        assert_eq!(
            (&ours["provider"], &ours["hops"], &ours["stale"]),
            (&json!("forward"), &json!(1), &Value::Null)
        );
    }
    // Without details, too.
    let brief = client.call("rpc.list", &json!(["demo.*"])).unwrap();
    assert_eq!(brief.as_array().unwrap().len(), theirs.len() + 1);
    let document = client.call("rpc.discover", &json!(["demo.*"])).unwrap();
    assert_eq!(names(document["methods"].as_array().unwrap()), names(&theirs));
    // Whether parameters fit is the other node's to say.
    let fault = client.call("demo.add", &json!(["x", 1])).unwrap_err();
    let theirs = far.connect().call("demo.add", &json!(["x", 1])).unwrap_err();
    assert_eq!((fault.code, fault.message), (theirs.code, theirs.message));
}

#[test]
fn commands_show_forwarded_functions_and_the_state_of_the_other_node() {
    let mut far = Node::demo();
    let near = forwarding("demo.*", &[far.address()], "");
    described(&mut near.connect(), "demo.add");
    let to = far.address().to_string();
    let shown = near.run("list", &["-v", "demo.*"]).result().to_owned();
    assert!(shown.contains(&format!("(forward {to} up)")), "{shown}");
    assert!(shown.contains("demo.add(a: number, b: number) -> number"), "{shown}");
    let shown = near.run("describe", &["demo.add"]).result().to_owned();
    assert!(shown.contains("a  number") && shown.contains(&format!("provider: forward {to}\n")), "{shown}");
    let words = ["complete", "--words", "--", "call", "--to", &near.address().to_string(), "demo.ad"];
    assert_eq!(run(words).result(), "demo.add");
    far.kill();
    eventually("the other node is missed", || {
        let shown = near.run("list", &["-v", "demo.*"]).result().to_owned();
        shown.contains(&format!("(forward {to} connecting)"))
            && shown.contains(&format!("(forward {to}, stale)"))
    });
    let shown = near.run("describe", &["demo.*"]).result().to_owned();
    assert!(shown.contains(&format!("\n  {to}  connecting for ")), "{shown}");
    let shown = near.run("describe", &["demo.add"]).result().to_owned();
    assert!(shown.contains("a  number") && shown.contains("(stale: "), "{shown}");
    near.await_log("no connection to ");
}

/// As a node at its limit of connections, or a port of another protocol does.
#[test]
fn node_that_accepts_and_closes_is_logged_once() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let closing = listen({
        let attempts = attempts.clone();
        move |_| _ = attempts.fetch_add(1, Ordering::SeqCst)
    });
    let node = forwarding("far", &[closing], "");
    eventually("it is tried again and again", || attempts.load(Ordering::SeqCst) >= 5);
    let log = node.log();
    assert_eq!(log.matches("no connection to ").count(), 1, "{log}");
    assert!(!log.contains("reconnected"), "{log}");
}

#[test]
fn description_is_kept_while_the_other_node_is_gone_and_replaced_when_it_is_back() {
    let (relay, port) = Relay::new();
    let mut far = Node::demo();
    relay.lead_to(far.address());
    let near = forwarding("demo.add", &[port], "description = 'ours'");
    let mut client = near.connect();
    let before = described(&mut client, "demo.add");
    assert_eq!((&before["description"], &before["stale"]), (&json!("ours"), &Value::Null));
    assert_eq!(target(&mut client)["state"], "up");
    assert_eq!(near.metric(&format!("chanrpc_forward_up{{function=\"demo.add\",to=\"{port}\"}}")), 1);
    far.kill();
    eventually("it is stale", || listed(&mut client, "demo.add").unwrap()["stale"] == true);
    let stale = listed(&mut client, "demo.add").unwrap();
    assert_eq!(stale["params"], before["params"]);
    let document = client.call("rpc.discover", &json!(["demo.add"])).unwrap();
    assert_eq!(document["methods"][0]["x-chanrpc"]["stale"], true);
    let target = target(&mut client);
    assert!(target["state"] == "connecting" && target["reason"].is_string(), "{target}");
    assert_eq!(near.metric(&format!("chanrpc_forward_up{{function=\"demo.add\",to=\"{port}\"}}")), 0);
    // Another node has taken its place, with another function under that name.
    let other = "[[function]]\nname = 'demo.add'\nexec = ['echo', '{text}']\nparams = { text = 'string' }\n";
    let far = Node::with(Folder::new(), other);
    relay.lead_to(far.address());
    eventually("it is described anew", || {
        let function = listed(&mut client, "demo.add").unwrap();
        function["params"][0]["name"] == "text" && function["stale"].is_null()
    });
}

#[test]
fn caller_sees_of_a_family_what_it_may_call() {
    let far = Node::demo();
    let access = "[[access]]\nfunctions = ['rpc.list', 'rpc.discover', 'rpc.stats', 'demo.add', 'demo.r*']";
    let near = forwarding("demo.*", &[far.address()], access);
    let mut client = near.connect();
    described(&mut client, "demo.add");
    let ours = list(&mut client, "demo.*");
    assert!(names(&ours).contains(&"demo.add") && !names(&ours).contains(&"demo.count"), "{ours:?}");
    for function in &ours {
        assert!(function["target"].is_null() && function["targets"].is_null(), "{function}");
    }
    let document = client.call("rpc.discover", &json!([])).unwrap();
    let all = document["methods"].as_array().unwrap();
    assert!(names(all).contains(&"demo.add") && !names(all).contains(&"demo.count"), "{document}");
    assert!(client.call("rpc.stats", &json!([])).unwrap()["forwards"].is_null());
}

#[test]
fn token_that_may_not_list_leaves_the_function_undescribed() {
    let far = Node::with(
        Folder::new(),
        "[[function]]\nname = 'f'\nexec = ['echo', '{text}']\nparams = { text = 'string' }\n\
         [[access]]\nfunctions = ['f', 'rpc.stats']\n",
    );
    let near = forwarding("f", &[far.address()], "");
    let mut client = near.connect();
    eventually("the node has asked", || far.metric("chanrpc_calls_denied_total") > 0);
    let function = listed(&mut client, "f").unwrap();
    assert!(function["params"].is_null() && function["stale"].is_null(), "{function}");
}

#[test]
fn function_of_this_node_hides_that_of_the_other() {
    let far = Node::demo();
    let near = forwarding("demo.*", &[far.address()], "[[function]]\nname = 'demo.add'\nexec = ['echo']");
    let mut client = near.connect();
    described(&mut client, "demo.count");
    let add = list(&mut client, "demo.add");
    assert_eq!((add.len(), &add[0]["provider"]), (1, &json!("exec")), "{add:?}");
}

#[test]
fn number_of_remembered_functions_is_limited() {
    let far = Node::demo();
    let near = forwarding("demo.*", &[far.address()], "[limits]\nforward_functions = 2");
    let mut client = near.connect();
    eventually("two are listed", || list(&mut client, "demo.*").len() == 3);
    let omitted = near.metric("chanrpc_forward_functions_omitted_total");
    assert!(omitted > 0 && omitted as usize == list(&mut far.connect(), "demo.*").len() - 2, "{omitted}");
    near.await_log("limits.forward_functions");
    // It can be called all the same.
    assert_eq!(client.call("demo.add", &json!([20, 22])).unwrap(), 42);
}

/// Through two nodes, of which the first asks before the second knows.
#[test]
fn functions_behind_two_nodes_are_listed() {
    let (relay, port) = Relay::new();
    let middle = forwarding("demo.*", &[port], "");
    let near = forwarding("demo.*", &[middle.address()], "");
    let mut client = near.connect();
    eventually("the nodes are connected", || target(&mut client)["state"] == "up");
    assert_eq!(list(&mut client, "demo.*").len(), 1);
    let far = Node::demo();
    relay.lead_to(far.address());
    assert_eq!(described(&mut client, "demo.add")["hops"], 2);
}

/// What nobody provides any longer is forgotten, though each node has it from the other.
#[test]
fn circle_of_nodes_forgets_what_is_gone() {
    let (relay, port) = Relay::new();
    let first = forwarding("x.*", &[port], "[limits]\nhops = 2");
    let to_first =
        format!("[limits]\nhops = 2\n[[function]]\nname = 'x.*'\nforward = '{}'\n", first.address());
    let own = "[[function]]\nname = 'x.f'\nexec = ['echo', '{text}']\nparams = { text = 'string' }\n";
    let mut second = Node::with(Folder::new(), &format!("{to_first}{own}"));
    relay.lead_to(second.address());
    let mut client = first.connect();
    assert_eq!(described(&mut client, "x.f")["hops"], 1);
    second.kill();
    let second = Node::with(Folder::new(), &to_first);
    relay.lead_to(second.address());
    let mut other = second.connect();
    eventually("both have forgotten it", || {
        let of_other = list(&mut other, "x.*");
        let ours = list(&mut client, "x.*");
        ours.len() == 1 && of_other.len() == 1 && target(&mut client)["state"] == "up"
    });
}

/// A server that knows no ping is not asked what it may not know either.
#[test]
fn server_that_is_no_node_is_not_asked() {
    let asked = Arc::<AtomicUsize>::default();
    let counted = asked.clone();
    let server = fake_node(move |request| {
        if request["method"] == "rpc.list" {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        if request["method"] == "f" {
            return json!({ "jsonrpc": "2.0", "id": request["id"], "result": 1 });
        }
        let error = json!({ "code": -32601, "message": "no such method" });
        json!({ "jsonrpc": "2.0", "id": request["id"], "error": error })
    });
    let near = forwarding("f", &[server], "");
    let mut client = near.connect();
    assert_eq!(client.call("f", &json!([])).unwrap(), 1);
    assert!(listed(&mut client, "f").unwrap()["params"].is_null());
    assert_eq!(client.call("f", &json!([])).unwrap(), 1);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

/// Answers what is no list, or is none of its business.
#[test]
fn nonsense_of_the_other_node_is_ignored() {
    let pong =
        |request: &Value, result: Value| json!({ "jsonrpc": "2.0", "id": request["id"], "result": result });
    let asked = Arc::<AtomicUsize>::default();
    let counted = asked.clone();
    let server = fake_node(move |request| {
        if request["method"] != "rpc.list" {
            return pong(request, json!("pong"));
        }
        counted.fetch_add(1, Ordering::SeqCst);
        let param = json!({ "name": "a", "schema": 3 });
        let long = "x".repeat(6000);
        let functions = json!([
            1, "x.a", {}, { "name": 7 }, { "name": "y.b" }, { "name": "x.\u{1b}[31m" }, { "name": "x." },
            { "name": "rpc.list" }, { "name": "x.far", "hops": 8 }, { "name": "x.odd", "hops": "?" },
            { "name": "x.wrong", "params": 7 }, { "name": "x.long", "description": long },
            { "name": "x.good", "params": [param] }, { "name": "x.good" }, { "name": "x.*" },
        ]);
        pong(request, functions)
    });
    let near = forwarding("x.*", &[server], "");
    let mut client = near.connect();
    eventually("it was asked", || list(&mut client, "*").iter().any(|function| function["name"] == "x.good"));
    let ours = list(&mut client, "x*");
    assert_eq!(names(&ours), ["x.*", "x.good", "x.long", "x.wrong"]);
    assert_eq!(ours[1]["params"], json!([{ "name": "a", "schema": {}, "required": true }]));
    assert!(ours[2]["description"].is_null() && ours[3]["params"].is_null(), "{ours:?}");
    assert!(asked.load(Ordering::SeqCst) > 0);
}

#[test]
fn state_tells_nodes_that_stop_and_nodes_that_are_absent() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let far =
        Node::with(Folder::new(), "[[function]]\nname = 'slow'\nexec = ['sleep', '60']\ntimeout = '1m'\n");
    let near = forwarding("slow", &[nobody, far.address()], "balance = 'first'");
    let mut client = near.connect();
    let mut states = || {
        let stats = client.call("rpc.stats", &json!([])).unwrap();
        let targets = stats["forwards"][0]["targets"].as_array().unwrap().clone();
        let state = |target: &Value| (target["state"].clone(), target["in_flight"].clone());
        targets.iter().map(state).collect::<Vec<_>>()
    };
    eventually("one is up", || states()[1].0 == "up");
    assert_eq!(states()[0].0, "connecting");
    let mut caller = near.connect();
    caller.send("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"slow\"}\n");
    eventually("it has the call", || states()[1].1 == 1);
    far.signal("TERM");
    eventually("it is closing", || states()[1].0 == "closing");
    near.await_log("is stopping");
}
