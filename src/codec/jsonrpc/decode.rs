//! From JSON texts to messages, in one pass.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::prefix::without_bom;
use super::replies::outcome;
use super::{CANCEL_METHOD, DecodeLimits, id_in_prefix, reject};
use crate::codec::frame::{DecodeError, Decoded};
use crate::codec::meta::{INVALID_DEADLINE, INVALID_HOPS, deadline_from_ms};
use crate::message::json::{JsonStr, ScanError, ScanFailed, Scanner, string};
use crate::message::{Fault, Id, Message, Meta, RawJson, Request, code, number};

/// How most messages start.
const COMMON_PREFIX: &str = r#"{"jsonrpc":"2.0","#;
const VERSION: &str = r#""2.0""#;
const LONGEST_MEMBER: usize = "jsonrpc".len();

/// Decodes one JSON text.
///
/// A text that exceeds a limit or is not UTF-8 is rejected under each id that can be found in it. A text that is not
/// JSON is rejected under a null id, since its intent is unknown.
pub fn decode(text: &[u8], limits: DecodeLimits) -> Decoded<'_> {
    let bytes = without_bom(text);
    match std::str::from_utf8(bytes) {
        Ok(text) => decode_text(text, limits),
        Err(error) => {
            let message = format!("not UTF-8 after {} bytes", error.valid_up_to());
            reject(bytes, limits.batch, &Fault::new(code::PARSE, message))
        }
    }
}

/// Decodes one JSON text that is known to be UTF-8.
pub fn decode_text(text: &str, limits: DecodeLimits) -> Decoded<'_> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut scanner = Scanner::new(text, limits.depth);
    let decoded = match scanner.peek() {
        Some(b'[') => batch(&mut scanner, limits.batch),
        _ => message(&mut scanner).map(Decoded::Single),
    };
    match decoded.and_then(|decoded| scanner.expect_end().map(|()| decoded)) {
        Ok(decoded) => decoded,
        Err(ScanFailed) => {
            let error = scanner.error();
            let fault = Fault::new(code::PARSE, error.to_string());
            match error {
                ScanError::TooDeep(_) => reject(text.as_bytes(), limits.batch, &fault),
                ScanError::Expected(..) => Decoded::Single(Err(DecodeError { id: Id::null(), fault })),
            }
        }
    }
}

fn batch<'a>(scanner: &mut Scanner<'a>, max: usize) -> Result<Decoded<'a>, ScanFailed> {
    let (mut messages, mut count) = (Vec::new(), 0_usize);
    scanner.array(|scanner| {
        count += 1;
        if count > max {
            return scanner.skip();
        }
        messages.push(message(scanner)?);
        Ok(())
    })?;
    Ok(match count {
        0 => Decoded::Single(Err(invalid("a batch must not be empty"))),
        _ if count > max => {
            let message = format!("a batch of {count}; the limit is {max} (limits.batch)");
            Decoded::Single(Err(DecodeError::new(code::BATCH_TOO_LARGE, message)))
        }
        _ => Decoded::Batch(messages),
    })
}

/// The members of a message of any kind, as JSON texts.
#[derive(Default)]
struct Members<'a> {
    jsonrpc: Option<&'a str>,
    id: Option<&'a str>,
    method: Option<&'a str>,
    params: Option<&'a str>,
    meta: Option<&'a str>,
    result: Option<&'a str>,
    error: Option<&'a str>,
}

impl<'a> Members<'a> {
    fn get_mut(&mut self, key: &str) -> Option<&mut Option<&'a str>> {
        // As bytes: comparing strings takes a function call each.
        Some(match key.as_bytes() {
            b"jsonrpc" => &mut self.jsonrpc,
            b"id" => &mut self.id,
            b"method" => &mut self.method,
            b"params" => &mut self.params,
            b"meta" => &mut self.meta,
            b"result" => &mut self.result,
            b"error" => &mut self.error,
            _ => return None,
        })
    }
}

/// Decodes one message. A syntax error invalidates the whole text.
fn message<'a>(scanner: &mut Scanner<'a>) -> Result<Result<Message<'a>, DecodeError>, ScanFailed> {
    if scanner.peek() != Some(b'{') {
        return scanner.skip().map(|()| Err(invalid("a request must be an object")));
    }
    let start = scanner.position();
    let (mut members, mut is_duplicate) = (Members::default(), false);
    let had_prefix = scanner.object_with_prefix(COMMON_PREFIX, |scanner, key| {
        let value = scanner.value()?;
        let member = match key {
            JsonStr { text, escaped: false } => members.get_mut(text),
            key => key.within(LONGEST_MEMBER).and_then(|key| members.get_mut(&key)),
        };
        if let Some(member) = member {
            is_duplicate |= member.replace(value).is_some();
        }
        Ok(())
    })?;
    if had_prefix {
        is_duplicate |= members.jsonrpc.replace(VERSION).is_some();
    }
    if !is_duplicate {
        return Ok(interpret(&members));
    }
    let id = id_in_prefix(scanner.text_since(start).as_bytes());
    Ok(Err(invalid("a member occurs twice").with_id(id)))
}

fn interpret<'a>(members: &Members<'a>) -> Result<Message<'a>, DecodeError> {
    let id = match members.id {
        None => None,
        Some(text) => Some(
            Id::from_json(text)
                .ok_or_else(|| invalid("\"id\" must be a string, a number or null, of at most 128 bytes"))?,
        ),
    };
    if members.jsonrpc.is_none_or(|text| text != VERSION && string(text).as_deref() != Some("2.0")) {
        return Err(invalid("\"jsonrpc\" must be \"2.0\"").with_id(id));
    }
    let Some(method) = members.method else {
        return match (id, members.result, members.error) {
            (Some(id), Some(_), None) | (Some(id), None, Some(_)) => {
                Ok(Message::Reply(id, outcome(members.result, members.error)))
            }
            (id, ..) => Err(invalid("\"method\" is missing").with_id(id)),
        };
    };
    let Some(method) = string(method) else {
        return Err(invalid("\"method\" must be a string").with_id(id));
    };
    let params = members.params.filter(|params| *params != "null");
    if params.is_some_and(|params| !params.starts_with(['[', '{'])) {
        return Err(invalid("\"params\" must be an array, an object or null").with_id(id));
    }
    // A cancellation without a valid id is an ordinary notification.
    if id.is_none()
        && method == CANCEL_METHOD
        && let Some(cancelled) = params.and_then(cancelled_id)
    {
        return Ok(Message::Cancel(cancelled));
    }
    match meta(members.meta) {
        Ok(meta) => Ok(Message::Request(Request { id, method, params: params.map(RawJson::checked), meta })),
        Err(error) => Err(error.with_id(id)),
    }
}

fn invalid(message: &'static str) -> DecodeError {
    DecodeError::new(code::INVALID_REQUEST, message)
}

fn cancelled_id(params: &str) -> Option<Id<'_>> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    let params: Params<'_> = serde_json::from_str(params).ok()?;
    Id::from_json(params.id.get())
}

fn meta(json: Option<&str>) -> Result<Meta, DecodeError> {
    #[derive(Deserialize)]
    struct RawMeta<'a> {
        #[serde(borrow)]
        deadline_ms: Option<&'a RawValue>,
        #[serde(borrow)]
        hops: Option<&'a RawValue>,
    }
    let Some(json) = json.filter(|json| *json != "null") else { return Ok(Meta::default()) };
    if !json.starts_with('{') {
        return Err(invalid("\"meta\" must be an object"));
    }
    let raw: RawMeta<'_> = serde_json::from_str(json)
        .map_err(|error| DecodeError::new(code::INVALID_REQUEST, format!("\"meta\": {error}")))?;
    let deadline =
        raw.deadline_ms.map(|ms| parse_deadline(ms.get()).ok_or_else(|| invalid(INVALID_DEADLINE)));
    let hops = raw.hops.map(|hops| {
        number::whole(hops.get()).and_then(|hops| hops.parse().ok()).ok_or_else(|| invalid(INVALID_HOPS))
    });
    Ok(Meta { deadline: deadline.transpose()?, hops: hops.transpose()?.unwrap_or_default() })
}

/// Parses a number of milliseconds, clamped to `u64::MAX` of them.
fn parse_deadline(ms: &str) -> Option<Duration> {
    if let Some(ms) = number::whole(ms).and_then(|ms| ms.parse().ok()) {
        return Some(Duration::from_millis(ms));
    }
    deadline_from_ms(ms.parse().ok().filter(|_| ms.starts_with(|c: char| c == '-' || c.is_ascii_digit()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::jsonrpc::tests::{LIMITS, decoded};

    #[test]
    fn requests() {
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"f"}"#, "1 f"),
            (r#"{"jsonrpc":"2.0","method":"f"}"#, "none f"),
            (r#"{"jsonrpc":"2.0","id":null,"method":"f"}"#, "null f"),
            (r#"{"params":[1, 2],"method":"f","id":"a","jsonrpc":"2.0"}"#, "\"a\" f [1, 2]"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":{"a": 1}}"#, "1 f {\"a\": 1}"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"\u0066\n"}"#, "1 f\n"),
            (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, "1 "),
            (r#"{"\u006asonrpc":"\u0032.0","id":1,"\u006dethod":"f"}"#, "1 f"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","more":[{}],"":0}"#, "1 f"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{}}"#, "1 f"),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":1500,"hops":3,"trace":"x"}}"#,
                "1 f deadline 1500 hops 3",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":18446744073709551615}}"#,
                "1 f deadline 18446744073709551615",
            ),
            // As some clients write it.
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":null}"#, "1 f"),
            (r#"{"jsonrpc":"2.0","method":"f","params": null }"#, "none f"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":null}"#, "1 f"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":null,"hops":null}}"#, "1 f"),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":1500.0,"hops":3.0}}"#,
                "1 f deadline 1500 hops 3",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":1.5e3}}"#, "1 f deadline 1500"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":1500.25}}"#, "1 f deadline 1500"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":-0.0}}"#, "1 f deadline 0"),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":1e400}}"#,
                "1 f deadline 18446744073709551615",
            ),
            ("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"f\"}", "1 f"),
            ("\u{feff} {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"f\"}", "1 f"),
            (" \t{\"jsonrpc\":\"2.0\",\r\n\"id\":1,\"method\":\"f\"} ", "1 f"),
            // The name is special only in a notification.
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"$/cancelRequest","params":{"id":2}}"#,
                "1 $/cancelRequest {\"id\":2}",
            ),
        ] {
            assert_eq!(decoded(text.as_bytes()), [expected], "{text}");
        }
    }

    #[test]
    fn ids_are_preserved_byte_for_byte() {
        let longest = format!("\"{}\"", "x".repeat(Id::MAX_LEN - 2));
        for id in [
            "0",
            "-7",
            "-0",
            "1.0",
            "1e3",
            "1E+3",
            "1e999",
            "18446744073709551616",
            "0.10",
            "null",
            r#""""#,
            r#""\u0041""#,
            r#""A""#,
            r#""\"\\\/\b\n""#,
            r#""\ud83d\ude00""#,
            "\"é😀\"",
            r#""null""#,
            &longest,
        ] {
            let text = format!(r#"{{"jsonrpc":"2.0","id": {id} ,"method":"f"}}"#);
            assert_eq!(decoded(text.as_bytes()), [format!("{id} f")]);
        }
        let too_long = format!("\"{}\"", "x".repeat(Id::MAX_LEN - 1));
        for id in ["true", "false", "[]", "[1]", "{}", &too_long] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"f"}}"#);
            assert_eq!(decoded(text.as_bytes()), ["refused null -32600"], "{text}");
        }
    }

    #[test]
    fn invalid_messages() {
        for (text, expected) in [
            ("", "refused null -32700"),
            (" ", "refused null -32700"),
            ("nonsense", "refused null -32700"),
            ("{", "refused null -32700"),
            ("[", "refused null -32700"),
            ("{}{}", "refused null -32700"),
            ("[] []", "refused null -32700"),
            (r#"{"jsonrpc":"2.0","method":"f","id":01}"#, "refused null -32700"),
            (r#"{"jsonrpc":"2.0","method":"f",}"#, "refused null -32700"),
            ("{\"jsonrpc\":\"2.0\",\"method\":\"a\nb\"}", "refused null -32700"),
            ("1", "refused null -32600"),
            ("null", "refused null -32600"),
            ("\"text\"", "refused null -32600"),
            ("{}", "refused null -32600"),
            ("[]", "refused null -32600"),
            (r#"{"id":1,"method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":2.0,"id":1,"method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":null,"id":1,"method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":["f"]}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":1}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":"x"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":nul}"#, "refused null -32700"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":false}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":7}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"hops":-1}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":"1"}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":-1.5}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":-1e400}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":true}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":[1]}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"hops":1.5}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"hops":4294967296}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"f"}"#, "refused null -32600"),
            (r#"{"jsonrpc":"2.0",}"#, "refused null -32700"),
            (r#"{"jsonrpc":"2.0","id":1,"jsonrpc":"2.0","method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"jsonrpc":"1.0","method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","result":1}"#, "refused null -32600"),
        ] {
            assert_eq!(decoded(text.as_bytes()), [expected], "{text}");
        }
        assert_eq!(decoded(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}"), ["refused null -32700"]);
    }

    #[test]
    fn replies_and_cancels() {
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, "result 1 null"),
            (r#"{"jsonrpc":"2.0","result":{"a": [1]},"id":"x"}"#, "result \"x\" {\"a\": [1]}"),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m"}}"#, "error 1 -1 m none"),
            (
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"m","data":[ ]}}"#,
                "error null -1 m [ ]",
            ),
            (r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1.0}}"#, "cancel 1.0"),
            (r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"a","more":1}}"#, "cancel \"a\""),
        ] {
            assert_eq!(decoded(text.as_bytes()), [expected], "{text}");
        }
        for error in ["1", "{}", r#"{"code":"1","message":"m"}"#] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#);
            let decoded = decoded(text.as_bytes());
            assert!(decoded[0].starts_with("error 1 -32603 "), "{text}: {decoded:?}");
        }
    }

    #[test]
    fn batches() {
        let one = r#"{"jsonrpc":"2.0","id":1,"method":"f"}"#;
        let request = "1 f";
        assert_eq!(decoded(format!("[{one}]").as_bytes()), ["batch", request]);
        assert_eq!(
            decoded(format!(" [1,{one},\n{{}}] ").as_bytes()),
            ["batch", "refused null -32600", request, "refused null -32600"]
        );
        assert_eq!(decoded(format!("[{one},{one},{one}]").as_bytes()).len(), 4);
        assert_eq!(decoded(format!("[{one},{one},{one},1]").as_bytes()), ["refused null -32010"]);
        assert_eq!(decoded(format!("[{}1]", "1,".repeat(70_000)).as_bytes()), ["refused null -32010"]);
        // A syntax error takes precedence.
        assert_eq!(decoded(format!("[{one},{one},{one},{one}").as_bytes()), ["refused null -32700"]);
    }

    /// serde would accept an array of values in the order of a struct's fields.
    #[test]
    fn array_is_not_a_message() {
        for text in ["[[]]", r#"[["2.0",1,"f"]]"#, r#"[["2.0",1,"f",[1],{}]]"#] {
            assert_eq!(decoded(text.as_bytes()), ["batch", "refused null -32600"], "{text}");
        }
    }

    #[test]
    fn array_is_not_a_meta() {
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":[5,2]}"#;
        assert_eq!(decoded(text.as_bytes()), ["refused 1 -32600"]);
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"f","params":{open}{close}}}"#)
        };
        assert!(decoded(nested(LIMITS.depth).as_bytes())[0].starts_with("1 f ["));
        assert_eq!(decoded(nested(LIMITS.depth + 1).as_bytes()), ["refused 1 -32700"]);
        assert_eq!(decoded("[".repeat(1_000_000).as_bytes()), ["refused null -32700"]);
        // Brackets in strings do not nest, and an escaped quote does not end a string.
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"f","params":["\"[[[[[[[[[\\",1]}"#;
        assert!(decoded(text.as_bytes())[0].starts_with("1 f ["));
    }

    #[test]
    fn prefix_of_a_message_is_not_a_message() {
        let text = r#"{"jsonrpc":"2.0","id":"é","method":"f","params":[1,{"a":null}],"meta":{"hops":1}}"#;
        for at in 0..text.len() {
            assert_eq!(decoded(&text.as_bytes()[..at]), ["refused null -32700"], "cut after {at}");
        }
    }
}
