//! JSON texts (RFC 8259), read once from front to end: that they are well formed, and where their values are.
//!
//! Nothing is taken apart or copied: whoever wants a value gets its text.

use std::fmt;

/// Reads one text.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    max_depth: usize,
    error: Option<Error>,
}

/// The text cannot be read on; [`Scanner::error`] says why. So small, and the reason elsewhere, since every step
/// hands it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop;

/// Why a text is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// Arrays and objects are nested deeper than so many.
    TooDeep(usize),
    /// Something else should stand at this byte.
    Expected(&'static str, usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep(max) => write!(f, "nested deeper than {max} (limits.depth)"),
            Self::Expected(what, at) => write!(f, "not JSON: expected {what} at byte {at}"),
        }
    }
}

/// A string as it stands between its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quoted<'a> {
    pub(super) text: &'a str,
    /// Whether escapes are in it, and so it stands for another text.
    pub(super) escaped: bool,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of a text whose values may be nested `max_depth` deep.
    pub(super) fn new(text: &'a str, max_depth: usize) -> Self {
        Self { text, at: 0, depth: 0, max_depth, error: None }
    }

    /// Why the text could not be read.
    pub(super) fn error(&self) -> Error {
        self.error.unwrap_or(Error::Expected("JSON", self.at))
    }

    /// The byte with which the next value begins, or `None` at the end.
    #[inline]
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// How many bytes are read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What was read since so many bytes were.
    pub(super) fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    /// Sees that nothing stands behind the last value.
    pub(super) fn end(&mut self) -> Result<(), Stop> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.expected("the end of the text"),
        }
    }

    /// Reads one value, and returns its text.
    #[inline]
    pub(super) fn value(&mut self) -> Result<&'a str, Stop> {
        self.peek();
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Reads one value.
    pub(super) fn skip(&mut self) -> Result<(), Stop> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{') => self.object(|scanner, _| scanner.skip()),
            Some(b'[') => self.array(Self::skip),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => self.expected("a value"),
        }
    }

    /// Reads an object. `member` gets each key, and must read the value.
    #[inline]
    pub(super) fn object(
        &mut self,
        member: impl FnMut(&mut Self, Quoted<'a>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        self.enter()?;
        if self.peek() == Some(b'}') {
            return self.leave();
        }
        self.members(member)
    }

    /// Reads an object of which most begin with the same members. If this one does, to the byte, these are passed
    /// over, and it tells so. `beginning` ends in a comma.
    #[inline]
    pub(super) fn object_after(
        &mut self,
        beginning: &str,
        member: impl FnMut(&mut Self, Quoted<'a>) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        if !self.text.as_bytes()[self.at..].starts_with(beginning.as_bytes()) {
            return self.object(member).map(|()| false);
        }
        self.enter()?;
        self.at += beginning.len() - 1;
        self.members(member).map(|()| true)
    }

    fn members(
        &mut self,
        mut member: impl FnMut(&mut Self, Quoted<'a>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        loop {
            if self.peek() != Some(b'"') {
                return self.expected("a key in quotes");
            }
            let key = self.string()?;
            if self.peek() != Some(b':') {
                return self.expected("a colon");
            }
            self.at += 1;
            member(self, key)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => return self.leave(),
                _ => return self.expected("a comma or the end of the object"),
            }
        }
    }

    /// Reads an array. `element` must read each value.
    #[inline]
    pub(super) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        self.enter()?;
        if self.peek() == Some(b']') {
            return self.leave();
        }
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => return self.leave(),
                _ => return self.expected("a comma or the end of the array"),
            }
        }
    }

    fn enter(&mut self) -> Result<(), Stop> {
        self.at += 1;
        self.depth += 1;
        if self.depth > self.max_depth {
            self.error = Some(Error::TooDeep(self.max_depth));
            return Err(Stop);
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Stop> {
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn string(&mut self) -> Result<Quoted<'a>, Stop> {
        self.at += 1;
        let (start, mut escaped) = (self.at, false);
        loop {
            self.at += plain(&self.text.as_bytes()[self.at..]);
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Quoted { text: &self.text[start..self.at - 1], escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.expected("no control character in a string"),
                None => return self.expected("the end of the string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Stop> {
        self.at += 1;
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let digits = self.text.as_bytes().get(self.at + 1..self.at + 5);
                if digits.is_none_or(|digits| !digits.iter().all(u8::is_ascii_hexdigit)) {
                    return self.expected("four hexadecimal digits after \\u");
                }
                self.at += 5;
                Ok(())
            }
            _ => self.expected("an escape that JSON knows"),
        }
    }

    fn number(&mut self) -> Result<(), Stop> {
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

    fn digits(&mut self) -> Result<(), Stop> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == start { self.expected("a digit") } else { Ok(()) }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Stop> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.expected("a value");
        }
        self.at += word.len();
        Ok(())
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[cold]
    fn expected<T>(&mut self, what: &'static str) -> Result<T, Stop> {
        self.error = Some(Error::Expected(what, self.at));
        Err(Stop)
    }
}

/// How many bytes at the front of a string are neither its end, nor the beginning of an escape, nor forbidden.
pub(super) fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // The highest bit of each byte that is below `limit`, as far as to the first such byte: a borrow may only reach
    // what stands behind it. (Anderson, Bit Twiddling Hacks, "hasless".)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn scan(text: &str) -> Result<&str, Error> {
        let mut scanner = Scanner::new(text, 8);
        let value = scanner.value();
        let read = value.and_then(|value| scanner.end().map(|()| value));
        read.map_err(|Stop| scanner.error())
    }

    #[test]
    fn takes_values_and_nothing_else() {
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
            assert!(matches!(scan(text), Err(Error::Expected(..))), "{text:?}: {:?}", scan(text));
        }
    }

    #[test]
    fn strings_of_any_length_end_where_they_end() {
        for byte in 0..=u8::MAX {
            for at in 0..20 {
                let mut bytes = vec![b'a'; 20];
                bytes[at] = byte;
                let special = matches!(byte, b'"' | b'\\' | 0..0x20);
                assert_eq!(plain(&bytes), if special { at } else { 20 }, "{byte} at {at}");
                assert_eq!(plain(&bytes[..at]), at);
                // What stands behind makes no difference.
                bytes[at..].fill(byte);
                assert_eq!(plain(&bytes), if special { at } else { 20 }, "{byte} from {at}");
            }
        }
    }

    #[test]
    fn is_bounded_in_depth() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(scan(&nested(8)).is_ok());
        assert_eq!(scan(&nested(9)), Err(Error::TooDeep(8)));
        assert_eq!(scan(&"{\"a\":".repeat(100_000)), Err(Error::TooDeep(8)));
        assert!(scan(&format!("[{}1]", "[],".repeat(1000))).is_ok(), "what is side by side is not deep");
    }

    /// Pieces of which JSON is made, whole and broken.
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
        /// serde_json is the judge of what is JSON.
        #[test]
        fn agrees_with_serde(text in prop_oneof![pieces(), values()], cut in any::<prop::sample::Index>()) {
            let cut = (0..=cut.index(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            for text in [&text[..], &text[..cut]] {
                let mut scanner = Scanner::new(text, 64);
                let scanned = scanner.value().and_then(|_| scanner.end());
                prop_assert_eq!(scanned.is_ok(), serde_json::from_str::<IgnoredAny>(text).is_ok(), "{}", text);
            }
        }
    }
}
