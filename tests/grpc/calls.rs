//! Calls of functions, and the status of each kind of failure.

use chanrpc::message::code;

use crate::peer::{CALL, Peer, call_request, prefixed};
use crate::support::eventually;
use crate::{address, metric, node};

#[test]
fn functions_are_called_with_json() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        assert_eq!(peer.function("echo", "[\"\u{e4}\"]").await.result(), "\"\u{e4}\"");
        // Every digit survives.
        let exact = "[9007199254740993,0.10000000000000000001]";
        assert_eq!(peer.function("rpc.echo", exact).await.result(), exact);
        assert_eq!(peer.function("rpc.echo", "").await.result(), "null");
        let long = format!("[\"{}\"]", "x".repeat(1_000_000));
        assert_eq!(peer.function("rpc.echo", &long).await.result(), long);
        // More at once than the node runs at once.
        let mut calls = Vec::new();
        for number in 0..90 {
            calls.push(peer.call(CALL, &[], &call_request("rpc.echo", &format!("[{number}]"))).await);
        }
        for (number, (response, _stream)) in calls.into_iter().enumerate() {
            let reply = crate::peer::reply(response.await.unwrap()).await;
            assert_eq!(reply.result(), format!("[{number}]"));
        }
    });
}

#[test]
fn each_code_has_its_status() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        for (code, status, reason) in [
            (code::PARSE, 3, "PARSE"),
            (code::INVALID_REQUEST, 3, "INVALID_REQUEST"),
            (code::INVALID_PARAMS, 3, "INVALID_PARAMS"),
            (code::UNKNOWN_FUNCTION, 12, "UNKNOWN_FUNCTION"),
            (code::INTERNAL, 13, "INTERNAL"),
            (code::FAILED, 2, "FUNCTION"),
            (code::NO_PROVIDER, 14, "NO_PROVIDER"),
            // A caller without a token; with one it is 7.
            (code::DENIED, 16, "DENIED"),
            (code::DEADLINE, 4, "DEADLINE"),
            (code::WOULD_DEADLOCK, 9, "WOULD_DEADLOCK"),
            (code::REQUEST_TOO_LARGE, 8, "REQUEST_TOO_LARGE"),
            (code::REPLY_TOO_LARGE, 8, "REPLY_TOO_LARGE"),
            (code::BUSY, 8, "BUSY"),
            (code::BATCH_TOO_LARGE, 8, "BATCH_TOO_LARGE"),
            (code::LOST, 2, "LOST"),
            (code::HOP_LIMIT, 9, "HOP_LIMIT"),
            (code::PROGRAM_FAILED, 2, "PROGRAM_FAILED"),
            (code::CLOSED, 14, "CLOSED"),
            (code::TAKEN, 6, "TAKEN"),
            (code::CANCELLED, 1, "CANCELLED"),
            (1, 1, "FUNCTION"),
            (5, 5, "FUNCTION"),
            (16, 16, "FUNCTION"),
            (0, 2, "FUNCTION"),
            (17, 2, "FUNCTION"),
            (-5, 2, "FUNCTION"),
        ] {
            let reply = peer.function("fail", &format!("[{code}]")).await;
            assert_eq!((reply.status, &*reply.text), (status, &*format!("code {code}")));
            let details = String::from_utf8_lossy(&reply.details);
            for part in ["google.rpc.ErrorInfo", reason, "chanrpc", &code.to_string(), &format!("[{code}]")] {
                assert!(details.contains(part), "{part} is not in {details:?}");
            }
        }
    });
}

#[test]
fn mistakes_of_callers_have_a_status() {
    let node = node("[limits]\nmessage = 1000\n");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        for (function, params, status) in [
            ("absent", "", 12),
            ("echo", "[1", 3),
            ("echo", "7", 3),
            ("echo", "[7]", 3),
            ("", "", 3),
            ("panic", "", 13),
        ] {
            let reply = peer.function(function, params).await;
            assert_eq!(reply.status, status, "{function}({params}): {reply:?}");
        }
        assert!(peer.function("panic", "").await.text.contains("%C3%A4"));
        let echo = call_request("rpc.echo", "");
        for (path, headers, message, status) in [
            ("/chanrpc.v1.Node/Absent", &[][..], &echo[..], 12),
            ("/chanrpc.v1.Absent/Call", &[], &echo, 12),
            ("/", &[], &echo, 12),
            (CALL, &[("grpc-encoding", "gzip")], &echo, 12),
            (CALL, &[("grpc-timeout", "1x")], &echo, 3),
            (CALL, &[("chanrpc-hops", "9")], &echo, 9),
            (CALL, &[], b"\x0a\xff", 3),
            (CALL, &[], b"\x08\x01", 3),
            (CALL, &[], &[0x0a, 1, 0xff], 3),
            (CALL, &[], &call_request("rpc.echo", &"x".repeat(1000)), 8),
        ] {
            let reply = peer.reply(path, headers, message).await;
            assert_eq!(reply.status, status, "{path} {headers:?} {message:?}: {reply:?}");
            assert!(!reply.text.is_empty());
        }
        // No message, a compressed one, two, and a part of one.
        let two = [prefixed(&echo), prefixed(&echo)].concat();
        for (body, status) in
            [(vec![], 3), (b"\x01\0\0\0\0".to_vec(), 12), (two.clone(), 12), (two[..7].into(), 3)]
        {
            let headers = [("content-type", "application/grpc+proto")];
            let (response, mut stream) = peer.begin("POST", CALL, &headers, false).await;
            let _ = stream.send_data(body.into(), true);
            let reply = crate::peer::reply(response.await.unwrap()).await;
            assert_eq!(reply.status, status, "{reply:?}");
        }
        // A message that is too long is refused by its prefix.
        let (response, mut stream) =
            peer.begin("POST", CALL, &[("content-type", "application/grpc")], false).await;
        stream.send_data((&b"\0\xff\xff\xff\xff"[..]).into(), false).unwrap();
        assert_eq!(crate::peer::reply(response.await.unwrap()).await.status, 8);
    });
    assert_eq!(metric(&node, "chanrpc_messages_too_large_total"), 2);
}

#[test]
fn deadlines_and_cancellations_end_calls() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let message = call_request("hold", "");
        assert_eq!(peer.reply(CALL, &[("grpc-timeout", "30m")], &message).await.status, 4);
        assert_eq!(peer.reply(CALL, &[("grpc-timeout", "0n")], &message).await.status, 4);
        // Without a message in time.
        let headers = [("content-type", "application/grpc"), ("grpc-timeout", "30m")];
        let (response, _stream) = peer.begin("POST", CALL, &headers, false).await;
        assert_eq!(crate::peer::reply(response.await.unwrap()).await.status, 4);

        let (_response, mut stream) = peer.call(CALL, &[], &message).await;
        eventually("the call runs", || metric(&node, "chanrpc_calls_in_flight") == 1);
        stream.send_reset(h2::Reason::CANCEL);
        eventually("the call is cancelled", || metric(&node, "chanrpc_calls_in_flight") == 0);
        assert_eq!(peer.function("rpc.echo", "[1]").await.result(), "[1]");
    });
}

#[test]
fn callers_have_the_rights_of_their_token() {
    // The SHA-256 of "good".
    let config = "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nfunctions = ['echo']\n\
                  token = 'sha256:770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c'\n";
    let node = node(config);
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let (echo, other) = (call_request("echo", "[\"x\"]"), call_request("calls", ""));
        let (good, bad) = ([("authorization", "Bearer good")], [("authorization", "Bearer bad")]);
        assert_eq!(peer.reply(CALL, &[], &echo).await.status, 16);
        assert_eq!(peer.reply(CALL, &bad, &echo).await.status, 16);
        assert_eq!(peer.reply(CALL, &good, &echo).await.result(), "\"x\"");
        assert_eq!(peer.reply(CALL, &good, &other).await.status, 7);
        // A caller that may not list functions learns nothing of services; everybody may ask for health.
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert_eq!(peer.reply(reflection, &good, b"\x3a\0").await.status, 7);
        assert_eq!(peer.reply(reflection, &[], b"\x3a\0").await.status, 16);
        assert_eq!(peer.reply("/grpc.health.v1.Health/Check", &[], b"").await.messages, [b"\x08\x01"]);
        let watch = "/chanrpc.v1.Node/Watch";
        assert_eq!(peer.reply(watch, &good, b"\x0a\x01a").await.status, 7);
    });
}

#[test]
fn peers_without_a_token_are_disconnected() {
    // The SHA-256 of "good".
    let config = "[limits]\nauth_timeout = '2s'\n[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\n\
                  functions = ['echo', 'rpc.stats']\n\
                  token = 'sha256:770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c'\n";
    let node = node(config);
    smol::block_on(async {
        let mut known = Peer::connect(address(&node)).await;
        let (echo, good) = (call_request("echo", "[\"x\"]"), [("authorization", "Bearer good")]);
        assert_eq!(known.reply(CALL, &good, &echo).await.result(), "\"x\"");
        let mut stranger = Peer::connect(address(&node)).await;
        // Everybody may ask for health, which is no token.
        assert_eq!(stranger.reply("/grpc.health.v1.Health/Check", &[], b"").await.status, 0);
        stranger.end().await;
        // Long after its own time.
        assert_eq!(known.reply(CALL, &good, &echo).await.result(), "\"x\"");
        let stats = call_request("rpc.stats", "");
        let stats = known.reply(CALL, &good, &stats).await;
        assert!(stats.result().contains("\"unauthenticated\":1"), "{}", stats.result());
    });
}

#[test]
fn calls_are_limited_to_those_that_run() {
    let node = node("[limits]\nin_flight = 2\n");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let hold = call_request("hold", "");
        for number in 1..=2 {
            let (_response, mut stream) = peer.call(CALL, &[], &hold).await;
            eventually("the call runs", || metric(&node, "chanrpc_calls_in_flight") == 1);
            stream.send_reset(h2::Reason::CANCEL);
            eventually("the call is cancelled", || metric(&node, "chanrpc_calls_in_flight") == 0);
            let mut other = Peer::connect(address(&node)).await;
            assert_eq!(other.function("calls", "").await.result(), number.to_string());
        }
        // Both are cancelled, but their function has not ended: a third one waits until it does.
        let (response, _stream) = peer.call(CALL, &[], &call_request("calls", "")).await;
        let mut response = std::pin::pin!(response);
        peer.await_received().await;
        assert!(smol::future::poll_once(response.as_mut()).await.is_none());
        let mut other = Peer::connect(address(&node)).await;
        assert_eq!(other.function("release", "").await.result(), "2");
        assert_eq!(crate::peer::reply(response.await.unwrap()).await.result(), "2");
    });
}
