//! One connection: bytes, replies, cancels and time in any order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use chanrpc::config::Limits;
use chanrpc::internals::codec::jsonrpc::DecodeLimits;
use chanrpc::internals::codec::leaf::LeafFraming;
use chanrpc::internals::codec::{Codec, Dialect, FrameResult};
use chanrpc::internals::route::Grants;
use chanrpc::internals::session::Session;
use chanrpc::message::{Fault, RawJson, code};
use chanrpc::route::{Call, Description, Provider, Registry, Responder};

use super::json;
use super::source::Source;

const DIALECTS: [Dialect; 4] =
    [Dialect::JsonLines, Dialect::JsonPerFrame, Dialect::JsonContentLength, Dialect::MessagePack];
const MESSAGE: usize = 256;
const IN_FLIGHT: usize = 4;
const OUTPUT: usize = 512;
/// The maximum size of a reply in addition to its result: id, code, message, frame.
const AROUND: usize = 512;
/// The maximum number of bytes of waiting requests, each of which takes some.
const WAITING: usize = 16 * 1024 / 64;

/// Checks that in a clean run each request is answered exactly once, and that in any run the output is bounded and
/// consists of messages.
pub(super) fn session(input: &[u8]) {
    let mut source = Source::new(input);
    let choice = source.byte();
    let dirty = choice & 1 == 1;
    let leaf = Dialect::Leaf(LeafFraming { length_prefixed: choice & 2 == 0, ..LeafFraming::default() });
    // Leaf's protocol has no ids, so only the limits can be checked.
    let dialects = if dirty { &[&DIALECTS[..], &[leaf]].concat() } else { &DIALECTS[..] };
    let mut run = Run::new(dialects[usize::from(choice >> 2) % dialects.len()]);
    while !source.is_empty() {
        run.step(&mut source, dirty);
    }
    run.finish(dirty);
}

/// Keeps responders until told to reply.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<VecDeque<Responder>>>);

impl Held {
    fn take(&self, at: usize) -> Option<Responder> {
        let mut held = self.0.lock().expect("nobody panics with it");
        let at = at.checked_rem(held.len())?;
        held.remove(at)
    }
}

impl Provider for Held {
    fn call(&self, call: Call<'_>) {
        self.0.lock().expect("nobody panics with it").push_back(call.defer());
    }
}

/// Replies inline.
struct Quick;

impl Provider for Quick {
    fn call(&self, mut call: Call<'_>) {
        match call.take_params() {
            Some(params) => call.reply(Ok(params)),
            None => call.defer().send(Ok(RawJson::NULL)),
        }
    }
}

struct Run {
    session: Session,
    dialect: Dialect,
    held: Held,
    now: Instant,
    /// Sent by the peer and not yet read by the node; one message each for a transport with frames.
    coming: VecDeque<Vec<u8>>,
    /// The output: all bytes, or one message each.
    out: Vec<Vec<u8>>,
    asked: u32,
}

impl Run {
    fn new(dialect: Dialect) -> Self {
        let held = Held::default();
        let mut registry = Registry::builder("fuzz");
        registry.provide("held", Description::default(), held.clone()).expect("a free name");
        registry.provide("quick", Description::default(), Quick).expect("a free name");
        let limits = Limits::default()
            .message(MESSAGE)
            .depth(16)
            .batch(8)
            .in_flight(IN_FLIGHT)
            .output(OUTPUT)
            .deadline(Duration::from_secs(1))
            // A clean run completes, but may take its time.
            .stall_timeout(Duration::from_secs(24 * 3600));
        let now = Instant::now();
        let session = Session::new(registry.build(), Arc::new(limits), dialect, Grants::all(), now);
        Self { session, dialect, held, now, coming: VecDeque::new(), out: Vec::new(), asked: 0 }
    }

    fn step(&mut self, source: &mut Source<'_>, dirty: bool) {
        match source.byte() % 12 {
            0 | 1 if dirty => {
                let count = source.below(64);
                self.coming.push_back(source.take(count).to_vec());
            }
            0..=2 => self.send(|id| call(id, "held")),
            3 => self.send(|id| call(id, "quick")),
            4 => self.send(|id| call(id, ["rpc.ping", "rpc.echo", "none"][id as usize % 3])),
            5 => self.send_batch(source),
            6 => {
                let id = source.byte();
                self.cancel(u32::from(id));
            }
            7 | 8 => self.receive(1 + source.below(100)),
            9 => self.answer(source),
            10 => self.write(1 + source.below(200)),
            _ => {
                self.now += Duration::from_millis(u64::from(source.byte()) * 4);
                self.expire();
            }
        }
        self.check_bounds();
    }

    /// Makes the peer send a request with the next id.
    fn send(&mut self, text: impl Fn(u32) -> Asked) {
        self.asked += 1;
        let asked = text(self.asked);
        self.push(match self.dialect {
            Dialect::MessagePack => asked.msgpack(),
            _ => asked.json(),
        });
    }

    fn send_batch(&mut self, source: &mut Source<'_>) {
        if self.dialect == Dialect::MessagePack {
            return;
        }
        // Small enough for the maximum message.
        let texts: Vec<_> = (0..1 + source.below(3))
            .map(|_| {
                self.asked += 1;
                call(self.asked, if source.below(2) == 0 { "held" } else { "quick" }).json()
            })
            .collect();
        self.push([b"[".to_vec(), texts.join(&b","[..]), b"]".to_vec()].concat());
    }

    fn cancel(&mut self, id: u32) {
        if self.dialect != Dialect::MessagePack {
            self.push(cancellation(id));
        }
    }

    fn push(&mut self, text: Vec<u8>) {
        assert!(text.len() <= MESSAGE);
        self.coming.push_back(match self.dialect {
            Dialect::JsonLines => [text, b"\n".to_vec()].concat(),
            Dialect::JsonContentLength => {
                [format!("Content-Length: {}\r\n\r\n", text.len()).into_bytes(), text].concat()
            }
            _ => text,
        });
    }

    fn is_framed(&self) -> bool {
        matches!(
            self.dialect,
            Dialect::JsonPerFrame | Dialect::Leaf(LeafFraming { length_prefixed: false, .. })
        )
    }

    /// Lets the node read a number of bytes or one message.
    fn receive(&mut self, count: usize) {
        if !self.session.wants_input() {
            return;
        }
        let Some(mut bytes) = self.coming.pop_front() else { return };
        if !self.is_framed() && bytes.len() > count {
            self.coming.push_front(bytes.split_off(count));
        }
        self.session.input().extend_from_slice(&bytes);
        self.session.received(self.now);
    }

    /// Makes a function reply in one of several ways, or end without replying.
    fn answer(&mut self, source: &mut Source<'_>) {
        let (at, how) = (source.below(8), source.byte());
        let Some(reply) = self.held.take(at) else { return };
        match how % 5 {
            0 => reply.send(Ok(RawJson::NULL)),
            // Sometimes too long for a reply.
            1 | 2 => {
                let long = "x".repeat(usize::from(how));
                reply.send(Ok(RawJson::of(&long).expect("a text is JSON")));
            }
            3 => reply.send(Err(Fault::new(code::BUSY, "b".repeat(usize::from(how))).with_data(&how))),
            _ => drop(reply),
        }
        self.poll();
    }

    fn poll(&mut self) {
        let _ = self.session.poll_replies(&Context::from_waker(Waker::noop()), self.now);
    }

    fn expire(&mut self) {
        if self.session.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            self.session.expire(self.now);
        }
    }

    /// Makes the peer read a number of bytes or one message.
    fn write(&mut self, count: usize) {
        let output = self.session.output();
        if output.is_empty() {
            return;
        }
        let taken = if self.is_framed() { output.len() } else { count.min(output.len()) };
        self.out.push(output[..taken].to_vec());
        self.session.consume_output(taken);
        self.poll();
    }

    fn check_bounds(&self) {
        let late = (IN_FLIGHT + WAITING + 8) * AROUND;
        let output = self.session.output().len();
        assert!(output <= OUTPUT + MESSAGE * 2 + late, "{output} bytes of output wait");
    }

    /// Delivers all input, lets all time pass and reads all output: then every request is answered.
    fn finish(mut self, dirty: bool) {
        let mut idle = 0;
        while idle < 3 {
            let before = (self.coming.len(), self.out.len());
            self.receive(usize::MAX);
            self.poll();
            self.write(usize::MAX);
            // On a slow machine a turn may end before it achieves anything.
            let still = before == (self.coming.len(), self.out.len()) && !self.session.has_yielded();
            idle = if still { idle + 1 } else { 0 };
            if idle == 1 {
                while let Some(reply) = self.held.take(0) {
                    reply.send(Ok(RawJson::NULL));
                }
            }
            if idle == 2 {
                self.now += Duration::from_secs(400 * 24 * 3600);
                self.expire();
            }
        }
        assert!(self.coming.is_empty() || self.session.is_read_closed(), "the node reads no further");
        self.session.end(self.now);
        self.poll();
        while !self.session.output().is_empty() {
            self.write(usize::MAX);
        }
        if !self.session.is_flushed() {
            // Calls that arrived with the close, for a function that keeps them.
            self.session.fail_all(&Fault::new(code::CLOSED, "the end"));
            while !self.session.output().is_empty() {
                self.write(usize::MAX);
            }
        }
        assert!(self.session.is_flushed() || self.session.is_read_closed() && dirty, "something is left");
        let answers = self.answers();
        if !dirty {
            let asked: HashMap<_, _> = (1..=self.asked).map(|id| (id.to_string(), 1)).collect();
            assert_eq!(answers, asked, "not each request was answered once");
        }
    }

    /// How often each id was answered.
    fn answers(&self) -> HashMap<String, u32> {
        let mut answers = HashMap::new();
        let messages = if self.is_framed() { self.out.clone() } else { vec![self.out.concat()] };
        let bounds = DecodeLimits { depth: 64, batch: 64 };
        let mut codec = Codec::new(self.dialect, 1 << 20, bounds);
        for bytes in messages {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let FrameResult::Frame(at, cut) = codec.next_frame(rest) else {
                    panic!("{rest:?} are no messages")
                };
                if !codec.sends_results_only() {
                    for id in json::replied(self.dialect, &mut codec, &rest[at]) {
                        *answers.entry(id).or_default() += 1;
                    }
                }
                rest = &rest[cut..];
            }
        }
        answers
    }
}

/// The requests of a peer.
struct Asked {
    id: u32,
    method: &'static str,
}

fn call(id: u32, method: &'static str) -> Asked {
    Asked { id, method }
}

impl Asked {
    fn json(&self) -> Vec<u8> {
        let Self { id, method } = self;
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":[{id}]}}"#).into_bytes()
    }

    /// `[0, id, method, [id]]`
    fn msgpack(&self) -> Vec<u8> {
        let id = [&[0xce][..], &self.id.to_be_bytes()].concat();
        let name = u8::try_from(self.method.len()).expect("a short name");
        [&[0x94, 0][..], &id, &[0xa0 | name], self.method.as_bytes(), &[0x91], &id].concat()
    }
}

fn cancellation(id: u32) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","method":"$/cancelRequest","params":{{"id":{id}}}}}"#).into_bytes()
}
