//! Leaf's protobuf processor (`network/protobuf` of <https://github.com/name5566/leaf>): the number of a message type in
//! two bytes, then the message. The numbers are the order in which the types are listed.

use super::{ByteOrder, MAX_DEPTH, single_member};
use crate::codec::format::{DecodeLimits, FormatTraits, MessageFormat, Outgoing};
use crate::codec::frame::{DecodeError, Decoded};
use crate::codec::protobuf::{MessageType, Schema, TranscodeError};
use crate::message::{Fault, Id, Message, Meta, RawJson, Request, code};

/// Length of the number, in bytes.
const NUMBER: usize = 2;

/// The messages of a gate, each with the name by which functions know it: that of its type, without the package.
#[derive(Debug)]
pub struct LeafMessages {
    order: ByteOrder,
    types: Vec<(String, MessageType)>,
}

/// Two are equal if they are the same: a listener's exist once.
impl PartialEq for LeafMessages {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for LeafMessages {}

impl LeafMessages {
    /// Creates the messages of a gate, from the full names of their types in the order of their numbers.
    ///
    /// # Errors
    /// If a type is unknown, or two have the same name.
    pub fn new(schema: &Schema, names: &[String], order: ByteOrder) -> Result<Self, String> {
        let mut types: Vec<(String, MessageType)> = Vec::new();
        for full in names {
            let message =
                schema.message(full).ok_or_else(|| format!("no message {full:?} in the descriptors"))?;
            let name = full.rsplit('.').next().unwrap_or(full).to_owned();
            if types.iter().any(|(other, _)| *other == name) {
                return Err(format!("two messages are named {name:?}; functions know them by that"));
            }
            types.push((name, message));
        }
        if types.len() > usize::from(u16::MAX) {
            return Err(format!("{} messages; their numbers have two bytes", types.len()));
        }
        Ok(Self { order, types })
    }

    /// Decodes one message. Its name becomes its id, so that a reply can carry it.
    fn read<'a>(&self, frame: &[u8], depth: usize, max: usize) -> Result<Message<'a>, DecodeError> {
        let invalid = |message: String| DecodeError::new(code::INVALID_REQUEST, message);
        let (number, body) = frame
            .split_first_chunk::<NUMBER>()
            .ok_or_else(|| invalid("a message begins with its number, in two bytes".to_owned()))?;
        let number = match self.order {
            ByteOrder::Big => u16::from_be_bytes(*number),
            ByteOrder::Little => u16::from_le_bytes(*number),
        };
        let (name, message) = self
            .types
            .get(usize::from(number))
            .ok_or_else(|| invalid(format!("message {number}; the listener has {}", self.types.len())))?;
        let params = message.to_params(body, false, max, depth).map_err(|error| match error {
            TranscodeError::TooLong => {
                let message = format!("as JSON, {name} has more than {max} bytes (limits.message)");
                DecodeError::new(code::REQUEST_TOO_LARGE, message)
            }
            TranscodeError::Wrong(error) => DecodeError::new(code::PARSE, format!("{name}: {error}")),
        })?;
        let id = Id::from_json(format!("\"{name}\""));
        Ok(Message::Request(Request { id, method: name.clone().into(), params, meta: Meta::default() }))
    }

    /// Appends a message of this name. Returns `false` if the listener has none, or the value does not fit.
    fn put(&self, out: &mut Vec<u8>, name: &str, value: &str) -> bool {
        let Some(number) = self.types.iter().position(|(known, _)| known == name) else { return false };
        let Ok((message, _)) = self.types[number].1.of_result(value, true) else { return false };
        let number = u16::try_from(number).unwrap_or_default();
        out.extend(match self.order {
            ByteOrder::Big => number.to_be_bytes(),
            ByteOrder::Little => number.to_le_bytes(),
        });
        out.extend_from_slice(&message);
        true
    }
}

impl MessageFormat for LeafMessages {
    fn traits(&self) -> FormatTraits {
        FormatTraits { is_json: false, has_results_only: true }
    }

    fn decode<'a>(&self, frame: &'a [u8], limits: DecodeLimits, max: usize) -> Decoded<'a> {
        Decoded::Single(self.read(frame, limits.depth, max))
    }

    fn reject(&self, _: &[u8], _: DecodeLimits, fault: Fault) -> Decoded<'static> {
        Decoded::Single(Err(DecodeError { id: Id::null(), fault }))
    }

    fn encode(&self, out: &mut Vec<u8>, message: &Outgoing<'_>) -> bool {
        match message {
            Outgoing::Request(Request { id: None, method, params, .. }) => {
                self.put(out, method, params.as_ref().map_or("null", RawJson::get))
            }
            Outgoing::Reply(id, Ok(result)) => {
                // As with JSON, an object with one member is a message of its own, if there is one of that name.
                if let Ok(Some((name, value))) = single_member(result, MAX_DEPTH)
                    && self.put(out, name, value)
                {
                    return true;
                }
                let name = serde_json::from_str::<String>(id.as_json());
                name.is_ok_and(|name| self.put(out, &name, result))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LeafFraming;
    use super::*;
    use crate::codec::framing::Framing;

    fn messages(order: ByteOrder) -> LeafMessages {
        let mut schema = Schema::default();
        schema.add(include_bytes!("../../../tests/grpc/proto/leaf.binpb")).unwrap();
        let names = ["msg.Hello", "msg.Welcome"].map(str::to_owned);
        LeafMessages::new(&schema, &names, order).unwrap()
    }

    fn read(messages: &LeafMessages, frame: &[u8]) -> Result<String, i64> {
        match messages.read(frame, 8, 100) {
            Ok(Message::Request(Request { id, method, params, .. })) => {
                let params = params.as_ref().map_or("none", |params| params.get());
                Ok(format!("{} {method} {params}", id.unwrap().as_json()))
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.fault.code),
        }
    }

    /// As a Leaf gate with its protobuf processor reads and writes it: the first registered message, field 1 is "leaf".
    const HELLO: &[u8] = b"\x00\x08\x00\x00\x0a\x04leaf";

    #[test]
    fn decodes_and_encodes_like_leaf() {
        let (messages, mut framing) = (messages(ByteOrder::Big), LeafFraming::default());
        let found = framing.next_frame(HELLO);
        assert_eq!(found, crate::codec::FrameResult::Frame(2..10, 10));
        assert_eq!(read(&messages, &HELLO[2..]).unwrap(), r#""Hello" Hello {"Name":"leaf"}"#);
        let id = Id::from_json("\"Hello\"").unwrap();
        let written = |result: &str| {
            let mut out = Vec::new();
            let is_sent =
                messages.encode(&mut out, &Outgoing::Reply(&id, Ok(result))) && framing.finish(&mut out, 0);
            is_sent.then_some(out)
        };
        for result in [r#"{"Name":"leaf"}"#, r#"{"Hello":{"Name":"leaf"}}"#, "\"leaf\""] {
            assert_eq!(written(result).unwrap(), HELLO, "{result}");
        }
        assert_eq!(written(r#"{"Welcome":{"Level":3}}"#).unwrap(), b"\x00\x04\x00\x01\x08\x03");
        for result in ["7", r#"{"Other":{}}"#, r#"{"Name":1}"#] {
            assert_eq!(written(result), None, "{result}");
        }
        let notified = |name: &'static str, params| {
            let mut out = Vec::new();
            let request = Request { id: None, method: name.into(), params, meta: Meta::default() };
            messages.encode(&mut out, &Outgoing::Request(&request)).then_some(out)
        };
        assert_eq!(notified("Welcome", Some(RawJson::checked("3"))).unwrap(), b"\x00\x01\x08\x03");
        assert_eq!(notified("Welcome", None).unwrap(), b"\x00\x01");
        assert_eq!(notified("Other", None), None);
    }

    #[test]
    fn numbers_have_the_order_of_the_listener() {
        let messages = messages(ByteOrder::Little);
        assert_eq!(read(&messages, b"\x01\x00\x08\x03").unwrap(), r#""Welcome" Welcome {"Level":3}"#);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let messages = messages(ByteOrder::Big);
        for (frame, expected) in [
            (&b""[..], code::INVALID_REQUEST),
            (b"\x00", code::INVALID_REQUEST),
            (b"\x00\x02", code::INVALID_REQUEST),
            (b"\x00\x00\x0a\x05leaf", code::PARSE),
            (b"\x00\x00\x0a\x01\xff", code::PARSE),
            (&[&b"\x00\x00\x0a\x60"[..], &[b'x'; 96]].concat(), code::REQUEST_TOO_LARGE),
        ] {
            assert_eq!(read(&messages, frame), Err(expected), "{frame:?}");
        }
        let schema = Schema::default();
        let refused = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            LeafMessages::new(&schema, &names, ByteOrder::Big).unwrap_err()
        };
        assert!(refused(&["msg.Absent"]).contains("no message \"msg.Absent\""));
        let twice = refused(&["google.protobuf.Empty", "google.protobuf.Empty"]);
        assert!(twice.contains("two messages are named \"Empty\""));
    }
}
