//! Tracks WebSocket frames (RFC 6455, section 5.2) in a stream of bytes, to know whether a message is partially
//! received.

/// The position of a byte stream within a frame, and within a message of several frames.
#[derive(Debug, Default)]
pub(super) struct FrameTracker {
    /// Number of header bytes seen.
    header: u8,
    /// The first header byte.
    first: u8,
    /// Length of the extended payload length, in bytes.
    extended: u8,
    /// Length of the complete header, in bytes.
    header_len: u8,
    /// The payload length as far as it is decoded; within the payload, the number of bytes that remain.
    payload: u64,
    in_payload: bool,
    /// The message continues in another frame.
    fragmented: bool,
}

impl FrameTracker {
    /// Processes the next bytes of the stream.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes {
            if self.in_payload {
                let count = usize::try_from(self.payload).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.payload -= count as u64;
                self.in_payload = self.payload > 0;
                bytes = &bytes[count..];
                continue;
            }
            bytes = rest;
            self.advance_header(*byte);
        }
    }

    /// Returns `true` within a frame or a fragmented message.
    pub(super) fn is_partial(&self) -> bool {
        self.header > 0 || self.in_payload || self.fragmented
    }

    fn advance_header(&mut self, byte: u8) {
        match self.header {
            0 => self.first = byte,
            1 => {
                let short = byte & 0x7f;
                self.extended = match short {
                    126 => 2,
                    127 => 8,
                    _ => 0,
                };
                self.payload = if self.extended == 0 { short.into() } else { 0 };
                self.header_len = 2 + self.extended + if byte & 0x80 == 0 { 0 } else { 4 };
            }
            at if at < 2 + self.extended => self.payload = self.payload << 8 | u64::from(byte),
            _ => {}
        }
        self.header += 1;
        if self.header >= 2 && self.header == self.header_len {
            self.header = 0;
            self.in_payload = self.payload > 0;
            let is_control = self.first & 0x08 != 0;
            if !is_control {
                self.fragmented = self.first & 0x80 == 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_partial_until_the_last_byte_of_its_last_frame() {
        let large = [&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4][..], &[7; 65_536]].concat();
        let fragmented = [
            &[0x01, 0x82, 0, 0, 0, 0, b'{', b' '][..],
            &[0x89, 0x80, 0, 0, 0, 0],
            &[0x80, 0x81, 0, 0, 0, 0, b'}'],
        ];
        for message in [
            vec![0x81, 0x80, 1, 2, 3, 4],
            vec![0x81, 0x82, 1, 2, 3, 4, 5, 6],
            vec![0x81, 0x00],
            [&[0x81, 0xfe, 0, 200, 0, 0, 0, 0][..], &[1; 200]].concat(),
            large,
            fragmented.concat(),
        ] {
            for step in [1, 3, message.len()] {
                let mut frames = FrameTracker::default();
                let (mut passed, last) = (0, message.len());
                for piece in message.chunks(step) {
                    assert_eq!(frames.is_partial(), passed > 0, "{passed} of {last} bytes");
                    frames.advance(piece);
                    passed += piece.len();
                }
                assert!(!frames.is_partial(), "{last} bytes in steps of {step}: {frames:?}");
            }
        }
    }
}
