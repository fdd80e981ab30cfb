//! Bytes that a real server (2.9.10) sends, and those that it expects.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::{ERROR, INFO, Nats, NatsFramer, REFUSED, ServerInfo};
use crate::codec::format::{DecodeLimits, Outgoing};
use crate::codec::frame::tests::frames;
use crate::codec::framing::Framing;
use crate::codec::{Codec, DecodeError, Decoded};
use crate::message::{Answer, Fault, Id, Message, Meta, Outcome, RawJson, Request, code};

const LIMITS: DecodeLimits = DecodeLimits { depth: 8, batch: 8 };

fn framer(max: usize) -> (NatsFramer, RandomState) {
    let tokens = RandomState::new();
    (NatsFramer::new(max, 80, "_INBOX.x".to_owned(), tokens.clone()), tokens)
}

fn codec() -> (Codec, RandomState) {
    let (framer, tokens) = framer(256);
    (Codec::of(Box::new(framer), &Nats, 256, LIMITS), tokens)
}

fn encoded(codec: &Codec, message: &Outgoing<'_>) -> Option<String> {
    let mut out = b"before".to_vec();
    let is_sent = codec.encode(&mut out, message) && codec.finish(&mut out, 6);
    assert!(is_sent || out == b"before");
    is_sent.then(|| String::from_utf8(out.split_off(6)).unwrap())
}

fn sent(method: &str, id: Option<u64>, params: &'static str, meta: Meta) -> Option<String> {
    let params = (!params.is_empty()).then(|| RawJson::checked(params));
    let request = Request { id: id.map(Id::from), method: method.into(), params, meta };
    encoded(&codec().0, &Outgoing::Request(&request))
}

fn reply(subject: &str, answer: Answer<'_>) -> Option<String> {
    encoded(&codec().0, &Outgoing::Reply(&Id::opaque(subject.to_owned()), answer))
}

/// Returns the only message in what is received.
fn received(text: &str) -> Message<'static> {
    match try_received(text) {
        Ok(message) => message,
        Err(error) => panic!("{error:?}"),
    }
}

fn try_received(text: &str) -> Result<Message<'static>, DecodeError> {
    let (mut codec, tokens) = codec();
    let text = text.replace("TOKEN", &format!("{:016x}", tokens.hash_one("7")));
    let mut framed = frames(|buffer| codec.next_frame(buffer), [text.as_bytes()]);
    framed.0.retain(|frame| !frame.is_empty());
    assert_eq!((framed.0.len(), framed.1), (1, 0), "{text:?}: {framed:?}");
    let frame: &'static [u8] = framed.0.remove(0).leak();
    match codec.decode(frame) {
        Decoded::Single(message) => message,
        Decoded::Batch(_) => panic!("a batch"),
    }
}

fn outcome(text: &str) -> Outcome {
    match received(text) {
        Message::Reply(id, outcome) => {
            assert_eq!(id.number(), Some(7));
            outcome
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_is_published_with_its_deadline_and_an_address_for_its_reply() {
    let meta = Meta { deadline: Some(Duration::from_secs(2)), hops: 1 };
    let call = sent("svc.add", Some(7), "[1,2]", meta).unwrap();
    let (line, rest) = call.split_once("\r\n").unwrap();
    assert!(line.starts_with("HPUB svc.add _INBOX.x.7."), "{line}");
    let headers = "NATS/1.0\r\nRpc-Deadline-Ms: 2000\r\nRpc-Hops: 1\r\n\r\n";
    assert!(line.ends_with(&format!(" {} {}", headers.len(), headers.len() + 5)), "{line}");
    assert_eq!(rest, format!("{headers}[1,2]\r\n"));
}

#[test]
fn other_messages_are_as_the_protocol_has_them() {
    let plain = Meta::default();
    assert_eq!(sent("a.b", None, "21.5", plain).unwrap(), "PUB a.b 4\r\n21.5\r\n");
    assert_eq!(sent("a.b", None, "", plain).unwrap(), "PUB a.b 0\r\n\r\n");
    assert_eq!(sent("rpc.ping", Some(1), "", plain).unwrap(), "PING\r\n");
    assert_eq!(sent("SUB a.> q f1", None, "", plain).unwrap(), "SUB a.> q f1\r\n");
    let flush = sent("rpc.flush", Some(7), "", plain).unwrap();
    assert!(flush.starts_with("PUB _INBOX.x.7.") && flush.ends_with(" 0\r\n\r\n"), "{flush}");
    assert_eq!(reply("_INBOX.y.1", Ok("[1]")).unwrap(), "PUB _INBOX.y.1 3\r\n[1]\r\n");
    assert_eq!(reply("PING ", Ok("1")).unwrap(), "PONG\r\n");
    let error = reply("_INBOX.y.1", Err(&Fault::new(-3, "a\r\nb"))).unwrap();
    let headers = "NATS/1.0\r\nNats-Service-Error: ab\r\nNats-Service-Error-Code: -3\r\n\r\n";
    // It is too long for this server with its details.
    assert_eq!(error, format!("HPUB _INBOX.y.1 {0} {0}\r\n{headers}\r\n", headers.len()));
}

#[test]
fn what_is_no_subject_or_too_long_is_not_sent() {
    let plain = Meta::default();
    for method in ["a..b", ".a", "a.", "", "a.*", "a.>", "rpc.closing"] {
        assert_eq!(sent(method, Some(1), "[]", plain), None, "{method}");
    }
    assert_eq!(reply("a b", Ok("1")), None);
    let long: &'static str = format!("\"{}\"", "x".repeat(80)).leak();
    assert_eq!(sent("a", Some(1), long, plain), None);
    assert_eq!(reply("a", Ok(long)), None);
    let (codec, _) = codec();
    assert_eq!(encoded(&codec, &Outgoing::Cancel(&Id::from(1))), None);
}

#[test]
fn replies_are_results_or_say_why_there_is_none() {
    let result = outcome("MSG _INBOX.x.7.TOKEN r 3\r\n[1]\r\n");
    assert_eq!(result.unwrap().get(), "[1]");
    assert_eq!(outcome("MSG _INBOX.x.7.TOKEN r 0\r\n\r\n").unwrap().get(), "null");

    let absent = outcome("HMSG _INBOX.x.7.TOKEN r 16 16\r\nNATS/1.0 503\r\n\r\n\r\n").unwrap_err();
    assert_eq!((absent.code, absent.is_unsent()), (code::NO_PROVIDER, true));

    let failed = |headers: &str, body: &str| {
        let headers = format!("NATS/1.0\r\n{headers}\r\n\r\n");
        let sizes = format!("{} {}", headers.len(), headers.len() + body.len());
        let text = format!("HMSG _INBOX.x.7.TOKEN r {sizes}\r\n{headers}{body}\r\n");
        outcome(&text).unwrap_err()
    };
    let own = r#"{"code":-3,"message":"a\nb","data":[1]}"#;
    let fault = failed("Nats-Service-Error-Code: -3\r\nNats-Service-Error: ab", own);
    assert_eq!((fault.code, &*fault.message), (-3, "a\nb"));
    assert_eq!(fault.data.unwrap().get(), "[1]");
    // A service that answers with 503 is there.
    let fault = failed("nats-service-error: busy\r\nnats-service-error-code:503", "{\"x\":1}");
    assert_eq!((fault.code, &*fault.message, fault.data.unwrap().get()), (503, "busy", "{\"x\":1}"));
    let fault = failed("Nats-Service-Error: teapot\r\nNats-Service-Error-Code: E418", "");
    assert_eq!((fault.code, &*fault.message), (code::INTERNAL, "teapot"));
    assert_eq!(fault.data.unwrap().get(), "\"E418\"");

    let fault = outcome("MSG _INBOX.x.7.TOKEN r 5\r\nhello\r\n").unwrap_err();
    assert_eq!((fault.code, fault.data.unwrap().get()), (code::INTERNAL, "\"hello\""));
    let fault = outcome(&format!("MSG _INBOX.x.7.TOKEN r 257\r\n{}\r\n", "1".repeat(257))).unwrap_err();
    assert_eq!(fault.code, code::REPLY_TOO_LARGE);
}

#[test]
fn a_reply_must_be_addressed_as_the_call_has_asked_for() {
    let (mut framer, _) = framer(64);
    let text =
        "MSG _INBOX.x.7.0123456789abcdef r 2\r\n{}\r\nMSG _INBOX.x r 2\r\n{}\r\nPONG\r\n+OK\r\nPING\r\n";
    let (found, left) = frames(|buffer| framer.next_frame(buffer), [text.as_bytes()]);
    assert_eq!((found.concat(), left), (b"PING".to_vec(), 0));
}

#[test]
fn calls_of_others_have_a_subject_and_perhaps_a_reply_subject() {
    let call = |text: &str| match received(text) {
        Message::Request(request) => request,
        other => panic!("{other:?}"),
    };
    let request = call("MSG chanrpc.add f10 _INBOX.z 5\r\n[1,2]\r\n");
    assert_eq!((&*request.method, request.params.unwrap().get()), ("chanrpc.add", "[1,2]"));
    assert_eq!(request.id.unwrap().as_json(), "_INBOX.z");
    let headers = "NATS/1.0\r\nRpc-Deadline-Ms: 250\r\nrpc-hops: 2\r\n\r\n";
    let request = call(&format!("HMSG a f10 {} {}\r\n{headers}\r\n", headers.len(), headers.len()));
    assert_eq!(request.meta, Meta { deadline: Some(Duration::from_millis(250)), hops: 2 });
    assert!(request.id.is_none() && request.params.is_none());
    // Any text may be an event, and none of it harms.
    assert_eq!(call("MSG t t1 4\r\n21 C\r\n").params.unwrap().get(), "\"21 C\"");
    assert_eq!(call("MSG t t1 2\r\n21\r\n").params.unwrap().get(), "21");
    assert_eq!(call("MSG a f1 4\r\n21 C\r\n").method, ERROR);
    let error = try_received("MSG a f1 b 4\r\n21 C\r\n").unwrap_err();
    assert_eq!((error.id.as_json(), error.fault.code), ("b", code::PARSE));
    let error = try_received(&format!("MSG a f1 b 257\r\n{}\r\n", "1".repeat(257))).unwrap_err();
    assert_eq!((error.id.as_json(), error.fault.code), ("b", code::REQUEST_TOO_LARGE));
}

#[test]
fn the_server_tells_of_itself_and_of_what_it_refuses() {
    let method = |text: &str| match received(text) {
        Message::Request(Request { id: None, method, params, .. }) => {
            (method.into_owned(), params.map_or(String::new(), |params| params.get().to_owned()))
        }
        other => panic!("{other:?}"),
    };
    let refused = method("-ERR 'Permissions Violation for Publish to \"chanrpc.secret\"'\r\n");
    assert_eq!(refused.0, format!("{REFUSED} chanrpc.secret"));
    let other = "-ERR 'Permissions Violation for Subscription to \"a\" using queue \"q\"'\r\n";
    assert_eq!(method(other).0, ERROR);
    assert_eq!(
        method("-ERR 'Stale Connection'\r\n"),
        (ERROR.to_owned(), "[\"Stale Connection\"]".to_owned())
    );

    let (name, info) = method(
        "INFO {\"server_id\":\"N\",\"version\":\"2.9.10\",\"headers\":true,\"max_payload\":102400,\
         \"connect_urls\":[\"10.0.0.2:4222\"],\"ldm\":true} \r\n",
    );
    assert_eq!(name, INFO);
    let info = ServerInfo::read(&info).unwrap();
    assert!(info.is_stopping && info.has_headers && !info.requires_tls);
    assert_eq!((info.max_payload, info.others), (102_400, vec!["10.0.0.2:4222".to_owned()]));
}

#[test]
fn anything_else_breaks_the_framing() {
    for text in [
        "GARBAGE\r\n",
        "MSG a\r\n",
        "MSG a f1 b c 2\r\n",
        "MSG a f1 x\r\n",
        "HMSG a f1 9 2\r\n",
        "MSG a f1 2\r\n{}xx",
        "\u{0}\r\n",
    ] {
        let (mut framer, _) = framer(64);
        let (found, _) = frames(|buffer| framer.next_frame(buffer), [text.as_bytes()]);
        assert_eq!(found, [b"invalid"], "{text:?}");
    }
    let (mut framer, _) = framer(64);
    let (found, _) = frames(|buffer| framer.next_frame(buffer), [&vec![b'a'; 64 * 1024][..]]);
    assert_eq!(found, [b"invalid"]);
}
