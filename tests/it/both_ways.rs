//! Two sessions over one connection in memory, each calling the other, in every dialect, in every order of events and
//! with the loss of the connection at any time. Without a transport, an executor or a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use chanrpc::config::Limits;
use chanrpc::internals::codec::Dialect;
use chanrpc::internals::route::{CallId, Grants, Peer, PeerError};
use chanrpc::internals::session::{Dialled, Session};
use chanrpc::message::{RawJson, code};
use chanrpc::route::{Call, Description, Provider, Registry, Responder};
use proptest::prelude::*;
use proptest::sample::Index;

use super::toy;

/// `None` stands for the toy.
const DIALECTS: [Option<Dialect>; 5] = [
    Some(Dialect::JsonLines),
    Some(Dialect::JsonContentLength),
    Some(Dialect::JsonPerFrame),
    Some(Dialect::MessagePack),
    None,
];

/// Keeps each call with its number, its only parameter, until the test answers it.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Vec<(u64, Responder)>>>);

impl Provider for Keeper {
    fn call(&self, call: Call<'_>) {
        let [number]: [u64; 1] = serde_json::from_str(call.params().unwrap().get()).unwrap();
        if call.method() == "echo" {
            return call.reply(Ok(RawJson::of(&number).unwrap()));
        }
        self.0.lock().unwrap().push((number, call.defer()));
    }
}

/// Longer than what other tests let pass.
const KEEPALIVE: Duration = Duration::from_secs(100);

/// The answer to a call: its result, or whether it may have run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Result(String),
    Unsent,
    Lost,
    Fault(i64),
}

type Answers = Arc<Mutex<BTreeMap<u64, Vec<Answer>>>>;

/// One end of the connection.
struct End {
    session: Session,
    peer: Peer,
    keeper: Keeper,
    /// The numbers of the calls that have arrived.
    arrived: BTreeSet<u64>,
    calls: BTreeMap<u64, CallId>,
    cancelled: BTreeSet<u64>,
    answers: Answers,
}

impl End {
    fn new(dialect: Option<Dialect>, is_dialled: bool, now: Instant) -> Self {
        let keeper = Keeper::default();
        let mut builder = Registry::builder("test");
        for name in ["keep", "echo"] {
            builder.provide(name, Description::default(), keeper.clone()).unwrap();
        }
        let (registry, limits) = (builder.build(), Arc::new(Limits::default().in_flight(4)));
        let dialled = Dialled { address: "far".into(), keepalive: KEEPALIVE, ..Dialled::default() };
        let mut session = match (dialect, is_dialled) {
            (Some(dialect), true) => Session::dialled(registry, limits, dialect, dialled, now),
            (Some(dialect), false) => Session::new(registry, limits, dialect, Grants::all(), now),
            (None, true) => Session::dialled_with_codec(registry, limits, toy::codec(1 << 20), dialled, now),
            (None, false) => Session::with_codec(registry, limits, toy::codec(1 << 20), Grants::all(), now),
        };
        let peer = session.peer();
        let (arrived, calls) = (BTreeSet::new(), BTreeMap::new());
        Self {
            session,
            peer,
            keeper,
            arrived,
            calls,
            cancelled: BTreeSet::new(),
            answers: Answers::default(),
        }
    }

    fn call(&mut self, number: u64, method: &'static str, deadline: Option<Instant>) {
        let (answers, id) = (self.answers.clone(), self.peer.reserve());
        let params = Some(RawJson::of(&[number]).unwrap());
        self.calls.insert(number, id);
        self.peer.call(id, method.into(), params, deadline, 0, false, move |result| {
            let answer = match result {
                Ok(result) => Answer::Result(result.get().to_owned()),
                Err(PeerError::Unsent(_)) => Answer::Unsent,
                Err(PeerError::Lost(_)) => Answer::Lost,
                Err(PeerError::Deadline) => Answer::Fault(code::DEADLINE),
                Err(PeerError::Fault(fault)) => Answer::Fault(fault.code),
                Err(PeerError::Busy) => Answer::Fault(code::BUSY),
            };
            answers.lock().unwrap().entry(number).or_default().push(answer);
        });
    }

    fn poll(&mut self, now: Instant) {
        let cx = Context::from_waker(Waker::noop());
        while self.session.poll_replies(&cx, now).is_ready() {}
        self.arrived.extend(self.keeper.0.lock().unwrap().iter().map(|(number, _)| *number));
    }

    /// Takes at most `most` bytes of output, or one message if the transport has frames.
    fn take(&mut self, most: usize) -> Vec<u8> {
        let output = self.session.output();
        let count = if self.session.is_framed() { output.len() } else { output.len().min(most) };
        let taken = output[..count].to_vec();
        if count > 0 {
            self.session.consume_output(count);
        }
        taken
    }

    fn receive(&mut self, bytes: &[u8], now: Instant) {
        if !bytes.is_empty() {
            self.session.input().extend_from_slice(bytes);
            self.session.received(now);
        }
        self.poll(now);
    }

    fn answer_kept(&mut self, at: usize) {
        let mut kept = self.keeper.0.lock().unwrap();
        if at < kept.len() {
            let (number, responder) = kept.remove(at);
            responder.send(Ok(RawJson::of(&number).unwrap()));
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Call(usize, bool),
    Cancel(usize, Index),
    Answer(usize, Index),
    /// Bytes from one end to the other.
    Transfer(usize, usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..2_usize, any::<bool>()).prop_map(|(end, kept)| Event::Call(end, kept)),
        1 => (0..2_usize, any::<Index>()).prop_map(|(end, call)| Event::Cancel(end, call)),
        3 => (0..2_usize, any::<Index>()).prop_map(|(end, call)| Event::Answer(end, call)),
        6 => (0..2_usize, 1..200_usize).prop_map(|(end, bytes)| Event::Transfer(end, bytes)),
    ]
}

/// Moves bytes until neither end has any left; answers all calls that arrive.
fn settle(ends: &mut [End; 2], now: Instant) {
    loop {
        let mut moved = false;
        for from in 0..2 {
            ends[from].answer_kept(0);
            ends[from].poll(now);
            let bytes = ends[from].take(usize::MAX);
            moved |= !bytes.is_empty();
            ends[1 - from].receive(&bytes, now);
        }
        let kept = ends.iter().any(|end| !end.keeper.0.lock().unwrap().is_empty());
        if !moved && !kept {
            return;
        }
    }
}

proptest! {
    #[test]
    fn both_ends_call_each_other(
        dialect in 0..DIALECTS.len(),
        events in prop::collection::vec(event(), 1..60),
        is_lost in any::<bool>(),
        // Bytes in the transport when the connection is lost.
        in_transit in 0..300_usize,
    ) {
        let now = Instant::now();
        let mut ends = [false, true].map(|is_dialled| End::new(DIALECTS[dialect], is_dialled, now));
        let mut number = 0;
        for event in events {
            match event {
                Event::Call(end, kept) => {
                    number += 1;
                    ends[end].call(number, if kept { "keep" } else { "echo" }, None);
                    ends[end].poll(now);
                }
                Event::Cancel(end, call) => {
                    let end = &mut ends[end];
                    if !end.calls.is_empty() {
                        let (number, id) = end.calls.iter().nth(call.index(end.calls.len())).unwrap();
                        end.cancelled.insert(*number);
                        end.peer.cancel(*id);
                        end.poll(now);
                    }
                }
                Event::Answer(end, call) => {
                    let kept = ends[end].keeper.0.lock().unwrap().len();
                    if kept > 0 {
                        ends[end].answer_kept(call.index(kept));
                        ends[end].poll(now);
                    }
                }
                Event::Transfer(from, bytes) => {
                    let bytes = ends[from].take(bytes);
                    ends[1 - from].receive(&bytes, now);
                }
            }
        }
        if is_lost {
            // Some of what was written never arrives.
            for from in 0..2 {
                let bytes = ends[from].take(in_transit);
                if in_transit % 2 == 0 {
                    ends[1 - from].receive(&bytes, now);
                }
            }
            for end in &mut ends {
                end.session.disconnected("lost", false);
                number += 1;
                end.call(number, "echo", None);
            }
        } else {
            settle(&mut ends, now);
        }
        for at in 0..2 {
            let (caller, callee) = (&ends[at], &ends[1 - at]);
            let answers = caller.answers.lock().unwrap();
            for number in caller.calls.keys() {
                let answers = answers.get(number).map_or(&[][..], Vec::as_slice);
                let is_cancelled = caller.cancelled.contains(number);
                match answers {
                    [] => prop_assert!(is_cancelled, "call {} is not answered", number),
                    [Answer::Result(result)] => prop_assert_eq!(result, &number.to_string()),
                    [Answer::Unsent] => {
                        prop_assert!(is_lost && !callee.arrived.contains(number), "call {} has run", number);
                    }
                    [Answer::Lost] => prop_assert!(is_lost),
                    [Answer::Fault(code)] => prop_assert!(is_cancelled && *code == code::CANCELLED),
                    more => prop_assert!(false, "call {} has the answers {:?}", number, more),
                }
            }
        }
    }
}

/// A client that does not tell its own calls from those of the node must not take one for the other.
#[test]
fn ids_of_the_accepting_end_are_none_that_a_client_chooses() {
    let now = Instant::now();
    for (dialect, expected) in [
        (Dialect::JsonLines, &br#"{"jsonrpc":"2.0","id":"n1","method":"echo","params":[7]}"#[..]),
        (Dialect::MessagePack, b"\x94\x00\xce\x80\x00\x00\x01\xa4echo\x91\x07"),
    ] {
        let mut end = End::new(Some(dialect), false, now);
        end.call(7, "echo", None);
        end.poll(now);
        let sent = end.take(usize::MAX);
        assert_eq!(sent.strip_suffix(b"\n").unwrap_or(&sent), expected, "{dialect:?}");
    }
}

#[test]
fn notification_reaches_a_peer_without_replies() {
    let now = Instant::now();
    let leaf = Dialect::Leaf(chanrpc::internals::codec::leaf::LeafFraming::default());
    let mut end = End::new(Some(leaf), false, now);
    end.call(7, "echo", None);
    end.poll(now);
    assert_eq!(end.answers.lock().unwrap()[&7], [Answer::Fault(code::INVALID_PARAMS)]);
    assert_eq!(end.take(usize::MAX), b"");
    end.peer.call(end.peer.reserve(), "Hello".into(), None, None, 0, true, |result| {
        assert_eq!(result.unwrap().get(), "null");
    });
    end.poll(now);
    assert_eq!(end.take(usize::MAX), b"\x00\x0e{\"Hello\":null}");
}

#[test]
fn deadline_ends_a_call_and_tells_the_peer() {
    let now = Instant::now();
    let mut ends = [false, true].map(|is_dialled| End::new(Some(Dialect::JsonLines), is_dialled, now));
    ends[0].call(1, "keep", Some(now + Duration::from_secs(1)));
    ends[0].poll(now);
    let bytes = ends[0].take(usize::MAX);
    ends[1].receive(&bytes, now);
    assert!(ends[1].arrived.contains(&1));
    let later = ends[0].session.next_deadline().unwrap();
    assert_eq!(later, now + Duration::from_secs(1));
    ends[0].session.expire(later);
    assert_eq!(ends[0].answers.lock().unwrap()[&1], [Answer::Fault(code::DEADLINE)]);
    let bytes = ends[0].take(usize::MAX);
    ends[1].receive(&bytes, later);
    assert!(ends[1].keeper.0.lock().unwrap()[0].1.is_cancelled());
}

#[test]
fn calls_beyond_the_bounds_fail_at_once() {
    let now = Instant::now();
    let mut end = End::new(Some(Dialect::JsonLines), true, now);
    for number in 0..5000 {
        end.call(number, "keep", None);
    }
    assert_eq!(end.answers.lock().unwrap().len(), 5000 - 4096);
    assert!(end.answers.lock().unwrap().values().all(|answers| answers == &[Answer::Fault(code::BUSY)]));
    end.session.disconnected("lost", false);
    assert_eq!(end.answers.lock().unwrap().len(), 5000);
}

/// Posts a call with parameters of 600 KB, more than half of what may wait.
fn post_large(end: &mut End, number: u64) {
    let (answers, id) = (end.answers.clone(), end.peer.reserve());
    end.calls.insert(number, id);
    let params = RawJson::of(&["x".repeat(600_000)]).ok();
    end.peer.call(id, "keep".into(), params, None, 0, false, move |result| {
        let answer = match result {
            Err(PeerError::Fault(fault)) => Answer::Fault(fault.code),
            Err(PeerError::Busy) => Answer::Fault(code::BUSY),
            _ => Answer::Unsent,
        };
        answers.lock().unwrap().entry(number).or_default().push(answer);
    });
}

#[test]
fn room_returns_after_cancellations() {
    let now = Instant::now();
    let mut end = End::new(Some(Dialect::JsonLines), true, now);
    for number in 1..=3 {
        post_large(&mut end, number);
    }
    assert_eq!(end.answers.lock().unwrap()[&3], [Answer::Fault(code::BUSY)]);
    for number in 1..=2 {
        end.peer.cancel(end.calls[&number]);
        assert_eq!(end.answers.lock().unwrap()[&number], [Answer::Fault(code::CANCELLED)]);
    }
    post_large(&mut end, 4);
    assert!(!end.answers.lock().unwrap().contains_key(&4));
    end.poll(now);
    let sent = end.take(usize::MAX);
    assert!(sent.len() > 600_000 && sent.len() < 700_000, "{} bytes", sent.len());
}

/// The peer may read only when its replies are read.
#[test]
fn replies_are_read_and_deadlines_hold_while_requests_wait() {
    let now = Instant::now();
    let mut end = End::new(Some(Dialect::JsonLines), true, now);
    end.call(1, "echo", None);
    post_large(&mut end, 2);
    post_large(&mut end, 3);
    end.poll(now);
    end.call(4, "echo", Some(now + Duration::from_secs(1)));
    end.poll(now);
    assert!(end.session.output().len() > 1 << 20);
    assert!(end.session.wants_input());
    end.receive(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}\n", now);
    assert_eq!(end.answers.lock().unwrap()[&1], [Answer::Result("1".into())]);

    let deadline = end.session.next_deadline().unwrap();
    assert_eq!(deadline, now + Duration::from_secs(1));
    end.session.expire(deadline);
    assert_eq!(end.answers.lock().unwrap()[&4], [Answer::Fault(code::DEADLINE)]);
    assert!(end.session.next_deadline().is_none_or(|next| next > deadline));
}

#[test]
fn deviating_replies_in_batches_and_requests_with_equal_ids() {
    let now = Instant::now();
    let mut end = End::new(Some(Dialect::JsonLines), true, now);
    for number in 1..=3 {
        end.call(number, "echo", None);
    }
    end.poll(now);
    end.take(usize::MAX);
    end.receive(b"[{\"id\":1,\"result\":1},{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":2},7]\n", now);
    assert_eq!(end.answers.lock().unwrap().len(), 2);
    assert_eq!(end.take(usize::MAX), b"");
    // The ids of the two directions are independent.
    end.receive(b"{\"id\":3,\"method\":\"echo\",\"params\":[3]}\n", now);
    assert!(!end.answers.lock().unwrap().contains_key(&3));
    let refused = String::from_utf8(end.take(usize::MAX)).unwrap();
    assert!(refused.contains("\"id\":3") && refused.contains("-32600"), "{refused}");
    end.receive(b"{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":3}\n", now);
    assert_eq!(end.answers.lock().unwrap()[&3], [Answer::Result("3".into())]);
}

/// A node stops reading when the parameters of its calls in flight take as much as one message may.
#[test]
fn silent_peer_is_dead_unless_its_calls_keep_it_from_reading() {
    let start = Instant::now();
    for (calls, is_dead) in [(1, true), (2, false)] {
        let mut end = End::new(Some(Dialect::JsonLines), true, start);
        for number in 1..=calls {
            post_large(&mut end, number);
        }
        end.poll(start);
        end.take(usize::MAX);
        for half in 1..=4 {
            end.session.expire(start + half * KEEPALIVE / 2);
        }
        let sent = String::from_utf8(end.take(usize::MAX)).unwrap();
        assert!(sent.contains("rpc.ping"), "{sent}");
        assert_eq!(end.session.has_failed(), is_dead, "{calls} calls");
    }
}

/// A ping asks whether the node is alive, not whether it is idle.
#[test]
fn ping_overtakes_calls() {
    let now = Instant::now();
    let mut end = End::new(Some(Dialect::JsonLines), false, now);
    for id in 0..10 {
        let call = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"keep\",\"params\":[{id}]}}\n");
        end.receive(call.as_bytes(), now);
    }
    assert_eq!(end.arrived.len(), 4);
    end.receive(b"{\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"rpc.ping\"}\n", now);
    assert_eq!(end.take(usize::MAX), b"{\"jsonrpc\":\"2.0\",\"id\":\"p\",\"result\":\"pong\"}\n");
}

#[test]
fn connection_that_is_being_closed_neither_reads_nor_takes_calls() {
    let now = Instant::now();
    let mut end = End::new(Some(Dialect::JsonLines), false, now);
    end.call(1, "keep", None);
    end.peer.close();
    end.call(2, "keep", None);
    assert_eq!(end.answers.lock().unwrap()[&2], [Answer::Unsent]);
    assert!(end.session.wants_input());
    end.poll(now);
    assert!(!end.session.wants_input() && !end.session.is_closing());
    let sent = String::from_utf8(end.take(usize::MAX)).unwrap();
    assert!(sent.contains("\"params\":[1]"), "{sent}");
    assert!(end.session.is_closing());
}

#[test]
fn toy_dialect_is_complete() {
    let now = Instant::now();
    let mut ends = [false, true].map(|is_dialled| End::new(None, is_dialled, now));
    for (end, number) in [(0, 1), (1, 2)] {
        ends[end].call(number, "keep", None);
        ends[end].call(number + 10, "echo", None);
        ends[end].call(number + 20, "nothing", None);
    }
    settle(&mut ends, now);
    for (end, number) in [(0, 1_u64), (1, 2)] {
        let answers = ends[end].answers.lock().unwrap();
        for number in [number, number + 10] {
            assert_eq!(answers[&number], [Answer::Result(number.to_string())]);
        }
        assert_eq!(answers[&(number + 20)], [Answer::Fault(code::UNKNOWN_FUNCTION)]);
    }
}
