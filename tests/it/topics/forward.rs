//! Topics whose events are published at another node.

use std::net::SocketAddr;

use chanrpc::internals::route::RegistryInternals;
use chanrpc::node::RunningNode;
use chanrpc::route::TopicEvent;
use serde_json::{Value, json};

use super::local::{event, happens, start, subscriptions};
use super::{next, publish, subscribe};
use crate::support::{Client, Relay, eventually};

/// Starts a node that forwards topics to another.
fn edge(hub: SocketAddr, settings: &str) -> RunningNode {
    start(&format!("name = 'edge'\n[[topic]]\nname = 'chat.*'\nforward = '{hub}'\n{settings}"))
}

fn relayed(node: &RunningNode) -> u64 {
    RegistryInternals::metrics(&**node.node().registry()).events_relayed.get()
}

fn connect(node: &RunningNode) -> Client {
    Client::connect(node.addresses()[0])
}

#[test]
fn one_subscription_serves_any_number_of_subscribers() {
    let hub = start("[[topic]]\nname = 'chat.*'\nkeep = 2\n");
    let edge = edge(hub.addresses()[0], "keep = 2\n");
    let mut publisher = connect(&edge);
    publish(&mut publisher, "chat.lobby", &json!("early"));
    let mut clients: Vec<_> = (0..5).map(|_| connect(&edge)).collect();
    let first = subscribe(&mut clients[0], &json!(["chat.lobby"]));
    assert_eq!((&first["epoch"].is_string(), &first["missed"]), (&true, &json!(false)));
    let kept = next(&mut clients[0], "rpc.event");
    assert_eq!((&kept["data"], kept["age_ms"].is_u64()), (&json!("early"), true));
    for client in &mut clients[1..] {
        subscribe(client, &json!(["chat.lobby"]));
        // What the hub keeps, this node keeps too.
        assert_eq!(next(client, "rpc.event")["data"], "early");
    }
    assert_eq!(subscriptions(&hub), 1);
    let mut at_hub = connect(&hub);
    subscribe(&mut at_hub, &json!(["chat.lobby"]));
    assert_eq!(next(&mut at_hub, "rpc.event")["seq"], 1);

    // Published at either node; the hub counts.
    assert_eq!(publish(&mut publisher, "chat.lobby", &json!({ "n": [1] })), 2);
    assert_eq!(publish(&mut connect(&hub), "chat.lobby", &json!(2)), 2);
    assert_eq!(edge.node().topics().publish("chat.lobby", &3), Ok(0));
    let mut seqs = Vec::new();
    for client in &mut clients {
        let events = [(); 3].map(|()| next(client, "rpc.event"));
        assert_eq!(
            events.each_ref().map(|event| event["data"].clone()),
            [json!({ "n": [1] }), json!(2), json!(3)]
        );
        seqs.push(events.map(|event| event["seq"].as_u64().unwrap()));
    }
    assert!(seqs.iter().all(|seq| *seq == seqs[0] && seq[2] == seq[0] + 2), "{seqs:?}");
    assert_eq!(relayed(&edge), 4);

    for client in &mut clients[1..] {
        assert_eq!(client.call("rpc.unsubscribe", &json!(["chat.lobby"])), Ok(json!(true)));
    }
    assert_eq!(subscriptions(&hub), 2);
    drop(clients);
    eventually("the edge has no subscription", || subscriptions(&hub) == 1);
    // Nobody can take what comes now for what they have missed.
    publish(&mut connect(&hub), "chat.lobby", &json!(4));
    let mut back = connect(&edge);
    let since = json!({ "topic": "chat.lobby", "since": seqs[0][2], "epoch": first["epoch"] });
    assert_eq!(subscribe(&mut back, &since)["missed"], true);
    assert_eq!(next(&mut back, "rpc.event")["data"], 3);
    assert_eq!(next(&mut back, "rpc.event")["data"], 4);
}

#[test]
fn families_and_topics_of_others_are_followed_where_they_belong() {
    let (hub, other) = (start(""), start(""));
    let edge = edge(
        hub.addresses()[0],
        &format!(
            "[[topic]]\nname = 'chat.own'\n[[topic]]\nname = 'chat.other'\nforward = '{}'\n",
            other.addresses()[0]
        ),
    );
    let mut family = connect(&edge);
    subscribe(&mut family, &json!(["chat.*"]));
    let mut exact = connect(&edge);
    subscribe(&mut exact, &json!(["chat.a"]));
    subscribe(&mut exact, &json!(["chat.own"]));
    subscribe(&mut exact, &json!(["unrelated"]));
    eventually("the nodes have theirs", || (subscriptions(&hub), subscriptions(&other)) == (2, 1));
    let publish = |node: &RunningNode, topic: &str| node.node().topics().publish(topic, topic).unwrap();
    // A node is believed only in what it has.
    publish(&hub, "chat.other");
    publish(&hub, "chat.own");
    publish(&hub, "unrelated");
    publish(&hub, "chat.a");
    assert_eq!(next(&mut exact, "rpc.event")["data"], "chat.a");
    assert_eq!(next(&mut family, "rpc.event")["data"], "chat.a");
    publish(&other, "chat.a");
    publish(&other, "chat.other");
    assert_eq!(next(&mut family, "rpc.event")["data"], "chat.other");
    publish(&edge, "chat.own");
    assert_eq!(next(&mut family, "rpc.event")["data"], "chat.own");
    assert_eq!(next(&mut exact, "rpc.event")["data"], "chat.own");
    // The family is followed still.
    drop(exact);
    eventually("one is left", || subscriptions(&hub) == 1);
    publish(&hub, "chat.a");
    assert_eq!(next(&mut family, "rpc.event")["data"], "chat.a");
}

#[test]
fn end_of_a_family_forgets_nothing_of_a_topic_of_its_own() {
    let hub = start("");
    let edge = edge(hub.addresses()[0], "keep = 1\n[[topic]]\nname = 'chat.own'\nkeep = 1\n");
    let mut family = connect(&edge);
    subscribe(&mut family, &json!(["chat.*"]));
    eventually("it is followed", || subscriptions(&hub) == 1);
    let topics = edge.node().topics();
    assert_eq!(topics.publish("chat.own", &"kept"), Ok(1));
    hub.node().topics().publish("chat.a", &"forgotten").unwrap();
    assert_eq!(next(&mut family, "rpc.event")["data"], "kept");
    assert_eq!(next(&mut family, "rpc.event")["data"], "forgotten");
    drop(family);
    eventually("it is followed no more", || (subscriptions(&hub), subscriptions(&edge)) == (0, 0));
    let mut later = connect(&edge);
    let own = subscribe(&mut later, &json!({ "topic": "chat.own", "since": 0 }));
    assert_eq!((&own["seq"], &own["missed"]), (&json!(1), &json!(false)));
    assert_eq!(next(&mut later, "rpc.event")["data"], "kept");
}

#[test]
fn lost_link_is_told_and_made_good() {
    let hub = start("[[topic]]\nname = 'chat.*'\nkeep = 2\n");
    let (relay, address) = Relay::new();
    let edge = edge(address, "keep = 9\n");
    let topics = edge.node().topics();
    // The hub is not there yet.
    let mut exact = topics.subscribe::<u32>("chat.lobby").unwrap();
    let mut family = topics.subscribe::<u32>("chat.*").unwrap();
    let fault = connect(&edge).call("rpc.publish", &json!(["chat.lobby", 0])).unwrap_err();
    // The relay closes the connection.
    assert!(matches!(fault.code, -32001 | -32011), "{fault:?}");
    relay.lead_to(hub.addresses()[0]);
    eventually("both are followed", || subscriptions(&hub) == 2);
    let publish = |data: u32| hub.node().topics().publish("chat.lobby", &data).unwrap();
    publish(1);
    let (first, _) = event(happens(&mut exact));
    assert_eq!(event(happens(&mut family)), (first, 1));
    for published in [2, 3] {
        relay.cut();
        eventually("the loss is noticed", || subscriptions(&hub) == 0);
        (0..published).for_each(|_| _ = publish(2));
        relay.lead_to(hub.addresses()[0]);
        // The numbers of this node have a gap where events are missing.
        let mut is_missing = false;
        for expected in [2, 2] {
            loop {
                match happens(&mut exact) {
                    TopicEvent::Missed { topic, count: None } => {
                        assert_eq!(&*topic, "chat.lobby");
                        is_missing = true;
                    }
                    other => break assert_eq!(event(other).1, expected),
                }
            }
        }
        assert!(is_missing || published == 2);
        eventually("both are followed", || subscriptions(&hub) == 2);
        publish(3);
        while !matches!(happens(&mut exact), TopicEvent::Published { data: 3, .. }) {}
        // It is not known which topics of the family have come and gone.
        let mut told = Vec::new();
        loop {
            match happens(&mut family) {
                TopicEvent::Missed { topic, .. } => told.push(topic),
                TopicEvent::Published { data: 3, .. } => break,
                TopicEvent::Published { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(told.iter().any(|topic| **topic == *"chat.*"), "{told:?}");
    }
    // Sockets are told in the words of the protocol.
    let mut client = connect(&edge);
    subscribe(&mut client, &json!({ "topic": "chat.*", "when_full": "oldest" }));
    (0..6).for_each(|_| _ = next(&mut client, "rpc.event"));
    relay.cut();
    relay.lead_to(hub.addresses()[0]);
    let missed = |client: &mut Client| loop {
        let message = client.reply();
        if message["method"] == "rpc.missed" && message["params"]["topic"] == "chat.*" {
            break message["params"].clone();
        }
    };
    assert_eq!(missed(&mut client), json!({ "topic": "chat.*", "count": null, "next": null }));
}

#[test]
fn both_nodes_decide_who_may() {
    let hub = start(
        "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nsubscribe = ['chat.open']\npublish = ['chat.*']\n",
    );
    let edge = start(&format!(
        "[[listen]]\naddress = '127.0.0.1:0'\n[[topic]]\nname = 'chat.*'\nforward = '{}'\n\
         [[access]]\nsubscribe = ['chat.*']\npublish = ['chat.open']\n",
        hub.addresses()[0]
    ));
    let (mut client, mut publisher) = (connect(&edge), connect(&edge));
    subscribe(&mut client, &json!(["chat.open"]));
    assert_eq!(client.call("rpc.publish", &json!(["chat.closed", 1])).unwrap_err().code, -32002);
    eventually("the hub has it", || subscriptions(&hub) == 1);
    assert_eq!(publish(&mut publisher, "chat.open", &json!(1)), 1);
    assert_eq!(next(&mut client, "rpc.event")["data"], 1);
    // The hub refuses this one.
    subscribe(&mut client, &json!(["chat.closed"]));
    let ended = next(&mut client, "rpc.ended");
    assert_eq!(ended["topic"], "chat.closed");
    let reason = ended["reason"].as_str().unwrap();
    assert!(reason.starts_with("the node of the topic has refused: "), "{reason}");
    assert_eq!(subscriptions(&edge), 1);
    assert_eq!(publish(&mut publisher, "chat.open", &json!(2)), 1);
    assert_eq!(next(&mut client, "rpc.event")["data"], 2);
}

#[test]
fn publisher_in_the_process_of_a_node_may_wait_for_the_node_of_the_topic() {
    let hub = start(
        "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nsubscribe = ['*']\npublish = ['chat.open']\n",
    );
    let edge = edge(hub.addresses()[0], "");
    let topics = edge.node().topics();
    let acknowledged = |topic: &str| smol::block_on(topics.publish_acknowledged(topic, &json!({ "n": 1 })));
    let mut client = connect(&hub);
    subscribe(&mut client, &json!(["chat.open"]));
    assert_eq!(acknowledged("chat.open"), Ok(1));
    assert_eq!(next(&mut client, "rpc.event")["data"], json!({ "n": 1 }));
    assert_eq!(acknowledged("chat.closed").unwrap_err().code, -32002);
    assert_eq!(acknowledged("own.topic"), Ok(0));
    assert_eq!(acknowledged("no topic").unwrap_err().code, -32602);
    smol::block_on(hub.stop());
    // Until its connection is known to be gone, the event may have come there.
    eventually("the hub is gone", || acknowledged("chat.open").unwrap_err().code == -32001);
}

#[test]
fn circles_end() {
    let (there, back) = (Relay::new(), Relay::new());
    let (one, two) = (edge(there.1, ""), edge(back.1, ""));
    there.0.lead_to(two.addresses()[0]);
    back.0.lead_to(one.addresses()[0]);
    let mut client = connect(&one);
    subscribe(&mut client, &json!(["chat.a"]));
    let fault = eventually_fails(&mut client);
    assert_eq!(fault["code"], -32012, "{fault}");
    drop(client);
    eventually("nothing is left", || subscriptions(&one) + subscriptions(&two) == 0);

    // To itself.
    let relay = Relay::new();
    let own = edge(relay.1, "");
    relay.0.lead_to(own.addresses()[0]);
    let mut client = connect(&own);
    subscribe(&mut client, &json!(["chat.a"]));
    let ended = next(&mut client, "rpc.ended");
    assert!(ended["reason"].as_str().unwrap().contains("in a circle"), "{ended}");
    eventually("nothing is left", || subscriptions(&own) == 0);
}

/// Publishes until the nodes are connected, and returns the error.
fn eventually_fails(client: &mut Client) -> Value {
    let mut fault = Value::Null;
    eventually("the nodes are connected", || {
        let reply = client
            .ask("{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"rpc.publish\",\"params\":[\"chat.a\",1]}\n");
        fault = reply["error"].clone();
        // Not sent, or lost with a connection that found nobody behind the relay.
        !fault.is_null() && fault["code"] != -32001 && fault["code"] != -32011
    });
    fault
}

#[test]
fn chain_of_nodes_ends_at_the_limit() {
    let hub = start("[limits]\nhops = 2\n");
    let middle = edge(hub.addresses()[0], "");
    let far = edge(middle.addresses()[0], "");
    let mut client = connect(&far);
    subscribe(&mut client, &json!(["chat.a"]));
    eventually("each has one", || (subscriptions(&hub), subscriptions(&middle)) == (1, 1));
    assert_eq!(publish(&mut connect(&far), "chat.a", &json!(1)), 1);
    assert_eq!(next(&mut client, "rpc.event")["data"], 1);
    let beyond = edge(far.addresses()[0], "");
    let mut client_beyond = connect(&beyond);
    assert_eq!(client_beyond.call("rpc.publish", &json!(["chat.b", 1])).unwrap_err().code, -32012);
    subscribe(&mut client_beyond, &json!(["chat.b"]));
    // Each node in between tries twice.
    let ended = loop {
        let told = client_beyond.reply();
        match told["method"].as_str() {
            Some("rpc.missed") => {}
            _ => break told,
        }
    };
    assert_eq!(ended["method"], "rpc.ended");
    let reason = ended["params"]["reason"].as_str().unwrap();
    assert!(reason.contains("limits.hops"), "{reason}");
    drop((client, client_beyond));
    eventually("nobody has one", || (subscriptions(&hub), subscriptions(&middle)) == (0, 0));
}

#[test]
fn node_that_stops_ends_its_part() {
    let hub = start("");
    let edge = edge(hub.addresses()[0], "");
    let mut client = connect(&edge);
    subscribe(&mut client, &json!(["chat.a"]));
    eventually("the hub has it", || subscriptions(&hub) == 1);
    smol::block_on(edge.stop());
    assert_eq!(next(&mut client, "rpc.ended")["reason"], "the node is stopping");
    eventually("the hub has it no more", || subscriptions(&hub) == 0);
}

/// Returns the reason why a subscription has ended, whatever comes before.
#[track_caller]
fn ended(client: &mut Client, topic: &str) -> String {
    loop {
        let told = client.reply();
        if told["method"] == "rpc.ended" && told["params"]["topic"] == topic {
            break told["params"]["reason"].as_str().unwrap().to_owned();
        }
    }
}

#[test]
fn refusal_ends_the_subscriptions_that_need_the_name_and_no_other() {
    let hub = start(
        "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nsubscribe = ['chat.lobby']\npublish = ['chat.*']\n",
    );
    let near = edge(hub.addresses()[0], "");
    let (mut exact, mut family) = (connect(&near), connect(&near));
    subscribe(&mut exact, &json!(["chat.lobby"]));
    eventually("the hub has it", || subscriptions(&hub) == 1);
    subscribe(&mut family, &json!(["chat.*"]));
    let reason = ended(&mut family, "chat.*");
    assert!(reason.starts_with("the node of the topic has refused: "), "{reason}");
    assert_eq!(publish(&mut connect(&hub), "chat.lobby", &json!(1)), 1);
    assert_eq!(next(&mut exact, "rpc.event")["data"], 1);

    // A subscription to more than what is refused ends too, and those that come later are told again.
    let near = start(&format!("[[topic]]\nname = 'chat.a.*'\nforward = '{}'\n", hub.addresses()[0]));
    let mut wider = connect(&near);
    subscribe(&mut wider, &json!(["chat.*"]));
    let reason = ended(&mut wider, "chat.*");
    assert!(reason.starts_with("the node of the topic has refused: chat.a.*: "), "{reason}");
    for _ in 0..2 {
        let mut later = connect(&near);
        subscribe(&mut later, &json!(["chat.a.*"]));
        ended(&mut later, "chat.a.*");
    }
    assert_eq!(subscriptions(&near), 0);
}

#[test]
fn topics_beyond_the_limit_of_the_other_node_are_told() {
    let hub = start("[limits]\nsubscriptions = 2\n");
    let edge = edge(hub.addresses()[0], "");
    let mut client = connect(&edge);
    for topic in ["chat.a", "chat.b"] {
        subscribe(&mut client, &json!([topic]));
    }
    eventually("the hub has two", || subscriptions(&hub) == 2);
    subscribe(&mut client, &json!(["chat.c"]));
    let reason = ended(&mut client, "chat.c");
    assert!(reason.contains("limits.subscriptions"), "{reason}");
    assert_eq!(publish(&mut connect(&hub), "chat.b", &json!(1)), 1);
    assert_eq!(next(&mut client, "rpc.event")["data"], 1);
    // A place that is free again is used.
    assert_eq!(client.call("rpc.unsubscribe", &json!(["chat.a"])), Ok(json!(true)));
    subscribe(&mut client, &json!(["chat.c"]));
    eventually("it is received", || publish(&mut connect(&hub), "chat.c", &json!(2)) == 1);
}

#[test]
fn circles_end_with_subscribers_at_both_nodes() {
    let (there, back) = (Relay::new(), Relay::new());
    let (one, two) = (edge(there.1, ""), edge(back.1, ""));
    let (mut first, mut second) = (connect(&one), connect(&two));
    subscribe(&mut first, &json!(["chat.*"]));
    subscribe(&mut second, &json!(["chat.*"]));
    back.0.lead_to(one.addresses()[0]);
    eventually("the one has both", || subscriptions(&one) == 2);
    there.0.lead_to(two.addresses()[0]);
    let reasons = [ended(&mut first, "chat.*"), ended(&mut second, "chat.*")];
    assert!(reasons.iter().all(|reason| reason.contains("in a circle")), "{reasons:?}");
    eventually("nothing is left", || subscriptions(&one) + subscriptions(&two) == 0);
}

#[test]
fn ways_that_no_node_writes_are_refused() {
    let node = start("");
    let mut client = connect(&node);
    let epoch = "0123456789abcdef";
    let via = |count: usize| vec![epoch; count].join(",");
    for wrong in ["y".repeat(16), ",".to_owned(), epoch[1..].to_owned(), via(33), "z".repeat(100_000)] {
        let fault = client.call("rpc.subscribe", &json!({ "topic": "a", "via": wrong })).unwrap_err();
        assert_eq!(fault.code, -32602, "{fault:?}");
    }
    for right in [via(0), via(1), via(32)] {
        subscribe(&mut client, &json!({ "topic": "a", "via": right }));
    }
}

#[test]
fn events_that_do_not_fit_here_are_told() {
    let hub = start("");
    let edge = edge(hub.addresses()[0], "[limits]\nmessage = '4 KiB'\ntopics = 1\n");
    let (mut exact, mut family) = (connect(&edge), connect(&edge));
    subscribe(&mut exact, &json!(["chat.a"]));
    subscribe(&mut family, &json!(["chat.*"]));
    eventually("the hub has both", || subscriptions(&hub) == 2);
    let mut publisher = connect(&hub);
    publish(&mut publisher, "chat.a", &json!("x".repeat(4095)));
    for client in [&mut exact, &mut family] {
        let missed = next(client, "rpc.missed");
        assert_eq!((&missed["topic"], &missed["count"]), (&json!("chat.a"), &json!(1)));
    }
    // There is no place for another topic.
    publish(&mut publisher, "chat.b", &json!(1));
    assert_eq!(next(&mut family, "rpc.missed")["topic"], "chat.*");
    publish(&mut publisher, "chat.a", &json!(2));
    assert_eq!(next(&mut exact, "rpc.event")["data"], 2);
    assert_eq!(next(&mut family, "rpc.event")["data"], 2);
}
