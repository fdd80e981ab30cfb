//! The descriptors of this node's own services. `ci/grpc` compares them with what protoc makes of `proto/`.

use crate::codec::grpc::proto::{Fields, Value};

/// A `google.protobuf.FileDescriptorSet`, whose files do not import each other.
static DESCRIPTORS: &[u8] = include_bytes!("proto/own.binpb");

/// The services.
pub(super) const SERVICES: [&str; 4] = [
    "chanrpc.v1.Node",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Returns `true` if this node has a service of this name.
pub(super) fn has_service(name: &str) -> bool {
    SERVICES.contains(&name)
}

/// Returns the `FileDescriptorProto` with this name.
pub(super) fn file_named(name: &str) -> Option<&'static [u8]> {
    files().find(|file| text(file, 1) == name)
}

/// Returns the `FileDescriptorProto` that defines a symbol: a message, an enumeration, a service or a method.
pub(super) fn file_of(symbol: &str) -> Option<&'static [u8]> {
    files().find(|file| {
        let package = text(file, 2);
        let Some(name) = symbol.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')) else {
            return false;
        };
        // The fields of a file and, with the same meaning, of a message and of a service.
        defines(file, &[4, 5, 6], name)
    })
}

/// Returns `true` if one of these fields of a descriptor has the name, or defines it.
fn defines(descriptor: &[u8], fields: &[u32], name: &str) -> bool {
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    parts(descriptor, fields).any(|(field, part)| {
        text(part, 1) == first
            && rest.is_none_or(|rest| match field {
                // The methods of a service.
                6 => defines(part, &[2], rest),
                // The fields, messages and enumerations of a message.
                _ => defines(part, &[2, 3, 4], rest),
            })
    })
}

fn files() -> impl Iterator<Item = &'static [u8]> {
    parts(DESCRIPTORS, &[1]).map(|(_, file)| file)
}

/// Returns the parts of a descriptor that are messages.
fn parts<'a>(descriptor: &'a [u8], fields: &'a [u32]) -> impl Iterator<Item = (u32, &'a [u8])> {
    Fields::of(descriptor).filter_map(Result::ok).filter_map(move |(number, value)| match value {
        Value::Bytes(bytes) if fields.contains(&number) => Some((number, bytes)),
        _ => None,
    })
}

fn text(descriptor: &[u8], field: u32) -> &str {
    let mut fields = Fields::of(descriptor).filter_map(Result::ok);
    fields.find_map(|(number, value)| (number == field).then(|| value.text())?).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_described() {
        for service in SERVICES {
            let file = file_of(service).unwrap_or_else(|| panic!("{service}"));
            assert_eq!(file_named(text(file, 1)), Some(file));
        }
        for symbol in [
            "chanrpc.v1.Node.Watch",
            "chanrpc.v1.CallRequest",
            "chanrpc.v1.CallRequest.params",
            "grpc.health.v1.HealthCheckResponse.ServingStatus",
            "grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
        ] {
            assert!(file_of(symbol).is_some(), "{symbol}");
        }
        for symbol in ["", "chanrpc", "chanrpc.v1", "chanrpc.v1.", "chanrpc.v1.Node.Absent", "Node", "a.b"] {
            assert!(file_of(symbol).is_none(), "{symbol}");
        }
    }
}
