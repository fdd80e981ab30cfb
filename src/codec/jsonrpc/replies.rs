//! Decodes the replies of other servers: JSON-RPC 2.0, 1.0, and common deviations from both.
//!
//! Requests are decoded strictly, since their sender gets an error. Nobody would get an error about a reply, so replies
//! are decoded leniently.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::id_in_prefix;
use super::prefix::without_bom;
use crate::message::json::{JsonStr, ScanFailed, Scanner, string};
use crate::message::{Fault, Id, Outcome, RawJson, code, number};

/// Decodes the replies in one text: one, or several in an array. Ignores requests and notifications. A reply that
/// cannot be decoded becomes a fault if its id can be read, and is ignored otherwise. A missing id is null.
pub(super) fn decode_replies(text: &[u8], depth: usize) -> Vec<(Id<'static>, Outcome)> {
    let decoded = match std::str::from_utf8(without_bom(text)) {
        Ok(text) => scan(text, depth),
        Err(error) => Err(format!("not UTF-8 after {} bytes", error.valid_up_to())),
    };
    decoded.unwrap_or_else(|reason| {
        id_in_prefix(text).map(|id| (id.into_owned(), Err(unreadable(&reason)))).into_iter().collect()
    })
}

/// Returns the id for a value that cannot be one.
fn not_ours() -> Id<'static> {
    Id::from_json("\"\"").unwrap_or_else(Id::null)
}

fn unreadable(reason: &str) -> Fault {
    Fault::new(code::INTERNAL, format!("cannot decode the reply: {reason}"))
}

fn scan(text: &str, depth: usize) -> Result<Vec<(Id<'static>, Outcome)>, String> {
    let (mut scanner, mut found) = (Scanner::new(text, depth), Vec::new());
    let scanned = match scanner.peek() {
        Some(b'[') => scanner.array(|scanner| scan_reply(scanner, &mut found)),
        _ => scan_reply(&mut scanner, &mut found),
    };
    match scanned.and_then(|()| scanner.expect_end()) {
        Ok(()) => Ok(found),
        Err(ScanFailed) => Err(scanner.error().to_string()),
    }
}

fn scan_reply(scanner: &mut Scanner<'_>, found: &mut Vec<(Id<'static>, Outcome)>) -> Result<(), ScanFailed> {
    if scanner.peek() != Some(b'{') {
        return scanner.skip();
    }
    let [mut id, mut method, mut result, mut error] = [None; 4];
    scanner.object(|scanner, JsonStr { text, .. }| {
        let value = scanner.value()?;
        match text {
            "id" => id = Some(value),
            "method" => method = Some(value),
            "result" => result = Some(value),
            "error" => error = Some(value),
            _ => {}
        }
        Ok(())
    })?;
    let is_reply = [id, result, error].iter().any(Option::is_some);
    if is_reply && method.is_none_or(|method| method == "null") {
        let id = id.map_or_else(Id::null, |id| Id::from_json(id).map_or_else(not_ours, Id::into_owned));
        found.push((id, outcome(result, error)));
    }
    Ok(())
}

/// JSON-RPC 1.0 always has both members, one of them null. Some servers omit a result that is null.
pub(super) fn outcome(result: Option<&str>, error: Option<&str>) -> Outcome {
    match (result, error) {
        (_, Some(error)) if error != "null" => Err(fault(error)),
        (Some(result), _) => Ok(RawJson::checked(result).into_owned()),
        (None, Some(_)) => Ok(RawJson::NULL),
        (None, None) => Err(unreadable("it has neither a result nor an error")),
    }
}

/// Decodes an error, whose form varies between servers.
fn fault(json: &str) -> Fault {
    #[derive(Deserialize)]
    struct RawError<'a> {
        #[serde(borrow)]
        code: &'a RawValue,
        #[serde(default)]
        message: Option<String>,
        data: Option<Box<RawValue>>,
    }
    let fault =
        serde_json::from_str::<RawError<'_>>(json).ok().and_then(|RawError { code, message, data }| {
            let code = number::whole(code.get()).and_then(|code| code.parse().ok())?;
            Some(Fault { code, message: message.unwrap_or_default().into(), data })
        });
    fault.unwrap_or_else(|| {
        let text = string(json).map_or_else(
            || "the peer sent an error that is not a JSON-RPC error object; it is in the data".to_owned(),
            Cow::into_owned,
        );
        let data = RawValue::from_string(json.to_owned()).ok();
        Fault { data, ..Fault::new(code::INTERNAL, text) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Vec<String> {
        let summary = |(id, outcome): (Id<'_>, Outcome)| {
            let id = match id.number() {
                Some(number) => number.to_string(),
                None if id == Id::null() => "null".to_owned(),
                None => "foreign".to_owned(),
            };
            match outcome {
                Ok(result) => format!("{id} {result}"),
                Err(Fault { code, message, data }) => {
                    let data = data.map_or(String::new(), |data| format!(" {data}"));
                    format!("{id} fault {code} {message}{data}")
                }
            }
        };
        decode_replies(text.as_bytes(), 8).into_iter().map(summary).collect()
    }

    #[test]
    fn decodes_replies_of_other_servers() {
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":[1.50]}"#, "1 [1.50]"),
            (r#"{"id":1,"result":7}"#, "1 7"),
            (r#"{"jsonrpc":"1.0","id":1,"result":7}"#, "1 7"),
            (r#"{"result":7,"error":null,"id":1}"#, "1 7"),
            (r#"{"jsonrpc":"2.0","id":1.0,"result":7}"#, "1 7"),
            (r#"{"jsonrpc":"2.0","id":1e0,"result":7}"#, "1 7"),
            (r#"{"jsonrpc":"2.0","id":"1","result":7}"#, "1 7"),
            (r#"{"jsonrpc":"2.0","id":"\u0031","result":7}"#, "1 7"),
            (r#"{"id":18446744073709551615,"result":7}"#, "18446744073709551615 7"),
            (r#"{"id":1,"result":null}"#, "1 null"),
            (r#"{"id":1,"error":null}"#, "1 null"),
            (r#"{"id":1,"result":null,"error":null,"method":null}"#, "1 null"),
            (r#"{"id":1,"result":7,"time":0.1,"x":{"id":2,"error":1}}"#, "1 7"),
            (r#"[{"jsonrpc":"2.0","id":1,"result":7}]"#, "1 7"),
            ("\u{feff} {\"id\":1,\"result\":7} ", "1 7"),
            (r#"{"id":1,"error":{"code":-5,"message":"m","data":[1.0]}}"#, "1 fault -5 m [1.0]"),
            (r#"{"id":1,"result":null,"error":{"code":-5,"message":"m"}}"#, "1 fault -5 m"),
            (r#"{"id":1,"result":7,"error":{"code":-5,"message":"m"}}"#, "1 fault -5 m"),
            (r#"{"id":1,"error":{"code":-5.0,"more":1}}"#, "1 fault -5 "),
            (r#"{"id":1,"error":"no"}"#, "1 fault -32603 no \"no\""),
            (
                r#"{"id":1,"error":{"code":"E1"}}"#,
                "1 fault -32603 the peer sent an error that is not a JSON-RPC error object; it is in the data {\"code\":\"E1\"}",
            ),
            (r#"{"id":null,"error":{"code":-32700,"message":"m"}}"#, "null fault -32700 m"),
            (r#"{"error":{"code":-32700,"message":"m"}}"#, "null fault -32700 m"),
            (r#"{"id":"x","result":7}"#, "foreign 7"),
            (r#"{"id":-1,"result":7}"#, "foreign 7"),
            (r#"{"id":1.5,"result":7}"#, "foreign 7"),
            (r#"{"id":[1],"result":7}"#, "foreign 7"),
            (r#"{"id":1}"#, "1 fault -32603 cannot decode the reply: it has neither a result nor an error"),
        ] {
            assert_eq!(decoded(text), [expected], "{text}");
        }
        let both = r#"[{"id":1,"result":7},{"id":"2","result":8},3]"#;
        assert_eq!(decoded(both), ["1 7", "2 8"]);
    }

    #[test]
    fn ignores_other_messages() {
        for text in [
            "",
            "{",
            "{}",
            "nonsense",
            "1",
            "[]",
            "[[]]",
            r#"{"method":"f","id":1}"#,
            r#"{"method":"f","params":[]}"#,
        ] {
            assert!(decoded(text).is_empty(), "{text}: {:?}", decoded(text));
        }
        // The id can still be read.
        for text in [
            r#"{"id":1,"result":NaN}"#,
            r#"{"id":1,"result":[[[[[[[[[[]]]]]]]]]]}"#,
            r#"{"id": "1", "result":"#,
        ] {
            assert!(decoded(text)[0].starts_with("1 fault -32603 cannot decode the reply"), "{text}");
        }
    }
}
