//! The client protocol of NATS (<https://docs.nats.io/reference/reference-protocols/nats-protocol>), as the client speaks
//! it: calls are published with a reply subject, and what arrives at a subscription is a call of the peer's.
//!
//! | message | on the wire |
//! | --- | --- |
//! | a call | `HPUB subject inbox.N.token`, with the headers `Rpc-Deadline-Ms` and `Rpc-Hops` |
//! | its reply | `MSG` or `HMSG` to `inbox.N.token`, at the subscription [`REPLIES`] |
//! | a call of ours by others | `MSG` or `HMSG` at another subscription; the method is the subject |
//! | a notification whose method has a space | that method, as a control line |
//! | what the server tells | a notification: [`INFO`], [`ERROR`], or [`REFUSED`] and a subject |

mod connect;
mod format;
mod framing;
mod headers;
mod subject;

pub use connect::{Credentials, ServerInfo, connect_line, inquiry};
pub use format::Nats;
pub use framing::NatsFramer;
pub use subject::subject_of;

/// The subscription to the replies of calls.
pub const REPLIES: &str = "r";
/// The first character of the names of subscriptions to topics, whose payload may be any text.
pub const TOPICS: char = 't';
/// Notifies of what the server tells of itself: its parameters are the JSON of `INFO`.
pub const INFO: &str = "INFO";
/// Notifies of an error: its only parameter is the text.
pub const ERROR: &str = "-ERR";
/// Begins the notification that the server has refused the latest message to a subject, which follows after a space.
pub const REFUSED: &str = "rpc.refused";
/// A call that the server itself answers, after all messages of subscriptions that ended before it.
pub const FLUSH: &str = "rpc.flush";
/// The marker in the data of a fault whose reply was no JSON: the data is the reply, as a text.
pub const NOT_JSON: &str = "the reply is not JSON";

#[cfg(test)]
mod tests;
