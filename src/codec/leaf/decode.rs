//! From a frame to a request.

use std::borrow::Cow;

use crate::codec::frame::DecodeError;
use crate::codec::json::{ScanError, ScanFailed, Scanner};
use crate::message::{Id, Message, Meta, RawJson, Request, code};

/// Decodes one message, nested at most `depth` levels deep. Its name becomes its id, so that a reply can carry it.
///
/// # Errors
/// If it is not a Leaf message; the connection must be closed then.
pub fn decode(frame: &[u8], depth: usize) -> Result<Message<'_>, DecodeError> {
    let text = std::str::from_utf8(frame).map_err(|error| {
        DecodeError::new(code::PARSE, format!("not UTF-8 after {} bytes", error.valid_up_to()))
    })?;
    let member =
        single_member(text, depth).map_err(|error| DecodeError::new(code::PARSE, error.to_string()))?;
    let (name, body) = member.ok_or_else(|| {
        DecodeError::new(code::INVALID_REQUEST, "a message must be an object with one key, its name")
    })?;
    let id = Id::from_json(format!("\"{name}\"")).ok_or_else(|| {
        let message = format!("a name of more than {} bytes with its quotes", Id::MAX_LEN);
        DecodeError::new(code::INVALID_REQUEST, message)
    })?;
    let method = serde_json::from_str(id.as_json()).map_err(|error| {
        DecodeError::new(code::INVALID_REQUEST, format!("a name that is not text: {error}"))
    })?;
    let params = match body.as_bytes() {
        b"null" => None,
        [b'[' | b'{', ..] => Some(RawJson::checked(body)),
        _ => Some(RawJson::checked(format!("[{body}]"))),
    };
    Ok(Message::Request(Request { id: Some(id), method: Cow::Owned(method), params, meta: Meta::default() }))
}

/// Returns the key, without its quotes, and the value of an object with exactly one member.
///
/// # Errors
/// If `text` is not JSON or nested too deeply.
pub(super) fn single_member(text: &str, depth: usize) -> Result<Option<(&str, &str)>, ScanError> {
    let mut scanner = Scanner::new(text, depth);
    let (mut member, mut count) = (None, 0);
    let scanned = match scanner.peek() {
        Some(b'{') => scanner.object(|scanner, key| {
            count += 1;
            member = Some((key.text, scanner.value()?));
            Ok(())
        }),
        _ => scanner.skip(),
    };
    match scanned.and_then(|()| scanner.expect_end()) {
        Ok(()) => Ok(member.filter(|_| count == 1)),
        Err(ScanFailed) => Err(scanner.error()),
    }
}
