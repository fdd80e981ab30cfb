//! Subscriptions end with the right to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chanrpc::config::{Config, Limits, ListenerConfig};
use chanrpc::internals::config::rules;
use chanrpc::internals::route::{AccessInternals, RegistryInternals, token_hash};
use chanrpc::node::{Listener, Node};
use chanrpc::route::{Access, Registry};
use serde_json::json;

use super::notification;
use crate::support::eventually;
use crate::support::executor::run;
use crate::wires::{Peer, Wire};

const TOKEN: &str = "a token";
const OTHER_TOKEN: &str = "another token";

fn hash(token: &str) -> String {
    token_hash(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn expired_token_ends_its_subscriptions() {
    let text = format!(
        "[[access]]\nsubscribe = ['a', 'b.*']\ntoken = 'sha256:{}'\nexpires = 2027-01-01T00:00:00Z\n\
         [[access]]\nsubscribe = ['b.*']\npublish = ['*']\ntoken = 'sha256:{}'\n",
        hash(TOKEN),
        hash(OTHER_TOKEN)
    );
    let config = Config::parse(&text, "test").unwrap();
    let end = rules(&config)[0].expires.unwrap();
    // Milliseconds before it expires.
    let left = Arc::new(AtomicU64::new(0));
    let clock = {
        let left = left.clone();
        move || end - Duration::from_millis(left.load(Ordering::Relaxed))
    };
    let access = Arc::new(Access::new(&config).with_clock(clock));
    run(async |executor| {
        let socket = smol::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let registry = Registry::builder("hub").build();
        let node = Node::new(executor.clone(), registry.clone(), Limits::default());
        let listener = Listener::new(socket, &ListenerConfig::new("127.0.0.1:0"), &access).unwrap();
        let _serving =
            executor.spawn(async move { node.serve(vec![listener], std::future::pending()).await });
        smol::unblock(move || {
            let ended = |topic| {
                let params = json!({ "topic": topic, "reason": "the token has expired" });
                json!({ "jsonrpc": "2.0", "method": "rpc.ended", "params": params })
            };
            let subscriptions = || RegistryInternals::metrics(&*registry).subscriptions.get();
            let mut publisher = Peer::connect(Wire::Lines, address);
            publisher.present(OTHER_TOKEN);
            for wire in [Wire::Lines, Wire::MessagePack, Wire::WebSocketText] {
                // At the next event, though the timer would still wait.
                left.store(3_600_000, Ordering::Relaxed);
                let mut peer = Peer::connect(wire, address);
                peer.present(TOKEN);
                assert!(peer.call("rpc.subscribe", &json!(["a"])).is_ok());
                assert!(peer.call("rpc.subscribe", &json!(["b.*"])).is_ok());
                assert_eq!(publisher.call("rpc.publish", &json!(["a", 1])), Ok(json!(1)));
                assert_eq!(notification(&mut peer)["params"]["data"], 1);
                left.store(0, Ordering::Relaxed);
                assert_eq!(publisher.call("rpc.publish", &json!(["a", 2])), Ok(json!(0)));
                assert_eq!(notification(&mut peer), ended("a"));
                assert_eq!(publisher.call("rpc.publish", &json!(["b.c", 2])), Ok(json!(0)));
                assert_eq!(notification(&mut peer), ended("b.*"));
                assert_eq!(subscriptions(), 0);

                // Without an event, when the time has passed.
                left.store(20, Ordering::Relaxed);
                assert!(peer.call("rpc.subscribe", &json!(["a"])).is_ok());
                left.store(0, Ordering::Relaxed);
                assert_eq!(notification(&mut peer), ended("a"));
                eventually("it has ended", || subscriptions() == 0);

                // Another token goes on.
                left.store(20, Ordering::Relaxed);
                peer.present(OTHER_TOKEN);
                assert!(peer.call("rpc.subscribe", &json!(["b.*"])).is_ok());
                left.store(0, Ordering::Relaxed);
                assert_eq!(publisher.call("rpc.publish", &json!(["b.c", 3])), Ok(json!(1)));
                assert_eq!(notification(&mut peer)["params"]["data"], 3);
                drop(peer);
                eventually("it is gone", || subscriptions() == 0);
            }
        })
        .await;
    });
}
