//! Parses replies. Reads only the framing, the id, and whether the reply is an error.

use std::str;

use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Dialect;
use super::msgpack;

/// The maximum length of a head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How nodes, and many other servers, begin a reply.
const BEFORE_ID: &[u8] = br#"{"jsonrpc":"2.0","id":"#;

/// The first item in the input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    /// The item is not complete yet.
    Incomplete,
    /// An item of this length, in bytes, that is not a reply.
    Skip(usize),
    /// A reply and its length in bytes.
    Reply(Reply<'a>, usize),
    /// The payload of a WebSocket ping, and the length of its frame in bytes.
    Ping(&'a [u8], usize),
    /// The peer closes the connection or violates the protocol.
    Invalid(&'static str),
}

/// One reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    /// The id of the request. Without one, the reply belongs to the oldest request.
    pub(super) id: Option<u32>,
    /// The text of the error, if the reply is one.
    pub(super) error: Option<&'a [u8]>,
}

/// Parses the next item.
pub(super) fn parse(dialect: Dialect, input: &[u8]) -> Parsed<'_> {
    match dialect {
        Dialect::Lines => line(input),
        Dialect::Headers => with_head(input, false),
        Dialect::Http => with_head(input, true),
        Dialect::Msgpack => msgpack_rpc(input),
        Dialect::WebSocket => frame(input),
    }
}

fn line(input: &[u8]) -> Parsed<'_> {
    let Some(end) = memchr(b'\n', input) else { return Parsed::Incomplete };
    match &input[..end] {
        b"" | b"\r" => Parsed::Skip(end + 1),
        line => json_reply(line, end + 1),
    }
}

/// Parses a JSON text that takes `len` bytes with its framing.
fn json_reply(text: &[u8], len: usize) -> Parsed<'_> {
    match parse_json(text) {
        Some(reply) => Parsed::Reply(reply, len),
        None => Parsed::Invalid("a reply is not JSON-RPC or has an unknown id"),
    }
}

fn parse_json(text: &[u8]) -> Option<Reply<'_>> {
    if let Some(id) = fast_path_id(text) {
        return Some(Reply { id: Some(id), error: None });
    }
    let Object { id, error } = serde_json::from_slice(text).ok()?;
    let (id, error) = (id.get().parse().ok(), error.is_some());
    // A server that cannot parse a request replies without an id.
    (id.is_some() || error).then_some(Reply { id, error: error.then_some(text) })
}

/// The members of a reply that are of interest.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    error: Option<&'a RawValue>,
}

/// Returns the id of a reply in the form that nodes send, or of a request that an echo server has sent back.
fn fast_path_id(text: &[u8]) -> Option<u32> {
    let rest = text.strip_prefix(BEFORE_ID)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let after = &rest[digits..];
    if digits != 10 || !(after.starts_with(b",\"result\":") || after.starts_with(b",\"method\":")) {
        return None;
    }
    let id = rest[..digits].iter().fold(0, |id, digit| id * 10 + u64::from(digit - b'0'));
    u32::try_from(id).ok()
}

/// Parses a reply after a head with its length: HTTP's, or the `Content-Length` framing of language servers.
fn with_head(input: &[u8], http: bool) -> Parsed<'_> {
    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if input.len() > MAX_HEAD {
            Parsed::Invalid("a reply without a valid head")
        } else {
            Parsed::Incomplete
        };
    };
    let Ok(head) = str::from_utf8(&input[..end]) else {
        return Parsed::Invalid("a reply without a valid head");
    };
    let status = if http { head.get(9..12).and_then(|status| status.parse::<u16>().ok()) } else { Some(200) };
    let Some(status) = status.filter(|_| !http || head.starts_with("HTTP/1.1 ")) else {
        return Parsed::Invalid("a reply is not HTTP/1.1");
    };
    let mut len = None;
    for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            len = value.trim().parse::<usize>().ok();
        }
    }
    let Some(len) = len else { return Parsed::Invalid("a reply without Content-Length") };
    let Some(total) = (end + 4).checked_add(len) else {
        return Parsed::Invalid("the length of a reply is out of range");
    };
    let Some(text) = input.get(end + 4..total) else { return Parsed::Incomplete };
    if !http {
        return json_reply(text, total);
    }
    // HTTP/1.1 responses come in the order of the requests (RFC 9112, section 9.3.2), whatever the body says.
    let error = if status == 200 {
        match parse_json(text) {
            Some(reply) => reply.error,
            None => return Parsed::Invalid("a reply is not JSON-RPC or has an unknown id"),
        }
    } else {
        Some(&input[..total])
    };
    Parsed::Reply(Reply { id: None, error }, total)
}

fn msgpack_rpc(input: &[u8]) -> Parsed<'_> {
    let len = match msgpack::value_len(input) {
        Ok(Some(len)) => len,
        Ok(None) => return Parsed::Incomplete,
        Err(msgpack::InvalidMsgpack) => return Parsed::Invalid("a reply is not MessagePack"),
    };
    match &input[..len] {
        [0x93, 2, ..] => Parsed::Skip(len),
        [0x94, 1, rest @ ..] => {
            let Some((id, taken)) = msgpack::uint(rest) else {
                return Parsed::Invalid("a reply has no valid id");
            };
            let error = &rest[taken..];
            let error = (error.first() != Some(&0xc0)).then_some(error);
            // Ids of requests are neither 0 nor that large.
            Parsed::Reply(Reply { id: Some(u32::try_from(id).unwrap_or(0)), error }, len)
        }
        _ => Parsed::Invalid("a reply is not MessagePack-RPC"),
    }
}

/// Parses a WebSocket frame from a server (RFC 6455, section 5.2).
fn frame(input: &[u8]) -> Parsed<'_> {
    let [first, second, rest @ ..] = input else { return Parsed::Incomplete };
    if second & 0x80 != 0 {
        return Parsed::Invalid("the server masks its frames");
    }
    let len_bytes = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(digits) = rest.get(..len_bytes) else { return Parsed::Incomplete };
    let len = match len_bytes {
        0 => u64::from(second & 0x7f),
        _ => digits.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
    };
    let head = 2 + len_bytes;
    let Some(total) = usize::try_from(len).ok().and_then(|len| len.checked_add(head)) else {
        return Parsed::Invalid("the length of a frame is out of range");
    };
    let Some(payload) = input.get(head..total) else { return Parsed::Incomplete };
    match first {
        0x81 | 0x82 => json_reply(payload, total),
        0x88 => Parsed::Invalid("the server closed the WebSocket"),
        0x89 => Parsed::Ping(payload, total),
        0x8a => Parsed::Skip(total),
        _ => Parsed::Invalid("fragmented frames are not supported"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"jsonrpc":"2.0","id":1000000007,"result":5}"#;
    const OTHERWISE: &str = r#"{"result": {"error": 1}, "id": 1000000007, "jsonrpc": "2.0"}"#;
    const ERROR: &str = r#"{"jsonrpc":"2.0","id":1000000007,"error":{"code":-32601,"message":"no"}}"#;

    /// Parses a reply that takes all of the bytes, and checks that no prefix of them is complete.
    #[track_caller]
    fn whole(dialect: Dialect, bytes: &[u8]) -> Reply<'_> {
        for len in 0..bytes.len() {
            assert_eq!(parse(dialect, &bytes[..len]), Parsed::Incomplete, "{len} bytes");
        }
        match parse(dialect, bytes) {
            Parsed::Reply(reply, len) if len == bytes.len() => reply,
            other => panic!("{other:?}"),
        }
    }

    fn broken(dialect: Dialect, bytes: &[u8]) -> bool {
        matches!(parse(dialect, bytes), Parsed::Invalid(_))
    }

    #[test]
    fn parses_lines() {
        for text in [RESULT, OTHERWISE, r#"{"jsonrpc":"2.0","id":1000000007,"method":"f"}"#] {
            let line = format!("{text}\n");
            let reply = whole(Dialect::Lines, line.as_bytes());
            assert_eq!(reply, Reply { id: Some(1_000_000_007), error: None });
        }
        let line = format!("{ERROR}\r\n");
        let reply = whole(Dialect::Lines, line.as_bytes());
        assert_eq!((reply.id, reply.error.is_some()), (Some(1_000_000_007), true));
        let reply = whole(Dialect::Lines, b"{\"id\":null,\"error\":{\"code\":-32700,\"message\":\"\"}}\n");
        assert_eq!((reply.id, reply.error.is_some()), (None, true));
        for garbage in ["hello\n", "{}\n", "[]\n", "{\"id\":\"x\",\"result\":1}\n", "{\"id\":9,\n"] {
            assert!(broken(Dialect::Lines, garbage.as_bytes()), "{garbage}");
        }
        assert_eq!(parse(Dialect::Lines, b"\r\n"), Parsed::Skip(2));
    }

    #[test]
    fn parses_content_length_framing() {
        let bytes = format!("content-length: {}\r\nX: y\r\n\r\n{RESULT}", RESULT.len());
        assert_eq!(whole(Dialect::Headers, bytes.as_bytes()).id, Some(1_000_000_007));
        assert!(broken(Dialect::Headers, b"X: y\r\n\r\n{}"));
        assert!(broken(Dialect::Headers, &[b'x'; MAX_HEAD + 1]));
    }

    #[test]
    fn parses_http() {
        let reply = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        let in_order = Reply { id: None, error: None };
        assert_eq!(whole(Dialect::Http, &reply("200 OK", RESULT)), in_order);
        assert!(whole(Dialect::Http, &reply("200 OK", ERROR)).error.is_some());
        assert!(whole(Dialect::Http, &reply("401 Unauthorized", "no\n")).error.is_some());
        assert!(broken(Dialect::Http, &reply("200 OK", "hello")));
        assert!(broken(Dialect::Http, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
        assert!(broken(Dialect::Http, b"SSH-2.0-x\r\n\r\n"));
    }

    #[test]
    fn parses_msgpack() {
        let reply = whole(Dialect::Msgpack, b"\x94\x01\xce\x3b\x9a\xca\x07\xc0\x05");
        assert_eq!(reply, Reply { id: Some(1_000_000_007), error: None });
        let error = whole(Dialect::Msgpack, b"\x94\x01\xce\x3b\x9a\xca\x07\xa2no\xc0");
        assert_eq!((error.id, error.error.is_some()), (Some(1_000_000_007), true));
        assert_eq!(parse(Dialect::Msgpack, b"\x93\x02\xa1a\x90"), Parsed::Skip(5));
        assert!(broken(Dialect::Msgpack, b"hello"));
        assert!(broken(Dialect::Msgpack, b"\xc1"));
    }

    #[test]
    fn parses_websocket_frames() {
        for (len, head) in [(44, &b"\x81\x2c"[..]), (300, b"\x81\x7e\x01\x2c"), (0x1_0000, b"\x82\x7f")] {
            let mut bytes = head.to_vec();
            if len == 0x1_0000 {
                bytes.extend(0x1_0000_u64.to_be_bytes());
            }
            bytes.extend(RESULT.bytes().chain(std::iter::repeat(b' ')).take(len));
            assert_eq!(whole(Dialect::WebSocket, &bytes).id, Some(1_000_000_007));
        }
        assert_eq!(parse(Dialect::WebSocket, b"\x89\x02hi"), Parsed::Ping(b"hi", 4));
        for bytes in [&b"\x88\x00"[..], b"\x81\x82", b"\x01\x01{", b"\x81\x02{}"] {
            assert!(broken(Dialect::WebSocket, bytes), "{bytes:?}");
        }
    }
}
