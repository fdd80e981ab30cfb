//! The calling end of a connection: whatever the other node sends, each call is answered once.

use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use chanrpc::config::Limits;
use chanrpc::internals::codec::Dialect;
use chanrpc::internals::session::{Dialled, Session};
use chanrpc::message::RawJson;
use chanrpc::route::Registry;

use super::source::Source;

const DIALECTS: [Dialect; 4] =
    [Dialect::JsonLines, Dialect::JsonContentLength, Dialect::MessagePack, Dialect::JsonPerFrame];
const OUTPUT: usize = 4096;

/// Makes calls, and sends the node bytes, in an order that the input chooses.
pub(super) fn client(input: &[u8]) {
    let mut source = Source::new(input);
    let dialect = DIALECTS[source.below(DIALECTS.len())];
    let limits = Limits::default().message(1024).output(OUTPUT).in_flight(4);
    let dialled = Dialled { address: "far".into(), keepalive: Duration::from_secs(10), ..Dialled::default() };
    let mut now = Instant::now();
    let registry = Registry::builder("fuzz").build();
    let mut session = Session::dialled(registry, Arc::new(limits), dialect, dialled, now);
    let peer = session.peer();
    let (answers, mut calls) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
    session.write_preface(now);
    while !source.is_empty() {
        match source.below(8) {
            0 | 1 => {
                let (number, answers, id) = (calls.len(), answers.clone(), peer.reserve());
                let deadline = (number % 2 == 1).then(|| now + Duration::from_secs(1));
                calls.push((id, false));
                let params = RawJson::of(&[number]).ok();
                peer.call(id, "f".into(), params, deadline, 1, number % 5 == 4, move |_| {
                    answers.lock().expect("nobody panics with it").push(number);
                });
            }
            2 if !calls.is_empty() => {
                let at = source.below(calls.len());
                calls[at].1 = true;
                peer.cancel(calls[at].0);
            }
            3 => {
                now += Duration::from_secs(source.below(8) as u64);
                session.expire(now);
            }
            4 => session.end(now),
            _ => {
                let count = source.below(64);
                let bytes = source.take(count);
                if session.wants_input() && !bytes.is_empty() {
                    session.input().extend_from_slice(bytes);
                    session.received(now);
                }
            }
        }
        let cx = Context::from_waker(Waker::noop());
        while session.poll_replies(&cx, now).is_ready() && session.has_yielded() {}
        assert!(session.output().len() <= 3 * OUTPUT, "{} bytes of output", session.output().len());
        let written = session.output().len();
        if written > 0 {
            session.consume_output(written);
        }
    }
    session.disconnected("the end", false);
    let mut answers = answers.lock().expect("nobody panics with it");
    answers.sort_unstable();
    assert!(answers.windows(2).all(|pair| pair[0] != pair[1]), "a call is answered twice: {answers:?}");
    for (number, (_, is_cancelled)) in calls.iter().enumerate() {
        assert!(*is_cancelled || answers.binary_search(&number).is_ok(), "call {number} is not answered");
    }
}
