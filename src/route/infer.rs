//! What a function takes, found by deserializing its arguments from nothing: each type asks its deserializer for what it
//! is made of, and the answers are recorded.

use std::any::TypeId;
use std::cell::Cell;
use std::fmt::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use crate::message::{Param, Schema, Signature};

/// How deep types are followed. A type that contains itself ends there.
const MAX_DEPTH: usize = 6;
/// How many parts of a type are looked at.
const MAX_PARTS: usize = 1000;

/// Returns the signature of a function with arguments `A` and result `R`, as far as the types show it.
pub(super) fn signature<A: DeserializeOwned, R: 'static>() -> Signature {
    Signature { params: params::<A>(), result: result::<R>(), ..Signature::default() }
}

fn params<A: DeserializeOwned>() -> Option<Vec<Param>> {
    let param = |(index, shape): (usize, Shape)| {
        let param = Param::new(index.to_string(), shape.schema());
        if let Shape::Optional(_) = shape { param.optional() } else { param }
    };
    match trace::<A>(None).0 {
        Shape::Null => Some(Vec::new()),
        Shape::Tuple(elements) => Some(elements.into_iter().enumerate().map(param).collect()),
        Shape::Struct(fields) => {
            let params = fields.into_iter().enumerate().map(|(index, (name, shape))| {
                let param = Param::new(name, shape.schema());
                // A struct that can do without a field has a default for it.
                let is_optional = matches!(shape, Shape::Optional(_)) || trace::<A>(Some(index)).1;
                if is_optional { param.optional() } else { param }
            });
            Some(params.collect())
        }
        // Any number of parameters, or unknown ones.
        Shape::Any | Shape::Array(_) | Shape::Map => None,
        shape => Some(vec![param((0, shape))]),
    }
}

/// Returns the schema of common types of results.
fn result<R: 'static>() -> Option<Schema> {
    let is = |types: &[TypeId]| types.contains(&TypeId::of::<R>());
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

/// Returns the shape of `A`, and whether a value was made. Without the field `omitted` of the outermost struct.
fn trace<A: DeserializeOwned>(omitted: Option<usize>) -> (Shape, bool) {
    let (mut shape, parts) = (Shape::Any, Cell::new(0));
    let tracer = Tracer { shape: &mut shape, depth: 0, omitted, parts: &parts };
    // The types are the user's. Dropping a value may also run user code.
    let made = catch_unwind(AssertUnwindSafe(|| A::deserialize(tracer).is_ok())).unwrap_or_default();
    (shape, made)
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
                    // The name of a Rust field, or of serde's `rename`.
                    let name = name.replace(['"', '\\'], "_");
                    let _ = write!(out, "{}\"{name}\":", if index > 0 { "," } else { "" });
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
    /// The field of this struct that gets no value.
    omitted: Option<usize>,
    /// The number of parts looked at.
    parts: &'t Cell<usize>,
}

impl<'t> Tracer<'t> {
    fn inside<'s>(&self, shape: &'s mut Shape) -> Tracer<'s>
    where
        't: 's,
    {
        self.parts.set(self.parts.get() + 1);
        Tracer { shape, depth: self.depth + 1, omitted: None, parts: self.parts }
    }

    /// Returns `true` if the parts of a type are still followed.
    fn goes_on(&self) -> bool {
        self.depth < MAX_DEPTH && self.parts.get() < MAX_PARTS
    }
}

/// The end of a trace: a type that cannot be made of nothing.
#[derive(Debug)]
struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the type asks for a value")
    }
}

impl std::error::Error for Ended {}

impl de::Error for Ended {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
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

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Ended> {
        Err(Ended)
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
        if !self.goes_on() {
            return Err(Ended);
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
            return Err(Ended);
        }
        let mut shapes: Vec<_> = fields.iter().map(|name| (*name, Shape::Any)).collect();
        let left_out = self.omitted.filter(|index| *index < shapes.len()).map(|index| shapes.remove(index));
        let made = visitor.visit_map(Fields { tracer: &self, fields: shapes.iter_mut(), value: None });
        shapes.extend(left_out);
        *self.shape = Shape::Struct(shapes);
        made
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        let first = variants.first().ok_or(Ended)?;
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
        seed.deserialize(self.tracer.inside(self.value.take().ok_or(Ended)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
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
        // These cannot be made of nothing, or not at all.
        assert_eq!(text::<(IpAddr, u8), u8>(), "(0: string, 1: any) -> integer");
        assert_eq!(text::<Value, u8>(), "(…) -> integer");
        assert_eq!(text::<Panics, u8>(), "(…) -> integer");
        assert_eq!(text::<Tree, u8>(), "(left?: object, children: array) -> integer");
    }
}
