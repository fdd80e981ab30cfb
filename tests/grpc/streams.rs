//! Methods whose response is a stream: topics, health, and reflection.

use std::sync::{Arc, Mutex};

use h2::RecvStream;

use crate::peer::{Peer, call_request, prefixed, reply, texts};
use crate::support::eventually;
use crate::{State, address, metric, node, node_with};

const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Reads one message, which arrives as one frame.
async fn message(body: &mut RecvStream) -> String {
    let data = body.data().await.unwrap().unwrap();
    String::from_utf8_lossy(&data[5..]).into_owned()
}

#[test]
fn topics_are_watched_until_the_node_stops() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let (response, _stream) = peer.call("/chanrpc.v1.Node/Watch", &[], &texts(&[(1, "news")])).await;
        let mut body = response.await.unwrap().into_body();
        let subscribed = message(&mut body).await;
        // The epoch, number 0, nothing missed.
        assert!(
            subscribed.starts_with("\n\x16\n\x10") && subscribed.ends_with("\x10\0\x18\0"),
            "{subscribed:?}"
        );
        for number in 1..=2 {
            let published = peer.function("rpc.publish", &format!("[\"news\",[{number}]]")).await;
            assert_eq!(published.result(), "1");
            let expected = format!("\x12\x0d\n\x04news\x10{}\x1a\x03[{number}]", char::from(number));
            assert_eq!(message(&mut body).await, expected);
        }
        let invalid = peer.reply("/chanrpc.v1.Node/Watch", &[], &texts(&[(1, "rpc.x")])).await;
        assert_eq!(invalid.status, 3);
        let invalid = peer.reply("/chanrpc.v1.Node/Watch", &[], &texts(&[(1, "a"), (4, "x")])).await;
        assert_eq!(invalid.status, 3);
        // Cancelled, it ends the subscription.
        let (response, mut stream) = peer.call("/chanrpc.v1.Node/Watch", &[], &texts(&[(1, "other")])).await;
        let mut other = response.await.unwrap().into_body();
        message(&mut other).await;
        stream.send_reset(h2::Reason::CANCEL);
        eventually("the subscription ends", || metric(&node, "chanrpc_subscriptions") == 1);

        let health = peer.call("/grpc.health.v1.Health/Watch", &[], b"").await;
        let mut health = health.0.await.unwrap().into_body();
        assert_eq!(message(&mut health).await, "\x08\x01");
        node.stop().await;
        assert_eq!(message(&mut health).await, "\x08\x02");
        for mut body in [health, body] {
            assert!(body.data().await.is_none());
            assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "14");
        }
        // The GOAWAY has no error.
        peer.end().await;
    });
}

#[test]
fn calls_are_answered_while_the_node_stops() {
    let held = Arc::<Mutex<Vec<_>>>::default();
    let node = node_with("", State { held: held.clone(), ..State::default() });
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let (response, _stream) = peer.call("/chanrpc.v1.Node/Call", &[], &call_request("hold", "")).await;
        eventually("the call runs", || !held.lock().unwrap().is_empty());
        let answer = async {
            State { held, ..State::default() }.release();
            reply(response.await.unwrap()).await
        };
        // The stop is polled first.
        let ((), answer) = smol::future::zip(node.stop(), answer).await;
        assert_eq!(answer.result(), "7");
        peer.end().await;
    });
}

#[test]
fn health_is_told_per_service() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let path = "/grpc.health.v1.Health/Check";
        for service in ["", "chanrpc.v1.Node", "grpc.health.v1.Health"] {
            assert_eq!(peer.reply(path, &[], &texts(&[(1, service)])).await.messages, [b"\x08\x01"]);
        }
        assert_eq!(peer.reply(path, &[], &texts(&[(1, "absent")])).await.status, 5);
        let watched = peer.call("/grpc.health.v1.Health/Watch", &[], &texts(&[(1, "absent")])).await;
        let mut body = watched.0.await.unwrap().into_body();
        assert_eq!(message(&mut body).await, "\x08\x03");
    });
}

#[test]
fn services_are_described() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        for path in REFLECTION {
            // A client asks while the stream is open.
            let (response, mut stream) =
                peer.begin("POST", path, &[("content-type", "application/grpc")], false).await;
            let mut body = response.await.unwrap().into_body();
            let mut answers = Vec::new();
            for question in [
                texts(&[(7, "")]),
                texts(&[(4, "chanrpc.v1.Node")]),
                texts(&[(3, "chanrpc/v1/node.proto")]),
                texts(&[(4, "absent.Service")]),
            ] {
                stream.send_data(prefixed(&question).into(), false).unwrap();
                answers.push(message(&mut body).await);
            }
            assert!(answers[0].contains("chanrpc.v1.Node") && answers[0].contains("grpc.health.v1.Health"));
            assert!(answers[1].contains("CallRequest") && answers[2].contains("CallRequest"));
            assert!(answers[3].contains("not found"));
            stream.send_data(Vec::new().into(), true).unwrap();
            assert!(body.data().await.is_none());
            assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        }
    });
}

#[test]
fn open_reflection_holds_back_no_call() {
    let node = node("[limits]\nmessage = '64 KiB'\n");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let headers = [("content-type", "application/grpc")];
        let (_response, mut questions) = peer.begin("POST", REFLECTION[0], &headers, false).await;
        questions.send_data(prefixed(&texts(&[(7, "")])).into(), false).unwrap();
        // Two large messages, of which each is begun before the other is complete.
        let message = prefixed(&call_request("echo", &format!("[\"{}\"]", "x".repeat(60_000))));
        let (begin, end) = message.split_at(40_000);
        let mut calls = Vec::new();
        for _ in 0..2 {
            let (response, mut stream) = peer.begin("POST", crate::peer::CALL, &headers, false).await;
            stream.send_data(begin.to_vec().into(), false).unwrap();
            calls.push((response, stream));
        }
        for (_, stream) in &mut calls {
            stream.send_data(end.to_vec().into(), true).unwrap();
        }
        for (response, _stream) in calls {
            assert_eq!(reply(response.await.unwrap()).await.status, 0);
        }
    });
}

#[test]
fn streams_have_the_deadline_of_their_call() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let timeout = [("grpc-timeout", "20m")];
        for (path, message) in
            [("/chanrpc.v1.Node/Watch", texts(&[(1, "news")])), ("/grpc.health.v1.Health/Watch", Vec::new())]
        {
            assert_eq!(peer.reply(path, &timeout, &message).await.status, 4, "{path}");
        }
    });
}

#[test]
fn streams_take_no_place_of_calls() {
    let node = node("[limits]\nin_flight = 2\n");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            let (response, stream) = peer.call("/grpc.health.v1.Health/Watch", &[], b"").await;
            let mut body = response.await.unwrap().into_body();
            assert_eq!(message(&mut body).await, "\x08\x01");
            streams.push((body, stream));
        }
        assert_eq!(peer.function("rpc.echo", "[1]").await.result(), "[1]");
    });
}
