//! Which dialect a peer speaks, told by its first bytes.

use super::dialects::Dialect;

/// What first bytes can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A dialect on the bare stream.
    Dialect(Dialect),
    /// HTTP/1, and with it WebSocket.
    Http,
    /// A TLS handshake, or HTTP/2, neither of which is spoken on this port.
    Foreign(&'static str),
}

const HTTP_METHODS: [&[u8]; 9] =
    [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];
const HTTP2: &[u8] = b"PRI ";
const TLS_HANDSHAKE: u8 = 0x16;

/// Tells the dialect, or `None` while the bytes could still be the beginning of more than one.
///
/// What looks like nothing in particular is taken as a line of JSON, so that its sender is told what is wrong.
pub fn detect(first: &[u8]) -> Option<Detected> {
    let starts = |method: &[u8]| first.starts_with(method);
    let could_become = |method: &[u8]| method.starts_with(first);
    match first {
        [] => None,
        [TLS_HANDSHAKE, ..] => Some(Detected::Foreign("TLS")),
        _ if HTTP_METHODS.into_iter().any(starts) => Some(Detected::Http),
        _ if starts(HTTP2) => Some(Detected::Foreign("HTTP/2")),
        _ if HTTP_METHODS.into_iter().chain([HTTP2]).any(could_become) => None,
        _ => Some(Detected::Dialect(Dialect::Lines)),
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
            (b"\x16\x03\x01", Detected::Foreign("TLS")),
            (b"PRI * HTTP/2.0", Detected::Foreign("HTTP/2")),
        ] {
            assert_eq!(detect(bytes), Some(dialect), "{bytes:?}");
        }
        for bytes in [&b""[..], b"G", b"GET", b"P", b"PR", b"OPTION"] {
            assert_eq!(detect(bytes), None, "{bytes:?}");
        }
    }
}
