//! Topics from Rust: publishing and subscribing in the node's own process, from another one, and groups of callers.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use chanrpc::config::{Config, Limits};
use chanrpc::internals::route::RegistryInternals;
use chanrpc::node::{Node, RunningNode};
use chanrpc::route::{Caller, Subscription, TopicEvent, Topics, WithCaller};
use chanrpc::{Functions, Id0, Id1, Remote, Scheduler};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use smol::Timer;
use smol::future::FutureExt;
use smol::stream::Stream;

use super::{next, notification, publish, subscribe};
use crate::support::executor::run;
use crate::support::{Client, LIMIT, Relay, eventually, scale};
use crate::wires::{Peer, Wire};

pub(super) fn start(text: &str) -> RunningNode {
    let config = Config::parse(text, "test").unwrap();
    Node::from_config(config).listen("127.0.0.1:0").start().unwrap()
}

pub(super) fn subscriptions(node: &RunningNode) -> u64 {
    RegistryInternals::metrics(&**node.node().registry()).subscriptions.get()
}

/// Waits for what happens next to a subscription.
#[track_caller]
pub(super) fn happens<T: DeserializeOwned>(subscription: &mut Subscription<T>) -> TopicEvent<T> {
    let late = async {
        Timer::after(LIMIT).await;
        panic!("nothing happens")
    };
    smol::block_on(subscription.next().or(late)).expect("the subscription goes on")
}

/// Returns the number and the data of an event.
#[track_caller]
pub(super) fn event<T: std::fmt::Debug>(event: TopicEvent<T>) -> (u64, T) {
    match event {
        TopicEvent::Published { seq, data, .. } => (seq, data),
        other => panic!("{other:?}"),
    }
}

#[test]
fn process_and_sockets_see_the_same_events() {
    let node = start("");
    let topics = node.node().topics();
    let mut own = topics.subscribe::<Value>("chat.*").unwrap();
    let mut client = Client::connect(node.addresses()[0]);
    subscribe(&mut client, &json!(["chat.lobby"]));
    assert_eq!(topics.publish("chat.lobby", &json!({ "n": 1 })), Ok(2));
    assert_eq!(
        next(&mut client, "rpc.event"),
        json!({ "topic": "chat.lobby", "seq": 1, "data": { "n": 1 } })
    );
    assert_eq!(publish(&mut client, "chat.lobby", &json!(2)), 2);
    assert_eq!(event(happens(&mut own)), (1, json!({ "n": 1 })));
    assert_eq!(event(happens(&mut own)), (2, json!(2)));
    drop(own);
    assert_eq!(topics.publish("chat.lobby", "3"), Ok(1));
    assert_eq!(subscriptions(&node), 1);
}

#[test]
fn wrong_data_and_names_are_told() {
    let node = start("[limits]\nmessage = '2 KiB'");
    let topics = node.node().topics();
    let mut numbers = topics.subscribe::<u8>("n").unwrap();
    topics.publish("n", &300).unwrap();
    topics.publish("n", &30).unwrap();
    assert!(matches!(happens(&mut numbers), TopicEvent::Invalid { seq: 1, .. }));
    assert_eq!(event(happens(&mut numbers)), (2, 30));
    assert!(topics.publish("n.*", &1).is_err_and(|fault| fault.message.contains("is a family")));
    assert!(topics.publish("n", &f64::NAN).is_err());
    assert!(
        topics.publish("n", &"x".repeat(4000)).is_err_and(|fault| fault.message.contains("limits.message"))
    );
    assert!(topics.subscribe::<u8>("rpc.n").is_err());
}

#[test]
fn slow_subscriber_holds_up_nobody_and_learns_what_it_missed() {
    let node = start("[limits]\nevents = 4\n[[topic]]\nname = 'strict'\nwhen_full = 'end'\n");
    let topics = node.node().topics();
    let mut slow = topics.subscribe::<u32>("a").unwrap();
    let mut strict = topics.subscribe::<u32>("strict").unwrap();
    for n in 1..=10 {
        assert_eq!(topics.publish("a", &n), Ok(1));
        topics.publish("strict", &n).unwrap();
    }
    assert_eq!(happens(&mut slow), TopicEvent::Missed { topic: "a".into(), count: Some(6) });
    for n in 7..=10 {
        assert_eq!(event(happens(&mut slow)), (n, u32::try_from(n).unwrap()));
    }
    for n in 1..=4 {
        assert_eq!(event(happens(&mut strict)).0, n);
    }
    assert_eq!(happens(&mut strict), TopicEvent::Ended { reason: "the subscriber was too slow".into() });
    assert_eq!(smol::block_on(strict.next()), None);
    assert_eq!(subscriptions(&node), 1);
}

#[test]
fn node_that_stops_ends_subscriptions() {
    let node = start("");
    let topics = node.node().topics();
    let mut own = topics.subscribe::<u32>("a.*").unwrap();
    topics.publish("a.b", &1).unwrap();
    smol::block_on(node.stop());
    assert_eq!(event(happens(&mut own)), (1, 1));
    assert_eq!(happens(&mut own), TopicEvent::Ended { reason: "the node is stopping".into() });
    assert!(topics.subscribe::<u32>("a.*").is_err());
}

#[test]
fn scheduler_receives_events_on_its_own_loop() {
    run(async |executor| {
        const TOTAL: Id1<(), u64> = Id1::new("total");
        let mut functions = Functions::new();
        functions.register(TOTAL, |total: &mut u64, ()| *total).unwrap();
        let builder = Node::builder("test").executor(&executor);
        let topics = builder.topics();
        // Before the node starts.
        let subscription = topics.subscribe::<u64>("n").unwrap();
        let scheduler = Scheduler::new(&executor, functions, |_| 0);
        let (client, handle) = (scheduler.client(), scheduler.handle());
        let owner = executor.spawn(scheduler.run());
        let (ended, end) = async_channel::bounded(1);
        let stream = handle
            .attach_stream(subscription, move |total: &mut u64, event| match event {
                TopicEvent::Published { data, .. } => {
                    *total += data;
                    if data == 0 {
                        ended.try_send(()).unwrap();
                    }
                }
                other => panic!("{other:?}"),
            })
            .unwrap();
        let node = builder.listen("127.0.0.1:0").start().unwrap();
        let remote = Remote::builder(node.addresses()[0].to_string()).executor(&executor).connect();
        for n in (0..=100_u64).rev() {
            assert_eq!(remote.publish("n", &n).await, Ok(1));
        }
        end.recv().await.unwrap();
        assert_eq!(client.call(TOTAL, ()).await, Ok(5050));
        stream.detach();
        while topics.publish("n", &1).unwrap() > 0 {
            smol::future::yield_now().await;
        }
        handle.close();
        owner.await;
        node.stop().await;
    });
}

const ENTER: Id0<WithCaller<String>> = Id0::new("enter");
const LEAVE: Id1<WithCaller<String>, bool> = Id1::new("leave");

#[test]
fn group_is_left_with_its_connection() {
    let mut functions = Functions::exported();
    functions
        .register(ENTER, |topics: &mut Topics, WithCaller(caller, topic)| topics.add(&topic, &caller))
        .unwrap()
        .register(LEAVE, |topics, WithCaller(caller, topic)| topics.remove(&topic, &caller))
        .unwrap();
    let leaf = "[[listen]]\naddress = '127.0.0.1:0'\ndialect = 'leaf'\n[[access]]\nfunctions = ['*']\n";
    let builder = Node::from_config(Config::parse(leaf, "test").unwrap());
    let topics = builder.topics();
    let node = builder.serve(functions, topics.clone()).listen("127.0.0.1:0").start().unwrap();
    let group = "room.1.Chat";
    let mut players: Vec<_> = [Wire::Lines, Wire::MessagePack, Wire::WebSocketText]
        .map(|wire| {
            let mut peer = Peer::connect(wire, node.addresses()[1]);
            assert_eq!(peer.call("enter", &json!([group])), Ok(Value::Null), "{wire:?}");
            peer
        })
        .into();
    let mut leaf = Client::connect(node.addresses()[0]);
    let call = json!({ "enter": [group] }).to_string();
    leaf.send([&[0, u8::try_from(call.len()).unwrap()], call.as_bytes()].concat());
    eventually("all are there", || subscriptions(&node) == 4);
    assert_eq!(topics.publish(group, "hello"), Ok(4));
    for player in &mut players {
        assert_eq!(notification(player)["params"], json!({ "topic": group, "seq": 1, "data": "hello" }));
    }
    assert_eq!(leaf.take(2 + 16)[2..], *br#"{"Chat":"hello"}"#);
    assert_eq!(players[0].call("leave", &json!([group])), Ok(json!(true)));
    assert_eq!(players[0].call("leave", &json!([group])), Ok(json!(false)));
    assert_eq!(topics.publish(group, "again"), Ok(3));
    drop((players, leaf));
    eventually("nobody is there", || subscriptions(&node) == 0);
    assert_eq!(topics.publish(group, "?"), Ok(0));
    assert!(topics.add(group, &Caller::local()).is_err_and(|fault| fault.message.contains("no connection")));
    assert!(!topics.remove(group, &Caller::local()));
    let mut http = Peer::connect(Wire::Http, node.addresses()[1]);
    assert!(http.call("enter", &json!([group])).is_err());
}

#[test]
fn remote_continues_after_the_last_event() {
    let node = start("[[topic]]\nname = 'a'\nkeep = 2\n[limits]\nevents = 2000\n");
    let (relay, address) = Relay::new();
    relay.lead_to(node.addresses()[0]);
    let topics = node.node().topics();
    let remote = Remote::connect(address.to_string());
    let mut exact = remote.subscribe::<u32>("a");
    let mut family = remote.subscribe::<u32>("b.*");
    eventually("both are subscribed", || subscriptions(&node) == 2);
    topics.publish("a", &1).unwrap();
    topics.publish("b.c", &1).unwrap();
    assert_eq!(event(happens(&mut exact)), (1, 1));
    assert_eq!(event(happens(&mut family)).1, 1);
    for (published, missed) in [(2, false), (3, true), (0, false)] {
        relay.cut();
        eventually("the loss is noticed", || subscriptions(&node) == 0);
        for _ in 0..published {
            topics.publish("a", &2).unwrap();
        }
        relay.lead_to(node.addresses()[0]);
        eventually("it is subscribed again", || subscriptions(&node) == 2);
        topics.publish("a", &3).unwrap();
        topics.publish("b.c", &3).unwrap();
        if missed {
            assert_eq!(happens(&mut exact), TopicEvent::Missed { topic: "a".into(), count: None });
        }
        for _ in 0..published.min(2) {
            assert!(matches!(happens(&mut exact), TopicEvent::Published { data: 2, age: Some(_), .. }));
        }
        assert_eq!(event(happens(&mut exact)).1, 3);
        // For a family it is not known whether topics have come and gone.
        assert_eq!(happens(&mut family), TopicEvent::Missed { topic: "b.*".into(), count: None });
        assert_eq!(event(happens(&mut family)).1, 3);
    }
    // Another node in its place, with numbers of its own.
    relay.cut();
    let other = start("");
    relay.lead_to(other.addresses()[0]);
    assert_eq!(happens(&mut exact), TopicEvent::Missed { topic: "a".into(), count: None });
    eventually("the other node has it", || subscriptions(&other) == 2);
    other.node().topics().publish("a", &4).unwrap();
    assert_eq!(event(happens(&mut exact)).1, 4);
    drop((exact, family));
    eventually("nothing is left", || subscriptions(&other) == 0);
}

#[test]
fn refused_remote_subscription_ends() {
    let node = start("[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nsubscribe = ['a']\n");
    for address in ["", "msgpack://", "headers://"] {
        let remote = Remote::connect(format!("{address}{}", node.addresses()[0]));
        let mut allowed = remote.subscribe::<u32>("a");
        let TopicEvent::Ended { reason } = happens(&mut remote.subscribe::<u32>("b")) else { panic!() };
        assert!(reason.contains("needs a token"), "{reason}");
        eventually("it is subscribed", || subscriptions(&node) == 1);
        node.node().topics().publish("a", &1).unwrap();
        assert_eq!(event(happens(&mut allowed)).1, 1);
        drop(allowed);
        eventually("it is not", || subscriptions(&node) == 0);
    }
}

#[test]
fn dropped_executor_ends_remote_subscriptions() {
    let node = start("");
    let executor = Arc::new(smol::Executor::new());
    let remote = Remote::builder(node.addresses()[0].to_string()).executor(&executor).connect();
    let mut subscription = remote.subscribe::<u32>("a");
    drop(executor);
    assert!(matches!(happens(&mut subscription), TopicEvent::Ended { .. }));
    assert!(matches!(happens(&mut remote.subscribe::<u32>("a")), TopicEvent::Ended { .. }));
}

/// Ten thousand subscribers, one of a hundred of which never reads.
#[test]
fn deaf_subscribers_take_nothing_from_others() {
    const WAITING: u64 = 32;
    let node = start(&format!("[limits]\nevents = {WAITING}\n"));
    let topics = node.node().topics();
    let count = scale(10_000) as usize;
    let mut subscriptions: Vec<_> = (0..count).map(|_| topics.subscribe::<u64>("all").unwrap()).collect();
    let cx = &mut Context::from_waker(Waker::noop());
    let mut seq = 0;
    let last = 2 * WAITING;
    while seq < last {
        let first = seq + 1;
        while seq < first + WAITING / 2 - 1 {
            seq += 1;
            assert_eq!(topics.publish("all", &seq), Ok(count));
        }
        for (at, subscription) in subscriptions.iter_mut().enumerate().filter(|(at, _)| at % 100 != 0) {
            for expected in first..=seq {
                match std::pin::Pin::new(&mut *subscription).poll_next(cx) {
                    Poll::Ready(Some(TopicEvent::Published { seq, data, .. })) => {
                        assert_eq!((seq, data), (expected, expected), "subscriber {at}");
                    }
                    other => panic!("subscriber {at} has {other:?} in place of {expected}"),
                }
            }
        }
    }
    for subscription in subscriptions.iter_mut().step_by(100) {
        let missed = TopicEvent::Missed { topic: "all".into(), count: Some(last - WAITING) };
        assert_eq!(happens(subscription), missed);
        for expected in last - WAITING + 1..=last {
            assert_eq!(event(happens(subscription)), (expected, expected));
        }
        assert!(std::pin::Pin::new(subscription).poll_next(cx).is_pending());
    }
    drop(subscriptions);
    assert_eq!(topics.publish("all", &0), Ok(0));
}

#[test]
#[should_panic = "call NodeBuilder::limits before NodeBuilder::topics"]
fn limits_that_would_not_reach_topics_are_refused() {
    let builder = Node::builder("hub");
    let _topics = builder.topics();
    let _ = builder.limits(Limits::default());
}
