//! Requests in the form in which most clients write them: without white space or escapes around the parameters, and with
//! the members in one of two orders. They are decoded without the general scanner, in less than half the time.

use crate::message::json::{Scanner, unescaped_len};
use crate::message::{Id, RawJson};

const VERSION: &str = r#"{"jsonrpc":"2.0","#;
const ID: &str = r#""id":"#;
const METHOD: &str = r#""method":""#;
const PARAMS: &str = r#","params":"#;

/// A request in a common form. Smaller than a `Request`, since it is moved once for each call.
#[derive(Clone, Copy, Debug)]
pub struct CommonRequest<'a> {
    id: &'a str,
    /// The function's name.
    pub method: &'a str,
    params: Option<&'a str>,
}

impl<'a> CommonRequest<'a> {
    /// Returns the id.
    pub fn id(self) -> Option<Id<'a>> {
        Id::from_json(self.id)
    }

    /// Returns the parameters, if any.
    pub fn params(self) -> Option<RawJson<'a>> {
        self.params.map(RawJson::checked)
    }
}

/// Decodes `{"jsonrpc":"2.0","id":1,"method":"f","params":[]}`, or the same with the id at the end; the id consists of
/// at most 20 digits, and the parameters may be missing. Returns `None` for every other text, valid or not.
#[inline(always)]
pub fn common_request(text: &str, max_depth: usize) -> Option<CommonRequest<'_>> {
    let rest = text.strip_prefix(VERSION)?;
    let (id, method, params) = match rest.strip_prefix(ID) {
        Some(rest) => {
            let (id, rest) = digits(rest)?;
            let (method, params, rest) = call(rest.strip_prefix(',')?, max_depth)?;
            (rest == "}").then_some((id, method, params))?
        }
        None => {
            let (method, params, rest) = call(rest, max_depth)?;
            let (id, rest) = digits(rest.strip_prefix(',')?.strip_prefix(ID)?)?;
            (rest == "}").then_some((id, method, params))?
        }
    };
    Some(CommonRequest { id, method, params })
}

/// Splits off an integer.
#[inline]
fn digits(text: &str) -> Option<(&str, &str)> {
    let length = text.bytes().position(|byte| !byte.is_ascii_digit())?;
    ((1..=20).contains(&length) && (length == 1 || !text.starts_with('0'))).then(|| text.split_at(length))
}

/// Splits off a method and its parameters.
#[inline]
fn call(text: &str, max_depth: usize) -> Option<(&str, Option<&str>, &str)> {
    let rest = text.strip_prefix(METHOD)?;
    let (method, rest) = rest.split_at_checked(unescaped_len(rest.as_bytes()))?;
    let rest = rest.strip_prefix('"')?;
    let Some(rest) = rest.strip_prefix(PARAMS) else { return Some((method, None, rest)) };
    if !rest.starts_with(['[', '{']) {
        return None;
    }
    let mut scanner = Scanner::nested(rest, 1, max_depth);
    scanner.skip().ok()?;
    let (params, rest) = rest.split_at(scanner.position());
    Some((method, Some(params), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::decode::decode_text;
    use super::super::tests::{LIMITS, summary};
    use super::*;
    use crate::codec::frame::Decoded;
    use crate::message::{Message, Meta, Request};

    fn check(text: &str) -> bool {
        let Some(common) = common_request(text, LIMITS.depth) else { return false };
        let (id, method, params) = (common.id(), common.method.into(), common.params());
        let request = Request { id, method, params, meta: Meta::default() };
        let Decoded::Single(general) = decode_text(text, LIMITS) else { panic!("not one message: {text}") };
        assert_eq!(summary(&Ok(Message::Request(request))), summary(&general), "{text}");
        true
    }

    #[test]
    fn common_forms_are_decoded() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"f"}"#,
            r#"{"jsonrpc":"2.0","id":0,"method":"f","params":[]}"#,
            r#"{"jsonrpc":"2.0","id":12345678901234567890,"method":"demo.add","params":[2, {"a":"]é\""}]}"#,
            r#"{"jsonrpc":"2.0","method":"f","id":1}"#,
            r#"{"jsonrpc":"2.0","method":"é","params":{"a":[1]},"id":7}"#,
        ] {
            assert!(check(text), "{text}");
        }
    }

    #[test]
    fn other_forms_are_left_to_the_general_decoder() {
        for text in [
            r#"{"jsonrpc":"2.0","id":01,"method":"f"}"#,
            r#"{"jsonrpc":"2.0","id":1.5,"method":"f"}"#,
            r#"{"jsonrpc":"2.0","id":,"method":"f"}"#,
            r#"{"jsonrpc":"2.0","id":"1","method":"f"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"\u0066"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"f","params":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"f","params":[}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"f","params":[]} "#,
            r#"{"jsonrpc":"2.0","id":1,"method":"f","params":[],"meta":{}}"#,
            r#"{"jsonrpc":"2.0","method":"f","params":[],"id":1,"id":2}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"f","params":[[[[[[[[1]]]]]]]]}"#,
            r#"{"jsonrpc":"2.0","method":"f"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"f"#,
            r#"{"jsonrpc":"2.0","#,
        ] {
            assert!(!check(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn both_decoders_agree(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    VERSION, ID, METHOD, PARAMS, "1", "0", ",", "f\"", "[]", "[1,2]", "{}", "{\"a\":1}", "}", "\\", "é",
                    " ", "null", "\"", "[",
                ]),
                0..9,
            )
        ) {
            check(&pieces.concat());
            check(&format!("{VERSION}{ID}{}", pieces.concat()));
            check(&format!("{VERSION}{METHOD}f\"{}", pieces.concat()));
        }
    }
}
