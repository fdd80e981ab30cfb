//! The types that codec, session, route and the network client share: messages, independent of the dialect.
//!
//! Parameters, results and error data are validated JSON texts, otherwise unchanged ([`RawJson`]), so a node that
//! forwards them never parses them.

pub(crate) mod finite;
pub(crate) mod json;
pub(crate) mod number;
mod object;
pub(crate) mod request;
mod signature;

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

pub(crate) use object::Object;
pub use signature::{Param, Schema, Signature};
pub(crate) use signature::{serialize_errors, shortened};

pub(crate) use request::{Answer, Id, Message, Meta, Outcome, Request};

/// The codes of the wire contract. See `docs/protocol.md`.
pub mod code {
    #![allow(missing_docs)]
    pub const PARSE: i64 = -32700;
    pub const INVALID_REQUEST: i64 = -32600;
    pub const UNKNOWN_FUNCTION: i64 = -32601;
    pub const INVALID_PARAMS: i64 = -32602;
    pub const INTERNAL: i64 = -32603;
    /// The function returned an error that has no code of its own.
    pub const FAILED: i64 = -32000;
    pub const NO_PROVIDER: i64 = -32001;
    pub const DENIED: i64 = -32002;
    pub const DEADLINE: i64 = -32003;
    pub const WOULD_DEADLOCK: i64 = -32004;
    pub const REQUEST_TOO_LARGE: i64 = -32007;
    pub const REPLY_TOO_LARGE: i64 = -32008;
    pub const BUSY: i64 = -32009;
    pub const BATCH_TOO_LARGE: i64 = -32010;
    pub const LOST: i64 = -32011;
    pub const HOP_LIMIT: i64 = -32012;
    pub const PROGRAM_FAILED: i64 = -32013;
    pub const CLOSED: i64 = -32014;
    pub const TAKEN: i64 = -32015;
    pub const CANCELLED: i64 = -32800;
}

/// The error for a value with a number that has no JSON form.
pub(crate) const NOT_FINITE: &str =
    "a number in it is NaN or infinite; give null, a text or an error instead";

/// A JSON text, validated and unchanged.
#[derive(Clone, PartialEq, Eq)]
pub struct RawJson<'a>(Cow<'a, str>);

impl<'a> RawJson<'a> {
    /// `null`.
    pub const NULL: RawJson<'static> = RawJson(Cow::Borrowed("null"));

    /// Wraps a text that is known to be JSON.
    pub(crate) fn checked(text: impl Into<Cow<'a, str>>) -> Self {
        Self(text.into())
    }

    /// Wraps bytes that were written as JSON.
    ///
    /// # Errors
    /// [`code::INTERNAL`] if they are not UTF-8.
    pub(crate) fn written(json: Vec<u8>) -> Result<RawJson<'static>, Fault> {
        match String::from_utf8(json) {
            Ok(text) => Ok(RawJson(text.into())),
            Err(error) => Err(Fault::new(code::INTERNAL, format!("the result is not UTF-8: {error}"))),
        }
    }

    /// Serializes a value.
    ///
    /// # Errors
    /// If the value's `Serialize` fails, or a number is not finite and so has no JSON form.
    pub fn of(value: &(impl serde::Serialize + ?Sized)) -> Result<RawJson<'static>, serde_json::Error> {
        let text = serde_json::to_string(value)?;
        if finite::is_finite(text.as_bytes(), value) {
            Ok(RawJson(text.into()))
        } else {
            Err(serde::ser::Error::custom(NOT_FINITE))
        }
    }

    /// Returns the text.
    pub fn get(&self) -> &str {
        &self.0
    }

    /// Borrows the text.
    pub fn borrowed(&self) -> RawJson<'_> {
        RawJson(Cow::Borrowed(&self.0))
    }

    /// Returns an owned copy.
    pub fn into_owned(self) -> RawJson<'static> {
        RawJson(self.0.into_owned().into())
    }
}

impl<'a> From<&'a RawValue> for RawJson<'a> {
    fn from(value: &'a RawValue) -> Self {
        Self(value.get().into())
    }
}

impl From<Box<RawValue>> for RawJson<'static> {
    fn from(value: Box<RawValue>) -> Self {
        Self(String::from(Box::<str>::from(value)).into())
    }
}

impl fmt::Display for RawJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RawJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error on the wire: a [`code`], a message for people, and data for programs.
#[derive(Clone, Debug)]
pub struct Fault {
    /// One of [`code`], or a code of the function.
    pub code: i64,
    /// The cause, and what to do about it.
    pub message: Cow<'static, str>,
    /// Further details, as JSON.
    pub data: Option<Box<RawValue>>,
}

/// The data of a fault without an answer: whether the call was sent.
#[derive(serde::Serialize, serde::Deserialize)]
struct Sent {
    sent: bool,
}

impl Fault {
    /// Creates a fault without data.
    pub fn new(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// Creates a fault of [`code::INVALID_PARAMS`].
    pub fn invalid_params(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code::INVALID_PARAMS, message)
    }

    /// Creates a fault of [`code::NO_PROVIDER`]: the provider is absent, so the call has not run and can be repeated.
    /// Its data is `{"sent": false}`.
    pub fn not_sent(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code::NO_PROVIDER, message).with_data(&Sent { sent: false })
    }

    /// Creates a fault of [`code::LOST`]: the provider was lost with the call in flight, so it may have run. Its data
    /// is `{"sent": true}`.
    pub fn lost(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code::LOST, message).with_data(&Sent { sent: true })
    }

    /// Notes in the data that the call has not run.
    pub(crate) fn unsent(self) -> Self {
        self.with_data(&Sent { sent: false })
    }

    /// Returns `true` if the data says that the call has not run.
    pub(crate) fn is_unsent(&self) -> bool {
        let data = self.data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok());
        data.is_some_and(|Sent { sent }| !sent)
    }

    /// Sets the data.
    ///
    /// # Panics
    /// If the data's `Serialize` fails, or a number in it is not finite.
    #[must_use]
    pub fn with_data(mut self, data: &impl serde::Serialize) -> Self {
        let data = RawJson::of(data).and_then(|json| RawValue::from_string(json.0.into_owned()));
        self.data = Some(data.expect("the data serializes"));
        self
    }

    /// Inserts `node` at the front of `data.via`, the path of the call. Other data, and data that is not an object,
    /// stay unchanged.
    #[must_use]
    pub(crate) fn through(mut self, node: &str) -> Self {
        let node = serde_json::to_string(node).unwrap_or_default();
        let text = match &self.data {
            None => Some(format!("{{\"via\":[{node}]}}")),
            Some(data) => enter(data.get(), &node),
        };
        if let Some(data) = text.and_then(|text| RawValue::from_string(text).ok()) {
            self.data = Some(data);
        }
        self
    }
}

/// Inserts `node` at the front of `via` in the text of an object.
fn enter(object: &str, node: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Object<'a> {
        #[serde(borrow, default, deserialize_with = "there")]
        via: Option<&'a RawValue>,
    }
    /// Including `null`.
    fn there<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
        serde::Deserialize::deserialize(value).map(Some)
    }
    let (open, rest) = (object.find('{')? + 1, object.trim_end().strip_suffix('}')?);
    let Some(via) = serde_json::from_str::<Object<'_>>(object).ok()?.via else {
        let members = &rest[open..];
        let comma = if members.trim_ascii().is_empty() { "" } else { "," };
        return Some(format!("{rest}{comma}\"via\":[{node}]}}"));
    };
    let names = via.get().strip_prefix('[')?;
    let at = names.as_ptr() as usize - object.as_ptr() as usize;
    let comma = if names.trim_ascii_start() == "]" { "" } else { "," };
    Some(format!("{}{node}{comma}{names}{}", &object[..at], &object[at + names.len()..]))
}

impl PartialEq for Fault {
    /// Faults are equal if their codes, messages and the texts of their data are.
    fn eq(&self, other: &Self) -> bool {
        let data = [self, other].map(|fault| fault.data.as_ref().map(|data| data.get()));
        self.code == other.code && self.message == other.message && data[0] == data[1]
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_entered_and_nothing_else_changes() {
        let through = |data: &str| {
            let data = RawValue::from_string(data.to_owned()).unwrap();
            Fault { data: Some(data), ..Fault::new(1, "") }.through("a\"").data.unwrap().get().to_owned()
        };
        for (data, expected) in [
            ("{}", r#"{"via":["a\""]}"#),
            ("{ }", r#"{ "via":["a\""]}"#),
            (
                r#"{"z":0.1234567890123456789,"a":1e400}"#,
                r#"{"z":0.1234567890123456789,"a":1e400,"via":["a\""]}"#,
            ),
            (r#"{"via":["b"],"x":"\ud800"}"#, r#"{"via":["a\"","b"],"x":"\ud800"}"#),
            (r#"{"via":[ ],"x":{"via":1}}"#, r#"{"via":["a\"" ],"x":{"via":1}}"#),
            (r#"{"x":{"via":["c"]},"v\u0069a": ["b"] }"#, r#"{"x":{"via":["c"]},"v\u0069a": ["a\"","b"] }"#),
            (r#"{"via":null}"#, r#"{"via":null}"#),
            (r#"{"via":7}"#, r#"{"via":7}"#),
            ("[1]", "[1]"),
            ("null", "null"),
            ("7.0", "7.0"),
        ] {
            assert_eq!(through(data), expected, "{data}");
        }
        assert_eq!(Fault::new(1, "").through("a").data.unwrap().get(), r#"{"via":["a"]}"#);
    }

    #[test]
    fn data_with_no_form_is_not_null() {
        assert!(RawJson::of(&[1.0, f64::NAN]).is_err());
        assert_eq!(RawJson::of(&(None::<f64>, 1.5)).unwrap().get(), "[null,1.5]");
    }
}
