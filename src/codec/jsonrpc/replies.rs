//! What other servers answer, as they write it: JSON-RPC 2.0, its first edition, and what is close to either.
//!
//! The reader of requests is strict, since its peer gets to know what was wrong. Here nobody would.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::decode::{string, without_mark};
use super::id_at_front;
use crate::codec::json::{Quoted, Scanner, Stop};
use crate::message::{Fault, Outcome, RawJson, code, number};

/// One answer of another server.
#[derive(Debug)]
pub struct Answered {
    /// Which of our requests it answers.
    pub whose: Whose,
    /// How that ended.
    pub outcome: Outcome,
}

/// Which request something answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The one with this number.
    Number(u64),
    /// One of which the server could not tell the id.
    Null,
    /// None of ours: we give no such ids.
    Foreign,
}

impl Whose {
    /// Ours are numbers; some servers write them with a point, or as texts.
    fn of(id: Option<&str>) -> Self {
        let Some(id) = id.filter(|id| *id != "null") else { return Self::Null };
        let text = if id.starts_with('"') { string(id) } else { Some(Cow::Borrowed(id)) };
        let number = text.and_then(|text| number::whole(&text)).and_then(|number| number.parse().ok());
        number.map_or(Self::Foreign, Self::Number)
    }
}

/// Reads what answers there are in one text: one, or several in an array. Requests and notifications are passed over.
/// Of what cannot be read, an answer of which the id can be told is a fault, and the rest nothing.
pub fn replies(text: &[u8], depth: usize) -> Vec<Answered> {
    let read = match std::str::from_utf8(without_mark(text)) {
        Ok(text) => read(text, depth),
        Err(error) => Err(format!("not UTF-8 after {} bytes", error.valid_up_to())),
    };
    read.unwrap_or_else(|why| {
        let whose = whose_at_front(text);
        let unread = |whose| Answered { whose, outcome: Err(unreadable(&why)) };
        whose.into_iter().map(unread).collect()
    })
}

/// Whose answer it is of which only the beginning is known.
pub fn whose_at_front(beginning: &[u8]) -> Option<Whose> {
    id_at_front(beginning).map(|id| Whose::of(Some(id.as_json())))
}

fn unreadable(why: &str) -> Fault {
    Fault::new(code::INTERNAL, format!("a reply that cannot be read: {why}"))
}

fn read(text: &str, depth: usize) -> Result<Vec<Answered>, String> {
    let (mut scanner, mut found) = (Scanner::new(text, depth), Vec::new());
    let whole = match scanner.peek() {
        Some(b'[') => scanner.array(|scanner| one(scanner, &mut found)),
        _ => one(&mut scanner, &mut found),
    };
    match whole.and_then(|()| scanner.end()) {
        Ok(()) => Ok(found),
        Err(Stop) => Err(scanner.error().to_string()),
    }
}

fn one(scanner: &mut Scanner<'_>, found: &mut Vec<Answered>) -> Result<(), Stop> {
    if scanner.peek() != Some(b'{') {
        return scanner.skip();
    }
    let [mut id, mut method, mut result, mut error] = [None; 4];
    scanner.object(|scanner, Quoted { text, .. }| {
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
    let answers = [id, result, error].iter().any(Option::is_some);
    if answers && method.is_none_or(|method| method == "null") {
        let outcome = outcome(result, error);
        found.push(Answered { whose: Whose::of(id), outcome });
    }
    Ok(())
}

/// The first edition has both members always, one of them null; and some servers leave out a result that is null.
fn outcome(result: Option<&str>, error: Option<&str>) -> Outcome {
    match (result, error) {
        (_, Some(error)) if error != "null" => Err(fault(error)),
        (Some(result), _) => Ok(RawJson::checked(result).into_owned()),
        (None, Some(_)) => Ok(RawJson::NULL),
        (None, None) => Err(unreadable("it has neither a result nor an error")),
    }
}

/// Reads an error, which other servers may write as they like.
fn fault(json: &str) -> Fault {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow)]
        code: &'a RawValue,
        #[serde(default)]
        message: Option<String>,
        data: Option<Box<RawValue>>,
    }
    let wire = serde_json::from_str::<Wire<'_>>(json).ok().and_then(|Wire { code, message, data }| {
        let code = number::whole(code.get()).and_then(|code| code.parse().ok())?;
        Some(Fault { code, message: message.unwrap_or_default().into(), data })
    });
    wire.unwrap_or_else(|| {
        let text = string(json).map_or_else(
            || "the peer sent an error that is not JSON-RPC's; it is the data".to_owned(),
            Cow::into_owned,
        );
        let data = RawValue::from_string(json.to_owned()).ok();
        Fault { data, ..Fault::new(code::INTERNAL, text) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let one = |Answered { whose, outcome }: Answered| {
            let whose = match whose {
                Whose::Number(number) => number.to_string(),
                Whose::Null => "null".to_owned(),
                Whose::Foreign => "foreign".to_owned(),
            };
            match outcome {
                Ok(result) => format!("{whose} {result}"),
                Err(Fault { code, message, data }) => {
                    let data = data.map_or(String::new(), |data| format!(" {data}"));
                    format!("{whose} fault {code} {message}{data}")
                }
            }
        };
        replies(text.as_bytes(), 8).into_iter().map(one).collect()
    }

    #[test]
    fn answers_as_servers_write_them() {
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
                "1 fault -32603 the peer sent an error that is not JSON-RPC's; it is the data {\"code\":\"E1\"}",
            ),
            (r#"{"id":null,"error":{"code":-32700,"message":"m"}}"#, "null fault -32700 m"),
            (r#"{"error":{"code":-32700,"message":"m"}}"#, "null fault -32700 m"),
            (r#"{"id":"x","result":7}"#, "foreign 7"),
            (r#"{"id":-1,"result":7}"#, "foreign 7"),
            (r#"{"id":1.5,"result":7}"#, "foreign 7"),
            (r#"{"id":[1],"result":7}"#, "foreign 7"),
            (
                r#"{"id":1}"#,
                "1 fault -32603 a reply that cannot be read: it has neither a result nor an error",
            ),
        ] {
            assert_eq!(told(text), [expected], "{text}");
        }
        let both = r#"[{"id":1,"result":7},{"id":"2","result":8},3]"#;
        assert_eq!(told(both), ["1 7", "2 8"]);
    }

    #[test]
    fn what_is_no_answer() {
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
            assert!(told(text).is_empty(), "{text}: {:?}", told(text));
        }
        // Whose answer it was can still be told.
        for text in [
            r#"{"id":1,"result":NaN}"#,
            r#"{"id":1,"result":[[[[[[[[[[]]]]]]]]]]}"#,
            r#"{"id": "1", "result":"#,
        ] {
            assert!(told(text)[0].starts_with("1 fault -32603 a reply that cannot be read"), "{text}");
        }
    }
}
