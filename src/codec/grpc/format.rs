//! How a session answers the call of one gRPC request: as JSON or as a fault, which become messages and a status later.

use serde_json::value::RawValue;

use super::super::connection_codec::Codec;
use super::super::format::{DecodeLimits, FormatTraits, MessageFormat, Outgoing};
use super::super::frame::{DecodeError, Decoded};
use super::super::framing::PerFrame;
use crate::message::json::Scanner;
use crate::message::{Fault, Id, RawJson, code};

/// The format of replies to one call.
#[derive(Debug)]
struct Reply;

/// The first byte of a reply: a result or a fault follows.
const RESULT: u8 = 0;
const FAULT: u8 = 1;

/// Returns the codec of a session for one call, which is given to it as a request.
pub fn codec(max: usize, limits: DecodeLimits) -> Codec {
    Codec::of(Box::new(PerFrame), &Reply, max, limits)
}

/// Returns the JSON of a reply, or its fault.
pub fn outcome(mut reply: Vec<u8>) -> Result<String, Fault> {
    let lost = || Fault::new(code::INTERNAL, "the call was not answered");
    if reply.is_empty() {
        return Err(lost());
    }
    let kind = reply.remove(0);
    let text = String::from_utf8(reply).map_err(|_| lost())?;
    if kind == RESULT {
        return Ok(text);
    }
    let (code, text) = text.split_once('\n').ok_or_else(lost)?;
    let (length, text) = text.split_once('\n').ok_or_else(lost)?;
    let code = code.parse().map_err(|_| lost())?;
    let (message, data) =
        length.parse().ok().and_then(|length| text.split_at_checked(length)).ok_or_else(lost)?;
    let data = (!data.is_empty()).then(|| RawValue::from_string(data.to_owned()).ok()).flatten();
    Err(Fault { data, ..Fault::new(code, message.to_owned()) })
}

/// Checks the parameters of a call: an array or an object as JSON, or nothing.
///
/// # Errors
/// The fault if they are something else.
pub fn params(text: &str, depth: usize) -> Result<Option<RawJson<'_>>, Fault> {
    let mut scanner = Scanner::new(text, depth);
    let Some(first) = scanner.peek() else { return Ok(None) };
    let value = scanner.value().and_then(|value| scanner.expect_end().map(|()| value));
    match value {
        Ok(value) if matches!(first, b'[' | b'{') => Ok(Some(RawJson::checked(value))),
        Ok(_) => Err(Fault::invalid_params("params is an array or an object as JSON, such as [1, 2]")),
        Err(_) => Err(Fault::new(code::PARSE, format!("params: {}", scanner.error()))),
    }
}

impl MessageFormat for Reply {
    fn traits(&self) -> FormatTraits {
        FormatTraits { is_json: false, has_results_only: false }
    }

    fn decode<'a>(&self, _: &'a [u8], _: DecodeLimits, _: usize) -> Decoded<'a> {
        Decoded::Single(Err(DecodeError::new(code::INVALID_REQUEST, "the session takes one call")))
    }

    fn reject(&self, _: &[u8], _: DecodeLimits, fault: Fault) -> Decoded<'static> {
        Decoded::Single(Err(DecodeError { id: Id::null(), fault }))
    }

    fn encode(&self, out: &mut Vec<u8>, message: &Outgoing<'_>) -> bool {
        let Outgoing::Reply(_, answer) = message else { return false };
        match answer {
            Ok(result) => {
                out.push(RESULT);
                out.extend_from_slice(result.as_bytes());
            }
            Err(Fault { code, message, data }) => {
                out.push(FAULT);
                out.extend_from_slice(format!("{code}\n{}\n", message.len()).as_bytes());
                out.extend_from_slice(message.as_bytes());
                out.extend_from_slice(data.as_ref().map_or("", |data| data.get()).as_bytes());
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_as_they_were_written() {
        let reply = |answer: Result<&str, &Fault>| {
            let mut out = Vec::new();
            assert!(Reply.encode(&mut out, &Outgoing::Reply(&Id::null(), answer)));
            out
        };
        assert_eq!(outcome(reply(Ok("[1]"))), Ok("[1]".to_owned()));
        for fault in [Fault::new(-7, "a\nb"), Fault::new(7, "").with_data(&["ä\n"]), Fault::new(0, "7\n7")] {
            assert_eq!(outcome(reply(Err(&fault))), Err(fault));
        }
        assert!(outcome(Vec::new()).is_err() && outcome(b"\x017".to_vec()).is_err());
    }

    #[test]
    fn params_are_an_array_or_an_object() {
        let text = |text| params(text, 3).map(|params| params.map(|params| params.get().to_owned()));
        assert_eq!(text(" "), Ok(None));
        assert_eq!(text(" [1, 2] "), Ok(Some("[1, 2]".to_owned())));
        assert_eq!(text("{}"), Ok(Some("{}".to_owned())));
        for (wrong, expected) in [
            ("7", code::INVALID_PARAMS),
            ("[1", code::PARSE),
            ("[] []", code::PARSE),
            ("[[[[]]]]", code::PARSE),
        ] {
            assert_eq!(text(wrong).unwrap_err().code, expected, "{wrong}");
        }
    }
}
