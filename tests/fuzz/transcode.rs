//! Messages of a user's services ↔ JSON.

/// Checks that what is converted to JSON is JSON, becomes a message again, and that this has the same JSON.
#[cfg(feature = "grpc")]
pub(super) fn transcode(input: &[u8]) {
    use std::sync::OnceLock;

    use chanrpc::internals::codec::protobuf::{MessageType, Schema};

    const MAX: usize = 1 << 20;
    static TYPES: OnceLock<Vec<MessageType>> = OnceLock::new();
    let types = TYPES.get_or_init(|| {
        let mut schema = Schema::default();
        schema.add(include_bytes!("../grpc/proto/shop.binpb")).expect("the descriptors are valid");
        let names =
            ["shop.v1.Everything", "shop.v1.FindReply", "google.protobuf.Value", "google.protobuf.ListValue"];
        names.iter().filter_map(|name| schema.message(name)).collect()
    });
    let Some((first, input)) = input.split_first() else { return };
    let message = &types[usize::from(*first) % types.len()];
    let again = |bytes: &[u8]| {
        let Ok(json) = message.to_json(bytes, MAX) else { return };
        let value: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
        let (bytes, dropped) =
            message.of_result(&json, true).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(dropped, None);
        let json = message.to_json(&bytes, MAX).expect("it was JSON before");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).expect("it is JSON"), value);
        let _ = message.to_params(&bytes, true, MAX, 256).expect("it was JSON before");
    };
    again(input);
    if let Ok(text) = std::str::from_utf8(input) {
        for is_strict in [true, false] {
            if let Ok((bytes, _)) = message.of_result(text, is_strict) {
                again(&bytes);
            }
        }
        if let Ok(bytes) = message.of_params(Some(text)) {
            again(&bytes);
        }
    }
}

/// In builds without gRPC.
#[cfg(not(feature = "grpc"))]
pub(super) fn transcode(_: &[u8]) {}
