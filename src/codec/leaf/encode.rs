//! From a result to a message.

use super::decode::single_member;
use super::framing::LeafFraming;
use crate::message::Id;

/// A result nested deeper than this is not inspected: each level takes some of the stack.
const MAX_DEPTH: usize = 128;

/// Appends the message for a function's result: a JSON object with one key is sent unchanged, any other value as the
/// member named by `id`.
///
/// # Errors
/// If the gate cannot send the result; then nothing is appended.
pub fn encode_reply(
    framing: &LeafFraming,
    out: &mut Vec<u8>,
    id: &Id<'_>,
    result: &str,
) -> Result<(), String> {
    let start = out.len();
    let body = start + framing.prefix_len();
    out.resize(body, 0);
    if matches!(single_member(result, MAX_DEPTH), Ok(Some(_))) {
        out.extend_from_slice(result.as_bytes());
    } else if id.as_json().starts_with('"') {
        for part in ["{", id.as_json(), ":", result, "}"] {
            out.extend_from_slice(part.as_bytes());
        }
    } else {
        out.truncate(start);
        return Err(format!("a reply needs a name, and {} is not one", id.as_json()));
    }
    let length = (out.len() - body) as u64;
    if let Err(reason) = framing.check_length(length) {
        out.truncate(start);
        return Err(reason);
    }
    framing.write_prefix(&mut out[start..body], length);
    Ok(())
}
