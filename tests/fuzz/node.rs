//! A node at the other end of an in-memory stream: HTTP, WebSocket, and the detection of both.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use chanrpc::config::Limits;
use chanrpc::internals::transport::memory::{self, Memory};
use chanrpc::node::Node;
use chanrpc::route::Registry;
use smol::Executor;
use smol::io::{AsyncRead, AsyncWrite};

use super::source::Source;

/// Small, so that writers wait from time to time.
const ON_THE_WAY: usize = 512;
/// The maximum number of polls for an input, in addition to one for each of its bytes. A small part of it suffices.
const TURNS: usize = 10_000;
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// Checks that for any first bytes the response belongs to the detected dialect, and the connection ends.
pub(super) fn http(input: &[u8]) {
    let mut source = Source::new(input);
    let step = 1 + source.below(64);
    let bytes = source.rest();
    let said = converse(bytes, step, false);
    let is_http = [&b"GET "[..], b"POST ", b"HEAD ", b"OPTIONS "].iter().any(|verb| bytes.starts_with(verb));
    if is_http && !said.is_empty() {
        assert!(said.starts_with(b"HTTP/1.1 ") || said.starts_with(b"HTTP/1.0 "), "{said:?}");
    }
}

/// Checks that frames of HTTP/2, generated from the input or taken verbatim, are answered by frames. A build without
/// HTTP/2 refuses it.
pub(super) fn http2(input: &[u8]) {
    let mut source = Source::new(input);
    let step = 1 + source.below(64);
    let raw = source.below(2) == 0;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    if raw {
        bytes.extend_from_slice(source.rest());
    }
    while !source.is_empty() {
        let (kind, flags, stream, length) = (source.byte(), source.byte(), source.byte(), source.byte());
        let payload = source.take(length.into());
        bytes.extend_from_slice(&[0, 0, payload.len() as u8, kind % 11, flags, 0, 0, 0, stream]);
        bytes.extend_from_slice(payload);
    }
    let answer = converse(&bytes, step, true);
    if answer.starts_with(b"HTTP/1.1 400") {
        return;
    }
    let mut rest = &answer[..];
    while let Some((&[_, _, _, kind, ..], after)) = rest.split_first_chunk::<9>() {
        assert!(kind <= 9, "a frame of kind {kind}");
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        // The last one may be cut off.
        rest = after.get(length..).unwrap_or_default();
    }
}

/// Frames of an accepted peer, generated from the input or taken verbatim.
pub(super) fn websocket(input: &[u8]) {
    let mut source = Source::new(input);
    let step = 1 + source.below(64);
    let raw = source.below(2) == 0;
    let mut bytes = UPGRADE.as_bytes().to_vec();
    if raw {
        bytes.extend_from_slice(source.rest());
    }
    while !source.is_empty() {
        frame(source.byte(), source.byte(), &mut source, &mut bytes);
    }
    let answer = converse(&bytes, step, true);
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "it is not let in: {answer:?}");
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head has an end") + 4;
    frames(&answer[head..]);
}

/// Appends a masked frame with a mask of zeros.
fn frame(first: u8, length: u8, source: &mut Source<'_>, into: &mut Vec<u8>) {
    let payload = source.take(usize::from(length));
    into.push(first);
    match u8::try_from(payload.len()) {
        Ok(short @ 0..126) => into.push(0x80 | short),
        _ => {
            into.push(0x80 | 126);
            into.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(payload);
}

/// Checks that a node sends unmasked frames, that texts contain JSON, and that nothing follows a close. A peer that
/// disconnects without a close counts as gone, and the last frame may be truncated.
fn frames(mut rest: &[u8]) {
    let mut closed = false;
    while !rest.is_empty() {
        assert!(!closed, "{rest:?} after a close");
        let Some((&[first, second], after)) = rest.split_first_chunk() else { return };
        let (length, after) = match second {
            126 => {
                let Some((length, after)) = after.split_first_chunk() else { return };
                (u16::from_be_bytes(*length).into(), after)
            }
            127 => {
                let Some((length, after)) = after.split_first_chunk() else { return };
                (u64::from_be_bytes(*length) as usize, after)
            }
            short => (usize::from(short), after),
        };
        assert!(second < 128 && first & 0x70 == 0, "a frame with a mask or extensions");
        let Some((payload, after)) = after.split_at_checked(length) else { return };
        match first {
            0x81 => {
                serde_json::from_slice::<serde::de::IgnoredAny>(payload).expect("JSON");
            }
            // Binary replies to binary messages.
            0x82 | 0x8a => {}
            0x88 => closed = true,
            _ => panic!("a frame that begins with {first:#x}"),
        }
        rest = after;
    }
}

/// Sends everything in pieces and closes the sending half; returns everything received until the node closes. A
/// `patient` peer keeps the connection open until it has received something: over HTTP, a peer that closes its sending
/// half counts as gone.
fn converse(bytes: &[u8], step: usize, patient: bool) -> Vec<u8> {
    let executor = Arc::new(Executor::new());
    let limits = Limits::default().message(1024).output(1024).in_flight(4);
    let node = Node::new(executor.clone(), Registry::builder("fuzz").build(), limits);
    let (here, there) = memory::pair(ON_THE_WAY);
    let connection = executor.spawn(async move { node.serve_connection(there).await });
    let mut peer = Peer { stream: here, bytes, step, said: Vec::new(), patient, closed: false };
    for _ in 0..TURNS + bytes.len() {
        executor.try_tick();
        peer.turn();
        if connection.is_finished() {
            return peer.rest();
        }
    }
    panic!("the node does not end; it has said {:?}", String::from_utf8_lossy(&peer.said));
}

struct Peer<'a> {
    stream: Memory,
    bytes: &'a [u8],
    step: usize,
    said: Vec<u8>,
    patient: bool,
    closed: bool,
}

impl Peer<'_> {
    /// Returns everything that a finished node has sent. A pipe with bytes may still return `Pending`, to yield to
    /// other tasks.
    fn rest(mut self) -> Vec<u8> {
        while self.read().is_pending() {}
        self.said
    }

    /// Reads what is available. `Ready` at the end.
    fn read(&mut self) -> Poll<()> {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut landing = [0; ON_THE_WAY];
        loop {
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut landing)) {
                Ok(count @ 1..) => self.said.extend_from_slice(&landing[..count]),
                _ => return Poll::Ready(()),
            }
        }
    }

    fn turn(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        let _ = self.read();
        let piece = &self.bytes[..self.step.min(self.bytes.len())];
        if piece.is_empty() {
            if self.patient && self.said.is_empty() {
                return;
            }
            self.closed = self.closed || Pin::new(&mut self.stream).poll_close(cx).is_ready();
            return;
        }
        match Pin::new(&mut self.stream).poll_write(cx, piece) {
            Poll::Ready(Ok(count @ 1..)) => self.bytes = &self.bytes[count..],
            // The node no longer reads.
            Poll::Ready(_) => self.bytes = &[],
            Poll::Pending => {}
        }
    }
}
