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

/// Messages of a server of NATS. `TOKEN` in them is the one that the reply to call 7 needs.
#[cfg(feature = "nats")]
pub(super) fn nats(input: &[u8]) {
    use std::hash::{BuildHasher, RandomState};

    use chanrpc::internals::codec::Decoded;
    use chanrpc::internals::codec::nats::{Nats, NatsFramer};
    use chanrpc::internals::message::Message;
    use chanrpc::message::RawJson;

    fn checked(json: &RawJson<'_>) {
        serde_json::from_str::<serde::de::IgnoredAny>(json.get()).expect("what is taken for JSON is JSON");
    }
    let mut source = Source::new(input);
    let max = [1, 16, 64, 256, 4096][source.below(5)];
    let step = 1 + source.below(32);
    let tokens = RandomState::new();
    let token = format!("{:016x}", tokens.hash_one("7"));
    let bytes = String::from_utf8_lossy(source.rest()).replace("TOKEN", &token).into_bytes();
    let codec = || {
        let framer = NatsFramer::new(max, max, "_INBOX.x".to_owned(), tokens.clone());
        Codec::of(Box::new(framer), &Nats, max, BOUNDS)
    };
    // A control line comes with the payload.
    let largest = max + 64 * 1024;
    let whole = found(&mut codec(), largest, [&bytes[..]]);
    assert_eq!(whole, found(&mut codec(), largest, bytes.chunks(step)), "cut into pieces of {step}");
    let mut codec = codec();
    for message in whole.0 {
        if let Found::Message(message) = message
            && !message.is_empty()
        {
            match codec.decode(&message) {
                Decoded::Single(Ok(Message::Request(request))) => request.params.iter().for_each(checked),
                Decoded::Single(Ok(Message::Reply(_, Ok(result)))) => checked(&result),
                Decoded::Single(_) => {}
                Decoded::Batch(_) => panic!("a server sends no batches"),
            }
        }
    }
}

/// Builds without NATS have nothing to check.
#[cfg(not(feature = "nats"))]
pub(super) fn nats(_input: &[u8]) {}

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
    let largest = if let Dialect::Leaf(leaf) = dialect { most(leaf) } else { max };
    let codec = || Codec::new(dialect, max, BOUNDS);
    let whole = found(&mut codec(), largest, [bytes]);
    let pieces = found(&mut codec(), largest, bytes.chunks(step));
    assert_eq!(whole, pieces, "cut into pieces of {step}");
    if bytes.len() <= 512 {
        assert_eq!(whole, found(&mut codec(), largest, bytes.chunks(1)), "cut into single bytes");
    }
    let mut codec = codec();
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

/// Returns the messages in `pieces`, of at most `largest` bytes, and how many bytes are left over.
fn found<'a>(
    codec: &mut Codec,
    largest: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Found>, usize) {
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
