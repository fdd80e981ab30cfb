//! What a function takes, found by deserializing its arguments from nothing: each type asks its deserializer for what it
//! is made of, and the answers are recorded.

use std::any::TypeId;
use std::cell::Cell;
use std::fmt::{self, Write};

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use crate::chan::panic;
use crate::message::{Param, Schema, Signature};

/// How deep types are followed. A type that contains itself ends there.
const MAX_DEPTH: usize = 6;
/// How many parts of a type are looked at.
const MAX_PARTS: usize = 1000;

/// Returns the signature of a function with arguments `A` and result `R`, as far as the types show it.
pub(super) fn signature<A: DeserializeOwned, R: 'static>() -> Signature {
    Signature { params: params(trace::<A>), result: result(TypeId::of::<R>()), ..Signature::default() }
}

/// [`trace`] of a type. What calls it is compiled once, not for each type.
type Trace = fn(Option<&[usize]>) -> (Shape, Result<(), Ended>);

fn params(trace: Trace) -> Option<Vec<Param>> {
    let param = |(index, shape): (usize, Shape)| {
        let param = Param::new(index.to_string(), shape.schema());
        if let Shape::Optional(_) = shape { param.optional() } else { param }
    };
    match trace(None).0 {
        Shape::Null => Some(Vec::new()),
        Shape::Tuple(elements) => Some(elements.into_iter().enumerate().map(param).collect()),
        Shape::Struct(fields) => Some(fields_as_params(trace, &fields)),
        // Any number of parameters, or unknown ones.
        Shape::Any | Shape::Array(_) | Shape::Map => None,
        shape => Some(vec![param((0, shape))]),
    }
}

fn fields_as_params(trace: Trace, fields: &[(&'static str, Shape)]) -> Vec<Param> {
    // The fields without which no value is made, one after the other.
    let mut required = Vec::new();
    let is_complete = loop {
        let ended = trace(Some(&required)).1;
        let missing = |name| fields.iter().position(|(field, _)| *field == name);
        match ended {
            Err(Ended::Missing(name)) => match missing(name).filter(|index| !required.contains(index)) {
                Some(index) => required.push(index),
                None => break false,
            },
            ended => break ended.is_ok(),
        }
    };
    // Serde lists the aliases of a field beside its name, and accepts one of them.
    let is_alias = |index: usize| {
        let is_alias_beside = |first: usize| {
            let ended = trace(Some(&[first, first + 1])).1;
            matches!(ended, Err(Ended::Duplicate(name)) if name != fields[index].0)
        };
        is_alias_beside(index) || (index > 0 && is_alias_beside(index - 1))
    };
    let params = (0..fields.len()).filter(|index| !is_alias(*index)).map(|index| {
        // Alone, since a field of which no value is made ends the trace.
        let shape = match trace(Some(&[index])).0 {
            Shape::Struct(mut fields) => fields.swap_remove(index).1,
            _ => Shape::Any,
        };
        let param = Param::new(fields[index].0, shape.schema());
        let is_optional =
            if is_complete { !required.contains(&index) } else { matches!(shape, Shape::Optional(_)) };
        if is_optional { param.optional() } else { param }
    });
    params.collect()
}

/// Returns the schema of common types of results.
fn result(of: TypeId) -> Option<Schema> {
    let is = |types: &[TypeId]| types.contains(&of);
    macro_rules! ids {
        ($($type:ty),+) => { [$(TypeId::of::<$type>()),+] };
    }
    if is(&ids!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize)) {
        Some(Schema::integer())
    } else if is(&ids!(f32, f64)) {
        Some(Schema::number())
    } else if is(&ids!(String, &'static str, char)) {
        Some(Schema::string())
    } else if is(&ids!(bool)) {
        Some(Schema::boolean())
    } else if is(&ids!(())) {
        Some(Schema::null())
    } else {
        None
    }
}

/// Returns the shape of `A`, and why no value was made. The outermost struct gets only the fields in `given`.
fn trace<A: DeserializeOwned>(given: Option<&[usize]>) -> (Shape, Result<(), Ended>) {
    let (mut shape, parts) = (Shape::Any, Cell::new(0));
    let tracer = Tracer { shape: &mut shape, depth: 0, given, parts: &parts };
    // The types are the user's, and may not expect such values. Dropping a value may also run user code.
    let traced = panic::with_capture(0, || panic::catch(|| A::deserialize(tracer).map(drop)));
    (shape, traced.unwrap_or(Err(Ended::Other)))
}

/// What a type is made of.
enum Shape {
    Any,
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Optional(Box<Shape>),
    Array(Box<Shape>),
    Tuple(Vec<Shape>),
    Struct(Vec<(&'static str, Shape)>),
    Map,
}

impl Shape {
    fn schema(&self) -> Schema {
        match self {
            Self::Optional(inner) => inner.schema(),
            shape => {
                let mut json = String::new();
                shape.write(&mut json);
                Schema::written(&json, shape.type_name())
            }
        }
    }

    /// Returns the name of the type in JSON, if it is a single one.
    fn type_name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Any | Self::Optional(_) => return None,
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::String => "string",
            Self::Array(_) | Self::Tuple(_) => "array",
            Self::Struct(_) | Self::Map => "object",
        })
    }

    /// Appends the schema as JSON.
    fn write(&self, out: &mut String) {
        let Some(name) = self.type_name() else {
            return match self {
                Self::Optional(inner) => {
                    out.push_str("{\"anyOf\":[");
                    inner.write(out);
                    out.push_str(",{\"type\":\"null\"}]}");
                }
                _ => out.push_str("{}"),
            };
        };
        let _ = write!(out, "{{\"type\":\"{name}\"");
        match self {
            Self::Array(element) => {
                out.push_str(",\"items\":");
                element.write(out);
            }
            Self::Tuple(elements) => {
                let length = elements.len();
                let _ = write!(out, ",\"minItems\":{length},\"maxItems\":{length},\"items\":[");
                for (index, element) in elements.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    element.write(out);
                }
                out.push(']');
            }
            Self::Struct(fields) => {
                out.push_str(",\"properties\":{");
                for (index, (name, field)) in fields.iter().enumerate() {
                    // The name of a Rust field, or any text of serde's `rename`.
                    let name = serde_json::to_string(name).unwrap_or_default();
                    let _ = write!(out, "{}{name}:", if index > 0 { "," } else { "" });
                    field.write(out);
                }
                out.push('}');
            }
            _ => {}
        }
        out.push('}');
    }
}

/// A deserializer that records what it is asked for, and answers with a value of that type.
struct Tracer<'t> {
    shape: &'t mut Shape,
    depth: usize,
    /// The fields of this struct that get a value, if not all.
    given: Option<&'t [usize]>,
    /// The number of parts looked at.
    parts: &'t Cell<usize>,
}

impl<'t> Tracer<'t> {
    fn inside<'s>(&self, shape: &'s mut Shape) -> Tracer<'s>
    where
        't: 's,
    {
        self.parts.set(self.parts.get() + 1);
        Tracer { shape, depth: self.depth + 1, given: None, parts: self.parts }
    }

    /// Returns `true` if the parts of a type are still followed.
    fn goes_on(&self) -> bool {
        self.depth < MAX_DEPTH && self.parts.get() < MAX_PARTS
    }
}

/// The end of a trace.
#[derive(Debug)]
enum Ended {
    /// The outermost struct lacks this field.
    Missing(&'static str),
    /// The outermost struct was given this field twice, once by an alias.
    Duplicate(&'static str),
    /// A type of which no value was made.
    Other,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no value was made of nothing")
    }
}

impl std::error::Error for Ended {}

impl de::Error for Ended {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Other
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::Duplicate(field)
    }
}

macro_rules! scalars {
    ($($method:ident = $shape:ident, $visit:ident($value:expr);)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
            *self.shape = Shape::$shape;
            visitor.$visit($value)
        }
    )+};
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Ended;

    // Types that exclude zero accept one.
    scalars! {
        deserialize_bool = Boolean, visit_bool(false);
        deserialize_i8 = Integer, visit_i64(1);
        deserialize_i16 = Integer, visit_i64(1);
        deserialize_i32 = Integer, visit_i64(1);
        deserialize_i64 = Integer, visit_i64(1);
        deserialize_i128 = Integer, visit_i64(1);
        deserialize_u8 = Integer, visit_u64(1);
        deserialize_u16 = Integer, visit_u64(1);
        deserialize_u32 = Integer, visit_u64(1);
        deserialize_u64 = Integer, visit_u64(1);
        deserialize_u128 = Integer, visit_u64(1);
        deserialize_f32 = Number, visit_f64(1.0);
        deserialize_f64 = Number, visit_f64(1.0);
        deserialize_char = String, visit_char('a');
        deserialize_str = String, visit_str("a");
        deserialize_string = String, visit_str("a");
        deserialize_bytes = Any, visit_bytes(b"a");
        deserialize_byte_buf = Any, visit_bytes(b"a");
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        visitor.visit_unit()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        visitor.visit_str("a")
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        *self.shape = Shape::Null;
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        let mut inner = Shape::Any;
        // What is inside must not end the trace.
        let made = if self.goes_on() && self.depth + 1 < MAX_DEPTH {
            visitor.visit_some(self.inside(&mut inner))
        } else {
            visitor.visit_none()
        };
        *self.shape = Shape::Optional(Box::new(inner));
        made
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        let mut element = vec![Shape::Any];
        let length = usize::from(self.goes_on() && self.depth + 1 < MAX_DEPTH);
        let made = visitor.visit_seq(Elements { tracer: &self, shapes: element[..length].iter_mut() });
        *self.shape = Shape::Array(Box::new(element.remove(0)));
        made
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Ended> {
        if !self.goes_on() || length > MAX_PARTS {
            return Err(Ended::Other);
        }
        let mut shapes: Vec<_> = (0..length).map(|_| Shape::Any).collect();
        let made = visitor.visit_seq(Elements { tracer: &self, shapes: shapes.iter_mut() });
        *self.shape = Shape::Tuple(shapes);
        made
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        *self.shape = Shape::Map;
        visitor.visit_map(Fields { tracer: &self, fields: [].iter_mut(), value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        if !self.goes_on() {
            return Err(Ended::Other);
        }
        let mut shapes: Vec<_> = fields.iter().map(|name| (*name, Shape::Any)).collect();
        let is_given = |index: &usize| self.given.is_none_or(|given| given.contains(index));
        let given =
            shapes.iter_mut().enumerate().filter(|(index, _)| is_given(index)).map(|(_, field)| field);
        let made = visitor.visit_map(Fields { tracer: &self, fields: given, value: None });
        *self.shape = Shape::Struct(shapes);
        made
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        let first = variants.first().ok_or(Ended::Other)?;
        visitor.visit_enum(StrDeserializer::<Ended>::new(first))
    }
}

/// The elements of a sequence or a tuple.
struct Elements<'a, 't, I> {
    tracer: &'a Tracer<'t>,
    shapes: I,
}

impl<'de, 's, I: Iterator<Item = &'s mut Shape>> de::SeqAccess<'de> for Elements<'_, '_, I> {
    type Error = Ended;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Ended> {
        let Some(shape) = self.shapes.next() else { return Ok(None) };
        seed.deserialize(self.tracer.inside(shape)).map(Some)
    }
}

/// The fields of a struct.
struct Fields<'a, 't, 's, I> {
    tracer: &'a Tracer<'t>,
    fields: I,
    value: Option<&'s mut Shape>,
}

impl<'de, 's, I> de::MapAccess<'de> for Fields<'_, '_, 's, I>
where
    I: Iterator<Item = &'s mut (&'static str, Shape)>,
{
    type Error = Ended;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Ended> {
        let Some((name, shape)) = self.fields.next() else { return Ok(None) };
        self.value = Some(shape);
        let name: StrDeserializer<'_, Ended> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Ended> {
        let value = self.value.take().ok_or(Ended::Other)?;
        // What an inner struct lacks is not a field of this one.
        seed.deserialize(self.tracer.inside(value)).map_err(|_| Ended::Other)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::marker::PhantomData;
    use std::net::IpAddr;
    use std::num::NonZeroU8;

    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Light {
        pin: u8,
        #[serde(default)]
        on: bool,
        name: Option<String>,
        places: Vec<(f64, f64)>,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Odd {
        payload: Value,
        #[serde(alias = "p", alias = "z")]
        pin: u8,
        address: Option<IpAddr>,
        #[serde(alias = "r", default)]
        retries: u8,
        #[serde(default)]
        on: bool,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Outer {
        inner: Inner,
        address: Option<IpAddr>,
        #[serde(default)]
        on: bool,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        #[serde(alias = "n")]
        name: String,
        #[serde(rename = "\"\n")]
        odd: u8,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    #[serde(untagged)]
    enum Either {
        Number(u8),
        Text(String),
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Metres(f64, PhantomData<u8>);

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Flat {
        pin: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, Value>,
    }

    /// Takes any number of elements in an array of a fixed length.
    struct Long;

    impl<'de> Deserialize<'de> for Long {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_tuple(usize::MAX, de::IgnoredAny).map(|_| Self)
        }
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Tree {
        left: Option<Box<Tree>>,
        children: Vec<Tree>,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    enum Colour {
        Red,
        Other(u32),
    }

    struct Panics;

    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("as the test wants it")
        }
    }

    fn text<A: DeserializeOwned, R: 'static>() -> String {
        signature::<A, R>().to_string()
    }

    #[test]
    fn signatures_of_types() {
        assert_eq!(text::<(), ()>(), "() -> null");
        assert_eq!(text::<f64, String>(), "(0: number) -> string");
        assert_eq!(text::<Option<i64>, i64>(), "(0?: integer) -> integer");
        assert_eq!(
            text::<(f64, NonZeroU8, Option<String>), bool>(),
            "(0: number, 1: integer, 2?: string) -> boolean"
        );
        assert_eq!(
            text::<Light, f32>(),
            "(pin: integer, on?: boolean, name?: string, places: array) -> number"
        );
        assert_eq!(text::<Vec<i64>, ()>(), "(…) -> null");
        assert_eq!(text::<(BTreeMap<String, u8>, Colour), u8>(), "(0: object, 1: any) -> integer");
        assert_eq!(text::<(Value, u8), ()>(), "(0: any, 1: integer) -> null");
        assert_eq!(text::<(BTreeMap<u64, u8>, Either, Metres), ()>(), "(0: object, 1: any, 2: any) -> null");
        assert_eq!(text::<Metres, ()>(), "(0: number, 1: null) -> null");
        assert_eq!(text::<Flat, ()>(), "(…) -> null");
        assert_eq!(text::<Long, ()>(), "(…) -> null");
        assert_eq!(
            text::<Odd, ()>(),
            "(payload: any, pin: integer, address?: string, retries?: integer, on?: boolean) -> null"
        );
        // No value of `inner` is made, so it is not known whether `on` may be missing.
        assert_eq!(text::<Outer, ()>(), "(inner: object, address?: string, on: boolean) -> null");
        let inner = serde_json::to_string(&signature::<(Inner,), ()>()).unwrap();
        assert!(inner.contains(r#""properties":{"n":{"type":"string"},"name":{},"\"\n":{}}"#), "{inner}");
        // These cannot be made of nothing, or not at all.
        assert_eq!(text::<(IpAddr, u8), u8>(), "(0: string, 1: any) -> integer");
        assert_eq!(text::<Value, u8>(), "(…) -> integer");
        assert_eq!(text::<Panics, u8>(), "(…) -> integer");
        assert_eq!(text::<Tree, u8>(), "(left?: object, children: array) -> integer");
    }
}
