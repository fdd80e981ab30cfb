//! The session without a transport, an executor or a clock, so that every order of events can be tested.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use chanrpc::config::Limits;
use chanrpc::internals::codec::Dialect;
use chanrpc::internals::route::{Grants, RegistryInternals as _};
use chanrpc::internals::session::Session;
use chanrpc::message::{Fault, RawJson, code};
use chanrpc::route::{Call, Description, Provider, Registry, Responder};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

/// Replies to nothing by itself: keeps each call's first parameter, a number, and its responder.
#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Vec<(u64, Responder)>>>);

impl Keeper {
    fn kept(&self) -> MutexGuard<'_, Vec<(u64, Responder)>> {
        self.0.lock().unwrap()
    }

    /// The kept numbers whose callers still wait.
    fn live(&self) -> Vec<u64> {
        self.kept().iter().filter(|(_, reply)| !is_cancelled(reply)).map(|(number, _)| *number).collect()
    }
}

impl Provider for Keeper {
    fn call(&self, call: Call<'_>) {
        let params: Vec<Value> = serde_json::from_str(call.params().unwrap().get()).unwrap();
        self.kept().push((params[0].as_u64().unwrap(), call.defer()));
    }
}

fn is_cancelled(reply: &Responder) -> bool {
    pin!(reply.cancelled()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn json(value: &impl serde::Serialize) -> RawJson<'static> {
    RawJson::of(value).unwrap()
}

/// A session, its driver and its output.
struct Driven {
    session: Session,
    registry: Arc<Registry>,
    keeper: Keeper,
    now: Instant,
    /// Everything sent so far; with [`Dialect::JsonPerFrame`] a line feed follows each message.
    sent: Vec<u8>,
    dialect: Dialect,
}

impl Driven {
    fn new(limits: Limits, dialect: Dialect) -> Self {
        let keeper = Keeper::default();
        let mut builder = Registry::builder("test");
        builder.provide("keep", Description::default(), keeper.clone()).unwrap();
        let registry = builder.build();
        let now = Instant::now();
        let session = Session::new(registry.clone(), Arc::new(limits), dialect, Grants::all(), now);
        Self { session, registry, keeper, now, sent: Vec::new(), dialect }
    }

    fn lines(limits: Limits) -> Self {
        Self::new(limits, Dialect::JsonLines)
    }

    fn feed(&mut self, bytes: impl AsRef<[u8]>) {
        self.session.input().extend_from_slice(bytes.as_ref());
        self.session.received(self.now);
        self.go_on();
    }

    /// Runs a session for the turns that it asks for, with its time independent of the test's.
    fn go_on(&mut self) {
        while self.session.has_yielded() {
            match self.dialect {
                // No input has arrived, and an empty message is a message too.
                Dialect::JsonPerFrame => _ = self.poll(),
                _ => self.session.received(self.now),
            }
        }
    }

    /// Writes available replies to the output once; returns `true` if there were any.
    fn poll(&mut self) -> bool {
        self.session.poll_replies(&Context::from_waker(Waker::noop()), self.now).is_ready()
    }

    /// Takes at most `bytes` bytes of output, or one message.
    fn send(&mut self, most: usize) {
        let output = self.session.output();
        let count = match self.dialect {
            Dialect::JsonPerFrame => output.len(),
            _ => output.len().min(most),
        };
        if count > 0 {
            self.sent.extend_from_slice(&output[..count]);
            if self.dialect == Dialect::JsonPerFrame {
                assert!(!self.sent.ends_with(b"\n"), "frames need no line feeds");
                self.sent.push(b'\n');
            }
            self.session.consume_output(count);
        }
    }

    /// Writes and sends replies until nothing is left to do; returns the lines received.
    fn settle(&mut self) -> Vec<String> {
        while self.poll() || !self.session.output().is_empty() {
            self.send(usize::MAX);
        }
        let text = String::from_utf8(std::mem::take(&mut self.sent)).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole: {text:?}");
        text.lines().map(told).collect()
    }

    fn live(&self) -> Vec<u64> {
        self.keeper.live()
    }

    fn answer(&mut self, number: u64) {
        let at = self.keeper.kept().iter().position(|(kept, _)| *kept == number).expect("it is kept");
        let (_, reply) = self.keeper.kept().remove(at);
        reply.send(Ok(json(&number)));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.session.expire(self.now);
    }

    fn metric(&self, name: &str) -> u64 {
        self.registry.metrics().values().find(|(found, _)| *found == name).unwrap().1
    }
}

/// Returns a summary of a reply: `id: result` or `id: error code`; of a batch, the sorted summaries.
fn told(line: &str) -> String {
    fn one(reply: &Value) -> String {
        assert_eq!(
            (reply["jsonrpc"].as_str(), reply.as_object().unwrap().len()),
            (Some("2.0"), 3),
            "{reply}"
        );
        match reply.get("result") {
            Some(result) => format!("{}: {result}", reply["id"]),
            None => format!("{}: error {}", reply["id"], reply["error"]["code"].as_i64().unwrap()),
        }
    }
    match serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")) {
        Value::Array(replies) => {
            assert!(!replies.is_empty(), "a batch without replies");
            let mut told: Vec<_> = replies.iter().map(one).collect();
            told.sort();
            format!("[{}]", told.join(", "))
        }
        reply => one(&reply),
    }
}

fn keep(number: u64) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"keep","params":[{number}]}}"#)
}

fn notify(number: u64) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"keep","params":[{number}]}}"#)
}

fn cancel(number: u64) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"$/cancelRequest","params":{{"id":{number}}}}}"#)
}

fn in_flight(limit: usize) -> Limits {
    Limits::default().in_flight(limit)
}

#[test]
fn replies_larger_than_their_json_are_bounded() {
    let limits = Limits::default().message(2000);
    let mut driven = Driven::new(limits, Dialect::MessagePack);
    let echo = |count: u16| {
        let mut request = b"\x94\x00\x07\xa8rpc.echo\xdc".to_vec();
        request.extend_from_slice(&count.to_be_bytes());
        // A half takes five bytes; as JSON three with a comma, and converted back nine.
        request.extend_from_slice(&b"\xca\x3f\x00\x00\x00".repeat(count.into()));
        request
    };
    driven.feed(echo(200));
    driven.send(usize::MAX);
    assert_eq!(driven.sent.len(), b"\x94\x01\x07\xc0".len() + b"\xdc\x00\xc8".len() + 200 * 9);
    driven.sent.clear();
    driven.feed(echo(390));
    driven.send(usize::MAX);
    let reply = String::from_utf8_lossy(&driven.sent);
    assert!(
        reply.contains("a reply of 3517 bytes exceeds the remaining limit of 2000 bytes (limits.message)"),
        "{reply}"
    );
    assert!(reply.len() < 200, "{reply}");
    let too_large = driven.registry.metrics().replies_too_large.get();
    assert_eq!(too_large, 1);
}

#[test]
fn input_split_anywhere_gives_the_same_lines() {
    let echo = |id| format!(r#"{{"jsonrpc":"2.0","id":"{id}","method":"rpc.echo","params":["é\n"]}}"#);
    let text = format!("{}\r\n\n nonsense\n[{},7]\n{}\n{}", echo("a"), echo("b"), notify(1), echo("c"));
    let replies = |first: &[u8], second: &[u8]| {
        let mut driven = Driven::lines(Limits::default());
        driven.feed(first);
        let mut lines = driven.settle();
        driven.feed(second);
        driven.session.end(driven.now);
        lines.extend(driven.settle());
        driven.answer(1);
        assert_eq!(driven.settle(), [""; 0]);
        assert!(driven.session.is_idle());
        lines.sort();
        lines
    };
    let whole = replies(text.as_bytes(), b"");
    assert_eq!(
        whole,
        [r#""a": ["é\n"]"#, r#""c": ["é\n"]"#, r#"["b": ["é\n"], null: error -32600]"#, "null: error -32700"]
    );
    for at in 0..text.len() {
        let (first, second) = text.as_bytes().split_at(at);
        assert_eq!(replies(first, second), whole, "cut after {at} bytes");
    }
}

#[test]
fn reader_waits_at_the_limit_in_flight() {
    let mut driven = Driven::lines(in_flight(2));
    driven.feed(format!("{}\n{}\n{}\n{}\n", keep(1), keep(2), notify(3), keep(4)));
    assert_eq!(driven.keeper.live(), [1, 2]);
    // Notifications take a slot in flight as well, or a peer could start any number of them.
    driven.answer(2);
    assert_eq!(driven.settle(), ["2: 2"]);
    assert_eq!(driven.keeper.live(), [1, 3]);
    let mut read_ahead = 0;
    while driven.session.wants_input() {
        driven.feed(format!("{}\n", notify(5)));
        read_ahead += 1;
        assert!(read_ahead < 1000, "it reads on and on");
    }
    driven.answer(3);
    assert_eq!(driven.settle(), [""; 0]);
    assert_eq!(driven.keeper.live(), [1, 4]);
    driven.answer(4);
    driven.answer(1);
    assert_eq!(driven.settle(), ["4: 4", "1: 1"]);
    assert!(!driven.session.is_idle(), "what was read ahead has begun");
}

#[test]
fn idle_session_releases_its_memory() {
    let mut driven = Driven::lines(Limits::default());
    driven.feed(format!("{}\n", keep(1)));
    driven.answer(1);
    assert_eq!(driven.settle(), ["1: 1"]);
    assert!(driven.session.input().capacity() > 0, "the next call need not ask for memory");
    driven.now = driven.session.next_deadline().expect("the call had one");
    driven.session.expire(driven.now);
    assert_eq!(driven.session.input().capacity(), 0);
    assert_eq!(driven.session.next_deadline(), None);
    driven.feed(format!("{}\n", keep(2)));
    driven.answer(2);
    assert_eq!(driven.settle(), ["2: 2"]);
}

/// A deadline counts from a request's arrival, whether or not it has started.
#[test]
fn deadlines_run_while_a_request_waits_for_a_slot() {
    let mut driven = Driven::lines(in_flight(1));
    driven.feed(format!("{}\n", keep(1)));
    driven.feed("{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"rpc.echo\",\"meta\":{\"deadline_ms\":100}}\n");
    assert_eq!(driven.settle(), [""; 0]);
    let at = driven.session.next_deadline().unwrap();
    assert_eq!(at, driven.now + Duration::from_millis(100));
    driven.session.expire(at);
    assert_eq!(driven.settle(), ["2: error -32003"]);
    driven.answer(1);
    assert_eq!(driven.settle(), ["1: 1"]);
    assert!(driven.session.is_idle());
}

#[test]
fn batch_takes_slots_one_by_one() {
    let mut driven = Driven::lines(in_flight(2));
    driven.feed(format!("[{},{},7,{},{}]\n{}\n", keep(1), notify(2), keep(3), keep(4), keep(5)));
    assert_eq!(driven.keeper.live(), [1, 2]);
    for (answered, live) in [(2, [1, 3].as_slice()), (3, &[1, 4]), (4, &[1, 5]), (5, &[1])] {
        driven.answer(answered);
        let expected: &[&str] = if answered == 5 { &["5: 5"] } else { &[] };
        assert_eq!(driven.settle(), expected, "a batch is answered as a whole");
        assert_eq!(driven.keeper.live(), live);
    }
    driven.answer(1);
    assert_eq!(driven.settle(), ["[1: 1, 3: 3, 4: 4, null: error -32600]"]);
    assert!(driven.session.is_idle());
}

#[test]
fn cancelled_call_is_answered_once_and_its_provider_notified() {
    let mut driven = Driven::lines(Limits::default().deadline(Duration::from_secs(9)));
    let soon = r#"{"jsonrpc":"2.0","id":3,"method":"keep","params":[3],"meta":{"deadline_ms":5000}}"#;
    driven.feed(format!("{}\n{}\n{soon}\n{}\n", keep(1), keep(2), notify(4)));
    driven.feed(format!("{}\n", cancel(1)));
    assert_eq!(driven.settle(), ["1: error -32800"]);
    assert_eq!(driven.keeper.live(), [2, 3, 4]);

    assert_eq!(driven.session.next_deadline(), Some(driven.now + Duration::from_secs(5)));
    driven.pass(Duration::from_millis(4999));
    assert_eq!(driven.settle(), [""; 0]);
    driven.pass(Duration::from_millis(1));
    assert_eq!(driven.settle(), ["3: error -32003"]);
    assert_eq!(driven.session.next_deadline(), Some(driven.now + Duration::from_secs(4)));
    driven.pass(Duration::from_secs(4));
    assert_eq!(driven.settle(), ["2: error -32003"], "and no word of the notification");
    assert_eq!(driven.session.next_deadline(), None);
    assert_eq!(driven.keeper.live(), [0; 0]);
    assert!(driven.session.is_idle());

    for number in 1..=4 {
        driven.answer(number);
    }
    assert_eq!(driven.settle(), [""; 0]);
    assert_eq!((driven.metric("cancelled"), driven.metric("deadlines")), (1, 3));
}

/// The reply is available, but the deadline or the cancel is handled first.
#[test]
fn reply_that_is_not_sent_yet_can_still_be_cancelled() {
    let mut driven = Driven::lines(Limits::default());
    driven.feed(format!("{}\n{}\n", keep(1), keep(2)));
    driven.answer(1);
    driven.answer(2);
    driven.feed(format!("{}\n", cancel(1)));
    driven.pass(Limits::default().deadline);
    assert_eq!(driven.settle(), ["1: error -32800", "2: error -32003"]);
    assert!(driven.session.is_idle());
}

/// Ids belong to the peer: two calls may have the same one.
#[test]
fn equal_ids_are_different_calls() {
    let mut driven = Driven::lines(Limits::default());
    let same = |number| keep(number).replace(&format!(r#""id":{number}"#), r#""id":0"#);
    driven.feed(format!("{}\n{}\n{}\n{}\n", same(1), same(2), same(3), cancel(0)));
    assert_eq!(driven.settle(), ["0: error -32800"]);
    let live = driven.keeper.live();
    assert_eq!(live.len(), 2);
    for number in live {
        driven.answer(number);
        assert_eq!(driven.settle(), [format!("0: {number}")]);
    }
    assert!(driven.session.is_idle());
}

#[test]
fn disconnect_cancels_calls_but_not_notifications() {
    let mut driven = Driven::lines(Limits::default());
    driven.feed(format!("{}\n{}\n[{},{}]\n", keep(1), notify(2), keep(3), notify(4)));
    assert_eq!(driven.metric("in_flight"), 4);
    let Driven { session, registry, keeper, .. } = driven;
    drop(session);
    assert_eq!(keeper.live(), [2, 4]);
    let in_flight = registry.metrics().values().find(|(name, _)| *name == "in_flight");
    assert_eq!(in_flight, Some(("in_flight", 0)));
    for (number, reply) in keeper.kept().drain(..) {
        reply.send(Ok(json(&number)));
    }
}

#[test]
fn reply_wakes_the_sessions_task() {
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let mut driven = Driven::lines(Limits::default());
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    driven.feed(format!("{}\n{}\n", keep(1), keep(2)));
    for number in [1, 2] {
        assert!(driven.session.poll_replies(&Context::from_waker(&waker), driven.now).is_pending());
        let before = count.0.load(Ordering::SeqCst);
        driven.answer(number);
        assert_eq!(count.0.load(Ordering::SeqCst), before + 1);
        assert!(driven.session.poll_replies(&Context::from_waker(&waker), driven.now).is_ready());
    }
    // A provider that waits for its call to be cancelled is woken as well.
    driven.feed(format!("{}\n", keep(3)));
    {
        let kept = driven.keeper.kept();
        let mut cancelled = pin!(kept[0].1.cancelled());
        assert!(cancelled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let before = count.0.load(Ordering::SeqCst);
        driven.session.input().extend_from_slice(format!("{}\n", cancel(3)).as_bytes());
        driven.session.received(driven.now);
        assert_eq!(count.0.load(Ordering::SeqCst), before + 1);
        assert!(cancelled.poll(&mut Context::from_waker(&waker)).is_ready());
    }
    assert_eq!(driven.settle(), ["1: 1", "2: 2", "3: error -32800"]);
}

/// The peer does not wait for notifications, but for all requests that it sent before it closed.
#[test]
fn requests_waiting_behind_notifications_keep_the_session_open() {
    let mut driven = Driven::lines(in_flight(1));
    driven.feed(format!("{}\n{}\n{}", notify(1), keep(2), notify(3)));
    driven.session.end(driven.now);
    assert_eq!(driven.keeper.live(), [1]);
    assert!(!driven.session.is_flushed(), "a request has not even begun");
    driven.answer(1);
    assert_eq!(driven.settle(), [""; 0]);
    assert!(!driven.session.is_flushed());
    driven.answer(2);
    assert_eq!(driven.settle(), ["2: 2"]);
    assert!(driven.session.is_flushed() && !driven.session.is_idle());
    driven.answer(3);
    assert_eq!(driven.settle(), [""; 0]);
    assert!(driven.session.is_idle());
}

#[test]
fn frames_are_messages_and_messages_are_frames() {
    let mut driven = Driven::new(Limits::default(), Dialect::JsonPerFrame);
    driven.feed(keep(1));
    driven.feed(format!("[{},\n{}]", keep(2), keep(3)));
    driven.feed("two\nlines");
    driven.feed("");
    for number in [3, 1, 2] {
        driven.answer(number);
    }
    while driven.poll() {}
    let mut frames = Vec::new();
    while !driven.session.output().is_empty() {
        let frame = driven.session.output().to_vec();
        driven.session.consume_output(frame.len());
        frames.push(told(std::str::from_utf8(&frame).unwrap()));
    }
    assert_eq!(frames, ["null: error -32700", "null: error -32700", "1: 1", "[2: 2, 3: 3]"]);
    assert!(driven.session.is_idle());
}

#[test]
fn session_stops_reading_from_a_peer_that_does_not_read() {
    let mut driven = Driven::lines(Limits::default());
    let echo =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"rpc.echo","params":["{}"]}}"#, "x".repeat(10_000));
    let mut fed = 0;
    while driven.session.wants_input() {
        driven.feed(format!("{echo}\n"));
        driven.poll();
        fed += 1;
        assert!(fed < 1000, "it takes in without end");
    }
    assert!(!driven.poll(), "it answers on");
    driven.send(usize::MAX);
    assert!(driven.session.wants_input());
    assert_eq!(driven.settle().len(), fed);
}

/// Input is processed before more is read, so it cannot accumulate, whether or not the peer reads its replies.
#[test]
fn input_is_bounded_when_a_peer_pipelines() {
    const READ: usize = 64 * 1024;
    for most in [0, 3_000, usize::MAX] {
        let limits = Limits::default().message(16 * 1024).output(4 * 1024);
        let mut driven = Driven::lines(limits);
        let echo = request_of(&"x".repeat(500));
        let stream: Vec<u8> = echo.bytes().cycle().take(20 * READ).collect();
        let (mut reads, mut answers) = (stream.chunks(READ), 0);
        for _ in 0..40 * READ / echo.len() {
            if driven.session.wants_input()
                && let Some(read) = reads.next()
            {
                driven.feed(read);
            }
            let held = driven.session.input().len();
            assert!(held <= READ + echo.len(), "{held} bytes of input wait");
            driven.send(most);
            driven.poll();
            answers += driven.sent.iter().filter(|byte| **byte == b'\n').count();
            driven.sent.clear();
        }
        assert_eq!(answers > 20 * READ / echo.len() - 2, most > 0, "{answers} answers");
    }
}

fn request_of(text: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.echo\",\"params\":[\"{text}\"]}}\n")
}

#[test]
fn slow_line_has_time_but_a_trickle_times_out() {
    let mut driven = Driven::lines(Limits::default());
    let request =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"rpc.echo","params":["{}"]}}"#, "x".repeat(100_000));
    for piece in request.as_bytes().chunks(5_000) {
        driven.feed(piece);
        driven.pass(Duration::from_secs(5));
        assert!(!driven.session.has_failed(), "it came at 1 KB a second");
    }
    driven.feed("\n");
    driven.pass(Duration::from_secs(3600));
    assert_eq!(driven.settle().len(), 1);
    assert!(!driven.session.has_failed(), "nothing has begun");

    driven.feed("{\"id\":7,");
    let mut pieces = 0;
    while !driven.session.has_failed() {
        driven.pass(Duration::from_secs(3));
        driven.feed(" ");
        pieces += 1;
        assert!(pieces < 10, "a blank every 3 s keeps the connection");
    }
    let told = driven.settle();
    assert!(told.len() == 1 && told[0].contains("-32003"), "{told:?}");
    assert_eq!(driven.metric("slow_messages"), 1);
}

/// Asserts that the session holds at most one message beyond the limit.
fn assert_within_limit(driven: &Driven, limits: &Limits) {
    let (length, most) = (driven.session.output().len(), limits.output + limits.message + 1024);
    assert!(length <= most, "{length} bytes of output wait for the peer; limits.output is {}", limits.output);
}

/// A few bytes produce a reply of a hundred: a full read buffer of them must not be answered all at once.
#[test]
fn output_is_bounded_when_short_requests_have_long_replies() {
    let limits = Limits::default();
    let mut driven = Driven::lines(limits.clone());
    driven.feed("{\"id\":7}\n".repeat(32 * 1024));
    assert_within_limit(&driven, &limits);
    let mut answers = driven.settle().len();
    // The remaining ones are answered when there is room again.
    while answers < 32 * 1024 {
        driven.session.received(driven.now);
        let more = driven.settle().len();
        assert!(more > 0, "{answers} are answered and then no more");
        answers += more;
    }
}

#[test]
fn output_is_bounded_when_all_replies_arrive_together() {
    let limits = Limits::default().message(16 * 1024).output(64 * 1024);
    let mut driven = Driven::lines(limits.clone());
    for number in 0..64 {
        driven.feed(format!("{}\n", keep(number)));
    }
    for (_, reply) in driven.keeper.kept().drain(..) {
        reply.send(Ok(json(&"x".repeat(limits.message - 2))));
    }
    driven.poll();
    assert_within_limit(&driven, &limits);
    assert_eq!(driven.settle().len(), 64);
}

/// A peer that always lags a little.
#[test]
fn sent_output_is_not_kept() {
    let mut driven = Driven::lines(Limits::default());
    let held = |driven: &Driven| format!("{:?}", driven.session).len();
    let line =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"rpc.echo","params":["{}"]}}"#, "x".repeat(2000)) + "\n";

    let empty = held(&driven);
    driven.feed(&line);
    driven.poll();
    assert!(
        held(&driven) > empty + 2000,
        "the debug output does not show the buffers, so this test sees nothing"
    );

    for _ in 0..200 {
        let all_but_one = driven.session.output().len() - 1;
        driven.send(all_but_one);
        driven.feed(&line);
        driven.poll();
    }
    // A byte is displayed as at most five characters.
    let most = empty + 5 * (64 * 1024 + 2 * line.len());
    assert!(
        held(&driven) < most,
        "{} bytes wait, but the buffer grows and grows",
        driven.session.output().len()
    );
}

/// One line or one message.
#[derive(Clone, Debug)]
enum Item {
    One(Part),
    Batch(Vec<Part>),
    /// Cancels the call with that number or another: sent before, later, or never.
    Cancel(Index),
    /// Longer than allowed.
    TooLong,
    Blank,
}

#[derive(Clone, Debug)]
enum Part {
    Call(Function, Option<u8>),
    Notification(Function),
    Bad(usize),
    /// An unsolicited reply.
    Stray,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    /// A function of [`Keeper`].
    Keep,
    /// Replies inline.
    Echo,
    Absent,
}

/// Invalid requests, and text that is not even JSON.
const BAD: [&str; 8] =
    ["7", "\"text\"", "null", "{}", r#"{"jsonrpc":"2.0","id":[],"method":"keep"}"#, "{", "x", "\u{feff}[]"];
/// The number of those that are JSON and can be part of a batch.
const BAD_JSON: usize = 5;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// This number of bytes arrives.
    Feed(usize),
    /// The session writes replies.
    Poll,
    /// This number of bytes is sent.
    Send(usize),
    Answer(Index, Answer),
    /// Time passes.
    Pass(u8),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Result,
    /// An event that makes the session wait for its output to be sent.
    LargeResult,
    TooLarge,
    Fault,
    None,
}

fn function() -> impl Strategy<Value = Function> {
    prop_oneof![5 => Just(Function::Keep), 1 => Just(Function::Echo), 1 => Just(Function::Absent)]
}

fn part(bad: usize) -> impl Strategy<Value = Part> {
    prop_oneof![
        6 => (function(), proptest::option::weighted(0.2, any::<u8>())).prop_map(|(function, deadline)| Part::Call(function, deadline)),
        2 => function().prop_map(Part::Notification),
        1 => (0..bad).prop_map(Part::Bad),
        1 => Just(Part::Stray),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        6 => part(BAD.len()).prop_map(Item::One),
        2 => proptest::collection::vec(part(BAD_JSON), 0..6).prop_map(Item::Batch),
        2 => any::<Index>().prop_map(Item::Cancel),
        1 => Just(Item::TooLong),
        1 => Just(Item::Blank),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let answer = prop_oneof![
        4 => Just(Answer::Result),
        2 => Just(Answer::LargeResult),
        1 => Just(Answer::TooLarge),
        1 => Just(Answer::Fault),
        1 => Just(Answer::None),
    ];
    prop_oneof![
        4 => (1_usize..400).prop_map(Event::Feed),
        3 => Just(Event::Poll),
        2 => (1_usize..200).prop_map(Event::Send),
        1 => Just(Event::Send(usize::MAX)),
        4 => (any::<Index>(), answer).prop_map(|(index, answer)| Event::Answer(index, answer)),
        1 => any::<u8>().prop_map(Event::Pass),
    ]
}

/// The text of all items, and the expected replies.
#[derive(Default)]
struct Script {
    texts: Vec<String>,
    /// For every single call: its function.
    alone: BTreeMap<u64, Function>,
    /// For every batch with a reply: its calls, and the number of its invalid parts.
    batches: Vec<(BTreeMap<u64, Function>, usize)>,
    /// The number of errors without an id.
    errors: usize,
    cancelled: BTreeSet<u64>,
}

impl Script {
    const TOO_LONG: usize = 20_000;

    fn new(items: &[Item], dialect: Dialect) -> Self {
        let mut script = Self::default();
        let calls: usize = items
            .iter()
            .map(|item| match item {
                Item::One(_) => 1,
                Item::Batch(parts) => parts.len(),
                _ => 0,
            })
            .sum();
        let mut next = 0;
        for item in items {
            let text = match item {
                Item::One(part) => {
                    let (mut calls, mut bad) = (BTreeMap::new(), 0);
                    let text = Self::part(part, &mut next, &mut calls, &mut bad);
                    script.alone.extend(calls);
                    script.errors += bad;
                    text
                }
                Item::Batch(parts) => {
                    let (mut calls, mut bad) = (BTreeMap::new(), 0);
                    let texts: Vec<_> =
                        parts.iter().map(|part| Self::part(part, &mut next, &mut calls, &mut bad)).collect();
                    if parts.is_empty() {
                        script.errors += 1;
                    } else if bad > 0 || !calls.is_empty() {
                        script.batches.push((calls, bad));
                    }
                    format!("[{}]", texts.join(" , "))
                }
                Item::Cancel(index) => {
                    let number = index.index(calls + 1) as u64;
                    script.cancelled.insert(number);
                    cancel(number)
                }
                Item::TooLong if dialect == Dialect::JsonLines => {
                    script.errors += 1;
                    "x".repeat(Self::TOO_LONG)
                }
                Item::Blank if dialect == Dialect::JsonLines => " ".to_owned(),
                // Handled by the transport.
                Item::TooLong | Item::Blank => continue,
            };
            // A peer that only sends invalid input would be cut off.
            script.texts.push(r#"{"jsonrpc":"2.0","method":"absent"}"#.to_owned());
            script.texts.push(text);
        }
        script
    }

    fn part(part: &Part, next: &mut u64, calls: &mut BTreeMap<u64, Function>, bad: &mut usize) -> String {
        let (function, id, deadline) = match part {
            Part::Call(function, deadline) => {
                calls.insert(*next, *function);
                (function, format!(r#""id":{next},"#), *deadline)
            }
            Part::Notification(function) => (function, String::new(), None),
            Part::Bad(which) => {
                *bad += 1;
                return BAD[*which].to_owned();
            }
            Part::Stray => return r#"{"jsonrpc":"2.0","id":0,"result":"stray"}"#.to_owned(),
        };
        let method = match function {
            Function::Keep => "keep",
            Function::Echo => "rpc.echo",
            Function::Absent => "absent",
        };
        let meta = deadline.map_or(String::new(), |time| format!(r#","meta":{{"deadline_ms":{time}}}"#));
        let text = format!(r#"{{"jsonrpc":"2.0",{id}"method":"{method}","params":[{next}]{meta}}}"#);
        *next += 1;
        text
    }

    /// Compares everything received with the expectation.
    fn check(&self, output: &[u8], time_has_passed: bool) -> Result<(), TestCaseError> {
        let output = std::str::from_utf8(output).unwrap();
        prop_assert!(output.is_empty() || output.ends_with('\n'));
        let (mut alone, mut batches, mut errors) = (BTreeSet::new(), Vec::new(), 0);
        for line in output.lines() {
            match serde_json::from_str(line).unwrap() {
                Value::Array(replies) => {
                    let (mut ids, mut bad) = (BTreeSet::new(), 0);
                    for reply in &replies {
                        match self.check_reply(reply, time_has_passed)? {
                            Some(id) => prop_assert!(ids.insert(id), "{id} is answered twice"),
                            None => bad += 1,
                        }
                    }
                    prop_assert!(!replies.is_empty());
                    batches.push((ids, bad));
                }
                reply => match self.check_reply(&reply, time_has_passed)? {
                    Some(id) => prop_assert!(alone.insert(id), "{id} is answered twice"),
                    None => errors += 1,
                },
            }
        }
        prop_assert_eq!(alone, self.alone.keys().copied().collect());
        prop_assert_eq!(errors, self.errors);
        batches.sort();
        let mut expected: Vec<(BTreeSet<_>, _)> =
            self.batches.iter().map(|(calls, bad)| (calls.keys().copied().collect(), *bad)).collect();
        expected.sort();
        prop_assert_eq!(batches, expected);
        Ok(())
    }

    /// Checks that a reply is valid for its call, and returns the call.
    fn check_reply(&self, reply: &Value, time_has_passed: bool) -> Result<Option<u64>, TestCaseError> {
        prop_assert_eq!(&reply["jsonrpc"], "2.0");
        let members = reply.as_object().map(serde_json::Map::len);
        prop_assert_eq!(members, Some(3));
        let error = reply.get("error").map(|error| error["code"].as_i64().unwrap());
        let Some(id) = reply["id"].as_u64() else {
            prop_assert!(reply["id"].is_null());
            let expected = [code::PARSE, code::INVALID_REQUEST, code::REQUEST_TOO_LARGE];
            prop_assert!(error.is_some_and(|code| expected.contains(&code)), "{}", reply);
            return Ok(None);
        };
        let of_batches = self.batches.iter().find_map(|(calls, _)| calls.get(&id));
        let function = self.alone.get(&id).or(of_batches).expect("what was asked");
        let possible = match (error, function) {
            (None, _) => *function != Function::Absent && reply["result"][0] == id,
            (Some(code::CANCELLED), _) => self.cancelled.contains(&id),
            (Some(code::DEADLINE), _) => time_has_passed,
            (Some(code::UNKNOWN_FUNCTION), Function::Absent) => true,
            (Some(code::INTERNAL | code::REPLY_TOO_LARGE), Function::Keep) => true,
            // The error's code is its number.
            (Some(code), Function::Keep) => code == 1000 + id as i64,
            _ => false,
        };
        prop_assert!(possible, "{:?} is answered {}", function, reply);
        Ok(Some(id))
    }
}

impl Driven {
    fn answer_kept(&mut self, index: Index, answer: Answer) {
        let (number, reply) = {
            let mut kept = self.keeper.kept();
            if kept.is_empty() {
                return;
            }
            let at = index.index(kept.len());
            kept.remove(at)
        };
        reply.send(match answer {
            Answer::Result => Ok(json(&[number])),
            Answer::LargeResult => Ok(json(&(number, "x".repeat(9_000)))),
            Answer::TooLarge => Ok(json(&(number, "x".repeat(Script::TOO_LONG)))),
            Answer::Fault => Err(Fault::new(1000 + number as i64, "")),
            Answer::None => return,
        });
    }

    /// The invariants.
    fn check(&self, limit: usize) -> Result<(), TestCaseError> {
        prop_assert!(self.metric("in_flight") <= limit as u64);
        prop_assert!(self.keeper.live().len() <= limit);
        Ok(())
    }
}

/// The result of an attempt to feed input to a session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fed {
    Some,
    /// It does not accept input now.
    Waits,
    /// No input is left.
    All,
}

fn run(
    items: &[Item],
    events: &[Event],
    limit: usize,
    dialect: Dialect,
    last_line_ends: bool,
) -> Result<(), TestCaseError> {
    let limits = Limits::default()
        .in_flight(limit)
        .message(10_000)
        .output(30_000)
        .deadline(Duration::from_millis(500))
        .stall_timeout(Duration::from_secs(24 * 3600));
    let script = Script::new(items, dialect);
    let mut driven = Driven::new(limits, dialect);
    let mut input: Vec<Vec<u8>> = match dialect {
        Dialect::JsonPerFrame => script.texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
        _ => {
            let ends = ["\n", "\r\n"];
            let lines =
                script.texts.iter().zip(ends.iter().cycle()).map(|(text, end)| format!("{text}{end}"));
            let mut bytes = lines.collect::<String>().into_bytes();
            // A line that is too long is reported at its end.
            if !last_line_ends && !matches!(items.last(), Some(Item::TooLong)) {
                let length = bytes.trim_ascii_end().len();
                bytes.truncate(length);
            }
            vec![bytes]
        }
    };
    input.reverse();
    let mut feed = |driven: &mut Driven, most: usize| {
        // A driver reads only while the session asks for input.
        if !driven.session.wants_input() {
            return Fed::Waits;
        }
        let Some(mut bytes) = input.pop() else { return Fed::All };
        let rest =
            bytes.split_off(bytes.len().min(if dialect == Dialect::JsonLines { most } else { usize::MAX }));
        driven.feed(bytes);
        if !rest.is_empty() {
            input.push(rest);
        }
        Fed::Some
    };

    let mut time_has_passed = false;
    for event in events {
        match *event {
            Event::Feed(most) => {
                feed(&mut driven, most);
            }
            Event::Poll => {
                driven.poll();
            }
            Event::Send(most) => driven.send(most),
            Event::Answer(index, answer) => driven.answer_kept(index, answer),
            Event::Pass(time) => {
                time_has_passed = true;
                driven.pass(Duration::from_millis(time.into()));
            }
        }
        driven.check(limit)?;
    }
    // The rest arrives, the peer closes, and all open calls are answered.
    let mut ended = false;
    while !(ended && driven.session.is_idle()) {
        // On a busy machine, a turn may have ended by its time.
        let yielded = driven.session.has_yielded();
        let fed = if ended { Fed::All } else { feed(&mut driven, usize::MAX) };
        let ends = !ended && fed == Fed::All;
        if ends {
            driven.session.end(driven.now);
            ended = true;
        }
        let kept = driven.keeper.kept().pop();
        let answers = kept.is_some();
        if let Some((number, reply)) = kept {
            reply.send(Ok(json(&[number])));
        }
        let (polled, sends) = (driven.poll(), !driven.session.output().is_empty());
        driven.send(usize::MAX);
        driven.check(limit)?;
        let moved = fed == Fed::Some || ends || answers || polled || sends || yielded;
        prop_assert!(moved, "it stands still: {:?}", driven.session);
        if ended && driven.session.is_flushed() {
            // A driver may end here.
            script.check(&driven.sent, time_has_passed)?;
        }
    }
    prop_assert_eq!(driven.metric("in_flight"), 0);
    prop_assert_eq!(driven.session.output(), b"");
    script.check(&driven.sent, time_has_passed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// For any input in any order: each call is answered once, a notification never, and the limit in flight holds.
    #[test]
    fn every_call_is_answered_once(
        items in proptest::collection::vec(item(), 0..25),
        events in proptest::collection::vec(event(), 0..120),
        limit in 1_usize..6,
        lines in any::<bool>(),
        last_line_ends in any::<bool>(),
    ) {
        run(&items, &events, limit, if lines { Dialect::JsonLines } else { Dialect::JsonPerFrame }, last_line_ends)?;
    }

    /// Arbitrary bytes, some of which resemble valid input.
    #[test]
    fn no_input_panics_and_all_output_is_json(
        pieces in proptest::collection::vec(
            prop_oneof![
                "[\\[\\]{}\":,0-9a-z\\\\ \n\r]{0,20}".prop_map(String::into_bytes),
                proptest::collection::vec(any::<u8>(), 0..20),
                proptest::sample::select(vec![
                    "\n", "{\"jsonrpc\":\"2.0\",", "\"id\":1,", "\"method\":\"rpc.echo\"", ",\"params\":[", "]}", "\"meta\":{",
                    "\"deadline_ms\":", "[{\"jsonrpc\":\"2.0\"},", "\"method\":\"$/cancelRequest\"",
                ]).prop_map(|text| text.as_bytes().to_vec()),
            ],
            0..30,
        ),
        lines in any::<bool>(),
    ) {
        let dialect = if lines { Dialect::JsonLines } else { Dialect::JsonPerFrame };
        let limits = Limits::default().message(100).depth(4).batch(3).in_flight(2);
        let mut driven = Driven::new(limits, dialect);
        for piece in pieces {
            driven.feed(piece);
            driven.settle();
        }
        driven.session.end(driven.now);
        driven.settle();
        prop_assert!(driven.session.is_idle());
        prop_assert_eq!(driven.metric("in_flight"), 0);
    }
}

/// Waiting requests do not start while the output is full, even if each is answered inline.
#[test]
fn waiting_requests_do_not_overfill_the_output() {
    let limits = Limits::default().in_flight(1).output(1000);
    let mut driven = Driven::lines(limits);
    driven.feed(keep(0) + "\n");
    let echo = |id: usize| {
        let text = "x".repeat(400);
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"rpc.echo\",\"params\":[\"{text}\"]}}\n")
    };
    driven.feed((1..=20).map(echo).collect::<String>());
    driven.answer(0);
    driven.poll();
    assert!(driven.session.output().len() < 2000, "{}", driven.session.output().len());
    assert_eq!(driven.settle().len(), 21);
}

/// Whatever the size of the requests in flight.
#[test]
fn cancel_behind_large_requests_is_handled() {
    let mut driven = Driven::lines(Limits::default().message(10_000));
    let large = |id: usize| {
        let text = "x".repeat(9_000);
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"keep\",\"params\":[{id},\"{text}\"]}}\n")
    };
    driven.feed(large(1));
    driven.feed(large(2));
    assert!(driven.session.wants_input(), "what cancels must be read");
    driven.feed(large(3));
    // The third waits: two of them exceed the largest message.
    assert_eq!(driven.live(), [1, 2]);
    driven.feed("{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":1}}\n");
    assert_eq!(driven.settle(), ["1: error -32800"]);
    assert_eq!(driven.live(), [2, 3]);
}

/// A flood of messages answered inline is processed in batches.
#[test]
fn flood_does_not_starve_others() {
    let mut driven = Driven::lines(Limits::default());
    let ping = |id: usize| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"rpc.ping\"}}\n");
    driven.session.input().extend((0..1000).flat_map(|id| ping(id).into_bytes()));
    driven.session.received(driven.now);
    let first = driven.session.output().iter().filter(|byte| **byte == b'\n').count();
    assert!((1..=64).contains(&first), "{first} at once");
    assert!(driven.session.has_yielded() && !driven.session.wants_input());
    assert_eq!(driven.settle().len(), 1000);
    assert!(!driven.session.has_yielded() && driven.session.wants_input());
}
