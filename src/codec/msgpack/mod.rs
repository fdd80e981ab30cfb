//! MessagePack-RPC (<https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md>): `[0, msgid, method, params]`,
//! `[1, msgid, error, result]` and `[2, method, params]`, one after the other.
//!
//! Extensions of the specification: parameters may be a map (by name), nil or omitted; after them may come `meta`, a
//! map of `deadline_ms` and `hops`; and `$/cancelRequest` cancels the request whose `msgid` it contains. An error is
//! `[code, message, data]`.

mod convert;
mod decode;
mod encode;
mod format;
mod framing;
mod marker;
mod reader;
mod skipper;

pub(super) use format::MessagePack;
pub(super) use framing::MessagePackFramer;

#[cfg(test)]
mod tests;
