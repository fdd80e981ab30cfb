//! The headers of a message: a status line, then `Name: value` in each line.

/// The first line of headers.
const VERSION: &str = "NATS/1.0";

/// The headers of one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Headers<'a>(&'a str);

impl<'a> Headers<'a> {
    /// Reads headers. `None` if they are not text, or do not begin as headers do.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        Some(Self(std::str::from_utf8(bytes).ok()?.strip_prefix(VERSION)?))
    }

    /// Returns the status of a message that the server itself has sent.
    pub(super) fn status(self) -> Option<&'a str> {
        self.0.lines().next()?.split_ascii_whitespace().next()
    }

    /// Returns the value of a header. Names differ in their case between libraries.
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        self.0.lines().skip(1).find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}
