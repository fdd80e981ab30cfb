//! Framing by headers, as in the Language Server Protocol: `Content-Length: N`, a blank line, N bytes.
//!
//! See <https://microsoft.github.io/language-server-protocol/specifications/lsp/3.17/specification/#headerPart>.
//! Lines may end in a bare LF. Blank lines between messages and headers of other names are ignored.

use std::io::Write;

use memchr::memchr;

use super::frame::FrameResult;
use super::framing::Framing;

/// Maximum length of a head, from its first header to its blank line, in bytes.
const MAX_HEAD: usize = 4096;

/// Finds bodies in a buffer that grows at its end and is cut at its front.
///
/// Remembers how far it has searched, so that a message received in many pieces is searched once.
#[derive(Debug)]
pub(super) struct ContentLengthFramer {
    max: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Within a head: `line` is the start of the current line, `searched` the number of bytes searched for its end.
    Head { line: usize, searched: usize, length: Option<u64> },
    /// A complete head of `head` bytes, followed by a body of `length` bytes.
    Body { head: usize, length: usize },
    /// At the start of a body of this length, which exceeds the maximum.
    TooLong(u64),
    /// Within a body that exceeds the maximum, this many bytes before its end.
    Skip(u64),
}

const START: State = State::Head { line: 0, searched: 0, length: None };

impl ContentLengthFramer {
    /// Creates a framer for bodies of at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { max, state: START }
    }

    fn head(
        &mut self,
        buffer: &[u8],
        mut line: usize,
        searched: usize,
        mut length: Option<u64>,
    ) -> FrameResult {
        let mut from = searched;
        while let Some(found) = memchr(b'\n', &buffer[from..]) {
            let end = from + found;
            let text = &buffer[line..end];
            match text.strip_suffix(b"\r").unwrap_or(text) {
                [] if line == 0 => {
                    self.state = START;
                    return FrameResult::Incomplete(end + 1);
                }
                [] => return self.body(buffer, end + 1, length),
                header => match content_length(header) {
                    Ok(None) => {}
                    Ok(value) if length.is_none() || length == value => length = value,
                    Ok(_) => return self.invalid("conflicting values of Content-Length"),
                    Err(reason) => return self.invalid(reason),
                },
            }
            (line, from) = (end + 1, end + 1);
        }
        if buffer.len() >= MAX_HEAD {
            return self.invalid(HEAD_TOO_LONG);
        }
        self.state = State::Head { line, searched: buffer.len(), length };
        FrameResult::Incomplete(0)
    }

    /// Continues after a complete head of `head` bytes.
    fn body(&mut self, buffer: &[u8], head: usize, length: Option<u64>) -> FrameResult {
        if head > MAX_HEAD {
            return self.invalid(HEAD_TOO_LONG);
        }
        let Some(length) = length else {
            return self.invalid("no Content-Length: each message needs one before its blank line");
        };
        match usize::try_from(length) {
            Ok(length) if length <= self.max => {
                self.state = State::Body { head, length };
                self.next_frame(buffer)
            }
            _ => {
                self.state = State::TooLong(length);
                FrameResult::Incomplete(head)
            }
        }
    }

    /// Rejects the head. The next message may be searched from any later byte.
    fn invalid(&mut self, reason: &'static str) -> FrameResult {
        self.state = START;
        FrameResult::Invalid(reason.into())
    }

    /// Returns the number of bytes to skip now, with `remaining` bytes to the end of the body.
    fn skip(&mut self, buffer: &[u8], remaining: u64) -> usize {
        let cut = usize::try_from(remaining).map_or(buffer.len(), |remaining| remaining.min(buffer.len()));
        let remaining = remaining - cut as u64;
        self.state = if remaining == 0 { START } else { State::Skip(remaining) };
        cut
    }
}

impl Framing for ContentLengthFramer {
    /// Finds the next body.
    ///
    /// [`FrameResult::TooLong`] covers the body without its head, up to the maximum length of a message.
    fn next_frame(&mut self, buffer: &[u8]) -> FrameResult {
        match self.state {
            State::Head { line, searched, length } => self.head(buffer, line, searched, length),
            State::Body { head, length } if buffer.len() - head >= length => {
                self.state = START;
                FrameResult::Frame(head..head + length, head + length)
            }
            State::Body { .. } => FrameResult::Incomplete(0),
            // Wait for as much as a message may have, since that may contain the id.
            State::TooLong(_) if buffer.len() < self.max => FrameResult::Incomplete(0),
            State::TooLong(length) => FrameResult::TooLong(self.skip(buffer, length)),
            State::Skip(remaining) => FrameResult::Incomplete(self.skip(buffer, remaining)),
        }
    }

    fn is_skipping(&self) -> bool {
        matches!(self.state, State::TooLong(_) | State::Skip(_))
    }

    fn finish(&self, out: &mut Vec<u8>, start: usize) -> bool {
        let end = out.len();
        write!(out, "Content-Length: {}\r\n\r\n", end - start).expect("a Vec takes every byte");
        let head = out.len() - end;
        out[start..].rotate_right(head);
        true
    }
}

const HEAD_TOO_LONG: &str = "headers of more than 4096 bytes";

/// Returns `true` if a head may start with a header of this name. Identifies the dialect.
pub(super) fn is_framing_header(name: &[u8]) -> bool {
    [&b"Content-Length"[..], b"Content-Type"].iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Returns the value of a `Content-Length` header, or `None` for other headers.
fn content_length(header: &[u8]) -> Result<Option<u64>, &'static str> {
    let colon = memchr(b':', header).ok_or("a header without a colon; expected Content-Length: N")?;
    let (name, value) = (&header[..colon], header[colon + 1..].trim_ascii());
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return Err("an invalid header name; expected Content-Length: N");
    }
    if !name.eq_ignore_ascii_case(b"Content-Length") {
        return Ok(None);
    }
    if value.is_empty() {
        return Err(INVALID_LENGTH);
    }
    let add = |sum: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    value.iter().try_fold(0, add).map(Some).ok_or(INVALID_LENGTH)
}

const INVALID_LENGTH: &str = "Content-Length must be a decimal number of bytes below 2^64";

#[cfg(test)]
mod tests {
    use super::super::frame::tests::frames;
    use super::*;

    const MAX: usize = 8;

    /// Returns the frames of `text`, which must be the same whether it is received whole or byte by byte.
    #[track_caller]
    fn framed(text: &str) -> (Vec<String>, usize) {
        let frames_of = |pieces: Vec<&[u8]>| {
            let mut framer = ContentLengthFramer::new(MAX);
            let (messages, left) = frames(|buffer| framer.next_frame(buffer), pieces);
            let messages = messages.into_iter().map(|message| String::from_utf8(message).unwrap()).collect();
            (messages, left)
        };
        let (whole, left): (Vec<String>, _) = frames_of(vec![text.as_bytes()]);
        let (byte_by_byte, left_byte_by_byte): (Vec<String>, _) =
            frames_of(text.as_bytes().chunks(1).collect());
        assert_eq!(whole, byte_by_byte, "{text:?}");
        if whole.last().is_none_or(|last| last != "invalid") {
            assert_eq!(left, left_byte_by_byte, "{text:?}");
        }
        (whole, left)
    }

    #[test]
    fn finds_bodies_in_pieces_of_any_size() {
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
    fn skips_too_long_body_and_continues() {
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
    fn reports_too_long_body_with_its_prefix() {
        let mut framer = ContentLengthFramer::new(MAX);
        let head = b"Content-Length: 100\r\n\r\n";
        assert_eq!(framer.next_frame(head), FrameResult::Incomplete(head.len()));
        assert_eq!(framer.next_frame(b""), FrameResult::Incomplete(0));
        assert_eq!(framer.next_frame(b"{\"jsonr"), FrameResult::Incomplete(0));
        assert_eq!(framer.next_frame(b"{\"jsonrpc"), FrameResult::TooLong(9));
        assert_eq!(framer.next_frame(&[0; 90]), FrameResult::Incomplete(90));
        assert_eq!(framer.next_frame(b"}Con"), FrameResult::Incomplete(1));
        assert_eq!(framer.next_frame(b"Con"), FrameResult::Incomplete(0));
    }

    #[test]
    fn invalid_heads_are_fatal() {
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
            assert_eq!(framed(text).0.last().map(String::as_str), Some("invalid"), "{text:?}");
        }
    }

    #[test]
    fn length_of_a_head_is_limited() {
        let with = |length: usize| {
            let (first, last) = ("X: ", "\r\nContent-Length: 1\r\n\r\n");
            format!("{first}{}{last}1", "x".repeat(length - first.len() - last.len()))
        };
        assert_eq!(framed(&with(MAX_HEAD)), (vec!["1".into()], 0));
        assert_eq!(framed(&with(MAX_HEAD + 1)).0, ["invalid"]);
        assert_eq!(framed(&"x".repeat(MAX_HEAD - 1)), (vec![], MAX_HEAD - 1));
        assert_eq!(framed(&"x".repeat(MAX_HEAD)).0, ["invalid"]);
        assert_eq!(framed(&"X:\n".repeat(MAX_HEAD)).0, ["invalid"]);
    }

    #[test]
    fn finds_what_it_writes() {
        let mut out = b"before".to_vec();
        for body in [&b"{}"[..], b"", &[b'x'; 1000]] {
            let start = out.len();
            out.extend_from_slice(body);
            assert!(ContentLengthFramer::new(MAX).finish(&mut out, start));
        }
        let text = String::from_utf8(out).unwrap();
        let bodies = format!("{{}}Content-Length: 0\r\n\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(1000));
        assert_eq!(text, format!("beforeContent-Length: 2\r\n\r\n{bodies}"));
        assert_eq!(framed(&text["before".len()..]).0, ["{}", "", "!"]);
    }
}
