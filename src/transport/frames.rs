//! Follows WebSocket frames (RFC 6455, section 5.2) as their bytes pass, to know whether one has begun.

/// Where in a frame, and in a message of several frames, a stream of bytes is.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the header that have passed, and its first one.
    header: u8,
    first: u8,
    /// Bytes of the extended length, and of the whole header.
    extended: u8,
    whole: u8,
    /// The payload's length as far as it is known, then how much of it is still to come.
    payload: u64,
    in_payload: bool,
    /// A message is to be continued by another frame.
    fragmented: bool,
}

impl Frames {
    /// Lets bytes pass.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes {
            if self.in_payload {
                let count = usize::try_from(self.payload).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.payload -= count as u64;
                self.in_payload = self.payload > 0;
                bytes = &bytes[count..];
                continue;
            }
            bytes = rest;
            self.pass_header(*byte);
        }
    }

    /// Returns `true` in the middle of a frame or of a message.
    pub(super) fn is_amid(&self) -> bool {
        self.header > 0 || self.in_payload || self.fragmented
    }

    fn pass_header(&mut self, byte: u8) {
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
                self.whole = 2 + self.extended + if byte & 0x80 == 0 { 0 } else { 4 };
            }
            at if at < 2 + self.extended => self.payload = self.payload << 8 | u64::from(byte),
            _ => {}
        }
        self.header += 1;
        if self.header >= 2 && self.header == self.whole {
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
    fn is_amid_until_the_last_byte_of_the_last_frame() {
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
                let mut frames = Frames::default();
                let (mut passed, last) = (0, message.len());
                for piece in message.chunks(step) {
                    assert_eq!(frames.is_amid(), passed > 0, "{passed} of {last} bytes");
                    frames.pass(piece);
                    passed += piece.len();
                }
                assert!(!frames.is_amid(), "{last} bytes in steps of {step}: {frames:?}");
            }
        }
    }
}
