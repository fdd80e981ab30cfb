//! The ids of texts that are not read: too long, so that only the beginning is known, or too deep.

use std::borrow::Cow;

use super::decode::without_mark;
use crate::codec::frame::{Read, Refused};
use crate::codec::json::{Scanner, plain};
use crate::message::{Fault, Id};

/// The longest that a key can be which says `id`: each letter an escape.
const LONGEST_KEY: usize = r"\u0069\u0064".len();

/// Refuses a text of which only the beginning may be known, under the ids that stand there. A batch is answered as
/// one: for each id that can be told, `batch` at most, and for the rest once under null.
pub fn refuse(beginning: &[u8], batch: usize, fault: &Fault) -> Read<'static> {
    let refused = |id: Id<'static>| Err(Refused { id, fault: fault.clone() });
    let mut front = Front::new(beginning);
    if front.peek() != Some(b'[') {
        return Read::Single(refused(id_at_front(beginning).map_or_else(Id::null, Id::into_owned)));
    }
    let (ids, all) = front.batch(batch);
    let mut refusals: Vec<_> = ids.into_iter().map(|id| refused(id.into_owned())).collect();
    if refusals.is_empty() {
        return Read::Single(refused(Id::null()));
    }
    if !all {
        refusals.push(refused(Id::null()));
    }
    Read::Batch(refusals)
}

/// Returns the id of a message of which only the beginning may be known, if it stands there: as a member of the
/// outermost object, wherever in it, once, and with what follows it.
pub fn id_at_front(beginning: &[u8]) -> Option<Id<'_>> {
    let mut front = Front::new(beginning);
    let mut id = Told::None;
    if front.peek() == Some(b'{') {
        let _ = front.object(&mut id);
    }
    id.known()
}

/// What is known of a message's id.
enum Told<'a> {
    None,
    Once(Id<'a>),
    /// It is there twice, or is none.
    Unclear,
}

impl<'a> Told<'a> {
    fn known(self) -> Option<Id<'a>> {
        match self {
            Self::Once(id) => Some(id),
            Self::None | Self::Unclear => None,
        }
    }
}

/// A text of which the rest may be missing, or make no sense. However deep it is, it takes no memory.
struct Front<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Front<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text: without_mark(text), at: 0 }
    }

    /// The byte that comes next, behind white space.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.byte()
    }

    fn byte(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Passes over one byte if it comes next.
    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// The ids of a batch's messages, and whether these are all.
    fn batch(&mut self, most: usize) -> (Vec<Id<'a>>, bool) {
        let mut ids = Vec::new();
        self.at += 1;
        loop {
            let mut id = Told::None;
            let whole = match self.peek() {
                Some(b'{') => self.object(&mut id),
                _ => None,
            };
            match id {
                Told::Once(id) if ids.len() < most => ids.push(id),
                Told::None if whole.is_some() => {}
                _ => return (ids, false),
            }
            if whole.is_none() {
                return (ids, false);
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                other => return (ids, other == Some(b']')),
            }
        }
    }

    /// Goes over an object, as far as there is sense in it, and looks for its id.
    fn object(&mut self, id: &mut Told<'a>) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            (self.peek()? == b'"').then_some(())?;
            let key = self.string()?;
            self.take(b':')?;
            let value = self.value()?;
            // Without what follows in sight, a number may go on.
            let next = self.peek().filter(|next| matches!(next, b',' | b'}'))?;
            if is_id(key) {
                *id = match (&id, text_of(value)) {
                    (Told::None, Some(value)) => Id::from_json(value).map_or(Told::Unclear, Told::Once),
                    _ => Told::Unclear,
                };
            }
            self.at += 1;
            if next == b'}' {
                return Some(());
            }
        }
    }

    /// Passes over a string, and returns what stands between its quotes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.at += 1;
        let start = self.at;
        loop {
            self.at += plain(&self.text[self.at..]);
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

    /// Passes over a value, and returns it.
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
    key == b"id"
        || (key.len() <= LONGEST_KEY && key.contains(&b'\\') && unescaped(key).as_deref() == Some("id"))
}

fn unescaped(key: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    serde_json::from_str(&format!("\"{key}\"")).ok()
}

/// The text of what should be a JSON value.
fn text_of(value: &[u8]) -> Option<Cow<'_, str>> {
    if value.len() > Id::MAX_LEN {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let mut scanner = Scanner::new(text, 0);
    scanner.value().and_then(|_| scanner.end()).ok().map(|()| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_wherever_it_stands() {
        for (beginning, id) in [
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
            let found = id_at_front(beginning.as_bytes());
            assert_eq!(found.as_ref().map(Id::as_json), id, "{beginning}");
        }
        let longest = format!("\"{}\"", "x".repeat(Id::MAX_LEN - 2));
        for (id, told) in [(longest.clone(), true), (format!("\"x{}", &longest[1..]), false)] {
            assert_eq!(id_at_front(format!(r#"{{"id":{id},"#).as_bytes()).is_some(), told, "{id}");
        }
        assert_eq!(id_at_front(b"{\"a\":\"\xff\xfe\",\"id\":7,").unwrap().as_json(), "7");
        assert_eq!(id_at_front(b"{\"id\":\"\xff\","), None);
        let deep = format!(r#"{{"params":{}{},"id":7}}"#, "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(id_at_front(deep.as_bytes()).unwrap().as_json(), "7");
    }

    #[test]
    fn a_batch_is_refused_under_the_ids_that_can_be_told() {
        for (beginning, told) in [
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
            let ids: Vec<String> = match refuse(beginning.as_bytes(), 3, &Fault::new(-1, "no")) {
                Read::Single(refused) => vec![refused.unwrap_err().id.as_json().to_owned()],
                Read::Batch(refused) => {
                    refused.into_iter().map(|refused| refused.unwrap_err().id.as_json().to_owned()).collect()
                }
            };
            assert_eq!(ids, told, "{beginning}");
        }
    }
}
