//! Finds the boundaries of messages.

use super::skipper::Skipper;
use crate::codec::frame::FrameResult;
use crate::codec::framing::Framing;

/// Finds messages in a buffer that grows at its end and is cut at its front.
///
/// Remembers how far it has searched, so that a message received in many pieces is searched once.
#[derive(Debug)]
pub(in crate::codec) struct MessagePackFramer {
    max: usize,
    /// Number of bytes at the front of the buffer that are skipped.
    searched: usize,
    skipper: Skipper,
    /// The current message is too long.
    skipping: bool,
}

impl MessagePackFramer {
    /// Creates a framer for messages of at most `max` bytes.
    pub(in crate::codec) fn new(max: usize) -> Self {
        Self { max, searched: 0, skipper: Skipper::new(), skipping: false }
    }

    /// Returns `true` if a message, which is an array, can start with this byte.
    pub(in crate::codec) fn is_first_byte(first: u8) -> bool {
        matches!(first, 0x90..=0x9f | 0xdc | 0xdd)
    }
}

impl Framing for MessagePackFramer {
    fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Finds the next message. It is reported as too long as soon as its markers show that.
    fn next_frame(&mut self, buffer: &[u8]) -> FrameResult {
        match self.skipper.advance(&buffer[self.searched..]) {
            Ok(skipped) => self.searched += skipped,
            Err(_) => return FrameResult::Invalid("byte 0xc1, which MessagePack does not use".into()),
        }
        let (length, is_complete) = (self.searched, self.skipper.is_done());
        let too_long = self.skipper.min_remaining().saturating_add(length as u64) > self.max as u64;
        let was_skipping = self.skipping;
        self.skipping = (was_skipping || too_long) && !is_complete;
        if is_complete {
            self.skipper = Skipper::new();
        }
        if is_complete || self.skipping {
            self.searched = 0;
        }
        match (was_skipping, too_long, is_complete) {
            (true, ..) => FrameResult::Incomplete(length),
            (false, true, _) => FrameResult::TooLong(length),
            (false, false, true) => FrameResult::Frame(0..length, length),
            (false, false, false) => FrameResult::Incomplete(0),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::codec::frame::tests::frames as frames_of;

    /// Returns the frames in `pieces`, and how many bytes are left over.
    pub(in crate::codec::msgpack) fn frames(max: usize, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
        let mut framer = MessagePackFramer::new(max);
        frames_of(|buffer| framer.next_frame(buffer), pieces.iter().copied())
    }

    /// Returns a header followed by `length` bytes.
    pub(in crate::codec::msgpack) fn with(header: &[u8], length: usize, byte: u8) -> Vec<u8> {
        [header, &vec![byte; length]].concat()
    }

    #[test]
    fn finds_messages_in_pieces_of_any_size() {
        let messages = [
            &b"\x94\x00\x01\xa1f\x90"[..],
            b"\x93\x02\xa1f\x81\xa1a\xda\x00\x02xy",
            b"\x07",
            b"\xcb\0\0\0\0\0\0\0\0",
            b"\x94\x00\x01\xa1f\x93\xc4\x02\xc1\xc1\xc7\x01\xc1\xc1\xdc\x00\x01\xdf\x00\x00\x00\x01\xcd\x01\x00\xc0",
            b"\xa3abc",
            b"\xd4\xc1\xc1",
            b"\x90",
        ];
        let stream = messages.concat();
        let expected: Vec<_> = messages.iter().map(|message| message.to_vec()).collect();
        assert_eq!(frames(64, &[&stream]), (expected.clone(), 0));
        for at in 0..stream.len() {
            assert_eq!(frames(64, &[&stream[..at], &stream[at..]]), (expected.clone(), 0), "cut at {at}");
        }
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(frames(64, &bytes), (expected, 0));
    }

    #[test]
    fn skips_too_long_message_and_continues() {
        let (fits, too_long) = (with(b"\xa8", 8, b'x'), with(b"\xa9", 9, b'x'));
        let array = [&b"\x94\x81\x01\x02"[..], &too_long, b"\x90\xc0"].concat();
        let stream = [&fits[..], &too_long, &fits, &array, &fits].concat();
        let mut expected = vec![fits.clone(), b"!".to_vec(), fits.clone(), b"!".to_vec(), fits];
        assert_eq!(frames(9, &[&stream]), (expected.clone(), 0));
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(frames(9, &bytes), (expected.clone(), 0));
        expected.push(b"invalid".to_vec());
        assert_eq!(frames(9, &[&stream, b"\xc1"]).0, expected);
    }

    /// The error is sent before the sender has sent the whole message.
    #[test]
    fn too_long_message_is_reported_at_its_marker() {
        let mut framer = MessagePackFramer::new(100);
        assert_eq!(framer.next_frame(b"\x94\x00\x07\xa1f\x91\xc6\x00\x00"), FrameResult::Incomplete(0));
        assert_eq!(framer.next_frame(b"\x94\x00\x07\xa1f\x91\xc6\x00\x00\x01\x00"), FrameResult::TooLong(11));
        assert_eq!(framer.next_frame(&[0; 255]), FrameResult::Incomplete(255));
        assert_eq!(framer.next_frame(b"\x00\x93\x02"), FrameResult::Incomplete(1));
        assert_eq!(framer.next_frame(b"\x93\x02"), FrameResult::Incomplete(0));
        assert_eq!(framer.next_frame(b"\x93\x02\xa1f\x90"), FrameResult::Frame(0..5, 5));
        // The bytes of the first value, and at least one for each of the two others.
        assert_eq!(MessagePackFramer::new(100).next_frame(b"\x93\xc4\x5f"), FrameResult::Incomplete(0));
        assert_eq!(MessagePackFramer::new(100).next_frame(b"\x93\xc4\x60"), FrameResult::TooLong(3));
    }

    #[test]
    fn reserved_byte_is_fatal() {
        for stream in [&b"\xc1"[..], b"\x94\xc1", b"\x94\x00\x01\xa1f\x81\xc1"] {
            assert_eq!(frames(64, &[stream]).0, [b"invalid"], "{stream:x?}");
        }
    }

    #[test]
    fn message_starts_with_an_array() {
        let starts: Vec<u8> = (0..=u8::MAX).filter(|byte| MessagePackFramer::is_first_byte(*byte)).collect();
        let arrays: Vec<u8> = (0x90..=0x9f).chain([0xdc, 0xdd]).collect();
        assert_eq!(starts, arrays);
    }
}
