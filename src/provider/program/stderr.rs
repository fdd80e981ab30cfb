//! The stderr of programs: its end, for errors, and its lines, for the log.

/// The number of bytes kept from the end of stderr.
pub(super) const TAIL: usize = 2 * 1024;
/// The maximum length of a line in the log, in bytes. A longer one becomes several.
const MAX_LINE: usize = 1024;

/// Appends `chunk` to `tail`, of which at most the last [`TAIL`] bytes are kept.
pub(super) fn append_tail(tail: &mut Vec<u8>, chunk: &[u8]) {
    let chunk = &chunk[chunk.len().saturating_sub(TAIL)..];
    let excess = (tail.len() + chunk.len()).saturating_sub(TAIL);
    tail.drain(..excess);
    tail.extend_from_slice(chunk);
}

/// The stderr of a program that stays.
#[derive(Debug, Default)]
pub(crate) struct LogLines {
    tail: Vec<u8>,
    /// The beginning of a line.
    line: Vec<u8>,
}

impl LogLines {
    /// Appends output, and passes each complete line to `log`.
    pub(crate) fn append(&mut self, chunk: &[u8], log: &mut dyn FnMut(&str)) {
        append_tail(&mut self.tail, chunk);
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            for part in part.chunks(MAX_LINE) {
                if self.line.len() + part.len() > MAX_LINE {
                    self.finish(log);
                }
                self.line.extend_from_slice(part);
            }
            if self.line.ends_with(b"\n") {
                self.finish(log);
            }
        }
    }

    /// Passes an incomplete last line to `log`.
    pub(crate) fn finish(&mut self, log: &mut dyn FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.line);
        let text = line.trim_end();
        if !text.is_empty() {
            log(text);
        }
        self.line.clear();
    }

    /// Returns the end of the output, at most 2 KiB.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_pieces_of_any_size() {
        let long = "x".repeat(MAX_LINE + 5);
        let text = format!("one\r\n\n  two\n{long}\nlast");
        for size in [1, 3, 1000, 10_000] {
            let (mut lines, mut found) = (LogLines::default(), Vec::new());
            let mut log = |line: &str| found.push(line.to_owned());
            for chunk in text.as_bytes().chunks(size) {
                lines.append(chunk, &mut log);
            }
            lines.finish(&mut log);
            assert_eq!(found.concat(), format!("one  two{long}last"), "{size}");
            assert_eq!(found[..2], ["one", "  two"]);
            assert!(found.iter().all(|line| line.len() <= MAX_LINE));
            assert!(text.as_bytes().ends_with(lines.tail()));
        }
    }
}
