//! Scans JSON texts (RFC 8259) in one pass: validates them, and finds the values in them.
//!
//! Values are not parsed or copied, but returned as slices of the text.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr_iter};

/// Scans one text.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    max_depth: usize,
    error: Option<ScanError>,
}

/// The text is invalid; [`Scanner::error`] returns the reason. Empty, to keep the results passed between steps small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScanFailed;

/// Why a text is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanError {
    /// Arrays and objects are nested deeper than this limit.
    TooDeep(usize),
    /// What was expected at this byte.
    Expected(&'static str, usize),
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep(max) => write!(f, "nested deeper than {max} (limits.depth)"),
            Self::Expected(what, at) => write!(f, "not JSON: expected {what} at byte {at}"),
        }
    }
}

/// A string without its quotes, and with its escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JsonStr<'a> {
    pub(crate) text: &'a str,
    /// The text contains escapes.
    pub(crate) escaped: bool,
}

impl<'a> JsonStr<'a> {
    /// Returns the string without its escapes. `None` if it has some and is certainly longer than `max` bytes without
    /// them, or is not Unicode.
    pub(crate) fn within(self, max: usize) -> Option<Cow<'a, str>> {
        /// The bytes of the longest escape of one byte.
        const ESCAPE: usize = "\\u0000".len();
        match self {
            Self { text, escaped: false } => Some(text.into()),
            Self { text, .. } if text.len() <= ESCAPE * max => unescaped(text),
            Self { .. } => None,
        }
    }
}

impl<'a> Scanner<'a> {
    /// Creates a scanner for a text whose values may be nested `max_depth` levels deep.
    pub(crate) fn new(text: &'a str, max_depth: usize) -> Self {
        Self { text, at: 0, depth: 0, max_depth, error: None }
    }

    /// Creates a scanner for a value that is nested `depth` levels deep.
    pub(crate) fn nested(text: &'a str, depth: usize, max_depth: usize) -> Self {
        Self { text, at: 0, depth, max_depth, error: None }
    }

    /// Returns why the text is invalid.
    pub(crate) fn error(&self) -> ScanError {
        self.error.unwrap_or(ScanError::Expected("JSON", self.at))
    }

    /// Skips white space and returns the next byte, or `None` at the end.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Returns the number of bytes scanned.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Returns the text scanned since position `start`.
    pub(crate) fn text_since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    /// Checks that nothing follows the last value.
    pub(crate) fn expect_end(&mut self) -> Result<(), ScanFailed> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.fail("the end of the text"),
        }
    }

    /// Scans one value and returns its text.
    #[inline]
    pub(crate) fn value(&mut self) -> Result<&'a str, ScanFailed> {
        self.peek();
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Scans one value.
    pub(crate) fn skip(&mut self) -> Result<(), ScanFailed> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => self.object(|scanner, _| scanner.skip()),
            Some(b'[') => self.array(Self::skip),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.fail("a value"),
        }
    }

    /// Scans an object. `member` is called with each key, and must scan the value.
    #[inline]
    pub(crate) fn object(
        &mut self,
        member: impl FnMut(&mut Self, JsonStr<'a>) -> Result<(), ScanFailed>,
    ) -> Result<(), ScanFailed> {
        self.enter()?;
        if self.peek() == Some(b'}') {
            return self.leave();
        }
        self.members(member)
    }

    /// Scans an object whose text usually starts with `prefix`, which must end in a comma. If it does, byte for byte,
    /// these members are skipped without a call of `member`, and `true` is returned.
    #[inline]
    pub(crate) fn object_with_prefix(
        &mut self,
        prefix: &str,
        member: impl FnMut(&mut Self, JsonStr<'a>) -> Result<(), ScanFailed>,
    ) -> Result<bool, ScanFailed> {
        if !self.text.as_bytes()[self.at..].starts_with(prefix.as_bytes()) {
            return self.object(member).map(|()| false);
        }
        self.enter()?;
        self.at += prefix.len() - 1;
        self.members(member).map(|()| true)
    }

    fn members(
        &mut self,
        mut member: impl FnMut(&mut Self, JsonStr<'a>) -> Result<(), ScanFailed>,
    ) -> Result<(), ScanFailed> {
        loop {
            if self.peek() != Some(b'"') {
                return self.fail("a key in quotes");
            }
            let key = self.string()?;
            if self.peek() != Some(b':') {
                return self.fail("a colon");
            }
            self.at += 1;
            member(self, key)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => return self.leave(),
                _ => return self.fail("a comma or the end of the object"),
            }
        }
    }

    /// Scans an array. `element` must scan each value.
    #[inline]
    pub(crate) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), ScanFailed>,
    ) -> Result<(), ScanFailed> {
        self.enter()?;
        if self.peek() == Some(b']') {
            return self.leave();
        }
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => return self.leave(),
                _ => return self.fail("a comma or the end of the array"),
            }
        }
    }

    fn enter(&mut self) -> Result<(), ScanFailed> {
        self.at += 1;
        self.depth += 1;
        if self.depth > self.max_depth {
            self.error = Some(ScanError::TooDeep(self.max_depth));
            return Err(ScanFailed);
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), ScanFailed> {
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn string(&mut self) -> Result<JsonStr<'a>, ScanFailed> {
        self.at += 1;
        let (start, mut escaped) = (self.at, false);
        loop {
            self.at += unescaped_len(&self.text.as_bytes()[self.at..]);
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(JsonStr { text: &self.text[start..self.at - 1], escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.fail("no control character in a string"),
                None => return self.fail("the end of the string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), ScanFailed> {
        self.at += 1;
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let digits = self.text.as_bytes().get(self.at + 1..self.at + 5);
                if digits.is_none_or(|digits| !digits.iter().all(u8::is_ascii_hexdigit)) {
                    return self.fail("four hexadecimal digits after \\u");
                }
                self.at += 5;
                Ok(())
            }
            _ => self.fail("a valid escape"),
        }
    }

    fn number(&mut self) -> Result<(), ScanFailed> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ScanFailed> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == start { self.fail("a digit") } else { Ok(()) }
    }

    fn literal(&mut self, literal: &'static str) -> Result<(), ScanFailed> {
        if !self.text.as_bytes()[self.at..].starts_with(literal.as_bytes()) {
            return self.fail("a value");
        }
        self.at += literal.len();
        Ok(())
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[cold]
    fn fail<T>(&mut self, what: &'static str) -> Result<T, ScanFailed> {
        self.error = Some(ScanError::Expected(what, self.at));
        Err(ScanFailed)
    }
}

/// Returns the number of bytes before the first quote, backslash or control character.
#[inline]
pub(crate) fn unescaped_len(bytes: &[u8]) -> usize {
    // In a text of escapes alone there are none.
    match bytes.first() {
        Some(b'\\' | b'"') | None => 0,
        Some(_) => long_unescaped_len(bytes),
    }
}

fn long_unescaped_len(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // Sets the highest bit of each byte below `limit`, reliably up to the first such byte: a borrow affects only the
    // bytes after it. (Anderson, Bit Twiddling Hacks, "hasless".)
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
    let mut at = 0;
    while let Some(eight) = bytes[at..].first_chunk() {
        let word = u64::from_le_bytes(*eight);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = below(word, 0x20) | quote | backslash;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    at + bytes[at..].iter().position(is_special).unwrap_or(bytes.len() - at)
}

/// Cuts each string in a JSON text that is longer than `longest` bytes to a few characters. Returns `None` if there is
/// none.
pub(crate) fn with_short_strings(json: &str, longest: usize) -> Option<String> {
    let bytes = json.as_bytes();
    // A longer one fills at least one of these windows, and most texts have a quote in each.
    let ends_string = |window: &[u8]| {
        memchr_iter(b'"', window).any(|at| at.checked_sub(1).is_some_and(|before| window[before] != b'\\'))
    };
    if bytes.chunks_exact(longest / 2).all(ends_string) {
        return None;
    }
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(quote) = memchr(b'"', &bytes[at..]) {
        let start = at + quote + 1;
        let (kept, end) = ends_of_string(json, start)?;
        if end - start > longest {
            out.push_str(&json[copied..kept]);
            copied = end;
        }
        at = end + 1;
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&json[copied..]);
    Some(out)
}

/// Returns a place at which a string that starts at `start` can be cut after a few characters, and its end.
fn ends_of_string(json: &str, start: usize) -> Option<(usize, usize)> {
    const FEW: usize = 60;
    let bytes = json.as_bytes();
    let (mut kept, mut end, mut in_pair) = (start, start, false);
    loop {
        let plain = unescaped_len(bytes.get(end..)?);
        if !in_pair && end < start + FEW {
            kept = end + plain.min(FEW);
            while !json.is_char_boundary(kept) {
                kept -= 1;
            }
        }
        end += plain;
        let escape = match &bytes[end..] {
            [b'\\', b'u', digits @ ..] => {
                // The first of two surrogates.
                in_pair = matches!(digits, [b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B', ..]);
                6
            }
            [b'\\', ..] => {
                in_pair = false;
                2
            }
            rest => return (rest.first() == Some(&b'"')).then_some((kept, end)),
        };
        end += escape;
    }
}

/// Returns the content of a JSON string.
pub(crate) fn string(json: &str) -> Option<Cow<'_, str>> {
    let text = json.strip_prefix('"')?.strip_suffix('"')?;
    if text.contains('\\') { unescaped(text) } else { Some(text.into()) }
}

/// Decodes the escapes in the content of a string. Returns `None` if the result is not Unicode.
pub(crate) fn unescaped(text: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str(&format!("\"{text}\"")).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn scan(text: &str) -> Result<&str, ScanError> {
        let mut scanner = Scanner::new(text, 8);
        let value = scanner.value();
        let read = value.and_then(|value| scanner.expect_end().map(|()| value));
        read.map_err(|ScanFailed| scanner.error())
    }

    #[test]
    fn accepts_exactly_json() {
        for text in [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "10",
            "1.5",
            "-1.25e+10",
            "1E5",
            "0e0",
            "\"\"",
            "\"a\\n\\u00e9\\ud800é\"",
            "[]",
            "[ ]",
            "[1]",
            "[1, [2 ,3]\n]",
            "{}",
            "{ }",
            "{\"a\":1}",
            "{\"a\" : {\"\":[]} , \"a\":2}",
        ] {
            assert_eq!(scan(text), Ok(text));
            assert_eq!(scan(&format!(" \t\r\n{text}\n ")), Ok(text));
        }
        for text in [
            "",
            " ",
            "nul",
            "nulll",
            "tru",
            "True",
            "+1",
            "-",
            "01",
            "1.",
            ".5",
            "1.e5",
            "1e",
            "1e+",
            "0x1",
            "1 2",
            "'a'",
            "\"",
            "\"a",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u123",
            "\"\t\"",
            "\"\0\"",
            "[",
            "]",
            "[1",
            "[1,",
            "[,]",
            "[1,]",
            "[1 2]",
            "{",
            "}",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "{\"a\" 1}",
            "{\"a\":}",
            "{,}",
            "[}",
            "{]",
            "\u{feff}1",
            "nan",
            "\u{a0}1",
        ] {
            assert!(matches!(scan(text), Err(ScanError::Expected(..))), "{text:?}: {:?}", scan(text));
        }
    }

    #[test]
    fn finds_the_end_of_strings_of_any_length() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                let mut bytes = vec![b'a'; 20];
                bytes[at] = byte;
                let special = matches!(byte, b'"' | b'\\' | 0..0x20);
                assert_eq!(unescaped_len(&bytes), if special { at } else { 20 }, "{byte} at {at}");
                assert_eq!(unescaped_len(&bytes[..at]), at);
                // The bytes after it make no difference.
                bytes[at..].fill(byte);
                assert_eq!(unescaped_len(&bytes), if special { at } else { 20 }, "{byte} from {at}");
            }
        }
    }

    #[test]
    fn long_strings_are_cut() {
        let cut = |json: &str| with_short_strings(json, 100);
        for text in ["a", "é", "€", "\u{1f600}", "\\n", "\\\"", "\\\\", "\\u0041", "\\ud83d\\ude00", "a\\n"]
        {
            for lead in ["", "a", "ab", "\\t"] {
                let (long, short) = (format!("{lead}{}", text.repeat(200)), text.repeat(3));
                let json = format!("{{\"k\\\"\":[1,\"{long}\",[\"{short}\"]],\"{long}\":\"{long}\"}}");
                let json = cut(&json).unwrap();
                assert!(json.len() < 400, "{json}");
                let value: serde_json::Value = serde_json::from_str(&json).expect(&json);
                let expected: String = serde_json::from_str(&format!("\"{short}\"")).unwrap();
                assert_eq!(value["k\""][2][0], expected.as_str());
                let kept = value["k\""][1].as_str().unwrap();
                let whole: String = serde_json::from_str(&format!("\"{long}\"")).unwrap();
                assert!(whole.starts_with(kept) && kept.chars().count() >= 4, "{kept:?}");
                assert_eq!(cut(&json), None);
            }
        }
        assert_eq!(cut("[1,[],\"\"]"), None);
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(scan(&nested(8)).is_ok());
        assert_eq!(scan(&nested(9)), Err(ScanError::TooDeep(8)));
        assert_eq!(scan(&"{\"a\":".repeat(100_000)), Err(ScanError::TooDeep(8)));
        assert!(scan(&format!("[{}1]", "[],".repeat(1000))).is_ok(), "siblings do not add to the depth");
    }

    /// Fragments of JSON, in any order.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("[".to_owned()),
            Just("]".into()),
            Just("{".into()),
            Just("}".into()),
            Just(",".into()),
            Just(":".into()),
            Just("\"a\"".into()),
            Just("\"".into()),
            Just("\\".into()),
            Just("\\u00".into()),
            Just(" ".into()),
            Just("null".into()),
            Just("-1.5e3".into()),
            Just("0".into()),
            Just("é".into()),
            ".{0,3}",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn values() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".into()),
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>()
                .prop_filter("JSON has no infinity", |n| n.is_finite())
                .prop_map(|n| format!("{n:e}")),
            ".{0,8}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4)
                    .prop_map(|values| format!("[{}]", values.join(" , "))),
                prop::collection::vec((".{0,3}", inner), 0..4).prop_map(|members| {
                    let members = members
                        .into_iter()
                        .map(|(key, value)| format!("{}: {value}", serde_json::to_string(&key).unwrap()));
                    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
                }),
            ]
        })
    }

    proptest! {
        /// serde_json defines what is JSON.
        #[test]
        fn agrees_with_serde(text in prop_oneof![pieces(), values()], cut in any::<prop::sample::Index>()) {
            let cut = (0..=cut.index(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            for text in [&text[..], &text[..cut]] {
                let mut scanner = Scanner::new(text, 64);
                let scanned = scanner.value().and_then(|_| scanner.expect_end());
                prop_assert_eq!(scanned.is_ok(), serde_json::from_str::<IgnoredAny>(text).is_ok(), "{}", text);
            }
        }
    }
}
