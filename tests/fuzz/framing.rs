//! Framing: messages in a stream of bytes, in each dialect that has them.

use chanrpc::internals::codec::jsonrpc::DecodeLimits;
use chanrpc::internals::codec::leaf::{ByteOrder, LeafFraming, LengthBytes};
use chanrpc::internals::codec::{Codec, Dialect, FrameResult};
use chanrpc::message::{Fault, code};

use super::json;
use super::source::Source;

pub(super) const BOUNDS: DecodeLimits = DecodeLimits { depth: 32, batch: 8 };
/// More than the header or the length before a message.
const HEAD: usize = 8 * 1024;

pub(super) fn lines(input: &[u8]) {
    stream(Dialect::JsonLines, &mut Source::new(input));
}

pub(super) fn headers(input: &[u8]) {
    stream(Dialect::JsonContentLength, &mut Source::new(input));
}

pub(super) fn msgpack(input: &[u8]) {
    stream(Dialect::MessagePack, &mut Source::new(input));
}

pub(super) fn leaf(input: &[u8]) {
    let mut source = Source::new(input);
    let length = [LengthBytes::One, LengthBytes::Two, LengthBytes::Four][source.below(3)];
    let order = [ByteOrder::Big, ByteOrder::Little][source.below(2)];
    let (min, max) = (source.byte().into(), u32::from(source.byte()) * 16);
    stream(
        Dialect::Leaf(LeafFraming {
            length_bytes: length,
            byte_order: order,
            min,
            max,
            length_prefixed: true,
            #[cfg(feature = "grpc")]
            messages: None,
        }),
        &mut source,
    );
}

/// The messages found in a stream.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Message(Vec<u8>),
    TooLong,
    Broken,
}

/// Checks that framing does not depend on how the bytes are split, keeps no more than necessary, and that each message
/// can be read.
fn stream(dialect: Dialect, source: &mut Source<'_>) {
    let max = [1, 16, 64, 256, 4096][source.below(5)];
    let step = 1 + source.below(32);
    let bytes = source.rest();
    let whole = found(dialect, max, [bytes]);
    let pieces = found(dialect, max, bytes.chunks(step));
    assert_eq!(whole, pieces, "cut into pieces of {step}");
    if bytes.len() <= 512 {
        assert_eq!(whole, found(dialect, max, bytes.chunks(1)), "cut into single bytes");
    }
    let mut codec = Codec::new(dialect, max, BOUNDS);
    for message in whole.0 {
        if let Found::Message(message) = message {
            json::readable(dialect, codec.decode(&message));
        }
    }
    json::readable(dialect, codec.reject(bytes, Fault::new(code::REQUEST_TOO_LARGE, "too long")));
    if let Some(last) = codec.last_frame(bytes) {
        json::readable(dialect, codec.decode(&bytes[last]));
    }
}

/// Returns the messages in `pieces`, and how many bytes are left over.
fn found<'a>(
    dialect: Dialect,
    max: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Found>, usize) {
    let mut codec = Codec::new(dialect, max, BOUNDS);
    let largest = if let Dialect::Leaf(leaf) = dialect { most(leaf) } else { max };
    let (mut buffer, mut found) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while !buffer.is_empty() {
            let cut = match codec.next_frame(&buffer) {
                FrameResult::Frame(at, cut) => {
                    assert!(at.start <= at.end && at.end <= cut && cut <= buffer.len() && cut > 0);
                    assert!(at.len() <= largest, "a message of {} bytes", at.len());
                    found.push(Found::Message(buffer[at].to_vec()));
                    cut
                }
                FrameResult::TooLong(cut) => {
                    found.push(Found::TooLong);
                    cut
                }
                FrameResult::Incomplete(0) => break,
                FrameResult::Incomplete(cut) => cut,
                FrameResult::Invalid(why) => {
                    assert!(!why.is_empty());
                    // Invalid input may already exceed the limit.
                    while found.pop_if(|last| *last == Found::TooLong).is_some() {}
                    found.push(Found::Broken);
                    return (found, 0);
                }
            };
            buffer.drain(..cut);
        }
        assert!(buffer.len() <= largest + HEAD, "{} bytes are kept", buffer.len());
    }
    (found, buffer.len())
}

/// Returns the longest message that a Leaf gate accepts.
fn most(leaf: LeafFraming) -> usize {
    let possible = match leaf.length_bytes {
        LengthBytes::One => u32::from(u8::MAX),
        LengthBytes::Two => u32::from(u16::MAX),
        LengthBytes::Four => u32::MAX,
    };
    leaf.max.min(possible) as usize
}
