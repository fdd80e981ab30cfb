//! Framing, decoding and encoding together.

use super::*;
use crate::codec::frame::tests::frames as frames_of;

const DEPTH: usize = 8;

fn frames(mut leaf: LeafFraming, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
    frames_of(|buffer| leaf.next_frame(buffer), pieces.iter().copied())
}

fn decoded(text: &str) -> String {
    match decode(text.as_bytes(), DEPTH) {
        Ok(Message::Request(Request { id, method, params, meta })) => {
            assert_eq!(meta, Meta::default());
            let id = id.expect("a name is an id");
            format!("{} {method} {}", id.as_json(), params.as_ref().map_or("none", |params| params.get()))
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => format!("refused {} {}", error.id.as_json(), error.fault.code),
    }
}

/// Returns a reply as it is sent, or `None` if it cannot be.
fn reply(leaf: LeafFraming, name: &str, result: &str) -> Option<Vec<u8>> {
    let mut out = b"before".to_vec();
    let start = out.len();
    let id = Id::from_json(serde_json::to_string(name).unwrap()).unwrap();
    let is_sent = Leaf.encode(&mut out, &Outgoing::Reply(&id, Ok(result))) && leaf.finish(&mut out, start);
    assert_eq!(out.len() == start, !is_sent, "a reply that is not sent appends nothing");
    is_sent.then(|| out.strip_prefix(b"before").unwrap().to_vec())
}

/// As accepted by a live Leaf gate.
const HELLO: &[u8] = b"\x00\x19{\"Hello\":{\"Name\":\"leaf\"}}";
/// As sent by the client of Leaf's tutorial.
const TUTORIAL: &str = "{\n        \"Hello\": {\n            \"Name\": \"leaf\"\n        }\n    }";

#[test]
fn decodes_and_encodes_like_leaf() {
    assert_eq!(frames(LeafFraming::default(), &[HELLO]), (vec![HELLO[2..].to_vec()], 0));
    let hello = r#"{"Hello":{"Name":"leaf"}}"#;
    assert_eq!(decoded(hello), r#""Hello" Hello {"Name":"leaf"}"#);
    assert_eq!(reply(LeafFraming::default(), "any", hello).unwrap(), HELLO);

    let frame = [b"\x00\x3f", TUTORIAL.as_bytes()].concat();
    assert_eq!(frames(LeafFraming::default(), &[&frame]), (vec![TUTORIAL.into()], 0));
    assert_eq!(decoded(TUTORIAL), "\"Hello\" Hello {\n            \"Name\": \"leaf\"\n        }");
}

#[test]
fn finds_frames_in_pieces_of_any_size() {
    let body = vec![HELLO[2..].to_vec()];
    assert_eq!(frames(LeafFraming::default(), &[&HELLO[..1], &HELLO[1..5], &HELLO[5..]]), (body.clone(), 0));
    let bytes: Vec<_> = HELLO.chunks(1).collect();
    assert_eq!(frames(LeafFraming::default(), &bytes), (body, 0));
    for at in 0..HELLO.len() {
        assert_eq!(frames(LeafFraming::default(), &[&HELLO[..at]]), (vec![], at));
    }
    let two = [HELLO, b"\0\x02{}", &HELLO[..7]].concat();
    assert_eq!(frames(LeafFraming::default(), &[&two]), (vec![HELLO[2..].to_vec(), b"{}".to_vec()], 7));
}

#[test]
fn lengths_out_of_range_are_fatal() {
    for (length, bytes) in [(0, b"\0\0"), (4097, b"\x10\x01"), (0xffff, b"\xff\xff")] {
        let FrameResult::Invalid(reason) = LeafFraming::default().next_frame(bytes) else {
            panic!("{length} passed")
        };
        assert_eq!(reason, format!("a message of {length} bytes; the gate takes 1 to 4096"));
    }
    let longest = [&b"\x10\x00"[..], &[b'x'; 4096]].concat();
    assert_eq!(frames(LeafFraming::default(), &[&longest]), (vec![vec![b'x'; 4096]], 0));

    let mut leaf = LeafFraming { min: 3, max: 5, ..LeafFraming::default() };
    for (length, fits) in [(2, false), (3, true), (5, true), (6, false)] {
        let frame = [&[0, length], &vec![b'x'; length.into()][..]].concat();
        assert_eq!(matches!(leaf.next_frame(&frame), FrameResult::Frame(..)), fits, "{length}");
        assert_eq!(matches!(leaf.next_frame(&frame), FrameResult::Invalid(_)), !fits, "{length}");
    }
}

#[test]
fn lengths_of_one_two_and_four_bytes_in_both_orders() {
    for (length, order, prefix) in [
        (LengthBytes::One, ByteOrder::Big, &[25][..]),
        (LengthBytes::One, ByteOrder::Little, &[25]),
        (LengthBytes::Two, ByteOrder::Big, &[0, 25]),
        (LengthBytes::Two, ByteOrder::Little, &[25, 0]),
        (LengthBytes::Four, ByteOrder::Big, &[0, 0, 0, 25]),
        (LengthBytes::Four, ByteOrder::Little, &[25, 0, 0, 0]),
    ] {
        let leaf = LeafFraming { length_bytes: length, byte_order: order, ..LeafFraming::default() };
        let frame = [prefix, &HELLO[2..]].concat();
        assert_eq!(frames(leaf, &[&frame]), (vec![HELLO[2..].to_vec()], 0), "{leaf:?}");
        let hello = r#"{"Hello":{"Name":"leaf"}}"#;
        assert_eq!(reply(leaf, "any", hello).unwrap(), frame, "{leaf:?}");
    }
    let (order, text) = (ByteOrder::Little, vec![b' '; 0x01_0203]);
    let mut leaf = LeafFraming {
        length_bytes: LengthBytes::Four,
        byte_order: order,
        max: u32::MAX,
        ..LeafFraming::default()
    };
    assert_eq!(frames(leaf, &[&[3, 2, 1, 0], &text]), (vec![text], 0));
    assert_eq!(leaf.next_frame(&[0xff; 100]), FrameResult::Incomplete(0));
    assert!(matches!(
        LeafFraming { max: u32::MAX - 1, ..leaf }.next_frame(&[0xff; 4]),
        FrameResult::Invalid(_)
    ));
}

/// Leaf clamps both limits to what the length prefix can express.
#[test]
fn limits_are_clamped_to_the_length_prefix() {
    let mut leaf =
        LeafFraming { length_bytes: LengthBytes::One, min: 1000, max: 1000, ..LeafFraming::default() };
    assert_eq!(leaf.next_frame(&[255; 256]), FrameResult::Frame(1..256, 256));
    assert!(matches!(leaf.next_frame(&[254; 255]), FrameResult::Invalid(_)));
    let mut leaf = LeafFraming { min: 0, ..leaf };
    assert!(matches!(leaf.next_frame(&[0]), FrameResult::Invalid(_)));
    let fills =
        |bytes: usize| reply(leaf, "n", &format!("\"{}\"", "x".repeat(bytes - 8))).map(|reply| reply[0]);
    assert_eq!(fills(255), Some(255));
    assert_eq!(fills(256), None);
}

#[test]
fn valid_messages() {
    let longest = "x".repeat(Id::MAX_LEN - 2);
    for (text, expected) in [
        (r#"{"Hello":null}"#, r#""Hello" Hello none"#),
        (r#"{"Hello":[]}"#, r#""Hello" Hello []"#),
        (r#"{"Hello":[1, {"a":2}]}"#, r#""Hello" Hello [1, {"a":2}]"#),
        (r#"{"Hello":{}}"#, r#""Hello" Hello {}"#),
        (r#"{"Hello":"x"}"#, r#""Hello" Hello ["x"]"#),
        (r#"{"Hello": 1e5 }"#, r#""Hello" Hello [1e5]"#),
        (r#"{"Hello":false}"#, r#""Hello" Hello [false]"#),
        (r#"{"":{}}"#, r#"""  {}"#),
        (r#"{"a\"\u0042é":{}}"#, r#""a\"\u0042é" a"Bé {}"#),
        (" \r\n{ \"Hello\" : {} }\t", r#""Hello" Hello {}"#),
        (&format!(r#"{{"{longest}":{{}}}}"#), &format!("\"{longest}\" {longest} {{}}")),
    ] {
        assert_eq!(decoded(text), expected, "{text}");
    }
}

#[test]
fn invalid_messages() {
    let too_long = format!(r#"{{"{}":{{}}}}"#, "x".repeat(Id::MAX_LEN - 1));
    for (text, code) in [
        ("", code::PARSE),
        ("hello", code::PARSE),
        ("{", code::PARSE),
        (r#"{"Hello"}"#, code::PARSE),
        (r#"{"Hello":}"#, code::PARSE),
        (r#"{"Hello":{}} x"#, code::PARSE),
        (r#"{"Hello":{}}{"Hello":{}}"#, code::PARSE),
        (r#"{"Hello":{},}"#, code::PARSE),
        (r#"{1:{}}"#, code::PARSE),
        ("null", code::INVALID_REQUEST),
        ("1", code::INVALID_REQUEST),
        ("[]", code::INVALID_REQUEST),
        (r#"["Hello",{}]"#, code::INVALID_REQUEST),
        (r#""Hello""#, code::INVALID_REQUEST),
        ("{}", code::INVALID_REQUEST),
        (r#"{"Hello":{},"World":{}}"#, code::INVALID_REQUEST),
        (r#"{"Hello":{},"Hello":{}}"#, code::INVALID_REQUEST),
        (&too_long, code::INVALID_REQUEST),
    ] {
        assert_eq!(decoded(text), format!("refused null {code}"), "{text}");
    }
    let error = decode(b"{\"\xff\":1}", DEPTH).unwrap_err();
    assert_eq!(error.fault.to_string(), "not UTF-8 after 2 bytes (code -32700)");
}

#[test]
fn depth_is_limited() {
    let nested = |depth| format!(r#"{{"f":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(decoded(&nested(DEPTH)).starts_with("\"f\" f [["));
    assert_eq!(decoded(&nested(DEPTH + 1)), "refused null -32700");
    assert_eq!(decoded(&"[".repeat(1_000_000)), "refused null -32700");
    assert_eq!(decoded(r#"{"f":["\"[[[[[[[[[\\","]]]]]]",[1]]}"#), r#""f" f ["\"[[[[[[[[[\\","]]]]]]",[1]]"#);
}

#[test]
fn result_is_a_message_or_is_wrapped_in_one() {
    let leaf = LeafFraming { length_prefixed: false, ..LeafFraming::default() };
    for (result, expected) in [
        (r#"{"Welcome":{"a":1}}"#, r#"{"Welcome":{"a":1}}"#),
        // An object with one member is always a message of its own.
        (r#"{"Name":"leaf"}"#, r#"{"Name":"leaf"}"#),
        (r#"{ "Welcome" : null }"#, r#"{ "Welcome" : null }"#),
        (r#"{"a":1,"b":2}"#, r#"{"Hello":{"a":1,"b":2}}"#),
        ("{}", r#"{"Hello":{}}"#),
        ("[1]", r#"{"Hello":[1]}"#),
        ("null", r#"{"Hello":null}"#),
        (r#""text""#, r#"{"Hello":"text"}"#),
    ] {
        assert_eq!(reply(leaf, "Hello", result).unwrap(), expected.as_bytes(), "{result}");
    }
    assert_eq!(reply(leaf, "a\"\n", "1").unwrap(), br#"{"a\"\n":1}"#);
    let is_nameless_sent = |result| Leaf.encode(&mut Vec::new(), &Outgoing::Reply(&Id::null(), Ok(result)));
    assert!(!is_nameless_sent("1"));
    assert!(is_nameless_sent(r#"{"a":1}"#));
}

#[test]
fn replies_out_of_range_are_not_sent() {
    for framed in [true, false] {
        let leaf = LeafFraming { length_prefixed: framed, min: 8, max: 9, ..LeafFraming::default() };
        for (result, fits) in [("1", false), ("12", true), ("123", true), ("1234", false)] {
            assert_eq!(reply(leaf, "n", result).is_some(), fits, "{result}");
        }
        let huge = reply(
            LeafFraming { length_prefixed: framed, ..LeafFraming::default() },
            "n",
            &"1".repeat(70_000),
        );
        assert_eq!(huge, None);
    }
}

#[test]
fn notification_is_a_message_and_calls_are_not_sent() {
    let encode = |id, params: Option<RawJson<'_>>| {
        let mut out = Vec::new();
        let request = Request { id, method: "a\"b".into(), params, meta: Meta::default() };
        Leaf.encode(&mut out, &Outgoing::Request(&request)).then(|| String::from_utf8(out).unwrap())
    };
    assert_eq!(encode(None, Some(RawJson::checked("[1]"))).unwrap(), r#"{"a\"b":[1]}"#);
    assert_eq!(encode(None, None).unwrap(), r#"{"a\"b":null}"#);
    assert_eq!(encode(Some(1.into()), None), None);
    assert!(!Leaf.encode(&mut Vec::new(), &Outgoing::Cancel(&1.into())));
}
