//! Detection of the dialect by the first bytes.

use chanrpc::internals::codec::{self, DETECT_LIMIT, Detected, Dialect};

/// The maximum length of the prefixes tried.
const PREFIXES: usize = 256;

/// Checks that the dialect detected from some bytes does not change with more, that a line is enough, and that a line
/// detected as JSON begins like JSON.
pub(super) fn detect(input: &[u8]) {
    let mut told = None;
    for end in (0..=input.len().min(PREFIXES)).chain([input.len()]) {
        let now = codec::detect(&input[..end]);
        assert!(told.is_none() || now == told, "{now:?} and not {told:?} after {end} bytes");
        told = now;
    }
    assert!(told.is_some() || input.len() < DETECT_LIMIT, "{} bytes do not tell", input.len());
    assert!(told.is_some() || !input.trim_ascii_start().contains(&b'\n'), "a line does not tell");
    let is_lines = told == Some(Detected::Dialect(Dialect::JsonLines));
    match input {
        [b'{' | b'[' | b'\n', ..] => assert!(is_lines),
        _ => {
            let text = input.strip_prefix(b"\xef\xbb\xbf").unwrap_or(input).trim_ascii_start();
            let blank = input.first().is_some_and(u8::is_ascii_whitespace);
            assert!(!is_lines || blank || matches!(text, [b'{' | b'[', ..]), "{input:?}");
        }
    }
}
