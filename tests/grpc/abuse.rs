//! Hostile peers, each beside a witness whose calls are answered, and honest ones that look like them.

use std::time::Duration;

use crate::peer::{
    ACK, CALL, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, Peer, RST_STREAM, Raw,
    SETTINGS, UNKNOWN, WINDOW_UPDATE, block, call_block, call_request, frame, prefixed,
};
use crate::support::{ended, eventually};
use crate::{State, address, metric, node, node_with};

const ENHANCE_YOUR_CALM: u32 = 11;

/// Sends pieces until the node has ended the connection. Returns the reason.
fn flood(node: &chanrpc::node::RunningNode, mut piece: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    let mut witness = smol::block_on(Peer::connect(address(node)));
    let mut raw = Raw::connect(address(node));
    for number in 0..20_000 {
        if raw.send(&piece(number)).is_err() {
            break;
        }
        if number % 500 == 0 {
            let reply = smol::block_on(witness.function("rpc.echo", "[1]"));
            assert_eq!(reply.result(), "[1]");
        }
    }
    raw.end()
}

/// Returns the frames of a call of `rpc.echo`.
fn call(stream: u32) -> Vec<u8> {
    let message = prefixed(&call_request("rpc.echo", "[1]"));
    [frame(HEADERS, END_HEADERS, stream, &call_block()), frame(DATA, END_STREAM, stream, &message)].concat()
}

#[test]
fn floods_end_their_connection_only() {
    let node = node("");
    let mut floods = 0;
    for reason in [
        // Empty DATA frames of a request that is never complete.
        flood(&node, |number| match number {
            0 => frame(HEADERS, END_HEADERS, 1, &call_block()),
            _ => frame(DATA, 0, 1, b"").repeat(10),
        }),
        // A head without end.
        flood(&node, |number| match number {
            0 => frame(HEADERS, 0, 1, &call_block()),
            _ => frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(100))])),
        }),
    ] {
        assert!(reason.is_none_or(|reason| reason == ENHANCE_YOUR_CALM), "{reason:?}");
        floods += 1;
    }
    eventually("the connections end", || metric(&node, "chanrpc_connections") == 1);
    assert_eq!(metric(&node, "chanrpc_http2_floods_total"), floods);
}

/// Sends pieces while another thread reads what the node answers. Returns the reason for which it ended the connection,
/// unless it took them all.
fn flood_and_read(node: &chanrpc::node::RunningNode, piece: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let mut witness = smol::block_on(Peer::connect(address(node)));
    let mut raw = Raw::connect(address(node));
    let mut reader = Raw(raw.0.try_clone().unwrap());
    let reader = std::thread::spawn(move || reader.end());
    for number in 0..5_000 {
        if raw.send(&piece(number)).is_err() {
            break;
        }
        if number % 500 == 0 {
            assert_eq!(smol::block_on(witness.function("rpc.echo", "[1]")).result(), "[1]");
        }
    }
    let _ = raw.0.shutdown(std::net::Shutdown::Write);
    reader.join().unwrap()
}

#[test]
fn frames_that_belong_to_no_call_are_limited() {
    let node = node("[limits]\ncontrol_frames = 300\n");
    let ping = || frame(PING, 0, 0, &[0; 8]);
    let mut floods = 0;
    for kind in [PING, SETTINGS, PRIORITY, WINDOW_UPDATE, UNKNOWN] {
        let reason = flood_and_read(&node, |_| match kind {
            PING => ping(),
            SETTINGS => frame(SETTINGS, 0, 0, &[]),
            PRIORITY => frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]),
            WINDOW_UPDATE => frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            _ => frame(UNKNOWN, 0, 0, &[]),
        });
        assert!(reason.is_none_or(|reason| reason == ENHANCE_YOUR_CALM), "{kind}: {reason:?}");
        floods += 1;
        eventually("it is counted", || metric(&node, "chanrpc_http2_floods_total") == floods);
    }
    // As many between calls are no flood: a peer may measure the time of each of them.
    let mut raw = Raw::connect(address(&node));
    for number in 0..10 {
        raw.send(&ping().repeat(250)).unwrap();
        raw.send(&call(2 * number + 1)).unwrap();
        assert!(raw.await_frame(DATA).is_some());
    }
    assert_eq!(metric(&node, "chanrpc_http2_floods_total"), floods);
}

#[test]
fn cancelled_calls_count_until_their_functions_end() {
    let state = State::default();
    let held = state.held.clone();
    let node = node_with("[limits]\nin_flight = 4\n", state);
    let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    // Rapid reset of calls whose functions have begun, and do not end.
    let mut witness = smol::block_on(Peer::connect(address(&node)));
    let mut raw = Raw::connect(address(&node));
    let hold = prefixed(&call_request("hold", ""));
    for number in 0..100 {
        let stream = 2 * number + 1;
        let head = frame(HEADERS, END_HEADERS, stream, &call_block());
        let ping = frame(PING, 0, 0, &[0; 8]);
        raw.send(&[head, frame(DATA, END_STREAM, stream, &hold), ping].concat()).unwrap();
        raw.await_frame(PING).unwrap();
        raw.send(&reset(stream)).unwrap();
        if number % 10 == 0 {
            assert_eq!(smol::block_on(witness.function("rpc.echo", "[1]")).result(), "[1]");
        }
    }
    eventually("some run", || !held.lock().unwrap().is_empty());
    // And of heads alone.
    let heads = flood_and_read(&node, |number| {
        let stream = 2 * number + 1;
        [frame(HEADERS, END_HEADERS, stream, &call_block()), reset(stream)].concat()
    });
    assert!(heads.is_none_or(|reason| reason == ENHANCE_YOUR_CALM || reason == 0), "{heads:?}");
    let held = held.lock().unwrap().len();
    assert!(held <= 4, "{held} calls of one connection run");
}

#[test]
fn honest_cancellations_and_bursts_are_served() {
    let node = node("");
    smol::block_on(async {
        // As many calls as run at once, all cancelled at once.
        let mut peer = Peer::connect(address(&node)).await;
        for _ in 0..3 {
            let mut calls = Vec::new();
            for _ in 0..64 {
                calls.push(peer.call(CALL, &[], &call_request("rpc.echo", "[1]")).await);
            }
            for (_, stream) in &mut calls {
                stream.send_reset(h2::Reason::CANCEL);
            }
            assert_eq!(peer.function("rpc.echo", "[2]").await.result(), "[2]");
        }
    });
    // All calls that a peer may begin before it knows the limit.
    let mut raw = Raw::connect(address(&node));
    let calls: Vec<u8> = (0..100).flat_map(|number| call(2 * number + 1)).collect();
    raw.send(&calls).unwrap();
    let mut answered = 0;
    while answered < 100 {
        let (kind, flags, ..) = raw.frame().expect("a reply");
        answered += u32::from(kind == HEADERS && flags & END_STREAM != 0);
    }
    assert_eq!(metric(&node, "chanrpc_http2_floods_total"), 0);
}

#[test]
fn calls_that_wait_may_be_cancelled() {
    let state = State::default();
    let held = state.held.clone();
    let node = node_with("[limits]\nin_flight = 2\n", state);
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let mut running = Vec::new();
        for _ in 0..2 {
            running.push(peer.call(CALL, &[], &call_request("hold", "")).await);
        }
        // Far more than a peer may have open.
        for _ in 0..300 {
            let (_response, mut stream) = peer.call(CALL, &[], &call_request("rpc.echo", "[1]")).await;
            peer.await_received().await;
            stream.send_reset(h2::Reason::CANCEL);
        }
        eventually("both run", || held.lock().unwrap().len() == 2);
        for responder in held.lock().unwrap().drain(..) {
            responder.reply(7);
        }
        for (response, _stream) in running {
            assert_eq!(crate::peer::reply(response.await.unwrap()).await.result(), "7");
        }
    });
    assert_eq!(metric(&node, "chanrpc_http2_floods_total"), 0);
}

#[test]
fn calls_cancelled_before_they_are_taken_are_cancelled() {
    let node = node("");
    let mut raw = Raw::connect(address(&node));
    let message = prefixed(&call_request("hold", ""));
    let call = [
        frame(HEADERS, END_HEADERS, 1, &call_block()),
        frame(DATA, END_STREAM, 1, &message),
        frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
    ];
    raw.send(&call.concat()).unwrap();
    raw.send(&self::call(3)).unwrap();
    assert!(raw.await_frame(DATA).is_some());
    eventually("the call is cancelled", || metric(&node, "chanrpc_calls_in_flight") == 0);
}

#[test]
fn messages_that_do_not_come_hold_back_no_other() {
    let node = node("");
    let mut witness = smol::block_on(Peer::connect(address(&node)));
    let mut raw = Raw::connect(address(&node));
    // Of each the first half window, in a frame or byte by byte: of all together more than the window of one.
    for number in 0..20 {
        let stream = 2 * number + 1;
        let part = [&[0, 0, 0, 0x80, 0][..], &[b'x'; 32_000]].concat();
        raw.send(&frame(HEADERS, END_HEADERS, stream, &call_block())).unwrap();
        if number == 0 {
            let bytes: Vec<u8> = part.iter().flat_map(|&byte| frame(DATA, 0, stream, &[byte])).collect();
            raw.send(&bytes).unwrap();
        } else {
            raw.send(&frame(DATA, 0, stream, &part[..16_000])).unwrap();
            raw.send(&frame(DATA, 0, stream, &part[16_000..])).unwrap();
        }
        assert_eq!(smol::block_on(witness.function("rpc.echo", "[1]")).result(), "[1]");
    }
    raw.send(&call(101)).unwrap();
    let (.., stream, _) = raw.await_frame(DATA).unwrap();
    assert_eq!(stream, 101);
    assert_eq!(metric(&node, "chanrpc_http2_floods_total"), 0);
}

#[test]
fn incomplete_heads_end_in_time() {
    let node = node("[limits]\nhead_timeout = '200ms'\n");
    let preface = {
        let mut raw = Raw(std::net::TcpStream::connect(address(&node)).unwrap());
        raw.send(b"PRI * HTTP/2.0\r\n").unwrap();
        raw
    };
    // No frame follows the preface.
    let mut settings = Raw(std::net::TcpStream::connect(address(&node)).unwrap());
    settings.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut head = Raw::connect(address(&node));
    head.send(&frame(HEADERS, 0, 1, &call_block())).unwrap();
    let mut part = Raw::connect(address(&node));
    part.send(&frame(PING, 0, 0, &[0; 8])[..12]).unwrap();
    for mut raw in [preface, settings, head, part] {
        raw.end();
        assert!(raw.frame().is_none());
    }
    eventually("they are counted", || metric(&node, "chanrpc_slow_heads_total") == 4);
    // A connection without a request is no slow head.
    let mut idle = Raw::connect(address(&node));
    smol::block_on(async { smol::Timer::after(Duration::from_millis(400)).await });
    idle.send(&call(1)).unwrap();
    assert!(idle.await_frame(DATA).is_some());
}

#[test]
fn peers_that_do_not_read_are_cut_off() {
    let node = node("[limits]\nstall_timeout = '200ms'\n");
    // SETTINGS_INITIAL_WINDOW_SIZE of 0: headers pass, data does not. TCP itself does not stall.
    let mut raw = Raw::with_settings(address(&node), &[0, 4, 0, 0, 0, 0]);
    raw.send(&call(1)).unwrap();
    let (.., stream, _) = raw.await_frame(RST_STREAM).unwrap();
    assert_eq!(stream, 1);
    assert_eq!(metric(&node, "chanrpc_slow_readers_total"), 1);
    raw.send(&[call(3), call(5)].concat()).unwrap();
    assert_eq!(raw.end(), Some(ENHANCE_YOUR_CALM));
    eventually("they are counted", || metric(&node, "chanrpc_slow_readers_total") >= 3);
    // A message that does not come ends its call only.
    let mut raw = Raw::connect(address(&node));
    raw.send(&frame(HEADERS, END_HEADERS, 1, &call_block())).unwrap();
    raw.send(&call(3)).unwrap();
    assert!(raw.await_frame(DATA).is_some());
    while raw.frame().expect("a status").2 != 1 {}
    assert_eq!(metric(&node, "chanrpc_slow_messages_total"), 1);
}

#[test]
fn silent_peers_are_pinged_and_idle_ones_asked_to_leave() {
    let node = node("[limits]\nkeepalive = '200ms'\n");
    let mut silent = Raw::connect(address(&node));
    let (_, flags, ..) = silent.await_frame(PING).unwrap();
    assert_eq!(flags & ACK, 0);
    silent.end();
    assert_eq!(metric(&node, "chanrpc_connections_vanished_total"), 1);
    // This one answers pings.
    let peer = smol::block_on(Peer::connect(address(&node)));
    smol::block_on(peer.end());
}

#[test]
fn a_peer_that_reads_slowly_gets_all_answers_of_a_node_that_stops() {
    const CALLS: u32 = 20;
    let node = node("[limits]\nstall_timeout = '5s'\n");
    let mut raw = Raw::with_little_buffer(address(&node));
    // Windows for all answers: what is not read waits in the node.
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 16, 0, 0])).unwrap();
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &[1, 0, 0, 0])).unwrap();
    let message = prefixed(&call_request("rpc.echo", &format!("[\"{}\"]", "x".repeat(50_000))));
    for number in 0..CALLS {
        let stream = 2 * number + 1;
        raw.send(&frame(HEADERS, END_HEADERS, stream, &call_block())).unwrap();
        for part in message.chunks(16_000) {
            raw.send(&frame(DATA, 0, stream, part)).unwrap();
        }
        raw.send(&frame(DATA, END_STREAM, stream, &[])).unwrap();
    }
    let calls = || metric(&node, "chanrpc_calls_total") == u64::from(CALLS);
    eventually("the calls are answered", || calls() && metric(&node, "chanrpc_calls_in_flight") == 0);
    let stopping = std::thread::spawn(move || smol::block_on(node.stop()));
    let mut answers = 0;
    while let Some((kind, flags, _, payload)) = raw.frame() {
        match kind {
            HEADERS if flags & END_STREAM > 0 => answers += 1,
            PING if flags & ACK == 0 => raw.send(&frame(PING, ACK, 0, &payload)).unwrap(),
            // The peer is slow, and gives room again for what it has read.
            DATA if !payload.is_empty() => {
                std::thread::sleep(Duration::from_millis(30));
                let count = u32::try_from(payload.len()).unwrap().to_be_bytes();
                raw.send(&frame(WINDOW_UPDATE, 0, 0, &count)).unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(answers, CALLS);
    ended(stopping);
}
