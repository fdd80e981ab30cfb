//! Answers, told apart by framing; of what is in them only the id is read, and whether it is an error.

use std::str;

use memchr::memchr;
use serde_json::Value;

use super::Dialect;
use super::msgpack;

/// A longer head than this is none.
const LONGEST_HEAD: usize = 16 * 1024;
/// How nodes, and many others, begin an answer.
const BEFORE_ID: &[u8] = br#"{"jsonrpc":"2.0","id":"#;

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// Not all of it is there yet.
    Incomplete,
    /// So many bytes that answer nothing.
    Nothing(usize),
    /// An answer of so many bytes.
    Answer(Answer<'a>, usize),
    /// A WebSocket ping of so many bytes, with its payload.
    Ping(&'a [u8], usize),
    /// The peer says that it ends, or speaks something else.
    Broken(&'static str),
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    /// The request's id. Without one, it answers the oldest request.
    pub(super) id: Option<u32>,
    /// What the error says, if it is one.
    pub(super) error: Option<&'a [u8]>,
}

/// Finds the next answer.
pub(super) fn next(dialect: Dialect, input: &[u8]) -> Next<'_> {
    match dialect {
        Dialect::Lines => line(input),
        Dialect::Headers => with_head(input, false),
        Dialect::Http => with_head(input, true),
        Dialect::Msgpack => packed(input),
        Dialect::WebSocket => frame(input),
    }
}

fn line(input: &[u8]) -> Next<'_> {
    let Some(end) = memchr(b'\n', input) else { return Next::Incomplete };
    match &input[..end] {
        b"" | b"\r" => Next::Nothing(end + 1),
        line => body(line, end + 1),
    }
}

/// A JSON text that takes, with what stands around it, so many bytes.
fn body(text: &[u8], len: usize) -> Next<'_> {
    match read(text) {
        Some(answer) => Next::Answer(answer, len),
        None => Next::Broken("an answer is not JSON-RPC, or has no id of ours"),
    }
}

fn read(text: &[u8]) -> Option<Answer<'_>> {
    if let Some(id) = usual(text) {
        return Some(Answer { id: Some(id), error: None });
    }
    let value: Value = serde_json::from_slice(text).ok()?;
    let id = value.get("id")?.as_u64().and_then(|id| u32::try_from(id).ok());
    let error = value.get("error").is_some_and(|error| !error.is_null());
    // Who cannot even read a request answers it with no id.
    (id.is_some() || error).then_some(Answer { id, error: error.then_some(text) })
}

/// The id of an answer in the form that nodes give it, or of a request that a bare echo has sent back.
fn usual(text: &[u8]) -> Option<u32> {
    let rest = text.strip_prefix(BEFORE_ID)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let after = &rest[digits..];
    if digits != 10 || !(after.starts_with(b",\"result\":") || after.starts_with(b",\"method\":")) {
        return None;
    }
    let id = rest[..digits].iter().fold(0, |id, digit| id * 10 + u64::from(digit - b'0'));
    u32::try_from(id).ok()
}

/// An answer after a head with its length: HTTP's, or the `Content-Length` framing of language servers.
fn with_head(input: &[u8], http: bool) -> Next<'_> {
    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if input.len() > LONGEST_HEAD {
            Next::Broken("an answer without a head")
        } else {
            Next::Incomplete
        };
    };
    let Ok(head) = str::from_utf8(&input[..end]) else { return Next::Broken("an answer without a head") };
    let status = if http { head.get(9..12).and_then(|status| status.parse::<u16>().ok()) } else { Some(200) };
    let Some(status) = status.filter(|_| !http || head.starts_with("HTTP/1.1 ")) else {
        return Next::Broken("an answer that is not HTTP/1.1");
    };
    let mut len = None;
    for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            len = value.trim().parse::<usize>().ok();
        }
    }
    let Some(len) = len else { return Next::Broken("an answer without a Content-Length") };
    let Some(total) = (end + 4).checked_add(len) else { return Next::Broken("an answer of absurd length") };
    let Some(text) = input.get(end + 4..total) else { return Next::Incomplete };
    if !http {
        return body(text, total);
    }
    // HTTP/1.1 answers in the order of the requests (RFC 9112, section 9.3.2), whatever is in the body.
    let error = if status == 200 {
        match read(text) {
            Some(answer) => answer.error,
            None => return Next::Broken("an answer is not JSON-RPC, or has no id of ours"),
        }
    } else {
        Some(&input[..total])
    };
    Next::Answer(Answer { id: None, error }, total)
}

fn packed(input: &[u8]) -> Next<'_> {
    let len = match msgpack::value_len(input) {
        Ok(Some(len)) => len,
        Ok(None) => return Next::Incomplete,
        Err(msgpack::Broken) => return Next::Broken("an answer is not MessagePack"),
    };
    match &input[..len] {
        [0x93, 2, ..] => Next::Nothing(len),
        [0x94, 1, rest @ ..] => {
            let Some((id, taken)) = msgpack::uint(rest) else {
                return Next::Broken("an answer has no id of ours");
            };
            let error = &rest[taken..];
            let error = (error.first() != Some(&0xc0)).then_some(error);
            // No id of ours is that large, nor 0.
            Next::Answer(Answer { id: Some(u32::try_from(id).unwrap_or(0)), error }, len)
        }
        _ => Next::Broken("an answer is not MessagePack-RPC"),
    }
}

/// A frame from a server (RFC 6455, section 5.2).
fn frame(input: &[u8]) -> Next<'_> {
    let [first, second, rest @ ..] = input else { return Next::Incomplete };
    if second & 0x80 != 0 {
        return Next::Broken("a server must not mask its frames");
    }
    let len_bytes = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(digits) = rest.get(..len_bytes) else { return Next::Incomplete };
    let len = match len_bytes {
        0 => u64::from(second & 0x7f),
        _ => digits.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
    };
    let head = 2 + len_bytes;
    let Some(total) = usize::try_from(len).ok().and_then(|len| len.checked_add(head)) else {
        return Next::Broken("a frame of absurd length");
    };
    let Some(payload) = input.get(head..total) else { return Next::Incomplete };
    match first {
        0x81 | 0x82 => body(payload, total),
        0x88 => Next::Broken("the server closed the WebSocket"),
        0x89 => Next::Ping(payload, total),
        0x8a => Next::Nothing(total),
        _ => Next::Broken("a frame in pieces, which is not read here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1000000007,"result":5}"#;
    const OTHERWISE: &str = r#"{"result": {"error": 1}, "id": 1000000007, "jsonrpc": "2.0"}"#;
    const ERROR: &str = r#"{"jsonrpc":"2.0","id":1000000007,"error":{"code":-32601,"message":"no"}}"#;

    /// The answer, which must be all of the bytes and not be found in any less of them.
    #[track_caller]
    fn whole(dialect: Dialect, bytes: &[u8]) -> Answer<'_> {
        for len in 0..bytes.len() {
            assert_eq!(next(dialect, &bytes[..len]), Next::Incomplete, "{len} bytes");
        }
        match next(dialect, bytes) {
            Next::Answer(answer, len) if len == bytes.len() => answer,
            other => panic!("{other:?}"),
        }
    }

    fn broken(dialect: Dialect, bytes: &[u8]) -> bool {
        matches!(next(dialect, bytes), Next::Broken(_))
    }

    #[test]
    fn lines() {
        for text in [RESULT, OTHERWISE, r#"{"jsonrpc":"2.0","id":1000000007,"method":"f"}"#] {
            let line = format!("{text}\n");
            let answer = whole(Dialect::Lines, line.as_bytes());
            assert_eq!(answer, Answer { id: Some(1_000_000_007), error: None });
        }
        let line = format!("{ERROR}\r\n");
        let answer = whole(Dialect::Lines, line.as_bytes());
        assert_eq!((answer.id, answer.error.is_some()), (Some(1_000_000_007), true));
        let answer = whole(Dialect::Lines, b"{\"id\":null,\"error\":{\"code\":-32700,\"message\":\"\"}}\n");
        assert_eq!((answer.id, answer.error.is_some()), (None, true));
        for garbage in ["hello\n", "{}\n", "[]\n", "{\"id\":\"x\",\"result\":1}\n", "{\"id\":9,\n"] {
            assert!(broken(Dialect::Lines, garbage.as_bytes()), "{garbage}");
        }
        assert_eq!(next(Dialect::Lines, b"\r\n"), Next::Nothing(2));
    }

    #[test]
    fn headers() {
        let bytes = format!("content-length: {}\r\nX: y\r\n\r\n{RESULT}", RESULT.len());
        assert_eq!(whole(Dialect::Headers, bytes.as_bytes()).id, Some(1_000_000_007));
        assert!(broken(Dialect::Headers, b"X: y\r\n\r\n{}"));
        assert!(broken(Dialect::Headers, &[b'x'; LONGEST_HEAD + 1]));
    }

    #[test]
    fn http() {
        let reply = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        let in_order = Answer { id: None, error: None };
        assert_eq!(whole(Dialect::Http, &reply("200 OK", RESULT)), in_order);
        assert!(whole(Dialect::Http, &reply("200 OK", ERROR)).error.is_some());
        assert!(whole(Dialect::Http, &reply("401 Unauthorized", "no\n")).error.is_some());
        assert!(broken(Dialect::Http, &reply("200 OK", "hello")));
        assert!(broken(Dialect::Http, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert!(broken(Dialect::Http, b"SSH-2.0-x\r\n\r\n"));
    }

    #[test]
    fn msgpack() {
        let answer = whole(Dialect::Msgpack, b"\x94\x01\xce\x3b\x9a\xca\x07\xc0\x05");
        assert_eq!(answer, Answer { id: Some(1_000_000_007), error: None });
        let error = whole(Dialect::Msgpack, b"\x94\x01\xce\x3b\x9a\xca\x07\xa2no\xc0");
        assert_eq!((error.id, error.error.is_some()), (Some(1_000_000_007), true));
        assert_eq!(next(Dialect::Msgpack, b"\x93\x02\xa1a\x90"), Next::Nothing(5));
        assert!(broken(Dialect::Msgpack, b"hello"));
        assert!(broken(Dialect::Msgpack, b"\xc1"));
    }

    #[test]
    fn frames() {
        for (len, head) in [(44, &b"\x81\x2c"[..]), (300, b"\x81\x7e\x01\x2c"), (0x1_0000, b"\x82\x7f")] {
            let mut bytes = head.to_vec();
            if len == 0x1_0000 {
                bytes.extend(0x1_0000_u64.to_be_bytes());
            }
            bytes.extend(RESULT.bytes().chain(std::iter::repeat(b' ')).take(len));
            assert_eq!(whole(Dialect::WebSocket, &bytes).id, Some(1_000_000_007));
        }
        assert_eq!(next(Dialect::WebSocket, b"\x89\x02hi"), Next::Ping(b"hi", 4));
        for bytes in [&b"\x88\x00"[..], b"\x81\x82", b"\x01\x01{", b"\x81\x02{}"] {
            assert!(broken(Dialect::WebSocket, bytes), "{bytes:?}");
        }
    }
}
