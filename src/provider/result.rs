//! Encoding the results of functions as JSON.
//!
//! A function may return any value that is [`Serialize`]. The `Ok` of a `Result` is sent as the result, its `Err` as a
//! fault.

use std::borrow::Cow;
use std::fmt;

use serde::ser::{self, Impossible, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::message::finite::is_finite;
use crate::message::{Fault, NOT_FINITE, code};

/// The name by which a [`Fault`] is recognized in the error of a `Result`.
const FAULT: &str = "chanrpc::Fault";

/// The fields of a [`Fault`], an error object of JSON-RPC.
#[derive(serde::Serialize, serde::Deserialize)]
struct ErrorObject<'a> {
    code: i64,
    message: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Cow<'a, RawValue>>,
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let object = ErrorObject {
            code: self.code,
            message: Cow::Borrowed(&self.message),
            data: self.data.as_deref().map(Cow::Borrowed),
        };
        serializer.serialize_newtype_struct(FAULT, &object)
    }
}

/// Appends the JSON form of a result to `out`.
///
/// # Errors
/// The fault for the caller: the error of a `Result`, or [`code::INTERNAL`] if the result has no JSON form. `out` may
/// then hold a partial result, which is to be discarded.
pub(super) fn encode(out: &mut Vec<u8>, result: &impl Serialize) -> Result<(), Fault> {
    match result.serialize(Variant { out }) {
        Ok(encoded) => encoded,
        Err(NoResult) => encode_value(out, result),
    }
}

fn encode_value(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<(), Fault> {
    let start = out.len();
    serde_json::to_writer(&mut *out, value).map_err(|error| unfit(&error))?;
    if is_finite(&out[start..], value) { Ok(()) } else { Err(unfit(&NOT_FINITE)) }
}

/// Returns the fault for a result that has no JSON form.
#[cold]
fn unfit(why: &dyn fmt::Display) -> Fault {
    Fault::new(code::INTERNAL, format!("the result has no JSON form: {why}"))
}

/// Returns the fault for the error of a `Result`: the error itself if it is a [`Fault`], else [`code::FAILED`] with the
/// error as its message if it is a text, and as its data otherwise.
fn fault_of(error: &(impl Serialize + ?Sized)) -> Fault {
    if let Ok(fault) = error.serialize(AsFault) {
        return fault;
    }
    let mut json = Vec::new();
    match encode_value(&mut json, error) {
        Ok(()) => fault_of_json(json),
        Err(fault) => fault,
    }
}

/// Returns the fault for an error in its JSON form. Not generic, so that the binary has it once.
fn fault_of_json(json: Vec<u8>) -> Fault {
    match serde_json::from_slice::<String>(&json) {
        Ok(text) => Fault::new(code::FAILED, text),
        Err(_) => {
            let data = String::from_utf8(json).ok().and_then(|json| RawValue::from_string(json).ok());
            Fault { data, ..Fault::new(code::FAILED, "the function returned an error") }
        }
    }
}

/// The error of a serializer that does not find the value that it looks for.
#[derive(Debug)]
struct NoResult;

impl fmt::Display for NoResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value is of another type")
    }
}

impl std::error::Error for NoResult {}

impl ser::Error for NoResult {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Encodes the content of a `Result`, and rejects other values.
struct Variant<'a> {
    out: &'a mut Vec<u8>,
}

/// Returns a [`Fault`], and rejects other values.
struct AsFault;

macro_rules! none_of {
    ($($method:ident($($type:ty),*) -> $end:ty;)+) => {$(
        fn $method(self, $(_: $type),*) -> Result<$end, NoResult> {
            Err(NoResult)
        }
    )+};
}

/// The methods of a serializer that neither a `Result` nor a [`Fault`] calls.
macro_rules! other_values {
    ($ok:ty) => {
        type Ok = $ok;
        type Error = NoResult;
        type SerializeSeq = Impossible<$ok, NoResult>;
        type SerializeTuple = Impossible<$ok, NoResult>;
        type SerializeTupleStruct = Impossible<$ok, NoResult>;
        type SerializeTupleVariant = Impossible<$ok, NoResult>;
        type SerializeMap = Impossible<$ok, NoResult>;
        type SerializeStruct = Impossible<$ok, NoResult>;
        type SerializeStructVariant = Impossible<$ok, NoResult>;

        none_of! {
            serialize_bool(bool) -> $ok;
            serialize_i8(i8) -> $ok;
            serialize_i16(i16) -> $ok;
            serialize_i32(i32) -> $ok;
            serialize_i64(i64) -> $ok;
            serialize_i128(i128) -> $ok;
            serialize_u8(u8) -> $ok;
            serialize_u16(u16) -> $ok;
            serialize_u32(u32) -> $ok;
            serialize_u64(u64) -> $ok;
            serialize_u128(u128) -> $ok;
            serialize_f32(f32) -> $ok;
            serialize_f64(f64) -> $ok;
            serialize_char(char) -> $ok;
            serialize_str(&str) -> $ok;
            serialize_bytes(&[u8]) -> $ok;
            serialize_none() -> $ok;
            serialize_unit() -> $ok;
            serialize_unit_struct(&'static str) -> $ok;
            serialize_unit_variant(&'static str, u32, &'static str) -> $ok;
            serialize_seq(Option<usize>) -> Self::SerializeSeq;
            serialize_tuple(usize) -> Self::SerializeTuple;
            serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
            serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
            serialize_map(Option<usize>) -> Self::SerializeMap;
            serialize_struct(&'static str, usize) -> Self::SerializeStruct;
            serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<$ok, NoResult> {
            Err(NoResult)
        }
    };
}

impl Serializer for Variant<'_> {
    other_values!(Result<(), Fault>);

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: &T,
    ) -> Result<Self::Ok, NoResult> {
        Err(NoResult)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Self::Ok, NoResult> {
        // The form in which serde writes a `Result`.
        match (name, variant) {
            ("Result", "Ok") => Ok(encode_value(self.out, value)),
            ("Result", "Err") => Ok(Err(fault_of(value))),
            _ => Err(NoResult),
        }
    }
}

impl Serializer for AsFault {
    other_values!(Fault);

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Fault, NoResult> {
        if name != FAULT {
            return Err(NoResult);
        }
        let json = serde_json::to_string(value).map_err(|_| NoResult)?;
        let ErrorObject { code, message, data } = serde_json::from_str(&json).map_err(|_| NoResult)?;
        Ok(Fault { code, message: Cow::Owned(message.into_owned()), data: data.map(Cow::into_owned) })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Fault, NoResult> {
        Err(NoResult)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(result: impl Serialize) -> Result<String, (i64, String, Option<String>)> {
        let mut out = b"before ".to_vec();
        let encoded = encode(&mut out, &result);
        match encoded {
            Ok(()) => Ok(String::from_utf8(out[7..].to_vec()).unwrap()),
            Err(Fault { code, message, data }) => {
                Err((code, message.into_owned(), data.map(|data| data.get().to_owned())))
            }
        }
    }

    #[test]
    fn ok_is_the_result_and_err_a_fault() {
        #[derive(serde::Serialize)]
        enum Refusal {
            Poor { missing: u32 },
        }
        assert_eq!(encoded(5), Ok("5".into()));
        assert_eq!(encoded(Ok::<_, String>(Some("a"))), Ok("\"a\"".into()));
        assert_eq!(encoded(Err::<u8, _>("no money")), Err((code::FAILED, "no money".into(), None)));
        assert_eq!(
            encoded(Err::<u8, _>(Refusal::Poor { missing: 3 })),
            Err((
                code::FAILED,
                "the function returned an error".into(),
                Some("{\"Poor\":{\"missing\":3}}".into())
            ))
        );
    }

    #[test]
    fn a_fault_keeps_its_code_and_its_data() {
        let fault = Fault::new(7, "it is \"out\"").with_data(&["a", "b"]);
        let whole = Err((7, "it is \"out\"".into(), Some("[\"a\",\"b\"]".into())));
        assert_eq!(encoded(Err::<(), _>(fault.clone())), whole);
        let json = r#"{"code":7,"message":"it is \"out\"","data":["a","b"]}"#;
        assert_eq!(serde_json::to_string(&fault).unwrap(), json);
    }

    #[test]
    fn a_result_within_a_value_is_a_value() {
        #[derive(serde::Serialize)]
        struct Steps(Vec<Result<u8, String>>);
        assert_eq!(encoded(Steps(vec![Ok(1), Err("e".into())])), Ok(r#"[{"Ok":1},{"Err":"e"}]"#.into()));
        assert_eq!(encoded(Some(Ok::<u8, String>(1))), Ok(r#"{"Ok":1}"#.into()));
    }

    #[test]
    fn a_number_without_a_json_form_is_an_error() {
        for result in [encoded(f64::NAN), encoded(Ok::<_, String>(f64::NAN)), encoded(Err::<u8, _>(f64::NAN))]
        {
            assert_eq!(result.unwrap_err().0, code::INTERNAL);
        }
    }
}
