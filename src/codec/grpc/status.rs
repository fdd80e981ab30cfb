//! The outcome of a call: a status code, a message, and details
//! (<https://grpc.io/docs/guides/status-codes/>, <https://google.aip.dev/193>).

use std::borrow::Cow;
use std::fmt::Write;

use super::proto::{put_bytes, put_integer};
use crate::message::{Fault, code};

/// Maximum length of a message, in bytes. Many clients accept 8 KiB of headers in all.
const MAX_MESSAGE: usize = 1024;
/// Maximum size of the details, in bytes. Larger data of a fault is left out.
const MAX_DETAILS: usize = 3 * 1024;
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// The status of a call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code.
    pub code: u32,
    /// The cause, for people.
    pub message: Cow<'static, str>,
    /// A `google.rpc.Status`, in the wire format; empty if there is nothing to add.
    pub details: Vec<u8>,
}

#[allow(missing_docs)]
impl Status {
    pub const CANCELLED: u32 = 1;
    pub const UNKNOWN: u32 = 2;
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const NOT_FOUND: u32 = 5;
    pub const ALREADY_EXISTS: u32 = 6;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const FAILED_PRECONDITION: u32 = 9;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
    pub const UNAUTHENTICATED: u32 = 16;
}

impl Status {
    /// Creates a status without details.
    pub fn new(code: u32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// Creates the status of a fault's code, without data.
    pub fn of_code(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        Self::of(&Fault::new(code, message))
    }

    /// Returns the status of a fault. `ErrorInfo` in its details has the name of the code as its reason, and code and
    /// data as metadata, so that no two codes look alike.
    pub fn of(fault: &Fault) -> Self {
        let (status, reason) = status_and_reason(fault.code);
        let message = cut(&fault.message).to_owned();
        let data = fault.data.as_ref().map_or("", |data| data.get());
        let mut details = details(status, &message, reason, fault.code, data);
        if details.len() > MAX_DETAILS {
            details = self::details(status, &message, reason, fault.code, "");
        }
        Self { code: status, message: message.into(), details }
    }

    /// Replaces the code, also in the details.
    #[must_use]
    pub fn with_code(mut self, code: u32) -> Self {
        self.code = code;
        if let [_, in_details, ..] = &mut self.details[..] {
            *in_details = code.to_le_bytes()[0];
        }
        self
    }
}

/// Returns the start of a message, at most as long as is sent.
fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// Returns the status code of a fault's code, and the name of the latter.
fn status_and_reason(fault: i64) -> (u32, &'static str) {
    match fault {
        code::PARSE => (Status::INVALID_ARGUMENT, "PARSE"),
        code::INVALID_REQUEST => (Status::INVALID_ARGUMENT, "INVALID_REQUEST"),
        code::INVALID_PARAMS => (Status::INVALID_ARGUMENT, "INVALID_PARAMS"),
        code::UNKNOWN_FUNCTION => (Status::UNIMPLEMENTED, "UNKNOWN_FUNCTION"),
        code::INTERNAL => (Status::INTERNAL, "INTERNAL"),
        code::NO_PROVIDER => (Status::UNAVAILABLE, "NO_PROVIDER"),
        code::CLOSED => (Status::UNAVAILABLE, "CLOSED"),
        code::DENIED => (Status::PERMISSION_DENIED, "DENIED"),
        code::DEADLINE => (Status::DEADLINE_EXCEEDED, "DEADLINE"),
        code::WOULD_DEADLOCK => (Status::FAILED_PRECONDITION, "WOULD_DEADLOCK"),
        code::HOP_LIMIT => (Status::FAILED_PRECONDITION, "HOP_LIMIT"),
        code::REQUEST_TOO_LARGE => (Status::RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"),
        code::REPLY_TOO_LARGE => (Status::RESOURCE_EXHAUSTED, "REPLY_TOO_LARGE"),
        code::BUSY => (Status::RESOURCE_EXHAUSTED, "BUSY"),
        code::BATCH_TOO_LARGE => (Status::RESOURCE_EXHAUSTED, "BATCH_TOO_LARGE"),
        // Clients repeat what is UNAVAILABLE, and this call may have run.
        code::LOST => (Status::UNKNOWN, "LOST"),
        code::PROGRAM_FAILED => (Status::UNKNOWN, "PROGRAM_FAILED"),
        code::TAKEN => (Status::ALREADY_EXISTS, "TAKEN"),
        code::CANCELLED => (Status::CANCELLED, "CANCELLED"),
        // A function's own code that is a status code.
        1..=16 => (u32::try_from(fault).unwrap_or(Status::UNKNOWN), "FUNCTION"),
        _ => (Status::UNKNOWN, "FUNCTION"),
    }
}

/// Returns a `google.rpc.Status` with one `google.rpc.ErrorInfo`.
fn details(status: u32, message: &str, reason: &str, code: i64, data: &str) -> Vec<u8> {
    let mut info = Vec::new();
    put_bytes(&mut info, 1, reason.as_bytes());
    put_bytes(&mut info, 2, b"chanrpc");
    for (key, value) in [("code", &*code.to_string()), ("data", data)] {
        if !value.is_empty() {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, key.as_bytes());
            put_bytes(&mut entry, 2, value.as_bytes());
            put_bytes(&mut info, 3, &entry);
        }
    }
    let mut any = Vec::new();
    put_bytes(&mut any, 1, ERROR_INFO.as_bytes());
    put_bytes(&mut any, 2, &info);
    let mut out = Vec::new();
    put_integer(&mut out, 1, u64::from(status));
    put_bytes(&mut out, 2, message.as_bytes());
    put_bytes(&mut out, 3, &any);
    out
}

/// Encodes a message for the header `grpc-message`.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte.into()),
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::proto::Fields;
    use super::*;

    #[test]
    fn messages_fit_in_a_header() {
        for (text, expected) in
            [("", ""), ("plain ~", "plain ~"), ("100%", "100%25"), ("\u{e4}\n", "%C3%A4%0A")]
        {
            assert_eq!(percent_encode(text), expected);
        }
    }

    #[test]
    fn a_status_fits_in_the_headers_of_any_client() {
        let fault = Fault::new(code::PROGRAM_FAILED, "ä".repeat(5000)).with_data(&"x".repeat(100_000));
        let status = Status::of(&fault);
        assert!(status.message.len() <= MAX_MESSAGE && status.details.len() <= MAX_DETAILS);
        assert_eq!(status.code, Status::UNKNOWN);
        let small = Status::of(&Fault::new(code::DENIED, "no").with_data(&7)).with_code(16);
        let fields: Vec<_> = Fields::of(&small.details).map(Result::unwrap).collect();
        assert_eq!(fields[0].1.integer(), Some(16));
        assert_eq!(fields[1].1.text(), Some("no"));
    }
}
