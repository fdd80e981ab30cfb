//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>), with `meta` beside `params` and `$/cancelRequest`.

mod decode;
mod encode;
mod front;
mod replies;

pub use decode::decode;
pub use encode::{encode_cancel, encode_reply, encode_request, encode_result};
pub use front::{id_at_front, refuse};
pub use replies::{Answered, Whose, replies, whose_at_front};

/// The notification by which a peer gives up one of its requests.
pub const CANCEL: &str = "$/cancelRequest";

/// Bounds on what is read.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How deeply arrays and objects may be nested.
    pub depth: usize,
    /// How many messages a batch may hold.
    pub batch: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::frame::{Read, Refused};
    use crate::message::{Fault, Id, Message, Request};

    pub(super) const BOUNDS: Bounds = Bounds { depth: 8, batch: 3 };

    /// A message in a word or two, so that tables can say what they expect of it.
    pub(super) fn told(message: &Result<Message<'_>, Refused>) -> String {
        match message {
            Ok(Message::Request(Request { id, method, params, meta })) => {
                let mut told = format!("{} {method}", id.as_ref().map_or("none", Id::as_json));
                if let Some(params) = params {
                    told += &format!(" {params}");
                }
                if let Some(deadline) = meta.deadline {
                    told += &format!(" deadline {}", deadline.as_millis());
                }
                if meta.hops > 0 {
                    told += &format!(" hops {}", meta.hops);
                }
                told
            }
            Ok(Message::Cancel(id)) => format!("cancel {}", id.as_json()),
            Ok(Message::Reply(id, Ok(result))) => format!("result {} {result}", id.as_json()),
            Ok(Message::Reply(id, Err(Fault { code, message, data }))) => {
                let data = data.as_ref().map_or("none", |data| data.get());
                format!("error {} {code} {message} {data}", id.as_json())
            }
            Err(Refused { id, fault }) => {
                assert!(!fault.message.is_empty());
                format!("refused {} {}", id.as_json(), fault.code)
            }
        }
    }

    pub(super) fn decoded(text: &[u8]) -> Vec<String> {
        match decode(text, BOUNDS) {
            Read::Single(message) => vec![told(&message)],
            Read::Batch(messages) => {
                std::iter::once("batch".to_owned()).chain(messages.iter().map(told)).collect()
            }
        }
    }
}
