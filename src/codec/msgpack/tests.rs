//! Framing, decoding and encoding together, with bytes that MessagePack libraries write and with invalid bytes.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::convert::ParamLimits;
use super::decode::{decode, reject};
use super::encode::{ConvertError, encode_cancel, encode_reply, encode_request, put_json};
use super::framing::tests::{frames, with};
use crate::message::{Fault, Id, Message, Meta, RawJson, Request, code};

const DEPTH: usize = 8;
const LIMITS: ParamLimits = deep(DEPTH);

const fn deep(depth: usize) -> ParamLimits {
    ParamLimits { depth, json: 1 << 20 }
}
const NIL: &[u8] = b"\xc0";

/// Converts a JSON text to MessagePack.
#[track_caller]
fn packed(json: &str) -> Vec<u8> {
    let mut out = b"before".to_vec();
    put_json(&mut out, json).unwrap_or_else(|error| panic!("{error}: {json:?}"));
    out.strip_prefix(b"before").unwrap().to_vec()
}

/// Returns a short text for a message, for tables of expectations.
fn summary(frame: &[u8]) -> String {
    match decode(frame, LIMITS) {
        Ok(Message::Request(Request { id, method, params, meta: Meta { deadline, hops } })) => {
            let id = id.as_ref().map_or("-", Id::as_json);
            let params = params.map_or(String::new(), |params| format!(" {}", params.get()));
            let deadline = deadline.map_or(String::new(), |left| format!(" deadline {}", left.as_millis()));
            let hops = if hops == 0 { String::new() } else { format!(" hops {hops}") };
            format!("{id} {method}{params}{deadline}{hops}")
        }
        Ok(Message::Cancel(id)) => format!("cancel {}", id.as_json()),
        Ok(Message::Reply(id, Ok(result))) => format!("reply {} {result}", id.as_json()),
        Ok(Message::Reply(id, Err(Fault { code, message, data }))) => {
            let data = data.map_or(String::new(), |data| format!(" {data}"));
            format!("reply {} fault {code} {message}{data}", id.as_json())
        }
        Err(error) => format!("refused {} {}", error.id.as_json(), error.fault.code),
    }
}

/// Returns the id under which a message is rejected of which only a prefix is known.
fn id_in_prefix(prefix: &[u8]) -> Option<Id<'static>> {
    let rejected = reject(prefix, Fault::new(code::REQUEST_TOO_LARGE, "too long")).err()?;
    Some(rejected.id).filter(|id| *id != Id::null())
}

/// Returns a short text for the conversion of one parameter.
fn param(bytes: &[u8]) -> String {
    let text = summary(&[b"\x94\x00\x01\xa1f\x91", bytes].concat());
    text.strip_prefix("1 f [").and_then(|text| text.strip_suffix(']')).map_or(text.clone(), Into::into)
}

#[test]
fn parameters_are_bounded_by_their_size_as_json() {
    let limits = ParamLimits { json: 1000, ..LIMITS };
    let request = |params: &[u8]| [b"\x94\x00\x01\xa1f", params].concat();
    for (params, fits) in [
        // As JSON, an array of one-digit numbers has 2 bytes for each and one more.
        (with(b"\xdc\x01\xf3", 499, 1), true),
        (with(b"\xdc\x01\xf4", 500, 1), false),
        (with(b"\x91\xc5\x01\x00", 256, 0xff), false),
        (with(b"\x91\xda\x03\xe4", 996, b'a'), true),
        (with(b"\x91\xda\x03\xe5", 997, b'a'), false),
        (with(b"\x91\xda\x01\x00", 256, 0), false),
    ] {
        match decode(&request(&params), limits) {
            Ok(Message::Request(Request { params: Some(params), .. })) => {
                assert!(fits && params.get().len() <= 1000, "{params}");
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert!(!fits, "{error:?}");
                assert_eq!((error.id.as_json(), error.fault.code), ("1", code::REQUEST_TOO_LARGE));
            }
        }
    }
}

#[test]
fn numbers_have_the_shortest_form() {
    for (json, bytes) in [
        ("0", &b"\x00"[..]),
        ("127", b"\x7f"),
        ("128", b"\xcc\x80"),
        ("255", b"\xcc\xff"),
        ("256", b"\xcd\x01\x00"),
        ("65535", b"\xcd\xff\xff"),
        ("65536", b"\xce\x00\x01\x00\x00"),
        ("4294967295", b"\xce\xff\xff\xff\xff"),
        ("4294967296", b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00"),
        ("9223372036854775807", b"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff"),
        ("18446744073709551615", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("-1", b"\xff"),
        ("-32", b"\xe0"),
        ("-33", b"\xd0\xdf"),
        ("-128", b"\xd0\x80"),
        ("-129", b"\xd1\xff\x7f"),
        ("-32768", b"\xd1\x80\x00"),
        ("-32769", b"\xd2\xff\xff\x7f\xff"),
        ("-2147483648", b"\xd2\x80\x00\x00\x00"),
        ("-2147483649", b"\xd3\xff\xff\xff\xff\x7f\xff\xff\xff"),
        ("-9223372036854775808", b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00"),
        ("1.5", b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00"),
        ("-0.0", b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00"),
        ("1e300", b"\xcb\x7e\x37\xe4\x3c\x88\x00\x75\x9c"),
        ("null", b"\xc0"),
        ("false", b"\xc2"),
        ("true", b"\xc3"),
    ] {
        assert_eq!(packed(json), bytes, "{json}");
        let expected = json.replace("1e300", "1e+300");
        assert_eq!(param(bytes), expected, "{json}");
    }
    assert_eq!(packed("1.0"), b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00");
    assert_eq!(packed("-0"), b"\xcb\x80\x00\x00\x00\x00\x00\x00\x00");
}

/// A number that would change is an error.
#[test]
fn numbers_that_have_no_form_are_summary() {
    for json in [
        "18446744073709551616",
        "-9223372036854775809",
        "-1e999",
        "1e400",
        "1e-400",
        "0.1234567890123456789",
        "123456789012345678.5",
    ] {
        for json in [json.to_owned(), format!("[[{json}]]"), format!("{{\"a\":[1,{json}]}}")] {
            let mut out = b"before".to_vec();
            let error = put_json(&mut out, &json).unwrap_err();
            assert!(matches!(error, ConvertError::Number(_)), "{json}: {error}");
            assert_eq!(out, b"before", "{json}");
        }
    }
    // A result becomes a fault; the data of a fault is replaced by a note.
    let mut out = Vec::new();
    encode_reply(&mut out, &Id::from(7), Ok("[18446744073709551616]"));
    let text = String::from_utf8_lossy(&out);
    assert!(out.starts_with(b"\x94\x01\x07\x93\xd1\x80\xa5"), "{text}");
    assert!(text.contains("18446744073709551616 is neither a 64-bit integer"), "{text}");
    out.clear();
    let fault = Fault::new(-5, "oh").with_data(&Value::Null);
    let data = serde_json::value::RawValue::from_string("1e400".into()).unwrap();
    encode_reply(&mut out, &Id::from(7), Err(&Fault { data: Some(data), ..fault }));
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("oh (its data cannot be converted to MessagePack: the number 1e400"), "{text}");
    assert!(out.ends_with(b"\xc0\xc0"), "{text}");
    let mut out = Vec::new();
    let Err(ConvertError::Number(quoted)) = put_json(&mut out, &"7".repeat(1_000_000)) else {
        panic!("converted")
    };
    assert!(quoted.len() < 100, "{quoted}");
}

#[test]
fn accepts_longer_forms_of_numbers() {
    for (bytes, expected) in [
        (&b"\xcc\x01"[..], "1"),
        (b"\xcf\x00\x00\x00\x00\x00\x00\x00\x01", "1"),
        (b"\xd0\x01", "1"),
        (b"\xd3\x00\x00\x00\x00\x00\x00\x00\x01", "1"),
        (b"\xd3\xff\xff\xff\xff\xff\xff\xff\xff", "-1"),
        (b"\xca\x3d\xcc\xcc\xcd", "0.10000000149011612"),
        (b"\xca\x3f\x80\x00\x00", "1.0"),
        (b"\xd9\x01x", r#""x""#),
        (b"\xdb\x00\x00\x00\x01x", r#""x""#),
        (b"\xdd\x00\x00\x00\x01\x01", "[1]"),
        (b"\xdf\x00\x00\x00\x00", "{}"),
    ] {
        assert_eq!(param(bytes), expected, "{bytes:x?}");
    }
}

#[test]
fn strings_of_each_header_size() {
    for (length, header) in [
        (0, &b"\xa0"[..]),
        (1, b"\xa1"),
        (31, b"\xbf"),
        (32, b"\xd9\x20"),
        (255, b"\xd9\xff"),
        (256, b"\xda\x01\x00"),
        (65535, b"\xda\xff\xff"),
        (65536, b"\xdb\x00\x01\x00\x00"),
    ] {
        let (json, bytes) = (format!("\"{}\"", "x".repeat(length)), with(header, length, b'x'));
        assert_eq!(packed(&json), bytes, "{length}");
        assert_eq!(param(&bytes), json, "{length}");
        // With an escape, whose JSON text is longer than the character.
        if length > 0 {
            let json = format!("\"{}\\u0078\"", "x".repeat(length - 1));
            assert_eq!(packed(&json), bytes, "{length}");
        }
    }
}

#[test]
fn escapes_are_decoded() {
    for (json, text) in [
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""a\u00e9\u00C9\u20ac\ud83d\ude00z""#, "aéÉ€😀z"),
        (r#""é\n😀""#, "é\n😀"),
        (r#""\u0000""#, "\0"),
        (r#""\ud83d\ude00\ud83d\ude00""#, "😀😀"),
    ] {
        assert_eq!(packed(json), [&[0xa0 | text.len() as u8], text.as_bytes()].concat(), "{json}");
    }
    assert_eq!(packed(r#"{"\n":["\t"]}"#), b"\x81\xa1\n\x91\xa1\t");
    for json in [
        r#""\ud83d""#,
        r#""\ude00\ud83d\ud83d\ude00""#,
        r#""\ud83dx""#,
        r#""\ud83d\n""#,
        r#""\ud83d\u0041""#,
        r#"{"\udc00":1}"#,
    ] {
        assert_eq!(put_json(&mut Vec::new(), json), Err(ConvertError::LoneSurrogate), "{json}");
    }
}

#[test]
fn arrays_and_maps_of_each_header_size() {
    for (length, array, map) in [
        (0, &b"\x90"[..], &b"\x80"[..]),
        (1, b"\x91", b"\x81"),
        (15, b"\x9f", b"\x8f"),
        (16, b"\xdc\x00\x10", b"\xde\x00\x10"),
        (65535, b"\xdc\xff\xff", b"\xde\xff\xff"),
        (65536, b"\xdd\x00\x01\x00\x00", b"\xdf\x00\x01\x00\x00"),
    ] {
        let json = format!("[{}]", vec!["7"; length].join(","));
        assert_eq!(packed(&json), with(array, length, 7), "{length}");
        assert_eq!(param(&with(array, length, 7)), json, "{length}");

        let json = format!("{{{}}}", vec![r#""k":7"#; length].join(","));
        let bytes = [map, &b"\xa1k\x07".repeat(length)].concat();
        assert_eq!(packed(&json), bytes, "{length}");
        assert_eq!(param(&bytes), json, "{length}");
    }
}

/// A header that grows moves the bytes after it, including other headers.
#[test]
fn wide_headers_within_wide_headers() {
    let [inner, wide] = [15, 16].map(|length| vec!["7"; length].join(","));
    let json = format!(r#"[[{wide}],{{"a":[{wide}],"b":[{inner}]}},{wide},[{wide}],[]]"#);
    let wide = with(b"\xdc\x00\x10", 16, 7);
    let object = [b"\x82\xa1a", &wide[..], b"\xa1b\x9f", &[7; 15]].concat();
    let expected = [b"\xdc\x00\x14", &wide[..], &object, &[7; 16], &wide, b"\x90"].concat();
    assert_eq!(packed(&json), expected);
}

#[test]
fn ignores_white_space() {
    assert_eq!(packed(" [ 1 ,\r\n\t{ \"a\" : null } ] "), b"\x92\x01\x81\xa1a\xc0");
}

#[test]
fn rejects_invalid_json() {
    for text in
        ["", " ", "[", "]", "{", "[1}", "1 2", "\"", "\"\\", "\"\\u12", "\"\\u123g\"", "\"\\x\"", "nul", "é"]
    {
        let mut out = b"before".to_vec();
        assert_eq!(put_json(&mut out, text), Err(ConvertError::NotJson), "{text:?}");
        assert_eq!(out, b"before", "{text:?}");
    }
    for text in ["{1}", "-", "1e", "[\"\\ud800\\u\"]", "\"\\é\""] {
        assert_eq!(put_json(&mut Vec::new(), text), Err(ConvertError::NotJson), "{text:?}");
    }
}

#[test]
fn requests_and_notifications() {
    for (frame, expected) in [
        (&b"\x94\x00\x01\xa1f\x90"[..], "1 f []"),
        (b"\x94\x00\x00\xa5a.b/c\x92\x01\xa1x", "0 a.b/c [1,\"x\"]"),
        (b"\x94\x00\xce\xff\xff\xff\xff\xa1f\x90", "4294967295 f []"),
        (b"\x94\x00\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa1f\x90", "18446744073709551615 f []"),
        (b"\x94\x00\xd0\x07\xa1f\x90", "7 f []"),
        (b"\xdc\x00\x04\xcc\x00\x01\xd9\x01f\xdc\x00\x00", "1 f []"),
        (b"\xdd\x00\x00\x00\x04\x00\x01\xa1f\x90", "1 f []"),
        (b"\x94\x00\x01\xa1f\xc0", "1 f"),
        (b"\x93\x00\x01\xa1f", "1 f"),
        (b"\x94\x00\x01\xa1f\x81\xa1a\x02", "1 f {\"a\":2}"),
        (b"\x94\x00\x01\xa1f\x80", "1 f {}"),
        (b"\x94\x00\x01\xc4\x01f\x90", "1 f []"),
        (b"\x94\x00\x01\xa0\x90", "1  []"),
        (b"\x93\x02\xa1f\x91\x01", "- f [1]"),
        (b"\x92\x02\xa1f", "- f"),
        (b"\x95\x00\x01\xa1f\x90\x80", "1 f []"),
        (b"\x95\x00\x01\xa1f\xc0\xc0", "1 f"),
        (b"\x95\x00\x01\xa1f\x90\x82\xabdeadline_ms\xcd\x05\xdc\xa4hops\x03", "1 f [] deadline 1500 hops 3"),
        (b"\x94\x02\xa1f\x90\x81\xa4hops\x01", "- f [] hops 1"),
        (b"\x94\x02\xa1f\x90\x81\xa4hops\xc0", "- f []"),
        (b"\x94\x02\xa1f\x90\x81\xa4hops\xca\x40\x40\x00\x00", "- f [] hops 3"),
        (b"\x94\x02\xa1f\x90\x81\xabdeadline_ms\xcb\x40\x97\x70\0\0\0\0\0", "- f [] deadline 1500"),
        (b"\x94\x02\xa1f\x90\x84\xa5trace\x91\x80\x07\x80\xc4\x00\xc0\xabdeadline_ms\xc0", "- f []"),
        // The name is special only in a notification.
        (b"\x94\x00\x01\xaf$/cancelRequest\x91\x02", "1 $/cancelRequest [2]"),
    ] {
        assert_eq!(summary(frame), expected, "{frame:x?}");
    }
}

#[test]
fn cancels() {
    let cancel = |params: &[u8]| summary(&[b"\x93\x02\xaf$/cancelRequest", params].concat());
    for params in [
        &b"\x91\x07"[..],
        b"\x91\xcf\0\0\0\0\0\0\0\x07",
        b"\x81\xa2id\x07",
        b"\x91\x81\xa2id\x07",
        b"\x82\xa4more\x91\x07\xa2id\x07",
    ] {
        assert_eq!(cancel(params), "cancel 7", "{params:x?}");
    }
    for (params, expected) in [
        (NIL, "- $/cancelRequest"),
        (b"\x90", "- $/cancelRequest []"),
        (b"\x92\x07\x08", "- $/cancelRequest [7,8]"),
        (b"\x91\xa17", "- $/cancelRequest [\"7\"]"),
        (b"\x80", "- $/cancelRequest {}"),
        (b"\x81\xa2id\xff", "- $/cancelRequest {\"id\":-1}"),
        (b"\x81\xa3idx\x01", "- $/cancelRequest {\"idx\":1}"),
    ] {
        assert_eq!(cancel(params), expected, "{params:x?}");
    }
    assert_eq!(summary(b"\x92\x02\xaf$/cancelRequest"), "- $/cancelRequest");
}

#[test]
fn replies() {
    let other_error = "the peer sent an error that is not [code, message, data]; it is in the data";
    for (frame, expected) in [
        (&b"\x94\x01\x01\xc0\x07"[..], "reply 1 7".to_owned()),
        (b"\x94\x01\xcd\x01\x00\xc0\x91\xc0", "reply 256 [null]".into()),
        (b"\x94\x01\x01\x93\x05\xa1m\xc0\xc0", "reply 1 fault 5 m".into()),
        (b"\x94\x01\x01\x93\xfb\xa1m\x91\x07\xc0", "reply 1 fault -5 m [7]".into()),
        (b"\x94\x01\x01\x92\x00\xa1m\xc0", "reply 1 fault 0 m".into()),
        (b"\x94\x01\x01\xa2no\xc0", "reply 1 fault -32603 no".into()),
        (b"\x94\x01\x01\x81\xa1a\x01\xc0", format!("reply 1 fault -32603 {other_error} {{\"a\":1}}")),
    ] {
        assert_eq!(summary(frame), expected, "{frame:x?}");
    }
    // Nobody would get an error about a reply.
    for frame in
        [&b"\x94\x01\xc0\x93\x01\xa1m\xc0\xc0"[..], b"\x91\x01", b"\x92\x01\xff", b"\x94\x01\x07\xc0\xcf"]
    {
        assert!(summary(frame).starts_with("reply "), "{frame:x?}");
    }
}

#[test]
fn decodes_what_it_encodes() {
    let meta = |hops| Meta { deadline: Some(std::time::Duration::from_millis(1500)), hops };
    for (id, params, meta, expected) in [
        (Some(7), Some("[1,\"a\"]"), Meta::default(), "7 f [1,\"a\"]"),
        (Some(1 << 40), Some("{\"a\":[]}"), Meta::default(), "1099511627776 f {\"a\":[]}"),
        (None, None, Meta::default(), "- f []"),
        // The extension is for nodes that forward.
        (Some(7), None, meta(0), "7 f []"),
        (Some(7), None, meta(3), "7 f [] deadline 1500 hops 3"),
        (None, None, Meta { deadline: None, hops: 2 }, "- f [] hops 2"),
    ] {
        let params = params.map(RawJson::checked);
        let request = Request { id: id.map(Id::from), method: "f".into(), params, meta };
        let mut out = Vec::new();
        assert!(encode_request(&mut out, &request));
        assert_eq!(summary(&out), expected);
    }
    let params = Some(RawJson::checked("[18446744073709551616]"));
    let request = Request { id: None, method: "f".into(), params, meta: Meta::default() };
    let mut out = b"before".to_vec();
    assert!(!encode_request(&mut out, &request));
    assert_eq!(out, b"before");

    let mut out = Vec::new();
    encode_cancel(&mut out, &Id::from(7));
    assert_eq!(summary(&out), "cancel 7");
}

#[test]
fn converts_to_json() {
    for (bytes, expected) in [
        (&b"\xc4\x03\x00\x7f\xff"[..], "[0,127,255]"),
        (b"\xc4\x00", "[]"),
        (b"\xc4\x01x", "[120]"),
        (b"\xc5\x00\x01x", "[120]"),
        (b"\xc6\x00\x00\x00\x01x", "[120]"),
        (b"\xa2\xff\x01", "[255,1]"),
        (b"\xda\x00\x01\xff", "[255]"),
        (b"\xdb\x00\x00\x00\x01\xff", "[255]"),
        (
            b"\x84\xa1s\x01\x02\x02\xe0\x03\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x04",
            r#"{"s":1,"2":2,"-32":3,"18446744073709551615":4}"#,
        ),
        // Two keys that are equal in JSON.
        (b"\x82\x01\x00\xa11\x00", "refused 1 -32602"),
        (b"\x82\xa2-1\x00\xff\x00", "refused 1 -32602"),
        (b"\x82\x01\x00\xcc\x01\x00", "refused 1 -32602"),
        (b"\x83\x02\x00\x01\x00\xa12\x00", "refused 1 -32602"),
        (b"\x83\x03\x00\xa12\x00\xff\x00", r#"{"3":0,"2":0,"-1":0}"#),
        (b"\x82\x01\x81\x01\x02\xa201\x00", r#"{"1":{"1":2},"01":0}"#),
        (b"\xd4\x01x", "refused 1 -32602"),
        (b"\xd6\xff\0\0\0\0", "refused 1 -32602"),
        (b"\xd8\x01xxxxxxxxxxxxxxxx", "refused 1 -32602"),
        (b"\xc7\x00\x01", "refused 1 -32602"),
        (b"\xc8\x00\x01\x05x", "refused 1 -32602"),
        (b"\xc9\x00\x00\x00\x01\x05x", "refused 1 -32602"),
        (b"\xca\x7f\xc0\x00\x00", "refused 1 -32602"),
        (b"\xca\xff\x80\x00\x00", "refused 1 -32602"),
        (b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", "refused 1 -32602"),
        (b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", "refused 1 -32602"),
        (b"\x81\xc0\x01", "refused 1 -32602"),
        (b"\x81\xc3\x01", "refused 1 -32602"),
        (b"\x81\x90\x01", "refused 1 -32602"),
        (b"\x81\xc4\x01k\x01", "refused 1 -32602"),
        (b"\x81\xa1\xff\x01", "refused 1 -32602"),
        (b"\x81\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00\x01", "refused 1 -32602"),
    ] {
        assert_eq!(param(bytes), expected, "{bytes:x?}");
    }
    let error = decode(b"\x94\x00\x01\xa1f\x91\xca\x7f\xc0\x00\x00", LIMITS).unwrap_err();
    assert_eq!(
        error.fault.message,
        "NaN and Infinity cannot be expressed in JSON; send nil or a string instead"
    );
}

#[test]
fn invalid_messages() {
    for (frame, expected) in [
        (&b""[..], "refused null -32700"),
        (b"\xc1", "refused null -32700"),
        (b"\x94\x00\x01\xa1f\x91\xc1", "refused 1 -32700"),
        (b"\x07", "refused null -32600"),
        (b"\xc0", "refused null -32600"),
        (b"\x80", "refused null -32600"),
        (b"\xa5hello", "refused null -32600"),
        (b"\x90", "refused null -32600"),
        (b"\x91\x00", "refused null -32600"),
        (b"\x91\x03", "refused null -32600"),
        (b"\x94\xff\x01\xa1f\x90", "refused null -32600"),
        (b"\x94\xa10\x01\xa1f\x90", "refused null -32600"),
        (b"\x94\x00\xff\xa1f\x90", "refused null -32600"),
        (b"\x94\x00\xa11\xa1f\x90", "refused null -32600"),
        (b"\x94\x00\xc0\xa1f\x90", "refused null -32600"),
        (b"\x94\x00\xcb\x3f\xf0\0\0\0\0\0\0\xa1f\x90", "refused null -32600"),
        (b"\x92\x00\x01", "refused 1 -32600"),
        (b"\x91\x02", "refused null -32600"),
        (b"\x94\x00\x01\xc0\x90", "refused 1 -32600"),
        (b"\x94\x00\x01\x91\xa1f\x90", "refused 1 -32600"),
        (b"\x94\x00\x01\xa1\xff\x90", "refused 1 -32600"),
        (b"\x94\x00\x01\xa1f\x01", "refused 1 -32600"),
        (b"\x94\x00\x01\xa1f\xa1x", "refused 1 -32600"),
        (b"\x93\x02\xa1f\x01", "refused null -32600"),
        (b"\x95\x00\x01\xa1f\x90\x90", "refused 1 -32600"),
        (b"\x95\x00\x01\xa1f\x90\x81\xa4hops\xff", "refused 1 -32600"),
        (b"\x95\x00\x01\xa1f\x90\x81\xa4hops\xcf\0\0\0\x01\0\0\0\0", "refused 1 -32600"),
        (b"\x95\x00\x01\xa1f\x90\x81\xabdeadline_ms\xa11", "refused 1 -32600"),
        (b"\x95\x00\x01\xa1f\x90\x81\xabdeadline_ms\xca\xbf\x80\x00\x00", "refused 1 -32600"),
        (b"\x95\x00\x01\xa1f\x90\x81\xabdeadline_ms\xca\x7f\xc0\x00\x00", "refused 1 -32600"),
        (b"\x95\x00\x01\xa1f\x90\x81\xa4hops\xca\x3f\xc0\x00\x00", "refused 1 -32600"),
        (b"\x96\x00\x01\xa1f\x90\x80\x00", "refused 1 -32600"),
        (b"\x94\x00\x01\xa1f\x90\x00", "refused 1 -32700"),
    ] {
        assert_eq!(summary(frame), expected, "{frame:x?}");
    }
}

#[test]
fn lengths_beyond_the_message_allocate_nothing() {
    for value in [
        &b"\xdb\xff\xff\xff\xff"[..],
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
    ] {
        assert!(param(value).starts_with("refused 1 "), "{value:x?}");
        let request = [b"\x94\x00\x07\xa1f\x91", value].concat();
        assert_eq!(frames(1 << 20, &[&request]), (vec![b"!".to_vec()], 0), "{value:x?}");
        assert_eq!(id_in_prefix(&request), Some(Id::from(7)));
    }
    assert_eq!(summary(b"\xdd\xff\xff\xff\xff\x00\x01\xa1f\x90"), "refused 1 -32700");
    // Their sum exceeds 64 bits.
    let endless = b"\xdf\xff\xff\xff\xff".repeat(10_000);
    assert_eq!(frames(1 << 20, &[&endless, &endless]), (vec![b"!".to_vec()], 0));
}

#[test]
fn depth_is_limited() {
    let nested = |depth: usize| [b"\x94\x00\x01\xa1f", &b"\x91".repeat(depth - 2)[..], b"\x90"].concat();
    assert!(summary(&nested(DEPTH)).starts_with("1 f [["));
    assert_eq!(summary(&nested(DEPTH + 1)), "refused 1 -32700");
    let maps = [b"\x94\x00\x01\xa1f", &b"\x81\xa1k".repeat(DEPTH)[..], b"\x01"].concat();
    assert_eq!(summary(&maps), "refused 1 -32700");
    assert!(decode(&nested(1024), deep(1024)).is_ok());
    assert!(decode(&nested(1_000_000), deep(usize::MAX)).is_err());
    assert_eq!(frames(1 << 21, &[&nested(1_000_000)]).0.len(), 1);
    // Skipped values may be nested to any depth.
    let meta = [b"\x94\x02\xa1f\x90\x81\xa1x", &b"\x91".repeat(100_000)[..], b"\x90"].concat();
    assert_eq!(summary(&meta), "- f []");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(packed(&deep).len(), 100_000);
}

#[test]
fn finds_ids_in_prefixes() {
    for (prefix, id) in [
        (&b"\x94\x00\x07\xa1f"[..], Some(7)),
        (b"\x95\x00\xcd\x01\x00", Some(256)),
        (b"\x94\x00", None),
        (b"\x94\x00\xcd\x01", None),
        (b"\x93\x02\xa1f\x90", None),
        (b"\x94\x01\x07", None),
        (b"", None),
        (b"\x07", None),
    ] {
        assert_eq!(id_in_prefix(prefix), id.map(Id::from), "{prefix:x?}");
    }
}

#[test]
fn encodes_replies() {
    let encoded = |id: Id<'_>, outcome: Result<&str, &Fault>| {
        let mut out = b"before".to_vec();
        encode_reply(&mut out, &id, outcome);
        out.strip_prefix(b"before").unwrap().to_vec()
    };
    let fault = Fault::new(code::UNKNOWN_FUNCTION, "no \"f\"");
    assert_eq!(encoded(Id::from(1), Ok("[1,2]")), b"\x94\x01\x01\xc0\x92\x01\x02");
    assert_eq!(encoded(Id::from(1), Ok("null")), b"\x94\x01\x01\xc0\xc0");
    assert_eq!(encoded(Id::from(u64::MAX), Ok("0")), b"\x94\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc0\x00");
    assert_eq!(encoded(Id::null(), Ok("0")), b"\x94\x01\xc0\xc0\x00");
    assert_eq!(encoded(Id::from(2), Err(&fault)), b"\x94\x01\x02\x93\xd1\x80\xa7\xa6no \"f\"\xc0\xc0");
    let fault = Fault::new(7, "").with_data(&json!({"via": ["a"]}));
    assert_eq!(encoded(Id::null(), Err(&fault)), b"\x94\x01\xc0\x93\x07\xa0\x81\xa3via\x91\xa1a\xc0");
    let invalid = encoded(Id::from(3), Ok("[1,"));
    assert_eq!(
        invalid,
        b"\x94\x01\x03\x93\xd1\x80\xa5\xd9\x3dthe result cannot be converted to MessagePack: it is not JSON\xc0\xc0"
    );
}

#[test]
fn prefix_of_a_message_is_not_a_message() {
    let message = b"\x95\x00\x01\xa1f\x93\xcd\x01\x00\x81\xa1k\xc4\x02xy\xcb\0\0\0\0\0\0\0\0\x81\xa4hops\x01";
    assert_eq!(summary(message), "1 f [256,{\"k\":[120,121]},0.0] hops 1");
    for at in 0..message.len() {
        assert_eq!(frames(64, &[&message[..at]]), (vec![], at), "cut after {at}");
        let expected = if at < 3 { "refused null -32700" } else { "refused 1 -32700" };
        assert_eq!(summary(&message[..at]), expected, "cut after {at}");
    }
}

/// Any JSON value, with numbers of every size.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| Value::from(number >> shift)),
        (any::<i64>(), 0..64_u32).prop_map(|(number, shift)| Value::from(number >> shift)),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        "[a\"\\\\\n\u{e9}\u{1f600}]{0,300}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 200, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            prop::collection::btree_map(".{0,9}", inner, 0..20)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_survives_the_round_trip(value in any_json(), pretty in any::<bool>(), cut in any::<prop::sample::Index>()) {
        let json = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let params = [b"\x91", &packed(&json)[..]].concat();
        let message = [b"\x94\x00\x01\xa1f", &params[..]].concat();
        let Ok(Message::Request(Request { params: Some(params), .. })) = decode(&message, deep(20)) else {
            panic!("{:?}", decode(&message, deep(20)));
        };
        prop_assert_eq!(params.get(), format!("[{}]", serde_json::to_string(&value).unwrap()));

        let at = cut.index(message.len());
        prop_assert_eq!(frames(usize::MAX, &[&message[..at], &message[at..]]), (vec![message.clone()], 0));
        prop_assert_eq!(frames(usize::MAX, &[&message[..at]]), (vec![], at));
        prop_assert!(decode(&message[..at], deep(20)).is_err());
    }

    #[test]
    fn accepts_any_bytes_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), max in 1..100_usize, cut in 1..20_usize) {
        let message = [b"\x94\x00\x01\xa1f", &bytes[..]].concat();
        for frame in [&bytes, &message] {
            if let Ok(Message::Request(Request { params: Some(params), .. })) = decode(frame, LIMITS) {
                prop_assert!(serde_json::from_str::<Value>(params.get()).is_ok());
            }
        }
        // In pieces of any size; complete messages are never longer than the maximum.
        let (whole, _) = frames(usize::MAX, &[&bytes]);
        let pieces: Vec<_> = bytes.chunks(cut).collect();
        prop_assert_eq!(&frames(usize::MAX, &pieces).0, &whole);
        for message in frames(max, &pieces).0 {
            prop_assert!(message.len() <= max || message == b"invalid");
        }
    }

    #[test]
    fn converts_any_text_or_appends_nothing(text in "[\\[\\]{}\",:\\\\u0-9a-f.eE+ntl-]{0,40}") {
        let mut out = Vec::new();
        if serde_json::from_str::<Value>(&text).is_ok() {
            let put = put_json(&mut out, &text);
            prop_assert!(matches!(put, Ok(()) | Err(ConvertError::Number(_))), "{:?}", put);
        } else if put_json(&mut out, &text).is_ok() {
            prop_assert_eq!(frames(usize::MAX, &[&out]), (vec![out.clone()], 0));
        } else {
            prop_assert!(out.is_empty());
        }
    }
}
