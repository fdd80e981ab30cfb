//! Framing by headers, as the Language Server Protocol has it: `Content-Length: N`, a blank line, N bytes.
//!
//! See <https://microsoft.github.io/language-server-protocol/specifications/lsp/3.17/specification/#headerPart>.
//! Lines may end in a bare LF, blank lines between messages mean nothing, and headers of other names are ignored.

use std::io::Write;

use memchr::memchr;

use super::frame::Next;

/// The longest head, from its first header to its blank line.
const MAX_HEAD: usize = 4096;

/// Finds bodies in a buffer that grows at its end and is cut at its front.
///
/// It remembers how far it has looked, so that a message which comes in many pieces is looked at once.
#[derive(Debug)]
pub(super) struct Headers {
    max: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// In a head: where its current line begins, how much of that was looked at, and the length if it was said.
    Head { line: usize, looked: usize, length: Option<u64> },
    /// Behind a head of so many bytes stands a body of so many.
    Body { head: usize, length: usize },
    /// A body over the maximum begins.
    TooLong(u64),
    /// So much of a body over the maximum is still to come.
    Skip(u64),
}

const START: State = State::Head { line: 0, looked: 0, length: None };

impl Headers {
    /// Creates a finder of bodies of at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { max, state: START }
    }

    /// Looks for the next body. The caller cuts as told before it calls again.
    ///
    /// [`Next::TooLong`] covers as much of the body as a message may have, and not its head.
    pub(super) fn next(&mut self, buffer: &[u8]) -> Next {
        match self.state {
            State::Head { line, looked, length } => self.head(buffer, line, looked, length),
            State::Body { head, length } if buffer.len() - head >= length => {
                self.state = START;
                Next::Frame(head..head + length, head + length)
            }
            State::Body { .. } => Next::Incomplete(0),
            // What would have been read of it may tell whose it is.
            State::TooLong(_) if buffer.len() < self.max => Next::Incomplete(0),
            State::TooLong(length) => Next::TooLong(self.skip(buffer, length)),
            State::Skip(left) => Next::Incomplete(self.skip(buffer, left)),
        }
    }

    /// Returns `true` in the middle of a body that is skipped.
    pub(super) fn is_skipping(&self) -> bool {
        matches!(self.state, State::TooLong(_) | State::Skip(_))
    }

    fn head(&mut self, buffer: &[u8], mut line: usize, looked: usize, mut length: Option<u64>) -> Next {
        let mut from = looked;
        while let Some(found) = memchr(b'\n', &buffer[from..]) {
            let end = from + found;
            let text = &buffer[line..end];
            match text.strip_suffix(b"\r").unwrap_or(text) {
                [] if line == 0 => {
                    self.state = START;
                    return Next::Incomplete(end + 1);
                }
                [] => return self.body(buffer, end + 1, length),
                header => match content_length(header) {
                    Ok(None) => {}
                    Ok(said) if length.is_none() || length == said => length = said,
                    Ok(_) => return Next::Broken("two different values of Content-Length".into()),
                    Err(why) => return Next::Broken(why.into()),
                },
            }
            (line, from) = (end + 1, end + 1);
        }
        if buffer.len() >= MAX_HEAD {
            return Next::Broken(TOO_LONG_A_HEAD.into());
        }
        self.state = State::Head { line, looked: buffer.len(), length };
        Next::Incomplete(0)
    }

    /// A head of so many bytes has ended.
    fn body(&mut self, buffer: &[u8], head: usize, length: Option<u64>) -> Next {
        if head > MAX_HEAD {
            return Next::Broken(TOO_LONG_A_HEAD.into());
        }
        let Some(length) = length else {
            return Next::Broken("no Content-Length: each message needs one before its blank line".into());
        };
        match usize::try_from(length) {
            Ok(length) if length <= self.max => {
                self.state = State::Body { head, length };
                self.next(buffer)
            }
            _ => {
                self.state = State::TooLong(length);
                Next::Incomplete(head)
            }
        }
    }

    /// How much of a body to skip is there.
    fn skip(&mut self, buffer: &[u8], left: u64) -> usize {
        let cut = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let left = left - cut as u64;
        self.state = if left == 0 { START } else { State::Skip(left) };
        cut
    }
}

const TOO_LONG_A_HEAD: &str = "headers of more than 4096 bytes";

/// Returns `true` if a head may begin with a header of this name, by which the dialect is recognized.
pub(super) fn begins(name: &[u8]) -> bool {
    [&b"Content-Length"[..], b"Content-Type"].iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The value of a header if it is the one that says the length.
fn content_length(header: &[u8]) -> Result<Option<u64>, &'static str> {
    let colon = memchr(b':', header).ok_or("a header without a colon; expected Content-Length: N")?;
    let (name, value) = (&header[..colon], header[colon + 1..].trim_ascii());
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return Err("a header whose name is no word; expected Content-Length: N");
    }
    if !name.eq_ignore_ascii_case(b"Content-Length") {
        return Ok(None);
    }
    if value.is_empty() {
        return Err(NO_LENGTH);
    }
    let add = |sum: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    value.iter().try_fold(0, add).map(Some).ok_or(NO_LENGTH)
}

const NO_LENGTH: &str = "Content-Length must be a number of bytes, in decimal digits, below 2^64";

/// Appends what `body` appends, with its head before it.
pub(super) fn write<R>(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let start = out.len();
    let written = body(out);
    let end = out.len();
    write!(out, "Content-Length: {}\r\n\r\n", end - start).expect("a Vec takes every byte");
    let head = out.len() - end;
    out[start..].rotate_right(head);
    written
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::found;
    use super::*;

    const MAX: usize = 8;

    /// What is found in `text` as a whole, which must be the same as when it comes byte by byte.
    #[track_caller]
    fn framed(text: &str) -> (Vec<String>, usize) {
        let told = |pieces: Vec<&[u8]>| {
            let mut headers = Headers::new(MAX);
            let (messages, left) = found(|buffer| headers.next(buffer), pieces);
            let messages = messages.into_iter().map(|message| String::from_utf8(message).unwrap()).collect();
            (messages, left)
        };
        let (whole, left): (Vec<String>, _) = told(vec![text.as_bytes()]);
        let (in_bytes, left_of_bytes): (Vec<String>, _) = told(text.as_bytes().chunks(1).collect());
        assert_eq!(whole, in_bytes, "{text:?}");
        if whole.last().is_none_or(|last| last != "broken") {
            assert_eq!(left, left_of_bytes, "{text:?}");
        }
        (whole, left)
    }

    #[test]
    fn finds_bodies_however_they_are_cut() {
        for (text, expected, left) in [
            ("Content-Length: 2\r\n\r\n{}", &["{}"][..], 0),
            ("Content-Length: 2\r\n\r\n{}Content-Length: 3\r\n\r\n[1]", &["{}", "[1]"], 0),
            ("content-length:2\n\n{}", &["{}"], 0),
            ("CONTENT-LENGTH:\t 2 \t\r\n\r\n{}", &["{}"], 0),
            ("Content-Length: 0002\r\n\n{}", &["{}"], 0),
            ("Content-Length: 8\n\n12345678", &["12345678"], 0),
            ("Content-Length: 4\n\n\r\n\r\n", &["\r\n\r\n"], 0),
            (
                "Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}",
                &["{}"],
                0,
            ),
            ("Content-Length: 2\r\nX-More:\r\nY: a:b\r\nContent-Length: 2\r\n\r\n{}", &["{}"], 0),
            ("\r\n\nContent-Length: 2\r\n\r\n{}\r\n\nContent-Length: 1\n\n1\n", &["{}", "1"], 0),
            ("Content-Length: 0\r\n\r\nContent-Length: 1\r\n\r\n1", &["", "1"], 0),
            ("Content-Length: 0\r\n\r\n", &[""], 0),
            ("Content-Length: 2\r\n\r\n{", &[], 22),
            ("Content-Le", &[], 10),
            ("", &[], 0),
        ] {
            assert_eq!(framed(text), (expected.iter().map(ToString::to_string).collect(), left), "{text:?}");
        }
    }

    #[test]
    fn skips_a_body_that_is_too_long_and_goes_on() {
        let next = "Content-Length: 2\r\n\r\n{}";
        for (text, expected) in [
            (format!("Content-Length: 9\r\n\r\n123456789{next}"), &["!", "{}"][..]),
            (
                format!("Content-Length: 44\r\n\r\n{}{next}", "Content-Length: 1\r\n\r\n1".repeat(2)),
                &["!", "{}"],
            ),
            (
                format!("Content-Length: 9\r\n\r\n123456789Content-Length: 9\r\n\r\n123456789{next}"),
                &["!", "!", "{}"],
            ),
            (format!("Content-Length: 18446744073709551615\r\n\r\n{next}"), &["!"]),
            ("Content-Length: 4294967296\r\n\r\n12345678".into(), &["!"]),
        ] {
            assert_eq!(framed(&text), (expected.iter().map(ToString::to_string).collect(), 0), "{text:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_told_with_the_beginning_of_its_body() {
        let mut headers = Headers::new(MAX);
        let head = b"Content-Length: 100\r\n\r\n";
        assert_eq!(headers.next(head), Next::Incomplete(head.len()));
        assert_eq!(headers.next(b""), Next::Incomplete(0));
        assert_eq!(headers.next(b"{\"jsonr"), Next::Incomplete(0));
        assert_eq!(headers.next(b"{\"jsonrpc"), Next::TooLong(9));
        assert_eq!(headers.next(&[0; 90]), Next::Incomplete(90));
        assert_eq!(headers.next(b"}Con"), Next::Incomplete(1));
        assert_eq!(headers.next(b"Con"), Next::Incomplete(0));
    }

    #[test]
    fn what_makes_no_sense_ends_it() {
        for text in [
            "Content-Type: application/json\r\n\r\n{}",
            "X: Content-Length: 2\r\n\r\n{}",
            "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            "Content-Length: 2\r\ncontent-length: 3\r\n",
            "Content-Length: \r\n\r\n{}",
            "Content-Length: +2\r\n\r\n{}",
            "Content-Length: -2\r\n\r\n{}",
            "Content-Length: 2.0\r\n\r\n{}",
            "Content-Length: 0x2\r\n\r\n{}",
            "Content-Length: 2 2\r\n\r\n{}",
            "Content-Length: 2, 2\r\n\r\n{}",
            "Content-Length: \u{662}\r\n\r\n{}",
            "Content-Length: 18446744073709551616\r\n\r\n{}",
            "Content-Length: 99999999999999999999999999\r\n\r\n{}",
            "Content-Length 2\r\n\r\n{}",
            "Content-Length : 2\r\n\r\n{}",
            " Content-Length: 2\r\n\r\n{}",
            "Content-Length: 2\r\n folded\r\n\r\n{}",
            ": 2\r\n\r\n{}",
            "{}\r\n",
            "Content-Length: 2\r\n\r\n{}{}\n",
        ] {
            assert_eq!(framed(text).0.last().map(String::as_str), Some("broken"), "{text:?}");
        }
    }

    #[test]
    fn a_head_has_an_end() {
        let with = |length: usize| {
            let (first, last) = ("X: ", "\r\nContent-Length: 1\r\n\r\n");
            format!("{first}{}{last}1", "x".repeat(length - first.len() - last.len()))
        };
        assert_eq!(framed(&with(MAX_HEAD)), (vec!["1".into()], 0));
        assert_eq!(framed(&with(MAX_HEAD + 1)).0, ["broken"]);
        assert_eq!(framed(&"x".repeat(MAX_HEAD - 1)), (vec![], MAX_HEAD - 1));
        assert_eq!(framed(&"x".repeat(MAX_HEAD)).0, ["broken"]);
        assert_eq!(framed(&"X:\n".repeat(MAX_HEAD)).0, ["broken"]);
    }

    #[test]
    fn what_is_written_is_found() {
        let mut out = b"before".to_vec();
        write(&mut out, |out| out.extend_from_slice(b"{}"));
        write(&mut out, |_| {});
        write(&mut out, |out| out.extend_from_slice(&[b'x'; 1000]));
        let text = String::from_utf8(out).unwrap();
        let bodies = format!("{{}}Content-Length: 0\r\n\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000));
        assert_eq!(text, format!("beforeContent-Length: 2\r\n\r\n{bodies}"));
        assert_eq!(framed(&text["before".len()..]).0, ["{}", "", "!"]);
    }
}
