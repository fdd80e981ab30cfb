//! The messages of a user's services ↔ JSON (<https://protobuf.dev/programming-guides/json/>), by their descriptors.
//!
//! In JSON, fields have their names of the `.proto` file; those with a default value are present; and integers of 64 bits
//! are numbers, since all texts of this crate keep them exact.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use prost_reflect::prost::Message;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use serde_json::value::RawValue;

use super::descriptors::raw_fields;
use super::wire::Value;
use crate::message::RawJson;
use crate::message::json::Scanner;

const TO_JSON: SerializeOptions = SerializeOptions::new()
    .stringify_64_bit_integers(false)
    .use_proto_field_name(true)
    .skip_default_fields(false);
/// Maximum depth of messages in each other that an error looks into.
const MAX_DEPTH: usize = 16;

/// A message type.
#[derive(Clone, Debug)]
pub struct MessageType(MessageDescriptor);

/// Why a message cannot be converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TranscodeError {
    /// As JSON it is longer than allowed.
    TooLong,
    /// What is wrong with it.
    Wrong(String),
}

/// The form of a message in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// An object with its fields.
    Fields,
    /// An object of any members.
    Object,
    /// An array of anything.
    List,
    /// Any JSON.
    Any,
    /// A text, a number, or `true` and `false`.
    Scalar,
    /// An object without members.
    Empty,
}

impl MessageType {
    pub(super) fn new(descriptor: MessageDescriptor) -> Self {
        Self(descriptor)
    }

    /// Returns its full name.
    pub fn name(&self) -> &str {
        self.0.full_name()
    }

    /// Returns `true` if it is an object with its fields in JSON.
    pub(super) fn has_fields(&self) -> bool {
        self.form() == Form::Fields
    }

    fn form(&self) -> Form {
        match self.name().strip_prefix("google.protobuf.") {
            Some("Struct" | "Any") => Form::Object,
            Some("ListValue") => Form::List,
            Some("Value") => Form::Any,
            Some("Empty") => Form::Empty,
            Some("Timestamp" | "Duration" | "FieldMask") => Form::Scalar,
            Some(name) if name.ends_with("Value") => Form::Scalar,
            _ => Form::Fields,
        }
    }

    /// Returns a message as JSON of at most `max` bytes.
    ///
    /// # Errors
    /// [`TranscodeError`], which names the field that is wrong.
    pub fn to_json(&self, message: &[u8], max: usize) -> Result<String, TranscodeError> {
        let read = DynamicMessage::decode(self.0.clone(), message)
            .map_err(|error| TranscodeError::Wrong(self.wrong_field(message, &error.to_string())))?;
        let mut json = Bounded { out: Vec::new(), max };
        match read.serialize_with_options(&mut serde_json::Serializer::new(&mut json), &TO_JSON) {
            Ok(()) => String::from_utf8(json.out).map_err(|error| TranscodeError::Wrong(error.to_string())),
            Err(error) if error.is_io() => Err(TranscodeError::TooLong),
            Err(error) => Err(TranscodeError::Wrong(format!("{}: {error}", self.name()))),
        }
    }

    /// Returns a message as the parameters of a function, as deep as any caller's: an object with its fields, or an array in
    /// the order of their numbers; none if it has none.
    ///
    /// # Errors
    /// As [`to_json`](Self::to_json).
    pub fn to_params(
        &self,
        message: &[u8],
        is_positional: bool,
        max: usize,
        depth: usize,
    ) -> Result<Option<RawJson<'static>>, TranscodeError> {
        let json = self.to_json(message, max)?;
        let mut scanner = Scanner::new(&json, depth);
        if scanner.value().is_err() {
            return Err(TranscodeError::Wrong(format!("{}: {}", self.name(), scanner.error())));
        }
        let json = match self.form() {
            Form::Empty => return Ok(None),
            Form::Fields if self.0.fields().len() == 0 => return Ok(None),
            Form::Fields if is_positional => self.in_order(&json),
            Form::Any | Form::Scalar if !json.starts_with(['[', '{']) => format!("[{json}]"),
            _ => json,
        };
        Ok(Some(RawJson::checked(json)))
    }

    /// Returns the message with the parameters of a call: the members of an object, or the elements of an array in the order
    /// of the fields' numbers.
    ///
    /// # Errors
    /// What is wrong, with the name of the field.
    pub fn of_params(&self, params: Option<&str>) -> Result<Vec<u8>, String> {
        let json = params.unwrap_or("{}").trim_ascii();
        let json = match self.form() {
            Form::Fields if json.starts_with('[') => Cow::Owned(self.with_names(json)?),
            Form::Any | Form::Scalar | Form::Object => match self.only_element(json) {
                Some(element) => Cow::Borrowed(element),
                None => Cow::Borrowed(json),
            },
            Form::Empty if json == "[]" => Cow::Borrowed("{}"),
            _ => Cow::Borrowed(json),
        };
        let read = self.parse(&json, true).map_err(|error| self.wrong_member(&json, true, &error))?;
        Ok(read.encode_to_vec())
    }

    /// Returns the message with the result of a function: an object has its fields, an array their values in the order of
    /// their numbers, and anything else is the only field. Unless it is `strict`, members that the message lacks are dropped;
    /// then it also returns what is wrong with the first of them.
    ///
    /// # Errors
    /// What is wrong, with the name of the field.
    pub fn of_result(&self, json: &str, is_strict: bool) -> Result<(Vec<u8>, Option<String>), String> {
        let json = json.trim_ascii();
        let json = match (self.form(), json.as_bytes().first()) {
            (Form::Any, _) => Cow::Borrowed(json),
            (Form::Empty, _) | (_, Some(b'n')) => return Ok((Vec::new(), None)),
            (Form::Fields, Some(b'{')) => self.object(json),
            (Form::Fields, Some(b'[')) => match self.only_field() {
                Some(field) if field.is_list() => Cow::Owned(wrapped(&field, json)),
                _ => Cow::Owned(self.with_names(json)?),
            },
            (Form::Fields, _) => match self.only_field() {
                Some(field) => Cow::Owned(wrapped(&field, json)),
                None => {
                    let (name, count) = (self.name(), self.0.fields().len());
                    return Err(format!("{name} has {count} fields, so it must be an object with them"));
                }
            },
            _ => Cow::Borrowed(json),
        };
        match self.parse(&json, true) {
            Ok(message) => Ok((message.encode_to_vec(), None)),
            Err(error) if !is_strict => match self.parse(&json, false) {
                Ok(message) => Ok((message.encode_to_vec(), Some(self.wrong_member(&json, true, &error)))),
                Err(error) => Err(self.wrong_member(&json, false, &error)),
            },
            Err(error) => Err(self.wrong_member(&json, true, &error)),
        }
    }

    /// Returns the field of a message with one.
    fn only_field(&self) -> Option<FieldDescriptor> {
        let mut fields = self.0.fields();
        fields.next().filter(|_| fields.next().is_none())
    }

    /// Returns an object as that of this message: if the only field is a message or a map and the object lacks it, the object
    /// is its value.
    fn object<'a>(&self, json: &'a str) -> Cow<'a, str> {
        let only =
            self.only_field().filter(|field| matches!(field.kind(), Kind::Message(_)) && !field.is_list());
        let Some(field) = only else { return Cow::Borrowed(json) };
        let members = members(json).unwrap_or_default();
        let is_it = |name: &String| *name == field.name() || *name == field.json_name();
        if members.is_empty() || members.keys().any(is_it) {
            return Cow::Borrowed(json);
        }
        Cow::Owned(wrapped(&field, json))
    }

    /// Returns the element of an array with one, for a message that is no object of fields.
    fn only_element<'a>(&self, json: &'a str) -> Option<&'a str> {
        let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
        match elements[..] {
            [element] => Some(element.get()),
            _ => None,
        }
    }

    /// Returns the members of an object in the order of the fields' numbers. Those that are absent are `null`, or left out at
    /// the end.
    fn in_order(&self, json: &str) -> String {
        let members = members(json).unwrap_or_default();
        let mut values: Vec<_> = self
            .0
            .fields()
            .map(|field| members.get(field.name()).map_or("null", |value| value.get()))
            .collect();
        while values.last() == Some(&"null") {
            values.pop();
        }
        format!("[{}]", values.join(","))
    }

    /// Returns the elements of an array as an object, with the names of the fields in the order of their numbers.
    fn with_names(&self, json: &str) -> Result<String, String> {
        let elements: Vec<&RawValue> = serde_json::from_str(json).map_err(|error| words(&error))?;
        let fields = self.0.fields();
        if elements.len() > fields.len() {
            let (name, given, count) = (self.name(), elements.len(), fields.len());
            return Err(format!("{given} values; {name} has {count} fields"));
        }
        let members: Vec<_> = fields
            .zip(elements)
            .map(|(field, value)| format!("{:?}:{}", field.name(), value.get()))
            .collect();
        Ok(format!("{{{}}}", members.join(",")))
    }

    fn parse(&self, json: &str, denies_unknown: bool) -> Result<DynamicMessage, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let options = DeserializeOptions::new().deny_unknown_fields(denies_unknown);
        let read = DynamicMessage::deserialize_with_options(self.0.clone(), &mut deserializer, &options)?;
        deserializer.end()?;
        Ok(read)
    }

    /// Returns what is wrong with JSON, with the path to the member.
    fn wrong_member(&self, json: &str, denies_unknown: bool, error: &serde_json::Error) -> String {
        self.find_wrong_member(json, denies_unknown, MAX_DEPTH)
            .unwrap_or_else(|| format!("{}: {}", self.name(), words(error)))
    }

    fn find_wrong_member(&self, json: &str, denies_unknown: bool, depth: usize) -> Option<String> {
        let depth = depth.checked_sub(1).filter(|_| self.form() == Form::Fields)?;
        for (name, value) in members(json)? {
            let quoted = serde_json::to_string(&name).ok()?;
            let Err(error) = self.parse(&format!("{{{quoted}:{}}}", value.get()), denies_unknown) else {
                continue;
            };
            let field = self.0.get_field_by_name(&name).or_else(|| self.0.get_field_by_json_name(&name));
            let inner = field.and_then(|field| match field.kind() {
                Kind::Message(message) if !field.is_list() && !field.is_map() => {
                    Self(message).find_wrong_member(value.get(), denies_unknown, depth)
                }
                _ => None,
            });
            return Some(match inner {
                Some(inner) => format!("{name}.{inner}"),
                None => format!("{name}: {}", words(&error)),
            });
        }
        None
    }

    /// Returns what is wrong with a message, with the path to the field.
    fn wrong_field(&self, message: &[u8], error: &str) -> String {
        let error = error.strip_prefix("failed to decode Protobuf message: ").unwrap_or(error);
        self.find_wrong_field(message, MAX_DEPTH).unwrap_or_else(|| format!("{}: {error}", self.name()))
    }

    fn find_wrong_field(&self, message: &[u8], depth: usize) -> Option<String> {
        let depth = depth.checked_sub(1)?;
        for (number, value, raw) in raw_fields(message) {
            let Err(error) = DynamicMessage::decode(self.0.clone(), raw) else { continue };
            let field = self.0.get_field(number)?;
            let inner = match (field.kind(), value) {
                (Kind::Message(message), Value::Bytes(bytes)) => Self(message).find_wrong_field(bytes, depth),
                _ => None,
            };
            let error = error.to_string();
            let error = error.strip_prefix("failed to decode Protobuf message: ").unwrap_or(&error);
            let name = field.name();
            return Some(match inner {
                Some(inner) => format!("{name}.{inner}"),
                None => format!("{name} (field {number} of {}): {error}", self.name()),
            });
        }
        None
    }
}

fn wrapped(field: &FieldDescriptor, json: &str) -> String {
    format!("{{{:?}:{json}}}", field.name())
}

fn members(json: &str) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(json).ok()
}

/// Returns an error without its place in a text that nobody has seen.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// Collects at most `max` bytes.
struct Bounded {
    out: Vec<u8>,
    max: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.out.len() + bytes.len() > self.max {
            return Err(io::Error::other("too long"));
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
