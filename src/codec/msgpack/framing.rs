//! Where one message ends and the next begins.

use super::token::Walk;
use crate::codec::frame::Next;

/// Finds messages in a buffer that grows at its end and is cut at its front.
///
/// It remembers how far it has looked, so that a message which comes in many pieces is looked at once.
#[derive(Debug)]
pub(in crate::codec) struct MessagePack {
    max: usize,
    looked: usize,
    walk: Walk,
    /// In the middle of a message that is too long.
    skipping: bool,
}

impl MessagePack {
    /// Creates a finder of messages of at most `max` bytes.
    pub(in crate::codec) fn new(max: usize) -> Self {
        Self { max, looked: 0, walk: Walk::new(), skipping: false }
    }

    /// Tells whether a message, which is an array, can begin with this byte.
    pub(in crate::codec) fn starts(first: u8) -> bool {
        matches!(first, 0x90..=0x9f | 0xdc | 0xdd)
    }

    /// Returns `true` in the middle of a message that is skipped.
    pub(in crate::codec) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Looks for the next message. The caller cuts as told before it calls again.
    ///
    /// A message is too long as soon as its headers say so.
    pub(in crate::codec) fn next(&mut self, buffer: &[u8]) -> Next {
        match self.walk.over(&buffer[self.looked..]) {
            Ok(passed) => self.looked += passed,
            Err(_) => return Next::Broken("byte 0xc1, which MessagePack does not use".into()),
        }
        let (passed, whole) = (self.looked, self.walk.is_done());
        let too_long = self.walk.least().saturating_add(passed as u64) > self.max as u64;
        let skipped = self.skipping;
        self.skipping = (skipped || too_long) && !whole;
        if whole {
            self.walk = Walk::new();
        }
        if whole || self.skipping {
            self.looked = 0;
        }
        match (skipped, too_long, whole) {
            (true, ..) => Next::Incomplete(passed),
            (false, true, _) => Next::TooLong(passed),
            (false, false, true) => Next::Frame(0..passed, passed),
            (false, false, false) => Next::Incomplete(0),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::codec::frame::tests::found;

    /// What is found in `pieces`, and how many bytes are left over.
    pub(in crate::codec::msgpack) fn frames(max: usize, pieces: &[&[u8]]) -> (Vec<Vec<u8>>, usize) {
        let mut framer = MessagePack::new(max);
        found(|buffer| framer.next(buffer), pieces.iter().copied())
    }

    /// A header and so many bytes after it.
    pub(in crate::codec::msgpack) fn with(header: &[u8], length: usize, byte: u8) -> Vec<u8> {
        [header, &vec![byte; length]].concat()
    }

    #[test]
    fn finds_messages_however_they_are_cut() {
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
    fn skips_a_message_that_is_too_long_and_goes_on() {
        let (fits, too_long) = (with(b"\xa8", 8, b'x'), with(b"\xa9", 9, b'x'));
        let array = [&b"\x94\x81\x01\x02"[..], &too_long, b"\x90\xc0"].concat();
        let stream = [&fits[..], &too_long, &fits, &array, &fits].concat();
        let mut expected = vec![fits.clone(), b"!".to_vec(), fits.clone(), b"!".to_vec(), fits];
        assert_eq!(frames(9, &[&stream]), (expected.clone(), 0));
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(frames(9, &bytes), (expected.clone(), 0));
        expected.push(b"broken".to_vec());
        assert_eq!(frames(9, &[&stream, b"\xc1"]).0, expected);
    }

    /// A message is told to be too long as soon as that is known, so that its sender need not send it all.
    #[test]
    fn too_long_is_known_by_the_header() {
        let mut framer = MessagePack::new(100);
        assert_eq!(framer.next(b"\x94\x00\x07\xa1f\x91\xc6\x00\x00"), Next::Incomplete(0));
        assert_eq!(framer.next(b"\x94\x00\x07\xa1f\x91\xc6\x00\x00\x01\x00"), Next::TooLong(11));
        assert_eq!(framer.next(&[0; 255]), Next::Incomplete(255));
        assert_eq!(framer.next(b"\x00\x93\x02"), Next::Incomplete(1));
        assert_eq!(framer.next(b"\x93\x02"), Next::Incomplete(0));
        assert_eq!(framer.next(b"\x93\x02\xa1f\x90"), Next::Frame(0..5, 5));
        // So many bytes, and a byte at least for each of two values more.
        assert_eq!(MessagePack::new(100).next(b"\x93\xc4\x5f"), Next::Incomplete(0));
        assert_eq!(MessagePack::new(100).next(b"\x93\xc4\x60"), Next::TooLong(3));
    }

    #[test]
    fn a_byte_that_begins_nothing_ends_it() {
        for stream in [&b"\xc1"[..], b"\x94\xc1", b"\x94\x00\x01\xa1f\x81\xc1"] {
            assert_eq!(frames(64, &[stream]).0, [b"broken"], "{stream:x?}");
        }
    }

    #[test]
    fn starts() {
        let starts: Vec<u8> = (0..=u8::MAX).filter(|byte| MessagePack::starts(*byte)).collect();
        let arrays: Vec<u8> = (0x90..=0x9f).chain([0xdc, 0xdd]).collect();
        assert_eq!(starts, arrays);
    }
}
