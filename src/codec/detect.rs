//! Which dialect a peer speaks, told by its first bytes.

use super::dialects::Dialect;
use super::headers;
use super::lines::begins_json;
use super::msgpack::MessagePack;

/// What first bytes can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A dialect on the bare stream.
    Dialect(Dialect),
    /// HTTP/1, and with it WebSocket.
    Http,
    /// A TLS handshake.
    Tls,
    /// HTTP/2.
    Http2,
    /// None of the above: the name of another protocol if it is known, else a description.
    Foreign(&'static str),
}

/// Methods after which nothing more is needed to recognize HTTP.
const HTTP_METHODS: [&[u8]; 9] =
    [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];
const HTTP2_METHOD: &[u8] = b"PRI";
const TLS_HANDSHAKE: u8 = 0x16;
/// The bytes examined at most. A first line that is longer, and not recognized by then, is foreign.
pub const LONGEST: usize = 4096;
const NO_JSON: &str = "neither JSON nor HTTP";

/// Tells the dialect, or `None` while the bytes could still be the beginning of more than one. The answer does not depend
/// on how the bytes were cut into pieces.
///
/// A request line `METHOD TARGET HTTP/x` is HTTP, whatever the method, so that the rules for hosts and pages hold. A line
/// of JSON begins with `{` or `[`; everything unknown is foreign, since a browser, a mail server or a proxy can be made to
/// send a line of JSON behind bytes of its own protocol.
pub fn detect(first: &[u8]) -> Option<Detected> {
    match first {
        [] => None,
        [TLS_HANDSHAKE, ..] => Some(Detected::Tls),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(Detected::Foreign("UTF-16, and JSON texts are UTF-8")),
        [0xff] | [0xfe] => None,
        // A blank line keeps a connection that has nothing to say yet. What follows it has to be JSON.
        [b'\n', ..] => Some(Detected::Dialect(Dialect::Lines)),
        &[byte, ..] if MessagePack::starts(byte) => Some(Detected::Dialect(Dialect::MessagePack)),
        _ => detect_line(&first[..first.len().min(LONGEST)])
            .or_else(|| (first.len() >= LONGEST).then_some(Detected::Foreign("an endless first line"))),
    }
}

/// The same for what begins like a line of text, perhaps behind blank lines (RFC 9112, section 2.2).
fn detect_line(mut line: &[u8]) -> Option<Detected> {
    while let Some(rest) = line.strip_prefix(b"\r\n") {
        line = rest;
    }
    if begins_json(line)? {
        return Some(Detected::Dialect(Dialect::Lines));
    }
    let blanks = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r')).count();
    if blanks > 0 {
        // Whitespace before anything but JSON is not HTTP either.
        return match line[blanks..] {
            [] => None,
            [b'\n', ..] => Some(Detected::Dialect(Dialect::Lines)),
            _ => Some(Detected::Foreign(NO_JSON)),
        };
    }
    let end = line.iter().position(|byte| !is_token(*byte))?;
    let (method, rest) = (&line[..end], &line[end..]);
    match rest[0] {
        _ if method.is_empty() => Some(Detected::Foreign(name(line))),
        b':' if headers::begins(method) => Some(Detected::Dialect(Dialect::Headers)),
        b' ' if method == HTTP2_METHOD => Some(Detected::Http2),
        b' ' if HTTP_METHODS.contains(&method) => Some(Detected::Http),
        b' ' => match rest {
            [_, b'/', ..] => Some(Detected::Http),
            _ => {
                let end = memchr::memchr(b'\n', rest)?;
                let http = is_http_version(&rest[..end]);
                Some(if http { Detected::Http } else { Detected::Foreign(name(line)) })
            }
        },
        _ => Some(Detected::Foreign(name(line))),
    }
}

/// Returns `true` if a line's last word is a version of HTTP, in any case and followed by blanks at most.
fn is_http_version(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let last = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    last.len() > 5 && last[..5].eq_ignore_ascii_case(b"HTTP/")
}

/// A character of a method or of a header's name (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The name of a protocol for the log and for the answer, as far as its first word tells.
fn name(line: &[u8]) -> &'static str {
    const WORDS: [(&[u8], &str); 6] = [
        (b"PROXY", "the PROXY protocol"),
        (b"EHLO", "SMTP"),
        (b"HELO", "SMTP"),
        (b"SSH-", "SSH"),
        (b"USER", "FTP or IRC"),
        (b"HTTP/", "an answer of HTTP"),
    ];
    let word = WORDS.iter().find(|(word, _)| line.starts_with(word)).map(|(_, name)| *name);
    word.unwrap_or(match line {
        [b'*' | b'$', b'0'..=b'9', ..] => "the protocol of redis",
        [4 | 5, ..] => "SOCKS or another binary protocol",
        [b'\0'..=0x1f | 0x7f..=u8::MAX, ..] => "a binary protocol",
        _ => NO_JSON,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: Detected = Detected::Dialect(Dialect::Lines);

    /// What is told in the end, which must be the same whenever it is told.
    #[track_caller]
    fn told(bytes: &[u8]) -> Option<Detected> {
        let all = detect(bytes);
        for end in 0..bytes.len() {
            let early = detect(&bytes[..end]);
            assert!(early.is_none() || early == all, "{bytes:?}: {early:?} after {end} bytes, then {all:?}");
        }
        all
    }

    #[test]
    fn a_line_of_json_begins_with_a_bracket() {
        for bytes in [
            &b"{"[..],
            b"[{",
            b"\n",
            b"\nPOST / HTTP/1.1\r\n",
            b"  {",
            b"\t\r\n",
            b"\r\n{",
            b"\r\n\r\n [",
            b"\xef\xbb\xbf{",
        ] {
            assert_eq!(told(bytes), Some(LINES), "{bytes:?}");
        }
    }

    #[test]
    fn a_request_line_is_http_whatever_the_method() {
        for bytes in [
            &b"POST /"[..],
            b"GET ",
            b"CONNECT ",
            b"\r\nPOST / HTTP/1.1\r\n",
            b"\r\n\r\n\r\nGET / HTTP/1.1\r\n",
            b"POST /\r\n",
            b"PROPFIND /",
            b"QUERY / HTTP/1.1\r\n",
            b"post / HTTP/1.1\r\n",
            b"connect 10.0.0.1:80 HTTP/1.1\r\n",
            b"M-SEARCH * HTTP/1.1\r\n",
            b"x http://board/ http/1.0 \n",
            b"123 x HTTP/1.1\r\n",
        ] {
            assert_eq!(told(bytes), Some(Detected::Http), "{bytes:?}");
        }
        let long = [&b"x"[..], &[b'y'; 2000], b" * HTTP/1.1\r\n"].concat();
        assert_eq!(told(&long), Some(Detected::Http));
    }

    #[test]
    fn others_bytes_are_foreign() {
        for bytes in [
            &b"hello\n"[..],
            b"\"{\"\n",
            b"7\n",
            b"null\n",
            b"GE{",
            b"CONNECX{",
            b" POST / HTTP/1.1\r\n",
            b"\r\n POST / HTTP/1.1\r\n",
            b"EHLO evil.example\r\n",
            b"a001 LOGIN x y\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"get key\r\n",
            b"USER anonymous\r\n",
            b"\x00\x01\x00\x00\x21\x12\xa4\x42",
            b"\x05\x01\x00",
            b"\x04\x01\x00\x50",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"Host: evil.example\r\n",
            b"Content-Length;",
            b"Content-L:",
            b"Content-Encoding: x",
            b"\x8f",
            b"\xa0",
            b"\xde",
            b"\xff\xfe{\0",
            b"\xef\xbb\xbfPOST / HTTP/1.1\r\n",
            b"HTTP/1.1 200 OK\r\n",
        ] {
            let told = told(bytes);
            assert!(matches!(told, Some(Detected::Foreign(_))), "{bytes:?}: {told:?}");
        }
        assert_eq!(told(b"PRI * HTTP/2.0"), Some(Detected::Http2));
        assert_eq!(told(b"\x16\x03\x01"), Some(Detected::Tls));
        for endless in [&[b'x'; LONGEST][..], &[b' '; LONGEST], &b"\r\n".repeat(LONGEST / 2)] {
            assert_eq!(detect(&endless[..LONGEST - 1]), None);
            assert!(matches!(detect(endless), Some(Detected::Foreign(_))));
        }
    }

    #[test]
    fn an_array_of_messagepack_is_told_by_a_byte() {
        for bytes in [&b"\x90"[..], b"\x94\x00\x01", b"\x9f", b"\xdc", b"\xdd\0\0\0\x04"] {
            assert_eq!(told(bytes), Some(Detected::Dialect(Dialect::MessagePack)), "{bytes:?}");
        }
    }

    #[test]
    fn few_bytes_may_be_anything() {
        for bytes in [
            &b""[..],
            b"G",
            b"GET",
            b"P",
            b"PR",
            b"OPTION",
            b"\r",
            b"\r\n",
            b" ",
            b"\xef\xbb",
            b"\xff",
            b"hello",
        ] {
            assert_eq!(detect(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_header_is_told_at_its_colon_and_in_any_case() {
        for header in
            ["Content-Length:", "content-length:", "CONTENT-LENGTH:", "Content-Type:", "cOnTeNt-TyPe:"]
        {
            for at in 0..header.len() {
                assert_eq!(detect(&header.as_bytes()[..at]), None, "{header}, {at} bytes");
            }
            for text in [header.to_owned(), format!("\r\n{header} 2\r\n")] {
                assert_eq!(told(text.as_bytes()), Some(Detected::Dialect(Dialect::Headers)), "{text}");
            }
        }
    }
}
