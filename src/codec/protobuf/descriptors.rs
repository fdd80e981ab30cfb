//! Descriptors as bytes: what a `FileDescriptorProto` defines, and a copy of it that shows less.

use super::wire::{Fields, Value, put_bytes};

/// The fields of a `FileDescriptorProto`: package, messages, enumerations, services, and the places of all these in the
/// text.
const PACKAGE: u32 = 2;
const MESSAGES: u32 = 4;
const ENUMS: u32 = 5;
const SERVICES: u32 = 6;
const SOURCE_INFO: u32 = 9;
/// The methods in a service.
const METHODS: u32 = 2;

/// Returns the name of a descriptor.
pub(crate) fn name(descriptor: &[u8]) -> &str {
    text(descriptor, 1)
}

/// Returns `true` if a file defines a symbol: a message, an enumeration, a service or a method.
pub(crate) fn defines(file: &[u8], symbol: &str) -> bool {
    let package = text(file, PACKAGE);
    let name = match package {
        "" => Some(symbol),
        _ => symbol.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')),
    };
    // The same numbers mean the same in a file and, for what is inside, in a message and in a service.
    name.is_some_and(|name| part_defines(file, &[MESSAGES, ENUMS, SERVICES], name))
}

/// Returns `true` if one of these fields of a descriptor has the name, or defines it.
fn part_defines(descriptor: &[u8], fields: &[u32], name: &str) -> bool {
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    parts(descriptor, fields).any(|(field, part)| {
        self::name(part) == first
            && rest.is_none_or(|rest| match field {
                SERVICES => part_defines(part, &[METHODS], rest),
                // The fields, messages and enumerations of a message.
                _ => part_defines(part, &[2, 3, 4], rest),
            })
    })
}

/// Returns the parts of a descriptor that are messages, with the numbers of their fields.
pub(crate) fn parts<'a>(descriptor: &'a [u8], fields: &'a [u32]) -> impl Iterator<Item = (u32, &'a [u8])> {
    Fields::of(descriptor).filter_map(Result::ok).filter_map(move |(number, value)| match value {
        Value::Bytes(bytes) if fields.contains(&number) => Some((number, bytes)),
        _ => None,
    })
}

/// Returns a text of a descriptor.
fn text(descriptor: &[u8], field: u32) -> &str {
    let mut fields = Fields::of(descriptor).filter_map(Result::ok);
    fields.find_map(|(number, value)| (number == field).then(|| value.text())?).unwrap_or_default()
}

/// Returns a file without the methods, as `package.Service/Method`, for which `keeps` returns `false`, and without services
/// that have none left.
pub(crate) fn without_methods(file: &[u8], keeps: &dyn Fn(&str) -> bool) -> Vec<u8> {
    let package = text(file, PACKAGE);
    let mut out = Vec::new();
    for (number, value, raw) in raw_fields(file) {
        match value {
            Value::Bytes(service) if number == SERVICES => {
                let dot = if package.is_empty() { "" } else { "." };
                let path = |method| format!("{package}{dot}{}/{}", name(service), name(method));
                let mut kept = Vec::new();
                let mut has_methods = false;
                for (number, value, raw) in raw_fields(service) {
                    let is_kept = match value {
                        Value::Bytes(method) if number == METHODS => keeps(&path(method)),
                        _ => true,
                    };
                    if is_kept {
                        has_methods |= number == METHODS;
                        kept.extend_from_slice(raw);
                    }
                }
                if has_methods {
                    put_bytes(&mut out, SERVICES, &kept);
                }
            }
            // Its paths count the services.
            _ if number == SOURCE_INFO => {}
            _ => out.extend_from_slice(raw),
        }
    }
    out
}

/// Returns the fields of a message, each also as it was encoded.
pub(super) fn raw_fields(message: &[u8]) -> impl Iterator<Item = (u32, Value<'_>, &[u8])> {
    let mut fields = Fields::of(message);
    std::iter::from_fn(move || {
        let before = fields.rest();
        let (number, value) = fields.next()?.ok()?;
        Some((number, value, &before[..before.len() - fields.rest().len()]))
    })
}
