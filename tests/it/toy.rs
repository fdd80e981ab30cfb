//! A dialect as an exercise: all that it needs is a framing and a message format.
//!
//! Each message is one line of fields, which end with a NUL byte: `? ID METHOD PARAMS` (a call), `* METHOD PARAMS` (a
//! notification), `~ ID` (a cancellation), `= ID RESULT` and `! ID CODE MESSAGE`.

use chanrpc::internals::codec::jsonrpc::DecodeLimits;
use chanrpc::internals::codec::{
    Codec, DecodeError, Decoded, FormatTraits, FrameResult, Framing, MessageFormat, Outgoing,
};
use chanrpc::internals::message::{Id, Message, Meta, Request};
use chanrpc::message::{Fault, RawJson, code};
use serde_json::value::RawValue;

const END: u8 = 0;

pub(crate) fn codec(max: usize) -> Codec {
    Codec::of(Box::new(Nul { max }), &Toy, max, DecodeLimits { depth: 32, batch: 8 })
}

#[derive(Debug)]
struct Nul {
    max: usize,
}

impl Framing for Nul {
    fn next_frame(&mut self, buffer: &[u8]) -> FrameResult {
        match buffer.iter().position(|byte| *byte == END) {
            Some(end) => FrameResult::Frame(0..end, end + 1),
            None if buffer.len() > self.max => FrameResult::Invalid("a message without an end".into()),
            None => FrameResult::Incomplete(0),
        }
    }

    fn finish(&self, out: &mut Vec<u8>, _start: usize) -> bool {
        out.push(END);
        true
    }
}

#[derive(Debug)]
struct Toy;

impl MessageFormat for Toy {
    fn traits(&self) -> FormatTraits {
        FormatTraits { is_json: false, has_results_only: false }
    }

    fn decode<'a>(&self, frame: &'a [u8], _limits: DecodeLimits, _max: usize) -> Decoded<'a> {
        let message = std::str::from_utf8(frame).ok().and_then(message);
        let invalid = || Fault::new(code::INVALID_REQUEST, "not a message of this toy");
        Decoded::Single(message.ok_or_else(|| DecodeError { id: Id::null(), fault: invalid() }))
    }

    fn reject(&self, _prefix: &[u8], _limits: DecodeLimits, fault: Fault) -> Decoded<'static> {
        Decoded::Single(Err(DecodeError { id: Id::null(), fault }))
    }

    fn encode(&self, out: &mut Vec<u8>, message: &Outgoing<'_>) -> bool {
        let text = match message {
            Outgoing::Request(Request { id, method, params, .. }) => {
                let params = params.as_ref().map_or("[]", RawJson::get);
                match id {
                    Some(id) => format!("? {} {method} {params}", id.as_json()),
                    None => format!("* {method} {params}"),
                }
            }
            Outgoing::Cancel(id) => format!("~ {}", id.as_json()),
            Outgoing::Reply(id, Ok(result)) => format!("= {} {result}", id.as_json()),
            Outgoing::Reply(id, Err(fault)) => format!("! {} {} {}", id.as_json(), fault.code, fault.message),
        };
        out.extend_from_slice(text.as_bytes());
        true
    }
}

fn message(text: &str) -> Option<Message<'_>> {
    let (kind, rest) = text.split_once(' ')?;
    Some(match kind {
        "?" => {
            let (id, rest) = rest.split_once(' ')?;
            request(Some(Id::from_json(id)?), rest)?
        }
        "*" => request(None, rest)?,
        "~" => Message::Cancel(Id::from_json(rest)?),
        "=" => {
            let (id, result) = rest.split_once(' ')?;
            Message::Reply(Id::from_json(id)?, Ok(json(result)?))
        }
        "!" => {
            let (id, rest) = rest.split_once(' ')?;
            let (code, text) = rest.split_once(' ')?;
            Message::Reply(Id::from_json(id)?, Err(Fault::new(code.parse().ok()?, text.to_owned())))
        }
        _ => return None,
    })
}

fn request<'a>(id: Option<Id<'a>>, text: &'a str) -> Option<Message<'a>> {
    let (method, params) = text.split_once(' ')?;
    Some(Message::Request(Request { id, method: method.into(), params: json(params), meta: Meta::default() }))
}

fn json(text: &str) -> Option<RawJson<'static>> {
    RawValue::from_string(text.to_owned()).ok().map(RawJson::from)
}
