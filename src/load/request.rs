//! Requests, encoded once; only the id is written for each call.

use serde_json::value::RawValue;

use super::Dialect;
use super::msgpack;

/// The lowest id. All ids have ten decimal digits and fit into 32 bits, so that all requests have the same length.
pub(super) const FIRST_ID: u32 = 1_000_000_000;
const DIGITS: usize = 10;
const BEFORE_ID: &str = r#"{"jsonrpc":"2.0","id":"#;
/// The mask of all frames, which clients must mask (RFC 6455, section 5.3). It need not be random: no intermediary is
/// involved that a predictable mask could deceive.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x96, 0x3c];

/// A request without its id.
#[derive(Clone, Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    /// The offset of the id.
    id: usize,
    encoding: IdEncoding,
}

/// How an id is encoded.
#[derive(Clone, Copy, Debug)]
enum IdEncoding {
    /// Decimal digits, each XORed with a byte of the mask.
    Digits([u8; DIGITS]),
    /// Four bytes, big-endian.
    Binary,
}

impl Template {
    /// Encodes a call. `host` and `token` are for the HTTP head.
    pub(super) fn new(
        dialect: Dialect,
        host: &str,
        token: Option<&str>,
        function: &str,
        params: Option<&RawValue>,
    ) -> Self {
        if dialect == Dialect::Msgpack {
            return Self::msgpack(function, params);
        }
        let method = serde_json::to_string(function).unwrap_or_default();
        let params = params.map_or(String::new(), |params| format!(",\"params\":{}", params.get()));
        let mut body = format!("{BEFORE_ID}{FIRST_ID},\"method\":{method}{params}}}").into_bytes();
        let mut pad = [0; DIGITS];
        let mut bytes = match dialect {
            Dialect::Headers => format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes(),
            Dialect::Http => {
                let credentials = authorization(token);
                format!(
                    "POST / HTTP/1.1\r\nHost: {host}\r\n{credentials}Content-Type: application/json\r\n\
                     Content-Length: {}\r\n\r\n",
                    body.len()
                )
                .into_bytes()
            }
            Dialect::WebSocket => {
                pad = std::array::from_fn(|at| MASK[(BEFORE_ID.len() + at) % MASK.len()]);
                let head = frame_head(0x1, body.len());
                mask(&mut body);
                head
            }
            Dialect::Lines | Dialect::Msgpack => Vec::new(),
        };
        let id = bytes.len() + BEFORE_ID.len();
        bytes.append(&mut body);
        if dialect == Dialect::Lines {
            // Line breaks in JSON are insignificant white space; strings escape them.
            bytes.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
            bytes.push(b'\n');
        }
        Self { bytes, id, encoding: IdEncoding::Digits(pad) }
    }

    fn msgpack(function: &str, params: Option<&RawValue>) -> Self {
        let params = params.map_or("[]", RawValue::get);
        let mut bytes = vec![0x94, 0x00, 0xce];
        let id = bytes.len();
        bytes.extend([0; 4]);
        msgpack::write_str(function, &mut bytes);
        let before = bytes.len();
        // JSON may be nested too deep, or have numbers out of range.
        if msgpack::write(params, &mut bytes).is_err() {
            bytes.truncate(before);
            msgpack::write_array_len(0, &mut bytes);
        }
        Self { bytes, id, encoding: IdEncoding::Binary }
    }

    /// Returns the length of a request in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a request.
    pub(super) fn append(&self, id: u32, out: &mut Vec<u8>) {
        let at = out.len() + self.id;
        out.extend_from_slice(&self.bytes);
        match self.encoding {
            IdEncoding::Digits(pad) => {
                let mut rest = id;
                for (digit, pad) in out[at..at + DIGITS].iter_mut().zip(pad).rev() {
                    *digit = (b'0' + (rest % 10) as u8) ^ pad;
                    rest /= 10;
                }
            }
            IdEncoding::Binary => out[at..at + 4].copy_from_slice(&id.to_be_bytes()),
        }
    }
}

/// Returns the header line that carries the token, or an empty string.
pub(super) fn authorization(token: Option<&str>) -> String {
    token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"))
}

/// Appends the reply to a WebSocket ping.
pub(super) fn append_pong(payload: &[u8], out: &mut Vec<u8>) {
    out.extend(frame_head(0xa, payload.len()));
    let at = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[at..]);
}

/// Returns the head of an unfragmented client frame (RFC 6455, section 5.2).
fn frame_head(opcode: u8, len: usize) -> Vec<u8> {
    let mut head = vec![0x80 | opcode];
    match len {
        ..126 => head.push(0x80 | len as u8),
        126..0x1_0000 => {
            head.push(0x80 | 126);
            head.extend((len as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend((len as u64).to_be_bytes());
        }
    }
    head.extend(MASK);
    head
}

fn mask(payload: &mut [u8]) {
    for (byte, mask) in payload.iter_mut().zip(MASK.into_iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn encode(dialect: Dialect, params: &str) -> Vec<u8> {
        let params = RawValue::from_string(params.to_owned()).unwrap();
        let template = Template::new(dialect, "h:1", Some("secret"), "add", Some(&params));
        let mut out = b"before".to_vec();
        template.append(4_294_967_295, &mut out);
        assert_eq!(out.len(), 6 + template.len());
        out.split_off(6)
    }

    const BODY: &str = r#"{"jsonrpc":"2.0","id":4294967295,"method":"add","params":[2,3]}"#;

    #[test]
    fn encodes_the_id_in_each_dialect() {
        assert_eq!(encode(Dialect::Lines, "[2,3]"), format!("{BODY}\n").into_bytes());
        assert_eq!(
            encode(Dialect::Headers, "[2,3]"),
            format!("Content-Length: {}\r\n\r\n{BODY}", BODY.len()).into_bytes()
        );
        let http = String::from_utf8(encode(Dialect::Http, "[2,3]")).unwrap();
        let (head, body) = http.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, BODY);
        assert!(head.contains("Host: h:1\r\nAuthorization: Bearer secret\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", BODY.len())), "{head}");
        assert_eq!(
            encode(Dialect::Msgpack, "[2,\"x\"]"),
            b"\x94\x00\xce\xff\xff\xff\xff\xa3add\x92\x02\xa1x".to_vec()
        );
    }

    #[test]
    fn frames_unmask_to_the_body() {
        for len in [2, 100, 60_000, 70_000] {
            let text = "x".repeat(len);
            let bytes = encode(Dialect::WebSocket, &format!("[\"{text}\"]"));
            assert_eq!(bytes[0], 0x81);
            let head = match bytes[1] & 0x7f {
                126 => 4,
                127 => 10,
                _ => 2,
            };
            let mut body = bytes[head + 4..].to_vec();
            mask(&mut body);
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&body["id"], &body["params"][0]), (&4_294_967_295_u32.into(), &text.into()));
        }
    }

    #[test]
    fn params_with_line_breaks_stay_on_one_line() {
        let bytes = encode(Dialect::Lines, "[1,\r\n2]");
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(bytes.last(), Some(&b'\n'));
    }
}
