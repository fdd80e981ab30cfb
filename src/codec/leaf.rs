//! The wire of Leaf's gate (<https://github.com/name5566/leaf>, `network/tcp_msg.go` and `network/json`), byte for
//! byte: a length, then a JSON object with one key, the message's name.
//!
//! Leaf has no request ids: a reply is a message of its own. It has no errors either: whoever sends what it cannot
//! read is cut off.

use std::borrow::Cow;

use super::frame::{Next, Refused};
use super::json::{Error, Scanner, Stop};
use crate::message::{Id, Message, Meta, RawJson, Request, code};

/// How a gate of Leaf's is configured (`LenMsgLen`, `LittleEndian`, `MinMsgLen`, `MaxMsgLen`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// How many bytes the length takes.
    pub length: LengthBytes,
    /// Which of them comes first.
    pub order: ByteOrder,
    /// The shortest message. What the length cannot say counts as the most that it can, as in Leaf, here and in
    /// `max`.
    pub min: u32,
    /// The longest message.
    pub max: u32,
    /// Whether messages have a length before them: over TCP, but not over WebSocket.
    pub framed: bool,
}

/// A result nested deeper is not looked into: each level takes some of the stack.
const DEEPEST: usize = 128;

/// How many bytes a length takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LengthBytes {
    One = 1,
    Two = 2,
    Four = 4,
}

/// Which byte of a number comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    /// The most significant.
    Big,
    /// The least significant.
    Little,
}

impl Default for Leaf {
    fn default() -> Self {
        Self { length: LengthBytes::Two, order: ByteOrder::Big, min: 1, max: 4096, framed: true }
    }
}

impl Leaf {
    /// Looks for the next message of a stream.
    pub fn next(&self, buffer: &[u8]) -> Next {
        let start = self.length as usize;
        let Some((prefix, rest)) = buffer.split_at_checked(start) else { return Next::Incomplete(0) };
        let number = |sum: u32, byte: &u8| sum << 8 | u32::from(*byte);
        let length = match self.order {
            ByteOrder::Big => prefix.iter().fold(0, number),
            ByteOrder::Little => prefix.iter().rev().fold(0, number),
        };
        if let Err(why) = self.fits(u64::from(length)) {
            return Next::Broken(why.into());
        }
        let length = length as usize;
        if rest.len() < length {
            Next::Incomplete(0)
        } else {
            Next::Frame(start..start + length, start + length)
        }
    }

    fn fits(&self, length: u64) -> Result<(), String> {
        let most = match self.length {
            LengthBytes::One => u8::MAX.into(),
            LengthBytes::Two => u16::MAX.into(),
            LengthBytes::Four => u32::MAX,
        };
        let (min, max) = (self.min.clamp(1, most), self.max.min(most));
        if (u64::from(min)..=u64::from(max)).contains(&length) {
            return Ok(());
        }
        Err(format!("a message of {length} bytes; the gate takes {min} to {max}"))
    }

    /// Appends the message that a function's result is: a JSON object with one key as it stands, anything else
    /// under the name that `id` holds.
    ///
    /// # Errors
    /// Why the gate cannot send it; then nothing is appended.
    pub fn encode_reply(&self, out: &mut Vec<u8>, id: &Id<'_>, result: &str) -> Result<(), String> {
        let start = out.len();
        let prefix = if self.framed { self.length as usize } else { 0 };
        out.resize(start + prefix, 0);
        if matches!(single(result, DEEPEST), Ok(Some(_))) {
            out.extend_from_slice(result.as_bytes());
        } else if id.as_json().starts_with('"') {
            for part in ["{", id.as_json(), ":", result, "}"] {
                out.extend_from_slice(part.as_bytes());
            }
        } else {
            out.truncate(start);
            return Err(format!("a reply needs a name, and {} is none", id.as_json()));
        }
        let length = out.len() - start - prefix;
        if let Err(why) = self.fits(length as u64) {
            out.truncate(start);
            return Err(why);
        }
        // It fits, so the bytes that are left out are zero.
        let bytes = (length as u64).to_be_bytes();
        let prefix = &mut out[start..start + prefix];
        prefix.copy_from_slice(&bytes[bytes.len() - prefix.len()..]);
        if self.order == ByteOrder::Little {
            prefix.reverse();
        }
        Ok(())
    }
}

/// Reads one message, nested `depth` deep at most. Its id is its name, so that a reply can be named after it.
///
/// # Errors
/// If it is none of Leaf's; the connection ends then.
pub fn decode(frame: &[u8], depth: usize) -> Result<Message<'_>, Refused> {
    let text = std::str::from_utf8(frame).map_err(|error| {
        Refused::new(code::PARSE, format!("not UTF-8 after {} bytes", error.valid_up_to()))
    })?;
    let (name, body) =
        single(text, depth).map_err(|error| Refused::new(code::PARSE, error.to_string()))?.ok_or_else(
            || Refused::new(code::INVALID_REQUEST, "a message is an object with one key, its name"),
        )?;
    let id = Id::from_json(format!("\"{name}\"")).ok_or_else(|| {
        let message = format!("a name of more than {} bytes with its quotes", Id::MAX_LEN);
        Refused::new(code::INVALID_REQUEST, message)
    })?;
    let method = serde_json::from_str(id.as_json())
        .map_err(|error| Refused::new(code::INVALID_REQUEST, format!("a name that is no text: {error}")))?;
    let params = match body.as_bytes() {
        b"null" => None,
        [b'[' | b'{', ..] => Some(RawJson::checked(body)),
        _ => Some(RawJson::checked(format!("[{body}]"))),
    };
    Ok(Message::Request(Request { id: Some(id), method: Cow::Owned(method), params, meta: Meta::default() }))
}

/// The key, in its quotes, and the value of an object that has one of each.
fn single(text: &str, depth: usize) -> Result<Option<(&str, &str)>, Error> {
    let mut scanner = Scanner::new(text, depth);
    let (mut single, mut count) = (None, 0);
    let read = match scanner.peek() {
        Some(b'{') => scanner.object(|scanner, key| {
            count += 1;
            single = Some((key.text, scanner.value()?));
            Ok(())
        }),
        _ => scanner.skip(),
    };
    match read.and_then(|()| scanner.end()) {
        Ok(()) => Ok(single.filter(|_| count == 1)),
        Err(Stop) => Err(scanner.error()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::found;
    use super::*;

    const DEPTH: usize = 8;

    fn frames(leaf: Leaf, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
        found(|buffer| leaf.next(buffer), pieces.iter().copied())
    }

    fn told(text: &str) -> String {
        match decode(text.as_bytes(), DEPTH) {
            Ok(Message::Request(Request { id, method, params, meta })) => {
                assert_eq!(meta, Meta::default());
                let id = id.expect("a name is an id");
                format!("{} {method} {}", id.as_json(), params.as_ref().map_or("none", |params| params.get()))
            }
            Ok(other) => panic!("{other:?}"),
            Err(refused) => format!("refused {} {}", refused.id.as_json(), refused.fault.code),
        }
    }

    fn reply(leaf: Leaf, name: &str, result: &str) -> Result<Vec<u8>, String> {
        let mut out = b"before".to_vec();
        let id = Id::from_json(serde_json::to_string(name).unwrap()).unwrap();
        let encoded = leaf.encode_reply(&mut out, &id, result);
        assert_eq!(out.len() == "before".len(), encoded.is_err(), "an error appends nothing");
        encoded.map(|()| out.strip_prefix(b"before").unwrap().to_vec())
    }

    /// As a live gate of Leaf's took it.
    const HELLO: &[u8] = b"\x00\x19{\"Hello\":{\"Name\":\"leaf\"}}";
    /// As the client of Leaf's tutorial sends it.
    const TUTORIAL: &str = "{\n        \"Hello\": {\n            \"Name\": \"leaf\"\n        }\n    }";

    #[test]
    fn takes_and_sends_what_leaf_does() {
        assert_eq!(frames(Leaf::default(), &[HELLO]), (vec![HELLO[2..].to_vec()], 0));
        let hello = r#"{"Hello":{"Name":"leaf"}}"#;
        assert_eq!(told(hello), r#""Hello" Hello {"Name":"leaf"}"#);
        assert_eq!(reply(Leaf::default(), "any", hello).unwrap(), HELLO);

        let frame = [b"\x00\x3f", TUTORIAL.as_bytes()].concat();
        assert_eq!(frames(Leaf::default(), &[&frame]), (vec![TUTORIAL.into()], 0));
        assert_eq!(told(TUTORIAL), "\"Hello\" Hello {\n            \"Name\": \"leaf\"\n        }");
    }

    #[test]
    fn frames_may_come_in_pieces() {
        let body = vec![HELLO[2..].to_vec()];
        assert_eq!(frames(Leaf::default(), &[&HELLO[..1], &HELLO[1..5], &HELLO[5..]]), (body.clone(), 0));
        let bytes: Vec<_> = HELLO.chunks(1).collect();
        assert_eq!(frames(Leaf::default(), &bytes), (body, 0));
        for at in 0..HELLO.len() {
            assert_eq!(frames(Leaf::default(), &[&HELLO[..at]]), (vec![], at));
        }
        let two = [HELLO, b"\0\x02{}", &HELLO[..7]].concat();
        assert_eq!(frames(Leaf::default(), &[&two]), (vec![HELLO[2..].to_vec(), b"{}".to_vec()], 7));
    }

    #[test]
    fn lengths_out_of_bounds_end_it() {
        for (length, bytes) in [(0, b"\0\0"), (4097, b"\x10\x01"), (0xffff, b"\xff\xff")] {
            let Next::Broken(why) = Leaf::default().next(bytes) else { panic!("{length} passed") };
            assert_eq!(why, format!("a message of {length} bytes; the gate takes 1 to 4096"));
        }
        let longest = [&b"\x10\x00"[..], &[b'x'; 4096]].concat();
        assert_eq!(frames(Leaf::default(), &[&longest]), (vec![vec![b'x'; 4096]], 0));

        let leaf = Leaf { min: 3, max: 5, ..Leaf::default() };
        for (length, fits) in [(2, false), (3, true), (5, true), (6, false)] {
            let frame = [&[0, length], &vec![b'x'; length.into()][..]].concat();
            assert_eq!(matches!(leaf.next(&frame), Next::Frame(..)), fits, "{length}");
            assert_eq!(matches!(leaf.next(&frame), Next::Broken(_)), !fits, "{length}");
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
            let leaf = Leaf { length, order, ..Leaf::default() };
            let frame = [prefix, &HELLO[2..]].concat();
            assert_eq!(frames(leaf, &[&frame]), (vec![HELLO[2..].to_vec()], 0), "{leaf:?}");
            let hello = r#"{"Hello":{"Name":"leaf"}}"#;
            assert_eq!(reply(leaf, "any", hello).unwrap(), frame, "{leaf:?}");
        }
        let (order, text) = (ByteOrder::Little, vec![b' '; 0x01_0203]);
        let leaf = Leaf { length: LengthBytes::Four, order, max: u32::MAX, ..Leaf::default() };
        assert_eq!(frames(leaf, &[&[3, 2, 1, 0], &text]), (vec![text], 0));
        assert_eq!(leaf.next(&[0xff; 100]), Next::Incomplete(0));
        assert!(matches!(Leaf { max: u32::MAX - 1, ..leaf }.next(&[0xff; 4]), Next::Broken(_)));
    }

    /// Leaf cuts both bounds to what the length can say.
    #[test]
    fn bounds_beyond_the_length_are_what_it_can_say() {
        let leaf = Leaf { length: LengthBytes::One, min: 1000, max: 1000, ..Leaf::default() };
        assert_eq!(leaf.next(&[255; 256]), Next::Frame(1..256, 256));
        assert!(matches!(leaf.next(&[254; 255]), Next::Broken(_)));
        let leaf = Leaf { min: 0, ..leaf };
        assert!(matches!(leaf.next(&[0]), Next::Broken(_)));
        let fills =
            |bytes: usize| reply(leaf, "n", &format!("\"{}\"", "x".repeat(bytes - 8))).map(|reply| reply[0]);
        assert_eq!(fills(255), Ok(255));
        assert_eq!(fills(256), Err("a message of 256 bytes; the gate takes 1 to 255".into()));
    }

    #[test]
    fn what_is_a_message() {
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
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_none() {
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
            assert_eq!(told(text), format!("refused null {code}"), "{text}");
        }
        let refused = decode(b"{\"\xff\":1}", DEPTH).unwrap_err();
        assert_eq!(refused.fault.to_string(), "not UTF-8 after 2 bytes (code -32700)");
    }

    #[test]
    fn depth() {
        let nested = |depth| format!(r#"{{"f":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(told(&nested(DEPTH)).starts_with("\"f\" f [["));
        assert_eq!(told(&nested(DEPTH + 1)), "refused null -32700");
        assert_eq!(told(&"[".repeat(1_000_000)), "refused null -32700");
        assert_eq!(
            told(r#"{"f":["\"[[[[[[[[[\\","]]]]]]",[1]]}"#),
            r#""f" f ["\"[[[[[[[[[\\","]]]]]]",[1]]"#
        );
    }

    #[test]
    fn a_result_is_a_message_or_is_put_into_one() {
        let leaf = Leaf { framed: false, ..Leaf::default() };
        for (result, expected) in [
            (r#"{"Welcome":{"a":1}}"#, r#"{"Welcome":{"a":1}}"#),
            // What has one member is a message, whatever it was meant to be.
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
        let nameless = leaf.encode_reply(&mut Vec::new(), &Id::null(), "1");
        assert_eq!(nameless, Err("a reply needs a name, and null is none".into()));
        assert_eq!(leaf.encode_reply(&mut Vec::new(), &Id::null(), r#"{"a":1}"#), Ok(()));
    }

    #[test]
    fn replies_out_of_bounds_are_not_sent() {
        for framed in [true, false] {
            let leaf = Leaf { framed, min: 8, max: 9, ..Leaf::default() };
            for (result, fits) in [("1", false), ("12", true), ("123", true), ("1234", false)] {
                assert_eq!(reply(leaf, "n", result).is_ok(), fits, "{result}");
            }
            let huge = reply(Leaf { framed, ..Leaf::default() }, "n", &"1".repeat(70_000));
            assert_eq!(huge, Err("a message of 70006 bytes; the gate takes 1 to 4096".into()));
        }
    }
}
