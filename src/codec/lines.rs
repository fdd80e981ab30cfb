//! Framing by line feeds: one value per line, CRLF accepted. A blank line is an empty frame.

use std::ops::Range;

use memchr::{memchr, memrchr};

use super::frame::FrameResult;
use super::framing::Framing;

/// Finds lines in a buffer that grows at its end and is cut at its front.
///
/// Remembers how far it has searched, so that a line received in many pieces is searched once.
#[derive(Debug)]
pub(super) struct LineFramer {
    max: usize,
    /// Number of bytes at the front of the buffer that contain no line feed.
    searched: usize,
    /// The current line is too long.
    skipping: bool,
}

impl LineFramer {
    /// Creates a framer for lines of at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { max, searched: 0, skipping: false }
    }
}

impl Framing for LineFramer {
    fn next_frame(&mut self, buffer: &[u8]) -> FrameResult {
        let end = memchr(b'\n', &buffer[self.searched..]).map(|at| self.searched + at);
        self.searched = if end.is_some() { 0 } else { buffer.len() };
        match end {
            Some(end) if self.skipping => {
                self.skipping = false;
                FrameResult::Incomplete(end + 1)
            }
            Some(end) if end > self.max + 1 || (end > self.max && buffer[end - 1] != b'\r') => {
                FrameResult::TooLong(end + 1)
            }
            Some(end) => FrameResult::Frame(trim(buffer, end), end + 1),
            None if self.skipping => {
                self.searched = 0;
                FrameResult::Incomplete(buffer.len())
            }
            None if buffer.len() > self.max + 1 => {
                self.searched = 0;
                self.skipping = true;
                FrameResult::TooLong(buffer.len())
            }
            None => FrameResult::Incomplete(0),
        }
    }

    fn is_skipping(&self) -> bool {
        self.skipping
    }

    fn last_frame(&self, buffer: &[u8]) -> Option<Range<usize>> {
        let line = trim(buffer, buffer.len());
        (!self.skipping && !line.is_empty()).then_some(line)
    }

    fn text_at<'a>(&self, buffer: &'a [u8]) -> &'a str {
        whole_lines(buffer)
    }

    fn is_plausible(&self, prefix: &[u8]) -> bool {
        starts_json(prefix) == Some(true)
    }

    fn preface(&self) -> &'static [u8] {
        // A blank line is no message.
        b"\n"
    }

    fn finish(&self, out: &mut Vec<u8>, _start: usize) -> bool {
        out.push(b'\n');
        true
    }
}

/// The length of the lines that are checked for UTF-8 at once, in bytes. Checking each one costs several times as much.
const WINDOW: usize = 16 * 1024;

/// Returns the whole lines at the front of a buffer as text, as many as are checked at once. The text ends early where
/// the buffer is not UTF-8.
fn whole_lines(buffer: &[u8]) -> &str {
    let window = &buffer[..buffer.len().min(WINDOW)];
    let end = memrchr(b'\n', window).unwrap_or_default();
    match std::str::from_utf8(&window[..end]) {
        Ok(text) => text,
        // Not empty: the lines before the invalid one would each be checked with it again.
        Err(error) => std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or_default(),
    }
}

/// The byte order mark that some tools write before a text.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Returns `true` if a line starts like a JSON object or array, or `None` if more of it is needed to decide.
pub(super) fn starts_json(line: &[u8]) -> Option<bool> {
    let (text, has_bom) = match line.strip_prefix(BOM) {
        Some(text) => (text, true),
        None if !line.is_empty() && BOM.starts_with(line) => return None,
        None => (line, false),
    };
    match text.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) {
        None if has_bom => None,
        first => Some(matches!(first, Some(b'{' | b'['))),
    }
}

fn trim(buffer: &[u8], end: usize) -> Range<usize> {
    let trimmed = buffer[..end].trim_ascii();
    let start = buffer[..end].len() - buffer[..end].trim_ascii_start().len();
    start..start + trimmed.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines in `pieces`, with "!" for one that is too long.
    fn lines(max: usize, pieces: &[&str]) -> Vec<String> {
        let (mut framer, mut buffer, mut found) = (LineFramer::new(max), Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece.as_bytes());
            loop {
                let cut = match framer.next_frame(&buffer) {
                    FrameResult::Frame(at, cut) => {
                        found.push(String::from_utf8(buffer[at].to_vec()).unwrap());
                        cut
                    }
                    FrameResult::TooLong(cut) => {
                        found.push("!".into());
                        cut
                    }
                    FrameResult::Incomplete(0) => break,
                    FrameResult::Incomplete(cut) => cut,
                    FrameResult::Invalid(reason) => panic!("{reason}"),
                };
                buffer.drain(..cut);
            }
        }
        found.extend(framer.last_frame(&buffer).map(|at| String::from_utf8(buffer[at].to_vec()).unwrap()));
        found
    }

    #[test]
    fn finds_lines_in_pieces_of_any_size() {
        let text = "one\ntwo\r\n\n  three \nfour";
        let expected = ["one", "two", "", "three", "four"];
        assert_eq!(lines(9, &[text]), expected);
        let letters: Vec<_> = (0..text.len()).map(|at| &text[at..=at]).collect();
        assert_eq!(lines(9, &letters), expected);
    }

    #[test]
    fn whole_lines_end_before_bytes_that_are_not_text() {
        assert_eq!(whole_lines(b"one\ntwo\nthr"), "one\ntwo");
        assert_eq!(whole_lines(b"one\nt\xffo\nthree\n"), "one\nt");
        assert_eq!(whole_lines(b"\xff\n"), "");
        assert_eq!(whole_lines(b"one"), "");
    }

    #[test]
    fn skips_too_long_line_and_continues() {
        assert_eq!(lines(4, &["12345\n1234\n1234\r\n"]), ["!", "1234", "1234"]);
        assert_eq!(lines(4, &["123", "456", "789", "0\nab\n"]), ["!", "ab"]);
        assert_eq!(lines(4, &["1234567"]), ["!"]);
    }
}
