//! Finds the ids in texts that cannot be decoded: too long, so that only a prefix is known, or nested too deeply.

use std::borrow::Cow;

use crate::codec::frame::{DecodeError, Decoded};
use crate::message::json::{Scanner, unescaped_len};
use crate::message::{Fault, Id};

/// The byte order mark that some editors and shells write before a text.
const BOM: &[u8] = b"\xef\xbb\xbf";
/// Maximum length of a key that means `id`: each letter is an escape.
const MAX_KEY: usize = r"\u0069\u0064".len();

/// Returns the text without its byte order mark.
pub(super) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(BOM).unwrap_or(text)
}

/// Rejects a text of which only a prefix may be known, under the ids found in it. A batch gets one error for each id,
/// at most `batch`, and one with a null id for the rest.
pub fn reject(prefix: &[u8], batch: usize, fault: &Fault) -> Decoded<'static> {
    let error = |id: Id<'static>| Err(DecodeError { id, fault: fault.clone() });
    let mut scanner = PrefixScanner::new(prefix);
    if scanner.peek() != Some(b'[') {
        return Decoded::Single(error(id_in_prefix(prefix).map_or_else(Id::null, Id::into_owned)));
    }
    let (ids, is_complete) = scanner.batch(batch);
    let mut errors: Vec<_> = ids.into_iter().map(|id| error(id.into_owned())).collect();
    if errors.is_empty() {
        return Decoded::Single(error(Id::null()));
    }
    if !is_complete {
        errors.push(error(Id::null()));
    }
    Decoded::Batch(errors)
}

/// Returns the id of a message of which only a prefix may be known. The id must be a member of the outermost object,
/// occur once, and be followed by a comma or brace.
pub fn id_in_prefix(prefix: &[u8]) -> Option<Id<'_>> {
    let mut scanner = PrefixScanner::new(prefix);
    let mut id = FoundId::None;
    if scanner.peek() == Some(b'{') {
        let _ = scanner.object(&mut id);
    }
    id.known()
}

/// The state of the search for a message's id.
enum FoundId<'a> {
    None,
    Once(Id<'a>),
    /// It occurs twice or is invalid.
    Invalid,
}

impl<'a> FoundId<'a> {
    fn known(self) -> Option<Id<'a>> {
        match self {
            Self::Once(id) => Some(id),
            Self::None | Self::Invalid => None,
        }
    }
}

/// Scans a text whose rest may be missing or invalid. Uses constant memory, however deep the text is nested.
struct PrefixScanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> PrefixScanner<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text: without_bom(text), at: 0 }
    }

    /// Skips white space and returns the next byte.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.byte()
    }

    fn byte(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Skips `byte` if it is next.
    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Returns up to `max` ids of a batch's messages, and `true` if the batch contains no other requests.
    fn batch(&mut self, max: usize) -> (Vec<Id<'a>>, bool) {
        let mut ids = Vec::new();
        self.at += 1;
        loop {
            let mut id = FoundId::None;
            let complete = match self.peek() {
                Some(b'{') => self.object(&mut id),
                _ => None,
            };
            match id {
                FoundId::Once(id) if ids.len() < max => ids.push(id),
                FoundId::None if complete.is_some() => {}
                _ => return (ids, false),
            }
            if complete.is_none() {
                return (ids, false);
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                other => return (ids, other == Some(b']')),
            }
        }
    }

    /// Scans an object as far as it is valid, and searches for its id.
    fn object(&mut self, id: &mut FoundId<'a>) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            (self.peek()? == b'"').then_some(())?;
            let key = self.string()?;
            self.take(b':')?;
            let value = self.value()?;
            // At the end of the prefix, a number may be incomplete.
            let next = self.peek().filter(|next| matches!(next, b',' | b'}'))?;
            if is_id(key) {
                *id = match (&id, text_of(value)) {
                    (FoundId::None, Some(value)) => {
                        Id::from_json(value).map_or(FoundId::Invalid, FoundId::Once)
                    }
                    _ => FoundId::Invalid,
                };
            }
            self.at += 1;
            if next == b'}' {
                return Some(());
            }
        }
    }

    /// Skips a string and returns it without its quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.at += 1;
        let start = self.at;
        loop {
            self.at += unescaped_len(&self.text[self.at..]);
            match self.byte()? {
                b'"' => {
                    self.at += 1;
                    return Some(&self.text[start..self.at - 1]);
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
            if self.at > self.text.len() {
                return None;
            }
        }
    }

    /// Skips a value and returns it.
    fn value(&mut self) -> Option<&'a [u8]> {
        self.peek();
        let (start, mut depth) = (self.at, 0_usize);
        loop {
            match self.byte()? {
                b'"' => drop(self.string()?),
                b'[' | b'{' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b']' | b'}' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b']' | b'}' | b',' | b':' if depth == 0 => return None,
                _ if depth == 0 => {
                    let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                    self.at += self.text[self.at..].iter().position(ends)?;
                }
                _ => {
                    self.at += 1;
                    continue;
                }
            }
            if depth == 0 {
                return Some(&self.text[start..self.at]);
            }
        }
    }
}

fn is_id(key: &[u8]) -> bool {
    key == b"id" || (key.len() <= MAX_KEY && key.contains(&b'\\') && unescaped(key).as_deref() == Some("id"))
}

fn unescaped(key: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    serde_json::from_str(&format!("\"{key}\"")).ok()
}

/// Returns the text of a value if it is a valid scalar of at most [`Id::MAX_LEN`] bytes.
fn text_of(value: &[u8]) -> Option<Cow<'_, str>> {
    if value.len() > Id::MAX_LEN {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let mut scanner = Scanner::new(text, 0);
    scanner.value().and_then(|_| scanner.expect_end()).ok().map(|()| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_ids_in_prefixes() {
        for (prefix, id) in [
            (r#"{"jsonrpc":"2.0","id":12"#, None),
            (r#"{"jsonrpc":"2.0","id":12,"#, Some("12")),
            (r#"{"jsonrpc":"2.0","id":12}"#, Some("12")),
            (r#"{"jsonrpc":"2.0","id":12 }"#, Some("12")),
            (r#"{"jsonrpc":"2.0","id":12 "#, None),
            (r#"{"jsonrpc":"2.0","id":"a" ,"#, Some("\"a\"")),
            (r#"{"jsonrpc":"2.0","id":"a"#, None),
            (r#"{"jsonrpc":"2.0","method":"f","id":1,"#, Some("1")),
            ("\r\n { \"id\"\t:\n-1.5e3 , \"params\": [[[", Some("-1.5e3")),
            (r#"{"params":[{"id":3},"],\"id\":4",[[{"id":5}]]],"id":7,"#, Some("7")),
            (r#"{"params":{"id":3,"x":{"id":4}},"#, None),
            (r#"{"params":"\"id\":3","method":"id","id":"\"id\":8","#, Some(r#""\"id\":8""#)),
            (r#"{"\u0069d":7,"#, Some("7")),
            (r#"{"\u0069\u0064":7,"#, Some("7")),
            (r#"{"i\u0064\u0000":7,"#, None),
            (r#"{"ID":7,"#, None),
            (r#"{"id":7,"id":8,"#, None),
            (r#"{"id":7,"\u0069d":7,"#, None),
            (r#"{"id":null,"#, Some("null")),
            (r#"{"id":[7],"#, None),
            (r#"{"id":{"id":7},"#, None),
            (r#"{"id":true,"#, None),
            (r#"{"id":007,"#, None),
            (r#"{"id":1x,"#, None),
            (r#"{"id":"\x","#, None),
            (r#"{"id":,"#, None),
            (r#"{"a":[1}],"id":7,"#, None),
            ("\u{feff}{\"id\":7,", Some("7")),
            (r#"{"a" 1,"id":7,"#, None),
            (r#"["id",7,"#, None),
            (r#"{"id":7]"#, None),
            ("{", None),
            ("{}", None),
            ("", None),
            (r#"{"id":"\"#, None),
        ] {
            let found = id_in_prefix(prefix.as_bytes());
            assert_eq!(found.as_ref().map(Id::as_json), id, "{prefix}");
        }
        let longest = format!("\"{}\"", "x".repeat(Id::MAX_LEN - 2));
        for (id, expected) in [(longest.clone(), true), (format!("\"x{}", &longest[1..]), false)] {
            assert_eq!(id_in_prefix(format!(r#"{{"id":{id},"#).as_bytes()).is_some(), expected, "{id}");
        }
        assert_eq!(id_in_prefix(b"{\"a\":\"\xff\xfe\",\"id\":7,").unwrap().as_json(), "7");
        assert_eq!(id_in_prefix(b"{\"id\":\"\xff\","), None);
        let deep = format!(r#"{{"params":{}{},"id":7}}"#, "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(id_in_prefix(deep.as_bytes()).unwrap().as_json(), "7");
    }

    #[test]
    fn rejects_batch_under_the_ids_found() {
        for (prefix, expected) in [
            (r#"[{"id":1},{"id":"a","params":[[]]}]"#, &["1", "\"a\""][..]),
            (r#"[{"id":1},{"method":"f"},{"id":2}]"#, &["1", "2"]),
            (r#"[{"id":1},{"id":2,"params":"xxx"#, &["1", "2", "null"]),
            (r#"[{"id":1},{"params":"xxx"#, &["1", "null"]),
            (r#"[{"id":1},7,{"id":2}]"#, &["1", "null"]),
            (r#"[{"id":1},{"id":[]},{"id":2}]"#, &["1", "null"]),
            (r#"[{"id":1},{"id":2},{"id":3},{"id":4}]"#, &["1", "2", "3", "null"]),
            (r#"[{"method":"f"}]"#, &["null"]),
            ("[", &["null"]),
            ("[[[[", &["null"]),
        ] {
            let ids: Vec<String> = match reject(prefix.as_bytes(), 3, &Fault::new(-1, "no")) {
                Decoded::Single(message) => vec![message.unwrap_err().id.as_json().to_owned()],
                Decoded::Batch(messages) => {
                    messages.into_iter().map(|message| message.unwrap_err().id.as_json().to_owned()).collect()
                }
            };
            assert_eq!(ids, expected, "{prefix}");
        }
    }
}
