//! The outcome of a call: a status code, a message, and details
//! (<https://grpc.io/docs/guides/status-codes/>, <https://google.aip.dev/193>).

use std::borrow::Cow;
use std::fmt::Write;

use data_encoding::BASE64;
use serde_json::value::RawValue;

use super::super::protobuf::descriptors;
use super::super::protobuf::wire::{Fields, Value, put_bytes, put_integer};
use crate::message::{Fault, code};

/// Maximum length of a message, in bytes. Many clients accept 8 KiB of headers in all.
const MAX_MESSAGE: usize = 1024;
/// Maximum size of the details, in bytes. Larger data of a fault is left out.
const MAX_DETAILS: usize = 3 * 1024;
/// Who gives the reason in `ErrorInfo`.
const DOMAIN: &str = "chanrpc";
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
    pub const DATA_LOSS: u32 = 15;
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

impl Status {
    /// Returns the fault of a call that a server has answered with this status: the reverse of [`of`](Self::of). If a
    /// node has sent it, it is the same fault; else its code is that of the status, and its data is `{"status": NUMBER}`
    /// with the `details` in Base64.
    pub fn into_fault(self) -> Fault {
        if let Some((code, data)) = fault_in(&self.details) {
            return Fault { code, message: self.message, data };
        }
        #[derive(serde::Serialize)]
        struct Data {
            status: u32,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<String>,
            /// The call has reached a server, which may have run it.
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            sent: bool,
        }
        let code = fault_code(self.code);
        let details = (!self.details.is_empty()).then(|| BASE64.encode(&self.details));
        let data = Data { status: self.code, details, sent: code == code::NO_PROVIDER };
        Fault::new(code, self.message).with_data(&data)
    }
}

/// Returns the code and the data of a fault in the details of a status, if a node has put them there.
fn fault_in(details: &[u8]) -> Option<(i64, Option<Box<RawValue>>)> {
    for (_, any) in descriptors::parts(details, &[3]) {
        let (mut is_node, mut code, mut data) = (false, None, None);
        for (_, info) in descriptors::parts(any, &[2]) {
            for (number, value) in Fields::of(info).filter_map(Result::ok) {
                match (number, value) {
                    (2, domain) => is_node = domain.text() == Some(DOMAIN),
                    (3, Value::Bytes(entry)) => {
                        let text = |wanted| {
                            let mut fields = Fields::of(entry).filter_map(Result::ok);
                            fields.find_map(|(number, value)| (number == wanted).then(|| value.text())?)
                        };
                        match (text(1), text(2)) {
                            (Some("code"), Some(value)) => code = value.parse().ok(),
                            (Some("data"), Some(value)) => {
                                data = RawValue::from_string(value.to_owned()).ok();
                            }
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
        }
        if let Some(code) = code.filter(|_| is_node) {
            return Some((code, data));
        }
    }
    None
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

/// Returns the code of the fault for a status of a server that is no node. Several codes share a status, of which this is
/// the most general.
fn fault_code(status: u32) -> i64 {
    match status {
        Status::CANCELLED => code::CANCELLED,
        Status::INVALID_ARGUMENT => code::INVALID_PARAMS,
        Status::DEADLINE_EXCEEDED => code::DEADLINE,
        Status::PERMISSION_DENIED | Status::UNAUTHENTICATED => code::DENIED,
        Status::RESOURCE_EXHAUSTED => code::BUSY,
        Status::UNIMPLEMENTED => code::UNKNOWN_FUNCTION,
        Status::INTERNAL | Status::DATA_LOSS => code::INTERNAL,
        Status::UNAVAILABLE => code::NO_PROVIDER,
        // The function's own: UNKNOWN, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, ABORTED and OUT_OF_RANGE.
        _ => i64::from(status),
    }
}

/// Returns a `google.rpc.Status` with one `google.rpc.ErrorInfo`.
fn details(status: u32, message: &str, reason: &str, code: i64, data: &str) -> Vec<u8> {
    let mut info = Vec::new();
    put_bytes(&mut info, 1, reason.as_bytes());
    put_bytes(&mut info, 2, DOMAIN.as_bytes());
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

/// Decodes the header `grpc-message`. What is not encoded right is left as it is.
pub fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits =
            after.get(..2).filter(|_| first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
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
    use super::*;

    #[test]
    fn messages_fit_in_a_header() {
        for (text, expected) in
            [("", ""), ("plain ~", "plain ~"), ("100%", "100%25"), ("\u{e4}\n", "%C3%A4%0A")]
        {
            assert_eq!(percent_encode(text), expected);
            assert_eq!(percent_decode(expected), text);
        }
    }

    #[test]
    fn each_status_of_a_server_has_its_code() {
        for (status, expected) in [
            (1, code::CANCELLED),
            (2, 2),
            (3, code::INVALID_PARAMS),
            (4, code::DEADLINE),
            (5, 5),
            (6, 6),
            (7, code::DENIED),
            (8, code::BUSY),
            (9, 9),
            (10, 10),
            (11, 11),
            (12, code::UNKNOWN_FUNCTION),
            (13, code::INTERNAL),
            (14, code::NO_PROVIDER),
            (15, code::INTERNAL),
            (16, code::DENIED),
            (17, 17),
        ] {
            let fault = Status::new(status, "why").into_fault();
            assert_eq!((fault.code, &*fault.message), (expected, "why"));
            let sent = if status == 14 { ",\"sent\":true" } else { "" };
            assert_eq!(fault.data.unwrap().get(), format!("{{\"status\":{status}{sent}}}"));
        }
        let details = Status { code: 5, message: "no".into(), details: vec![0x0a, 0x01, 0x02] }.into_fault();
        assert_eq!(details.data.unwrap().get(), r#"{"status":5,"details":"CgEC"}"#);
    }

    #[test]
    fn faults_of_nodes_stay_as_they_are() {
        for code in [code::PARSE, code::HOP_LIMIT, code::PROGRAM_FAILED, code::NO_PROVIDER, 5, -7, 0] {
            for fault in [Fault::new(code, "a\nb"), Fault::new(code, "").with_data(&["ä"])] {
                assert_eq!(Status::of(&fault).into_fault(), fault);
            }
        }
        assert!(Status::of(&Fault::not_sent("gone")).into_fault().is_unsent());
        assert!(!Status::new(Status::UNAVAILABLE, "").into_fault().is_unsent());
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
