//! The contents of messages.

use chanrpc::internals::codec::jsonrpc::{self, DecodeLimits};
use chanrpc::internals::codec::{Codec, DecodeError, Decoded, Dialect, FrameResult, Outgoing};
use chanrpc::internals::message::{Id, Message, Request};
use chanrpc::message::{Fault, RawJson, code};
use serde::de::IgnoredAny;

use super::framing::BOUNDS;

/// Checks that a JSON text is parsed like serde_json does, as far as serde_json goes.
pub(super) fn jsonrpc(input: &[u8]) {
    let read = jsonrpc::decode(input, BOUNDS);
    // A leading byte order mark is not part of the text.
    let text = input.strip_prefix(b"\xef\xbb\xbf").unwrap_or(input);
    let valid = std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let taken = match &read {
        Decoded::Single(Ok(_)) => true,
        Decoded::Batch(messages) => !messages.iter().all(is_unread),
        Decoded::Single(Err(DecodeError { fault, .. })) => fault.code != code::PARSE,
    };
    assert!(valid || !taken, "this is no JSON");
    let deep = depth(input) > BOUNDS.depth;
    assert!(taken || !valid || deep, "this is JSON");
    let id = jsonrpc::id_in_prefix(input);
    id.iter().for_each(checked_id);
    if let (Decoded::Single(Ok(Message::Request(Request { id: read, .. }))), Some(id)) = (&read, id) {
        assert_eq!(read.as_ref(), Some(&id), "told by its beginning");
    }
    readable(Dialect::JsonPerFrame, read);
    if let (true, Ok(text)) = (valid, std::str::from_utf8(text)) {
        packed_and_back(text);
    }
    let refused = jsonrpc::reject(input, BOUNDS.batch, &Fault::new(code::REQUEST_TOO_LARGE, "too long"));
    readable(Dialect::JsonPerFrame, refused);
}

/// Checks that a result encoded as MessagePack decodes to the same numbers, or is not encoded.
fn packed_and_back(text: &str) {
    let mut codec = Codec::new(Dialect::MessagePack, 1 << 20, BOUNDS);
    let mut reply = Vec::new();
    codec.encode_reply(&mut reply, &Id::from(0), Ok(text));
    // [1, 0, nil, result]; any other message is an error.
    let Some(result) = reply.strip_prefix(b"\x94\x01\x00\xc0") else { return };
    let request = [b"\x94\x00\x00\xa1f\x91", result].concat();
    let Decoded::Single(Ok(Message::Request(Request { params: Some(params), .. }))) = codec.decode(&request)
    else {
        assert!(depth(text.as_bytes()) >= BOUNDS.depth - 1, "packed, and not read again: {text}");
        return;
    };
    assert_eq!(numbers(text), numbers(params.get()), "{text} and {params}");
}

/// Returns the numbers in a text, each as its sign, its digits and the power of ten of the last digit.
fn numbers(json: &str) -> Vec<(bool, String, i64)> {
    let (mut found, mut rest) = (Vec::new(), json);
    while let Some(at) = rest.find(|c: char| matches!(c, '"' | '-' | '0'..='9')) {
        rest = &rest[at..];
        if let Some(text) = rest.strip_prefix('"') {
            let mut escaped = false;
            let end = text.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = &text[end.unwrap_or(text.len() - 1) + 1..];
            continue;
        }
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let (number, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        let unsigned = number.trim_start_matches('-');
        let (mantissa, power) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = [whole, fraction].concat();
        let kept = digits.trim_end_matches('0');
        let power = power.parse::<i64>().unwrap_or(0) - fraction.len() as i64;
        let power = power + (digits.len() - kept.len()) as i64;
        let digits = kept.trim_start_matches('0').to_owned();
        let power = if digits.is_empty() { 0 } else { power };
        found.push((number.starts_with('-'), digits, power));
    }
    found
}

fn is_unread(message: &Result<Message<'_>, DecodeError>) -> bool {
    message.as_ref().is_err_and(|refused| refused.fault.code == code::PARSE)
}

/// Returns an upper bound of the nesting of a valid text: brackets in strings count too.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut most) = (0_usize, 0);
    for byte in text {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

/// Checks that a decoded message is consistent: it can be forwarded and answered.
pub(super) fn readable(dialect: Dialect, read: Decoded<'_>) {
    match read {
        Decoded::Single(message) => one(dialect, message),
        Decoded::Batch(messages) => {
            // One more for those without a known id.
            assert!((1..=BOUNDS.batch + 1).contains(&messages.len()));
            messages.into_iter().for_each(|message| one(dialect, message));
        }
    }
}

fn one(dialect: Dialect, message: Result<Message<'_>, DecodeError>) {
    match message {
        Ok(Message::Request(request)) => {
            passed_on(&request);
            if let Some(id) = &request.id {
                answered(dialect, id);
            }
        }
        Ok(Message::Cancel(id)) => checked_id(&id),
        Ok(Message::Reply(id, outcome)) => {
            checked_id(&id);
            match outcome {
                Ok(result) => checked_json(result.get()),
                Err(Fault { data, .. }) => data.iter().for_each(|data| checked_json(data.get())),
            }
        }
        Err(DecodeError { id, fault }) => {
            checked_id(&id);
            assert!(!fault.message.is_empty() && fault.code < 0);
        }
    }
}

fn checked_json(text: &str) {
    // Within the limit on nesting, so within serde_json's.
    serde_json::from_str::<IgnoredAny>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
}

fn checked_id(id: &Id<'_>) {
    assert!(id.as_json().len() <= Id::MAX_LEN);
    checked_json(id.as_json());
}

/// Checks that a forwarded request has the same meaning.
fn passed_on(request: &Request<'_>) {
    let mut text = Vec::new();
    let codec = Codec::new(Dialect::JsonPerFrame, 1 << 20, BOUNDS);
    assert!(codec.encode(&mut text, &Outgoing::Request(request)));
    let deeper = DecodeLimits { depth: BOUNDS.depth + 2, ..BOUNDS };
    let again = match jsonrpc::decode(&text, deeper) {
        Decoded::Single(Ok(Message::Request(again))) => again,
        // A function with the name of the cancel method, from a dialect with its own cancel message.
        Decoded::Single(Ok(Message::Cancel(_)) | Err(_)) if request.method == jsonrpc::CANCEL_METHOD => {
            return;
        }
        other => panic!("{other:?} instead of {request:?}: {}", String::from_utf8_lossy(&text)),
    };
    assert_eq!((&again.id, &again.method), (&request.id, &request.method));
    // A text sent as one line has no line breaks.
    let params = request.params.as_ref().map(|params| params.get().replace(['\r', '\n'], " "));
    assert_eq!(again.params.as_ref().map(RawJson::get), params.as_deref());
    assert_eq!(again.meta.hops, request.meta.hops);
}

/// Checks that a reply with this id is one message and contains the id.
fn answered(dialect: Dialect, id: &Id<'_>) {
    checked_id(id);
    let fault = Fault::new(code::BUSY, "\u{1}\"\\ \u{10ffff}").with_data(&[1]);
    for answer in [Ok("[1,{\"a\":\"\u{e4}\\n\"},-0.5e3]"), Err(&fault)] {
        let mut codec = Codec::new(dialect, 1 << 16, BOUNDS);
        let mut out = Vec::new();
        let said = codec.encode_reply(&mut out, id, answer) && codec.finish(&mut out, 0);
        let results_only = codec.sends_results_only();
        if !said {
            assert!(results_only || *id == Id::null(), "no answer to {id:?}");
            continue;
        }
        let FrameResult::Frame(at, cut) = codec.next_frame(&out) else { panic!("{out:?} is no message") };
        assert_eq!(cut, out.len());
        if !results_only {
            assert_eq!(replied(dialect, &mut codec, &out[at]), [id.as_json()]);
        }
    }
}

/// Returns the ids that a node's message answers: one, or those of a batch.
pub(super) fn replied(dialect: Dialect, codec: &mut Codec, message: &[u8]) -> Vec<String> {
    if dialect == Dialect::MessagePack {
        return vec![msgpack_id(message).to_string()];
    }
    let messages = match codec.decode(message) {
        Decoded::Single(message) => vec![message],
        Decoded::Batch(messages) => messages,
    };
    let id = |message| match message {
        Ok(Message::Reply(id, _)) => id.as_json().to_owned(),
        other => panic!("{other:?} is no answer"),
    };
    messages.into_iter().map(id).collect()
}

/// A node makes no calls in MessagePack, so its codec does not read the ids of replies.
fn msgpack_id(message: &[u8]) -> u64 {
    let [0x94, 1, first, rest @ ..] = message else { panic!("{message:?} is no answer") };
    let number = |count: usize| rest[..count].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    match first {
        0..0x80 => u64::from(*first),
        0xcc..=0xcf => number(1 << (first - 0xcc)),
        _ => panic!("{first:#x} is no id"),
    }
}
