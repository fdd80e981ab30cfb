//! The descriptors of this node's own services. `ci/grpc` compares them with what protoc makes of `proto/`.

use crate::codec::protobuf::descriptors;

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
    files().find(|file| descriptors::name(file) == name)
}

/// Returns the `FileDescriptorProto` that defines a symbol: a message, an enumeration, a service or a method.
pub(super) fn file_of(symbol: &str) -> Option<&'static [u8]> {
    files().find(|file| descriptors::defines(file, symbol))
}

fn files() -> impl Iterator<Item = &'static [u8]> {
    descriptors::parts(DESCRIPTORS, &[1]).map(|(_, file)| file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_is_described() {
        for service in SERVICES {
            let file = file_of(service).unwrap_or_else(|| panic!("{service}"));
            assert_eq!(file_named(descriptors::name(file)), Some(file));
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
