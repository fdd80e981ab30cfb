//! How messages are separated on a transport.

use std::fmt::Debug;
use std::ops::Range;

use super::frame::FrameResult;

/// Finds the messages in what is received, and separates those that are sent. Knows nothing of their content.
///
/// The buffer of received bytes grows at its end. Before the next call, the caller discards bytes at its front as the
/// [`FrameResult`] says.
pub trait Framing: Debug + Send {
    /// Finds the next message.
    fn next_frame(&mut self, buffer: &[u8]) -> FrameResult;

    /// Returns `true` within a message that is too long and is being skipped, so that no bytes of it are kept.
    fn is_skipping(&self) -> bool {
        false
    }

    /// Returns the last message of a stream that ended after `buffer`, if messages need no terminator.
    fn last_frame(&self, buffer: &[u8]) -> Option<Range<usize>> {
        let _ = buffer;
        None
    }

    /// Returns the front of a buffer as text, in which messages need not be checked for UTF-8 again. May be empty.
    fn text_at<'a>(&self, buffer: &'a [u8]) -> &'a str {
        let _ = buffer;
        ""
    }

    /// Returns `false` if the prefix of a connection's first message shows that the peer uses another protocol.
    fn is_plausible(&self, prefix: &[u8]) -> bool {
        let _ = prefix;
        true
    }

    /// Returns what the peer that connects may send before its first message, so that the other one detects the dialect.
    fn preface(&self) -> &'static [u8] {
        b""
    }

    /// Returns `true` if each frame of the transport is one message, so that the bytes need no framing.
    fn is_of_transport(&self) -> bool {
        false
    }

    /// Returns the minimum and the maximum length of a message, in bytes.
    fn lengths(&self) -> (usize, usize) {
        (0, usize::MAX)
    }

    /// Returns the setting that limits the length of a message, for errors.
    fn limit_name(&self) -> &'static str {
        "limits.message"
    }

    /// Adds what separates a message, which was appended at `start`, from the next one. Returns `false`, and removes
    /// the message, if the framing cannot express its length.
    fn finish(&self, out: &mut Vec<u8>, start: usize) -> bool {
        let _ = (out, start);
        true
    }
}

/// One message in each frame of the transport.
#[derive(Debug)]
pub(super) struct PerFrame;

impl Framing for PerFrame {
    fn next_frame(&mut self, buffer: &[u8]) -> FrameResult {
        FrameResult::Frame(0..buffer.len(), buffer.len())
    }

    fn is_of_transport(&self) -> bool {
        true
    }
}
