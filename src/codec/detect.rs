//! Which dialect a peer speaks, told by its first bytes.

use super::dialects::Dialect;
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
    /// HTTP/2, which is not spoken here.
    Foreign(&'static str),
}

const HTTP_METHODS: [&[u8]; 9] =
    [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];
const HEADERS: [&[u8]; 2] = [b"Content-Length:", b"Content-Type:"];
const HTTP2: &[u8] = b"PRI ";
const TLS_HANDSHAKE: u8 = 0x16;

/// Tells the dialect, or `None` while the bytes could still be the beginning of more than one.
///
/// What looks like nothing in particular is taken as a line of JSON, so that its sender is told what is wrong.
pub fn detect(first: &[u8]) -> Option<Detected> {
    let starts = |method: &[u8]| first.starts_with(method);
    let could_become = |method: &[u8]| method.starts_with(first);
    // As far as both go: a header's name counts the same in capitals.
    let agrees = |header: &&[u8]| header.iter().zip(first).all(|(a, b)| a.eq_ignore_ascii_case(b));
    match first {
        [] => None,
        [TLS_HANDSHAKE, ..] => Some(Detected::Tls),
        &[byte, ..] if MessagePack::starts(byte) => Some(Detected::Dialect(Dialect::MessagePack)),
        _ if HTTP_METHODS.into_iter().any(starts) => Some(Detected::Http),
        _ if starts(HTTP2) => Some(Detected::Foreign("HTTP/2")),
        _ if HTTP_METHODS.into_iter().chain([HTTP2]).any(could_become) => None,
        _ => match HEADERS.iter().find(|header| agrees(header)) {
            Some(header) if first.len() < header.len() => None,
            Some(_) => Some(Detected::Dialect(Dialect::Headers)),
            None => Some(Detected::Dialect(Dialect::Lines)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_dialects_apart_by_as_few_bytes_as_it_takes() {
        for (bytes, dialect) in [
            (&b"{"[..], Detected::Dialect(Dialect::Lines)),
            (b"[{", Detected::Dialect(Dialect::Lines)),
            (b"\n", Detected::Dialect(Dialect::Lines)),
            (b"  {", Detected::Dialect(Dialect::Lines)),
            (b"hello", Detected::Dialect(Dialect::Lines)),
            (b"\xff\xfe", Detected::Dialect(Dialect::Lines)),
            (b"GE{", Detected::Dialect(Dialect::Lines)),
            (b"POST /", Detected::Http),
            (b"GET ", Detected::Http),
            (b"\x16\x03\x01", Detected::Tls),
            (b"PRI * HTTP/2.0", Detected::Foreign("HTTP/2")),
            (b"CONNECT ", Detected::Http),
            (b"CONNECX", Detected::Dialect(Dialect::Lines)),
            (b"connect ", Detected::Dialect(Dialect::Lines)),
            (b"Content-Length;", Detected::Dialect(Dialect::Lines)),
            (b"Content-L:", Detected::Dialect(Dialect::Lines)),
            (b"Content-Encoding: x", Detected::Dialect(Dialect::Lines)),
            (b"\x90", Detected::Dialect(Dialect::MessagePack)),
            (b"\x94\x00\x01", Detected::Dialect(Dialect::MessagePack)),
            (b"\x9f", Detected::Dialect(Dialect::MessagePack)),
            (b"\xdc", Detected::Dialect(Dialect::MessagePack)),
            (b"\xdd\0\0\0\x04", Detected::Dialect(Dialect::MessagePack)),
            (b"\x8f", Detected::Dialect(Dialect::Lines)),
            (b"\xa0", Detected::Dialect(Dialect::Lines)),
            (b"\xde", Detected::Dialect(Dialect::Lines)),
        ] {
            assert_eq!(detect(bytes), Some(dialect), "{bytes:?}");
        }
        for bytes in [&b""[..], b"G", b"GET", b"P", b"PR", b"OPTION"] {
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
            assert_eq!(detect(header.as_bytes()), Some(Detected::Dialect(Dialect::Headers)), "{header}");
            assert_eq!(
                detect(format!("{header} 2\r\n").as_bytes()),
                Some(Detected::Dialect(Dialect::Headers)),
                "{header}"
            );
        }
        for at in 1.."CONNECT ".len() {
            assert_eq!(detect(&b"CONNECT "[..at]), None, "{at} bytes");
        }
    }
}
