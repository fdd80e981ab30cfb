//! From messages to JSON texts, each on one line.

use std::fmt;
use std::io::Write;

use memchr::memchr2;

use super::CANCEL_METHOD;
use crate::message::{Answer, Id, Meta, Request};

/// Capacity to reserve for a reply, beside its id, in bytes.
const REPLY_CAPACITY: usize = 64;

/// Appends a reply.
pub fn encode_reply(out: &mut Vec<u8>, id: &Id<'_>, answer: Answer<'_>) {
    open_reply(out, id);
    match answer {
        Ok(result) => {
            out.extend_from_slice(br#","result":"#);
            put_json(out, result);
        }
        Err(fault) => {
            put(out, format_args!(r#","error":{{"code":{},"message":"#, fault.code));
            put_string(out, &fault.message);
            if let Some(data) = &fault.data {
                out.extend_from_slice(br#","data":"#);
                put_json(out, data.get());
            }
            out.push(b'}');
        }
    }
    out.push(b'}');
}

/// Appends a reply whose result is appended by `write`.
///
/// # Errors
/// The error of `write`; then nothing is appended.
pub fn encode_result<E>(
    out: &mut Vec<u8>,
    id: &Id<'_>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    open_reply(out, id);
    out.extend_from_slice(br#","result":"#);
    let result = out.len();
    if let Err(error) = write(out) {
        out.truncate(start);
        return Err(error);
    }
    replace_line_breaks(&mut out[result..]);
    out.push(b'}');
    Ok(())
}

fn open_reply(out: &mut Vec<u8>, id: &Id<'_>) {
    out.reserve(REPLY_CAPACITY + id.as_json().len());
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.extend_from_slice(id.as_json().as_bytes());
}

/// Appends a request, or a notification if it has no id.
pub(super) fn encode_request(out: &mut Vec<u8>, request: &Request<'_>) {
    open(out, request.id.as_ref());
    out.extend_from_slice(br#""method":"#);
    put_string(out, &request.method);
    if request.meta != Meta::default() {
        put(out, format_args!(r#","meta":{{"hops":{}"#, request.meta.hops));
        if let Some(deadline) = request.meta.deadline {
            put(out, format_args!(r#","deadline_ms":{}"#, deadline.as_millis()));
        }
        out.push(b'}');
    }
    if let Some(params) = &request.params {
        out.extend_from_slice(br#","params":"#);
        put_json(out, params.get());
    }
    out.push(b'}');
}

/// Starts a message. The id comes first, so that the receiver can read it even if the rest is too long.
fn open(out: &mut Vec<u8>, id: Option<&Id<'_>>) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0","#);
    if let Some(id) = id {
        out.extend_from_slice(br#""id":"#);
        out.extend_from_slice(id.as_json().as_bytes());
        out.push(b',');
    }
}

/// Appends the notification that cancels the request `id`.
pub(super) fn encode_cancel(out: &mut Vec<u8>, id: &Id<'_>) {
    put(
        out,
        format_args!(r#"{{"jsonrpc":"2.0","method":"{CANCEL_METHOD}","params":{{"id":{}}}}}"#, id.as_json()),
    );
}

fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes every byte");
}

fn put_json(out: &mut Vec<u8>, json: &str) {
    let start = out.len();
    out.extend_from_slice(json.as_bytes());
    replace_line_breaks(&mut out[start..]);
}

/// Replaces line breaks, which in JSON can only be white space, since they would end the frame.
fn replace_line_breaks(mut json: &mut [u8]) {
    while let Some(found) = memchr2(b'\n', b'\r', json) {
        json[found] = b' ';
        json = &mut json[found + 1..];
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes every byte");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::value::RawValue;

    use super::*;
    use crate::codec::jsonrpc::tests::{decoded, summary};
    use crate::message::{Fault, Message, Outcome, RawJson};

    fn raw(json: &str) -> RawJson<'_> {
        RawJson::checked(json)
    }

    fn data(json: &str) -> Option<Box<RawValue>> {
        Some(RawValue::from_string(json.to_owned()).unwrap())
    }

    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before".to_vec();
        encode(&mut out);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    fn answer(outcome: &Outcome) -> Answer<'_> {
        outcome.as_ref().map(RawJson::get)
    }

    #[test]
    fn encodes_written_results() {
        let id = Id::from_json("7").unwrap();
        let mut out = b"before".to_vec();
        let written = encode_result(&mut out, &id, |out| {
            out.extend_from_slice(b"[1,\r\n2]");
            Ok::<_, ()>(())
        });
        assert_eq!((written, &out[..]), (Ok(()), &br#"before{"jsonrpc":"2.0","id":7,"result":[1,  2]}"#[..]));
        let failed = encode_result(&mut out, &id, |out| {
            out.extend_from_slice(b"half of i");
            Err("no")
        });
        assert_eq!(failed, Err("no"));
        assert_eq!(out, br#"before{"jsonrpc":"2.0","id":7,"result":[1,  2]}"#);
    }

    #[test]
    fn encodes_replies() {
        let id = |json| Id::from_json(json).unwrap();
        for (id, outcome, expected) in [
            (id("1"), Ok(raw("null")), r#"{"jsonrpc":"2.0","id":1,"result":null}"#),
            (id(r#""\u0041""#), Ok(raw("[1, 2]")), r#"{"jsonrpc":"2.0","id":"\u0041","result":[1, 2]}"#),
            (id("1.0"), Ok(raw("{\n\"a\":\r\n1}")), r#"{"jsonrpc":"2.0","id":1.0,"result":{ "a":  1}}"#),
            (
                Id::null(),
                Err(Fault::new(-1, "a \"line\"\nand é")),
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"a \"line\"\nand é"}}"#,
            ),
            (
                id("2"),
                Err(Fault { data: data("[\n]"), ..Fault::new(7, "m") }),
                r#"{"jsonrpc":"2.0","id":2,"error":{"code":7,"message":"m","data":[ ]}}"#,
            ),
        ] {
            assert_eq!(encoded(|out| encode_reply(out, &id, answer(&outcome))), expected);
        }
    }

    #[test]
    fn encodes_requests() {
        let params = raw("[1,\n2]");
        let meta = |deadline, hops| Meta { deadline, hops };
        let second = Some(Duration::from_secs(1));
        for (id, method, params, meta, expected) in [
            (None, "f", None, meta(None, 0), r#"{"jsonrpc":"2.0","method":"f"}"#),
            (
                Some(7),
                "f",
                Some(params.borrowed()),
                meta(None, 0),
                r#"{"jsonrpc":"2.0","id":7,"method":"f","params":[1, 2]}"#,
            ),
            (
                Some(8),
                "a\"b\n",
                None,
                meta(second, 2),
                r#"{"jsonrpc":"2.0","id":8,"method":"a\"b\n","meta":{"hops":2,"deadline_ms":1000}}"#,
            ),
            (None, "f", None, meta(None, 1), r#"{"jsonrpc":"2.0","method":"f","meta":{"hops":1}}"#),
        ] {
            let request = Request { id: id.map(Id::from), method: method.into(), params, meta };
            assert_eq!(encoded(|out| encode_request(out, &request)), expected);
        }
        let cancel = encoded(|out| encode_cancel(out, &Id::from_json("\"\\u0041\"").unwrap()));
        assert_eq!(cancel, r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"\u0041"}}"#);
    }

    #[test]
    fn decodes_what_it_encodes() {
        let (params, id) = (raw(r#"{"a":[1,"\n"]}"#), Id::from_json("-7").unwrap());
        let meta = Meta { deadline: Some(Duration::from_millis(3)), hops: 4 };
        let request =
            Request { id: Some(id.clone()), method: "a.b\u{1}\"\\é".into(), params: Some(params), meta };
        let text = encoded(|out| encode_request(out, &request));
        assert_eq!(decoded(text.as_bytes()), [summary(&Ok(Message::Request(request)))]);

        let text = encoded(|out| encode_cancel(out, &id));
        assert_eq!(decoded(text.as_bytes()), [summary(&Ok(Message::Cancel(id.clone())))]);

        for outcome in [Ok(raw("[1]")), Err(Fault::new(-5, "\u{7f}\t").with_data(&"data"))] {
            let text = encoded(|out| encode_reply(out, &id, answer(&outcome)));
            assert_eq!(decoded(text.as_bytes()), [summary(&Ok(Message::Reply(id.clone(), outcome)))]);
        }
    }
}
