//! Detects the protocol of a peer from its first bytes.

use super::content_length;
use super::dialect::Dialect;
use super::lines::starts_json;
use super::msgpack::MessagePackFramer;

/// The protocol of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A dialect on the bare stream.
    Dialect(Dialect),
    /// HTTP/1, including WebSocket.
    Http,
    /// A TLS handshake.
    Tls,
    /// HTTP/2.
    Http2,
    /// None of the above: the name of the protocol if it is known, otherwise a description.
    Foreign(&'static str),
}

/// Methods that identify HTTP without the rest of the request line.
const HTTP_METHODS: [&[u8]; 9] =
    [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];
const HTTP2_METHOD: &[u8] = b"PRI";
const TLS_HANDSHAKE: u8 = 0x16;
/// Maximum number of bytes examined. A longer first line that is not recognized by then is foreign.
pub const DETECT_LIMIT: usize = 4096;
const UNKNOWN: &str = "neither JSON nor HTTP";

/// Detects the protocol. Returns `None` while the bytes are a prefix of more than one. The result does not depend on
/// how the bytes are split into reads.
///
/// A request line `METHOD TARGET HTTP/x` is HTTP whatever the method, so that the checks of `Host` and `Origin` apply.
/// A line of JSON starts with `{` or `[`. Everything else is foreign: an attacker can make a browser, a mail server or
/// a proxy send a line of JSON after bytes of its own protocol.
pub fn detect(first: &[u8]) -> Option<Detected> {
    match first {
        [] => None,
        [TLS_HANDSHAKE, ..] => Some(Detected::Tls),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(Detected::Foreign("UTF-16, and JSON texts are UTF-8")),
        [0xff] | [0xfe] => None,
        // A blank line selects JSON, for a connection that sends its first request later.
        [b'\n', ..] => Some(Detected::Dialect(Dialect::JsonLines)),
        &[byte, ..] if MessagePackFramer::is_first_byte(byte) => {
            Some(Detected::Dialect(Dialect::MessagePack))
        }
        _ => detect_line(&first[..first.len().min(DETECT_LIMIT)]).or_else(|| {
            (first.len() >= DETECT_LIMIT).then_some(Detected::Foreign("a first line of more than 4096 bytes"))
        }),
    }
}

/// Detects protocols that start with a line of text, after optional blank lines (RFC 9112, section 2.2).
fn detect_line(mut line: &[u8]) -> Option<Detected> {
    while let Some(rest) = line.strip_prefix(b"\r\n") {
        line = rest;
    }
    if starts_json(line)? {
        return Some(Detected::Dialect(Dialect::JsonLines));
    }
    let blanks = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r')).count();
    if blanks > 0 {
        // HTTP does not start with whitespace.
        return match line[blanks..] {
            [] => None,
            [b'\n', ..] => Some(Detected::Dialect(Dialect::JsonLines)),
            _ => Some(Detected::Foreign(UNKNOWN)),
        };
    }
    let end = line.iter().position(|byte| !is_tchar(*byte))?;
    let (method, rest) = (&line[..end], &line[end..]);
    match rest[0] {
        _ if method.is_empty() => Some(Detected::Foreign(foreign_name(line))),
        b':' if content_length::is_framing_header(method) => {
            Some(Detected::Dialect(Dialect::JsonContentLength))
        }
        b' ' if method == HTTP2_METHOD => Some(Detected::Http2),
        b' ' if HTTP_METHODS.contains(&method) => Some(Detected::Http),
        b' ' => match rest {
            [_, b'/', ..] => Some(Detected::Http),
            _ => {
                let end = memchr::memchr(b'\n', rest)?;
                let http = is_http_version(&rest[..end]);
                Some(if http { Detected::Http } else { Detected::Foreign(foreign_name(line)) })
            }
        },
        _ => Some(Detected::Foreign(foreign_name(line))),
    }
}

/// Returns `true` if the last word of a line is an HTTP version, in any case.
fn is_http_version(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let last = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    last.len() > 5 && last[..5].eq_ignore_ascii_case(b"HTTP/")
}

/// Returns `true` for a character of a method or header name: `tchar` (RFC 9110, section 5.6.2).
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns the name of a protocol by its first word, for the log and the error message.
fn foreign_name(line: &[u8]) -> &'static str {
    const WORDS: [(&[u8], &str); 6] = [
        (b"PROXY", "the PROXY protocol"),
        (b"EHLO", "SMTP"),
        (b"HELO", "SMTP"),
        (b"SSH-", "SSH"),
        (b"USER", "FTP or IRC"),
        (b"HTTP/", "an HTTP response"),
    ];
    let word = WORDS.iter().find(|(word, _)| line.starts_with(word)).map(|(_, name)| *name);
    word.unwrap_or(match line {
        [b'*' | b'$', b'0'..=b'9', ..] => "the Redis protocol",
        [4 | 5, ..] => "SOCKS or another binary protocol",
        [b'\0'..=0x1f | 0x7f..=u8::MAX, ..] => "a binary protocol",
        _ => UNKNOWN,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: Detected = Detected::Dialect(Dialect::JsonLines);

    /// Returns the result, which must be the same for every prefix that has one.
    #[track_caller]
    fn detected(bytes: &[u8]) -> Option<Detected> {
        let all = detect(bytes);
        for end in 0..bytes.len() {
            let early = detect(&bytes[..end]);
            assert!(early.is_none() || early == all, "{bytes:?}: {early:?} after {end} bytes, then {all:?}");
        }
        all
    }

    #[test]
    fn json_line_starts_with_a_bracket() {
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
            assert_eq!(detected(bytes), Some(LINES), "{bytes:?}");
        }
    }

    #[test]
    fn request_line_with_any_method_is_http() {
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
            assert_eq!(detected(bytes), Some(Detected::Http), "{bytes:?}");
        }
        let long = [&b"x"[..], &[b'y'; 2000], b" * HTTP/1.1\r\n"].concat();
        assert_eq!(detected(&long), Some(Detected::Http));
    }

    #[test]
    fn other_protocols_are_foreign() {
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
            let detected = detected(bytes);
            assert!(matches!(detected, Some(Detected::Foreign(_))), "{bytes:?}: {detected:?}");
        }
        assert_eq!(detected(b"PRI * HTTP/2.0"), Some(Detected::Http2));
        assert_eq!(detected(b"\x16\x03\x01"), Some(Detected::Tls));
        for endless in [&[b'x'; DETECT_LIMIT][..], &[b' '; DETECT_LIMIT], &b"\r\n".repeat(DETECT_LIMIT / 2)] {
            assert_eq!(detect(&endless[..DETECT_LIMIT - 1]), None);
            assert!(matches!(detect(endless), Some(Detected::Foreign(_))));
        }
    }

    #[test]
    fn one_byte_identifies_messagepack() {
        for bytes in [&b"\x90"[..], b"\x94\x00\x01", b"\x9f", b"\xdc", b"\xdd\0\0\0\x04"] {
            assert_eq!(detected(bytes), Some(Detected::Dialect(Dialect::MessagePack)), "{bytes:?}");
        }
    }

    #[test]
    fn short_prefixes_are_undecided() {
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
    fn header_is_recognized_at_its_colon_in_any_case() {
        for header in
            ["Content-Length:", "content-length:", "CONTENT-LENGTH:", "Content-Type:", "cOnTeNt-TyPe:"]
        {
            for at in 0..header.len() {
                assert_eq!(detect(&header.as_bytes()[..at]), None, "{header}, {at} bytes");
            }
            for text in [header.to_owned(), format!("\r\n{header} 2\r\n")] {
                assert_eq!(
                    detected(text.as_bytes()),
                    Some(Detected::Dialect(Dialect::JsonContentLength)),
                    "{text}"
                );
            }
        }
    }
}
