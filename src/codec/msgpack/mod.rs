//! MessagePack-RPC (<https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md>): `[0, msgid, method, params]`,
//! `[1, msgid, error, result]` and `[2, method, params]`, one behind the other.
//!
//! Beyond the specification, parameters may be a map (by name), nil or left out; behind them may stand `meta`, a map
//! of `deadline_ms` and `hops`; and `$/cancelRequest` gives up the request whose `msgid` it is given. An error is
//! `[code, message, data]`.

mod decode;
mod encode;
mod framing;
mod token;

pub(super) use decode::{decode, id_at_front};
pub(super) use encode::encode_reply;
pub(super) use framing::MessagePack;

#[cfg(test)]
mod tests;
