//! Finds numbers without a JSON form in a value.
//!
//! serde_json writes `null` for NaN and infinite numbers, which a reader cannot distinguish from a missing value.

use std::fmt;

use serde::ser::{self, Serialize};

/// Returns `true` if all numbers of a value are finite. `json` is its JSON form; the value is only inspected if that
/// contains a `null`.
pub(crate) fn is_finite(json: &[u8], value: &(impl Serialize + ?Sized)) -> bool {
    memchr::memmem::find(json, b"null").is_none() || value.serialize(Finite).is_ok()
}

/// Serializes a value to nothing, and fails at a number that is not finite.
#[derive(Clone, Copy)]
struct Finite;

/// The value has such a number, or its `Serialize` failed.
#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number that is not finite")
    }
}

impl std::error::Error for Stop {}

impl ser::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type End = Result<(), Stop>;

macro_rules! plain {
    ($($method:ident $type:ty;)+) => {$(
        fn $method(self, _: $type) -> End {
            Ok(())
        }
    )+};
}

impl ser::Serializer for Finite {
    type Ok = ();
    type Error = Stop;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    plain! {
        serialize_bool bool; serialize_char char; serialize_str &str; serialize_bytes &[u8];
        serialize_i8 i8; serialize_i16 i16; serialize_i32 i32; serialize_i64 i64; serialize_i128 i128;
        serialize_u8 u8; serialize_u16 u16; serialize_u32 u32; serialize_u64 u64; serialize_u128 u128;
        serialize_unit_struct &'static str;
    }

    fn serialize_f32(self, number: f32) -> End {
        number.is_finite().then_some(()).ok_or(Stop)
    }

    fn serialize_f64(self, number: f64) -> End {
        number.is_finite().then_some(()).ok_or(Stop)
    }

    fn serialize_none(self) -> End {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> End {
        value.serialize(self)
    }

    fn serialize_unit(self) -> End {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> End {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> End {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> End {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Stop> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Stop> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Stop> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Stop> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Stop> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Stop> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Stop> {
        Ok(self)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> End {
        Ok(())
    }
}

macro_rules! parts {
    ($($part:ident $method:ident;)+) => {$(
        impl ser::$part for Finite {
            type Ok = ();
            type Error = Stop;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> End {
                value.serialize(*self)
            }

            fn end(self) -> End {
                Ok(())
            }
        }
    )+};
}

parts! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! members {
    ($($part:ident)+) => {$(
        impl ser::$part for Finite {
            type Ok = ();
            type Error = Stop;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> End {
                value.serialize(*self)
            }

            fn end(self) -> End {
                Ok(())
            }
        }
    )+};
}

members! { SerializeStruct SerializeStructVariant }

impl ser::SerializeMap for Finite {
    type Ok = ();
    type Error = Stop;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> End {
        key.serialize(*self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> End {
        value.serialize(*self)
    }

    fn end(self) -> End {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[derive(serde::Serialize)]
    enum Shape {
        Unit,
        New(f64),
        Tuple(u8, f64),
        Struct { a: f64 },
    }

    #[derive(serde::Serialize)]
    struct All {
        absent: Option<u8>,
        there: Option<f32>,
        unit: (),
        list: Vec<Shape>,
        map: BTreeMap<u8, (char, f64)>,
    }

    fn checked(value: &impl Serialize) -> bool {
        is_finite(&serde_json::to_vec(value).unwrap(), value)
    }

    fn all(number: f64, place: usize) -> All {
        let at = |here: usize| if here == place { number } else { 1.5 };
        All {
            absent: None,
            there: Some(at(0) as f32),
            unit: (),
            list: vec![Shape::Unit, Shape::New(at(1)), Shape::Tuple(1, at(2)), Shape::Struct { a: at(3) }],
            map: BTreeMap::from([(1, ('a', at(4)))]),
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_found_at_any_depth() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(!checked(&number) && !checked(&(number as f32)) && !checked(&[Some(vec![number])]));
            for place in 0..5 {
                assert!(!checked(&all(number, place)), "{number} at {place}");
            }
        }
    }

    #[test]
    fn null_alone_is_no_fault() {
        assert!(checked(&all(f64::MAX, 0)) || f64::MAX as f32 == f32::INFINITY);
        assert!(checked(&all(1.0, 0)) && checked(&()) && checked(&None::<f64>) && checked(&"null"));
        assert!(checked(&json!({ "a": [null, 1.5, "null"] })));
        let raw = serde_json::value::RawValue::from_string("[null, 1e400]".into()).unwrap();
        assert!(checked(&raw));
    }
}
