//! What a configuration says of memory, held against a node that is driven to its limits.

use chanrpc::config::Config;
use serde_json::{Value, json};

use crate::support::{Client, Folder, Node, eventually, listen, request, scale};

/// Bytes of a message, and about those of each answer.
const MESSAGE: usize = 128 * 1024;

#[test]
fn at_its_limits_a_node_takes_no_more_than_it_says() {
    let answer = "x".repeat(MESSAGE - 4096);
    let far = listen(move |stream| {
        let mut client = Client::new(stream);
        while let Some(line) = client.full_line() {
            let id = &serde_json::from_str::<Value>(&line).unwrap()["id"];
            let reply = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":\"{answer}\"}}\n");
            if client.try_send(reply).is_err() {
                return;
            }
        }
    });
    let (connections, in_flight) = (6, scale(64));
    let text = format!(
        "[[function]]\nname = 'big'\nforward = '{far}'\n\
         [limits]\nmessage = '128 KiB'\noutput = '128 KiB'\nin_flight = {in_flight}\n\
         connections = {}\nstall_timeout = '1h'\n",
        2 * connections + 1
    );
    let bound = Config::parse(&text, "test").unwrap().worst_case_memory(1);
    let node = Node::with(Folder::new(), &text);

    // As many calls as may be, and nobody reads the answers.
    let calls: String = (0..in_flight).map(|id| request(id, "big", &json!([])) + "\n").collect();
    let deaf: Vec<Client> = (0..connections)
        .map(|_| {
            let mut client = node.connect();
            client.send(&calls);
            client
        })
        .collect();
    let number =
        |name| node.metric(&format!("chanrpc_function_{name}{{function=\"big\",provider=\"forward\"}}"));
    let all = u64::from(connections * in_flight);
    eventually("all are answered", || number("calls_total") == all && number("in_flight") == 0);
    // And as many messages as may be, each sent all but its end.
    let slow: Vec<Client> = (0..connections)
        .map(|_| {
            let mut client = node.connect();
            client.send("[\"".to_owned() + &"y".repeat(MESSAGE - 16));
            client
        })
        .collect();
    eventually("all are there", || node.metric("chanrpc_connections") > u64::from(2 * connections) - 1);

    if let Some(peak) = node.peak_kib() {
        let peak = peak * 1024;
        assert!(peak < bound, "{peak} bytes, and {bound} were said to be the most");
        assert!(peak > bound / 16, "{peak} of {bound} bytes show nothing");
    }
    drop((deaf, slow));
    assert_eq!(node.connect().call("rpc.ping", &json!([])), Ok(json!("pong")));
}
