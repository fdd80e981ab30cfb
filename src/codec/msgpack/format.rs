//! The message format of MessagePack-RPC.

use super::convert::ParamLimits;
use super::decode::{decode, reject};
use super::encode::{encode_cancel, encode_reply, encode_request};
use crate::codec::format::{DecodeLimits, FormatTraits, MessageFormat, Outgoing};
use crate::codec::frame::Decoded;
use crate::message::{Fault, Id};

/// The messages of MessagePack-RPC.
#[derive(Debug)]
pub(in crate::codec) struct MessagePack;

impl MessageFormat for MessagePack {
    fn traits(&self) -> FormatTraits {
        FormatTraits { is_json: false, has_results_only: false }
    }

    fn decode<'a>(&self, frame: &'a [u8], limits: DecodeLimits, max: usize) -> Decoded<'a> {
        Decoded::Single(decode(frame, ParamLimits { depth: limits.depth, json: max }))
    }

    fn reject(&self, prefix: &[u8], _limits: DecodeLimits, fault: Fault) -> Decoded<'static> {
        Decoded::Single(reject(prefix, fault))
    }

    fn shares_notifications(&self) -> bool {
        true
    }

    fn encode(&self, out: &mut Vec<u8>, message: &Outgoing<'_>) -> bool {
        match message {
            Outgoing::Request(request) => return encode_request(out, request),
            Outgoing::Cancel(id) => encode_cancel(out, id),
            // There is no reply to a request without an id.
            Outgoing::Reply(id, _) if **id == Id::null() => return false,
            Outgoing::Reply(id, answer) => encode_reply(out, id, *answer),
        }
        true
    }
}
