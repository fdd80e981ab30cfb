//! The five bytes before each message: whether it is compressed, and its length.

use super::status::Status;
use crate::message::code;

/// Length of the prefix, in bytes.
pub const PREFIX: usize = 5;

/// A message, and how many bytes it takes with its prefix.
type Prefixed<'a> = (&'a [u8], usize);

/// Returns a message with its prefix.
pub fn prefixed(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; PREFIX];
    write(&mut out);
    let length = u32::try_from(out.len() - PREFIX).unwrap_or(u32::MAX);
    out[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    out
}

/// Returns `true` if the first message of `bytes` is longer than `max` bytes.
pub fn is_longer_than(max: usize, bytes: &[u8]) -> bool {
    length(bytes).is_some_and(|length| length > max)
}

fn length(bytes: &[u8]) -> Option<usize> {
    let &[_, a, b, c, d, ..] = bytes else { return None };
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()
}

/// Returns the first message, or `None` if it is incomplete.
///
/// # Errors
/// The status if it is compressed or too long.
pub fn next_message(bytes: &[u8], max: usize) -> Result<Option<Prefixed<'_>>, Status> {
    let Some(length) = length(bytes) else { return Ok(None) };
    if bytes[0] != 0 {
        let message = "compressed messages are not supported: send them with grpc-encoding identity";
        return Err(Status::new(Status::UNIMPLEMENTED, message));
    }
    if length > max {
        return Err(too_long(length, max));
    }
    Ok(bytes.get(PREFIX..PREFIX + length).map(|message| (message, PREFIX + length)))
}

/// Returns the only message of a request.
///
/// # Errors
/// The status if there is not exactly one, or it is compressed or too long.
pub fn only_message(bytes: &[u8], max: usize) -> Result<&[u8], Status> {
    match next_message(bytes, max)? {
        Some((message, length)) if length == bytes.len() => Ok(message),
        Some(_) => Err(Status::new(Status::UNIMPLEMENTED, "the method takes one message")),
        None if bytes.is_empty() => {
            Err(Status::new(Status::INVALID_ARGUMENT, "the request has no message; the method takes one"))
        }
        None => Err(Status::new(Status::INVALID_ARGUMENT, "the message is cut off")),
    }
}

pub(super) fn too_long(length: usize, max: usize) -> Status {
    let message = format!("a message of {length} bytes; at most {max} are accepted (limits.message)");
    Status::of_code(code::REQUEST_TOO_LARGE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found() {
        let one = prefixed(|out| out.extend_from_slice(b"hello"));
        assert_eq!(one, b"\0\0\0\0\x05hello");
        assert_eq!(only_message(&one, 5).unwrap(), b"hello");
        for end in 0..one.len() {
            assert!(next_message(&one[..end], 5).unwrap().is_none());
        }
        let code = |bytes: &[u8], max| only_message(bytes, max).unwrap_err().code;
        assert_eq!(code(&one, 4), Status::RESOURCE_EXHAUSTED);
        assert!(is_longer_than(4, &one[..PREFIX]) && !is_longer_than(5, &one));
        assert_eq!(code(&[&one[..], &one].concat(), 5), Status::UNIMPLEMENTED);
        assert_eq!(code(b"", 5), Status::INVALID_ARGUMENT);
        assert_eq!(code(&one[..7], 5), Status::INVALID_ARGUMENT);
        assert_eq!(code(b"\x01\0\0\0\x01x", 5), Status::UNIMPLEMENTED);
        assert_eq!(only_message(&prefixed(|_| ()), 0).unwrap(), b"");
    }
}
