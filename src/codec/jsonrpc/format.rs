//! The message format of JSON-RPC.

use super::DecodeLimits;
use super::decode::decode;
use super::encode::{encode_cancel, encode_reply, encode_request};
use super::prefix::reject;
use super::replies::decode_replies;
use crate::codec::format::{FormatTraits, MessageFormat, Outgoing};
use crate::codec::frame::Decoded;
use crate::message::{Fault, Id, Outcome};

/// The messages of JSON-RPC.
#[derive(Debug)]
pub(in crate::codec) struct JsonRpc;

impl MessageFormat for JsonRpc {
    fn traits(&self) -> FormatTraits {
        FormatTraits { is_json: true, has_results_only: false }
    }

    fn decode<'a>(&self, frame: &'a [u8], limits: DecodeLimits, _max: usize) -> Decoded<'a> {
        decode(frame, limits)
    }

    fn decode_deviating_replies(&self, frame: &[u8], limits: DecodeLimits) -> Vec<(Id<'static>, Outcome)> {
        decode_replies(frame, limits.depth)
    }

    fn reject(&self, prefix: &[u8], limits: DecodeLimits, fault: Fault) -> Decoded<'static> {
        reject(prefix, limits.batch, &fault)
    }

    fn encode(&self, out: &mut Vec<u8>, message: &Outgoing<'_>) -> bool {
        match message {
            Outgoing::Request(request) => encode_request(out, request),
            Outgoing::Cancel(id) => encode_cancel(out, id),
            Outgoing::Reply(id, answer) => encode_reply(out, id, *answer),
        }
        true
    }
}
