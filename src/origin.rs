//! By what a request says that it comes from: when two of these are the same.

/// The longest origin.
const LONGEST_ORIGIN: usize = 256;
/// Schemes that have hosts, and their default ports.
const SCHEMES: [(&str, &str); 4] = [("http", ":80"), ("https", ":443"), ("ws", ":80"), ("wss", ":443")];

/// Returns an `Origin` in the form in which two of them are compared: in lower case, without a default port, and without a
/// lone slash at the end. `None` if it is none: it has to be `null`, or a scheme and what follows its `://`, which for other
/// clients than browsers may be nothing, or a path; 256 visible ASCII characters at most, and neither of `*`, `,`, `"`
/// and `\\`.
pub(crate) fn parse(text: &str) -> Option<String> {
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'*' | b',' | b'"' | b'\\');
    if text.len() > LONGEST_ORIGIN || !text.bytes().all(fits) {
        return None;
    }
    let text = text.to_ascii_lowercase();
    if text == "null" {
        return Some(text);
    }
    let (scheme, rest) = text.split_once("://")?;
    let of_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(of_scheme) {
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

/// Returns the port of a scheme that is known, with its colon.
pub(crate) fn default_port(scheme: &str) -> Option<&'static str> {
    SCHEMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(scheme)).map(|(_, port)| *port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
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
            assert_eq!(parse(text).as_deref(), expected, "{text}");
            if let Some(expected) = expected {
                assert_eq!(parse(expected).as_deref(), Some(expected));
            }
        }
        assert!(parse(&format!("https://{}", "x".repeat(248))).is_some());
        assert!(parse(&format!("https://{}", "x".repeat(249))).is_none());
    }
}
