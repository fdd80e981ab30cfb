//! Lanes over the network: calls of a node in order by key.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use chanrpc::chan::CallError;
use chanrpc::lanes::{LaneError, LaneSettings, Lanes};
use chanrpc::message::{RawJson, code};
use chanrpc::remote::Remote;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use smol::Executor;

use crate::programs::gate;
use crate::spec::run;
use crate::support::{Folder, Node, Stderr};

/// A timeout that is expected to pass.
const SOON: Duration = Duration::from_millis(100);

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Returns keys of different lanes.
fn two_keys(lanes: &Lanes<Remote>) -> (u32, u32) {
    let other = (1..).find(|key| lanes.lane_of(key) != lanes.lane_of(&0_u32));
    (0, other.unwrap())
}

fn json(value: &serde_json::Value) -> Box<RawValue> {
    to_raw_value(value).unwrap()
}

fn lanes_to(executor: &Arc<Executor<'static>>, node: &Node) -> Lanes<Remote> {
    Lanes::to_node(executor, LaneSettings::default(), Remote::builder(node.address().to_string()))
}

#[test]
fn node_sees_each_key_in_order_and_keys_concurrently() {
    let node = Node::with(Folder::new(), &gate(""));
    let open = node.folder.name("open");
    run(async |executor| {
        let lanes = lanes_to(&executor, &node);
        let (stuck, other) = two_keys(&lanes);
        let mut held = lanes.keyed(&stuck).call_raw("gate", Some(RawJson::from(&*json(&json!([open])))));
        assert!(poll(&mut held).is_pending());
        let order = Arc::new(Mutex::new(Vec::new()));
        let behind: Vec<_> = (0..10)
            .map(|number| {
                let mut call =
                    lanes.keyed(&stuck).call_raw("rpc.echo", Some(RawJson::from(&*json(&json!([number])))));
                assert!(poll(&mut call).is_pending());
                let order = order.clone();
                executor.spawn(async move {
                    let echoed = call.await.unwrap();
                    order.lock().unwrap().push(number);
                    echoed
                })
            })
            .collect();
        let echoed = lanes
            .keyed(&other)
            .call_raw("rpc.echo", Some(RawJson::from(&*json(&json!(["other"])))))
            .await
            .unwrap();
        assert_eq!(echoed.get(), "[\"other\"]");
        assert!(order.lock().unwrap().is_empty());
        node.folder.write("open", "");
        assert_eq!(held.await.unwrap().get(), "\"opened\"");
        for (number, echo) in behind.into_iter().enumerate() {
            assert_eq!(echo.await.get(), format!("[{number}]"));
        }
        assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
        let unknown = lanes.call_raw("absent", None).await.unwrap_err();
        assert!(
            matches!(&unknown, LaneError::Failed(error) if error.fault().is_some_and(|fault| fault.code == code::UNKNOWN_FUNCTION))
        );
    });
}

#[test]
fn lane_enforces_its_deadline_over_the_network() {
    let node = Node::with(Folder::new(), &gate(""));
    let never = node.folder.name("never");
    run(async |executor| {
        let lanes = lanes_to(&executor, &node);
        lanes.keyed(&0).call_raw("rpc.ping", None).await.unwrap();
        let params = json(&json!([never]));
        let mut held = lanes.keyed(&0).call_raw("gate", Some(RawJson::from(&*params))).timeout(SOON);
        assert!(poll(&mut held).is_pending());
        let behind =
            executor.spawn(lanes.keyed(&0).call_raw("rpc.echo", Some(RawJson::from(&*json(&json!([1]))))));
        match held.await {
            Err(LaneError::Deadline) => {}
            // The node may notice first.
            Err(LaneError::Failed(error))
                if error.fault().is_some_and(|fault| fault.code == code::DEADLINE) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(behind.await.unwrap().get(), "[1]");
        assert_eq!(lanes.stats().dialled, 1);
    });
}

#[test]
fn lanes_recover_when_a_node_is_killed_and_restarted() {
    let node = Node::with(Folder::new(), &gate(""));
    let address = node.address().to_string();
    run(async |executor| {
        let lanes = lanes_to(&executor, &node);
        let add = json(&json!([1, 2]));
        let echo = |key: u32| lanes.keyed(&key).call_raw("rpc.echo", Some(RawJson::from(&*add)));
        let (key, other) = two_keys(&lanes);
        for key in [key, other] {
            echo(key).await.unwrap();
        }
        let in_flight = executor.spawn({
            let params = json(&json!([node.folder.name("never")]));
            lanes.keyed(&key).call_raw("gate", Some(RawJson::from(&*params)))
        });
        while lanes.stats().running == 0 {
            smol::future::yield_now().await;
        }
        drop(node);
        let lost = in_flight.await.unwrap_err();
        assert!(
            matches!(lost, LaneError::Failed(CallError::Lost { .. } | CallError::Unreachable { .. })),
            "{lost}"
        );
        // While the node is down, calls wait and then report that.
        let absent = echo(key).timeout(SOON * 5).await.unwrap_err();
        let LaneError::Unreachable(reason) = &absent else { panic!("{absent}") };
        assert!(matches!(&**reason, CallError::Unreachable { address: to, .. } if *to == address));
        let waiting = [echo(key), echo(other), echo(key)].map(|call| executor.spawn(call));
        let _node = Node::launch(Folder::new(), None, &["--listen", &address], &Stderr::Read);
        for call in waiting {
            match call.await {
                Ok(echoed) => assert_eq!(echoed.get(), "[1,2]"),
                // The other lane may not have noticed the loss yet.
                Err(LaneError::Failed(CallError::Lost { .. } | CallError::Unreachable { .. })) => {}
                Err(other) => panic!("{other}"),
            }
        }
        for key in [key, other] {
            assert_eq!(echo(key).await.unwrap().get(), "[1,2]");
        }
    });
}
