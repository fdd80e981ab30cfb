//! Normalizes the `Origin` of requests, so that two of them can be compared.

/// Maximum length of an origin, in bytes.
const MAX_LEN: usize = 256;
/// Schemes whose URLs have a host, and their default ports.
const DEFAULT_PORTS: [(&str, &str); 4] = [("http", ":80"), ("https", ":443"), ("ws", ":80"), ("wss", ":443")];

/// Normalizes an `Origin`: converts it to lower case, and removes a default port and a path of `/`.
///
/// Returns `None` if it is invalid. A valid origin is `null`, or a scheme, `://` and the rest, which may be empty or
/// contain a path for clients other than browsers. It has at most 256 visible ASCII characters, and none of `*`, `,`,
/// `"` and `\\`.
pub(crate) fn normalize(text: &str) -> Option<String> {
    let is_valid = |b: u8| b.is_ascii_graphic() && !matches!(b, b'*' | b',' | b'"' | b'\\');
    if text.len() > MAX_LEN || !text.bytes().all(is_valid) {
        return None;
    }
    let text = text.to_ascii_lowercase();
    if text == "null" {
        return Some(text);
    }
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme) {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some(port) = default_port(scheme) else { return Some(text) };
    if authority.is_empty() {
        return None;
    }
    let authority = authority.strip_suffix(port).unwrap_or(authority);
    let path = if path == "/" { "" } else { path };
    Some(format!("{scheme}://{authority}{path}"))
}

/// Returns the default port of a known scheme, with a leading colon.
pub(crate) fn default_port(scheme: &str) -> Option<&'static str> {
    DEFAULT_PORTS.iter().find(|(known, _)| known.eq_ignore_ascii_case(scheme)).map(|(_, port)| *port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_origins() {
        for (text, expected) in [
            ("https://App.example", Some("https://app.example")),
            ("https://app.example:443", Some("https://app.example")),
            ("https://app.example:80/", Some("https://app.example:80")),
            ("http://[::1]:80", Some("http://[::1]")),
            ("http://[::80]", Some("http://[::80]")),
            ("http://127.0.0.1:7300", Some("http://127.0.0.1:7300")),
            ("file://", Some("file://")),
            ("file:///", Some("file:///")),
            ("null", Some("null")),
            ("NULL", Some("null")),
            ("tauri://localhost", Some("tauri://localhost")),
            ("https://github.com/someone/Library", Some("https://github.com/someone/library")),
            ("", None),
            ("app.example", None),
            ("https://", None),
            ("https:///path", None),
            ("://app.example", None),
            ("1x://app.example", None),
            ("https://*.example", None),
            ("https://a.example,https://b.example", None),
            ("https://a.example\"]", None),
            ("https://a b", None),
            ("https://\u{e9}.example", None),
        ] {
            assert_eq!(normalize(text).as_deref(), expected, "{text}");
            if let Some(expected) = expected {
                assert_eq!(normalize(expected).as_deref(), Some(expected));
            }
        }
        assert!(normalize(&format!("https://{}", "x".repeat(248))).is_some());
        assert!(normalize(&format!("https://{}", "x".repeat(249))).is_none());
    }
}
