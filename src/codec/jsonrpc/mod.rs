//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>), with the extensions `meta` and `$/cancelRequest`.

mod common;
mod decode;
mod encode;
mod format;
mod prefix;
mod replies;

pub use super::format::DecodeLimits;
pub use common::{CommonRequest, common_request};
pub use decode::{decode, decode_text};
pub use encode::{encode_reply, encode_result};
pub(super) use format::JsonRpc;
pub use prefix::{id_in_prefix, reject};

/// The notification that cancels a request.
pub const CANCEL_METHOD: &str = "$/cancelRequest";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::frame::{DecodeError, Decoded};
    use crate::message::{Fault, Id, Message, Request};

    pub(super) const LIMITS: DecodeLimits = DecodeLimits { depth: 8, batch: 3 };

    /// Returns a short text for a message, for tables of expectations.
    pub(super) fn summary(message: &Result<Message<'_>, DecodeError>) -> String {
        match message {
            Ok(Message::Request(Request { id, method, params, meta })) => {
                let mut text = format!("{} {method}", id.as_ref().map_or("none", Id::as_json));
                if let Some(params) = params {
                    text += &format!(" {params}");
                }
                if let Some(deadline) = meta.deadline {
                    text += &format!(" deadline {}", deadline.as_millis());
                }
                if meta.hops > 0 {
                    text += &format!(" hops {}", meta.hops);
                }
                text
            }
            Ok(Message::Cancel(id)) => format!("cancel {}", id.as_json()),
            Ok(Message::Reply(id, Ok(result))) => format!("result {} {result}", id.as_json()),
            Ok(Message::Reply(id, Err(Fault { code, message, data }))) => {
                let data = data.as_ref().map_or("none", |data| data.get());
                format!("error {} {code} {message} {data}", id.as_json())
            }
            Err(DecodeError { id, fault }) => {
                assert!(!fault.message.is_empty());
                format!("refused {} {}", id.as_json(), fault.code)
            }
        }
    }

    pub(super) fn decoded(text: &[u8]) -> Vec<String> {
        match decode(text, LIMITS) {
            Decoded::Single(message) => vec![summary(&message)],
            Decoded::Batch(messages) => {
                std::iter::once("batch".to_owned()).chain(messages.iter().map(summary)).collect()
            }
        }
    }
}
