//! Framing by line feeds: one value a line, CRLF tolerated. A blank line is an empty frame.

use std::ops::Range;

use memchr::memchr;

use super::frame::Next;

/// Finds lines in a buffer that grows at its end and is cut at its front.
///
/// It remembers how far it has looked, so that a line which comes in many pieces is looked at once.
#[derive(Debug)]
pub struct Lines {
    max: usize,
    looked: usize,
    /// In the middle of a line that was too long.
    skipping: bool,
}

impl Lines {
    /// Creates a finder of lines of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { max, looked: 0, skipping: false }
    }

    /// Looks for the next line. The caller cuts as told before it calls again.
    pub fn next(&mut self, buffer: &[u8]) -> Next {
        let end = memchr(b'\n', &buffer[self.looked..]).map(|at| self.looked + at);
        self.looked = if end.is_some() { 0 } else { buffer.len() };
        match end {
            Some(end) if self.skipping => {
                self.skipping = false;
                Next::Incomplete(end + 1)
            }
            Some(end) if end > self.max + 1 || (end > self.max && buffer[end - 1] != b'\r') => {
                Next::TooLong(end + 1)
            }
            Some(end) => Next::Frame(trim(buffer, end), end + 1),
            None if self.skipping => {
                self.looked = 0;
                Next::Incomplete(buffer.len())
            }
            None if buffer.len() > self.max + 1 => {
                self.looked = 0;
                self.skipping = true;
                Next::TooLong(buffer.len())
            }
            None => Next::Incomplete(0),
        }
    }

    /// Returns `true` in the middle of a line that is skipped.
    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// The last line of a stream that ended without a line feed.
    pub fn last(&self, buffer: &[u8]) -> Option<Range<usize>> {
        let line = trim(buffer, buffer.len());
        (!self.skipping && !line.is_empty()).then_some(line)
    }
}

/// The byte order mark that some tools put in front of a text.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Returns whether a line begins like a JSON object or array, or `None` if more of it is needed to tell.
pub(super) fn begins_json(line: &[u8]) -> Option<bool> {
    let (text, marked) = match line.strip_prefix(BOM) {
        Some(text) => (text, true),
        None if !line.is_empty() && BOM.starts_with(line) => return None,
        None => (line, false),
    };
    match text.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) {
        None if marked => None,
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

    /// Feeds `pieces` and returns the lines, "!" for one too long.
    fn lines(max: usize, pieces: &[&str]) -> Vec<String> {
        let (mut lines, mut buffer, mut found) = (Lines::new(max), Vec::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece.as_bytes());
            loop {
                let cut = match lines.next(&buffer) {
                    Next::Frame(at, cut) => {
                        found.push(String::from_utf8(buffer[at].to_vec()).unwrap());
                        cut
                    }
                    Next::TooLong(cut) => {
                        found.push("!".into());
                        cut
                    }
                    Next::Incomplete(0) => break,
                    Next::Incomplete(cut) => cut,
                    Next::Broken(why) => panic!("{why}"),
                };
                buffer.drain(..cut);
            }
        }
        found.extend(lines.last(&buffer).map(|at| String::from_utf8(buffer[at].to_vec()).unwrap()));
        found
    }

    #[test]
    fn finds_lines_however_they_are_cut() {
        let text = "one\ntwo\r\n\n  three \nfour";
        let expected = ["one", "two", "", "three", "four"];
        assert_eq!(lines(9, &[text]), expected);
        let letters: Vec<_> = (0..text.len()).map(|at| &text[at..=at]).collect();
        assert_eq!(lines(9, &letters), expected);
    }

    #[test]
    fn skips_a_line_that_is_too_long_and_goes_on() {
        assert_eq!(lines(4, &["12345\n1234\n1234\r\n"]), ["!", "1234", "1234"]);
        assert_eq!(lines(4, &["123", "456", "789", "0\nab\n"]), ["!", "ab"]);
        assert_eq!(lines(4, &["1234567"]), ["!"]);
    }
}
