//! JSON-RPC 2.0 (<https://www.jsonrpc.org/specification>), with `meta` beside `params` and `$/cancelRequest`.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::time::Duration;

use memchr::memchr2;
use serde::Deserialize as DeriveDeserialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::message::{Fault, Id, Message, Meta, Outcome, Request, code};

/// The notification by which a peer gives up one of its requests.
pub const CANCEL: &str = "$/cancelRequest";

/// What one JSON text holds.
#[derive(Debug)]
pub enum Text<'a> {
    /// One message.
    Single(Result<Message<'a>, Refused>),
    /// Several, answered together.
    Batch(Vec<Result<Message<'a>, Refused>>),
}

/// A message that could not be understood, and the id to tell it under.
#[derive(Debug)]
pub struct Refused {
    /// The message's id if it had a usable one, else null.
    pub id: Id,
    /// What is wrong with it.
    pub fault: Fault,
}

impl Refused {
    fn new(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        Self { id: Id::null(), fault: Fault::new(code, message) }
    }

    fn with_id(self, id: Option<Id>) -> Self {
        Self { id: id.unwrap_or(self.id), ..self }
    }
}

/// Bounds on what is read.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How deeply arrays and objects may be nested.
    pub depth: usize,
    /// How many messages a batch may hold.
    pub batch: usize,
}

/// Reads one JSON text.
pub fn decode(text: &[u8], bounds: Bounds) -> Text<'_> {
    let text = match check(text, bounds.depth) {
        Ok(text) => text,
        Err(refused) => return Text::Single(Err(refused)),
    };
    if !text.trim_ascii_start().starts_with('[') {
        return Text::Single(message(text));
    }
    match serde_json::from_str::<Batch<'_>>(text) {
        Err(error) => Text::Single(Err(Refused::new(code::PARSE, format!("not JSON: {error}")))),
        Ok(batch) if batch.len == 0 => {
            Text::Single(Err(Refused::new(code::INVALID_REQUEST, "a batch must not be empty")))
        }
        Ok(batch) if batch.len > bounds.batch => {
            let message = format!("a batch of {}; the limit is {} (limits.batch)", batch.len, bounds.batch);
            Text::Single(Err(Refused::new(code::BATCH_TOO_LARGE, message)))
        }
        Ok(batch) => Text::Batch(batch.first.into_iter().map(|raw| message(raw.get())).collect()),
    }
}

fn check(text: &[u8], max_depth: usize) -> Result<&str, Refused> {
    let text = std::str::from_utf8(text).map_err(|error| {
        Refused::new(code::PARSE, format!("not UTF-8 after {} bytes", error.valid_up_to()))
    })?;
    // What nests deeper has at least so many brackets and their partners.
    if text.len() > 2 * max_depth && depth(text) > max_depth {
        let message = format!("nested deeper than {max_depth} (limits.depth)");
        return Err(Refused::new(code::PARSE, message));
    }
    Ok(text)
}

/// How deeply brackets are nested, outside of strings.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// An array, of which only as many elements are kept as any limit will want.
struct Batch<'a> {
    first: Vec<&'a RawValue>,
    len: usize,
}

impl<'de> Deserialize<'de> for Batch<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Batch<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                const KEPT: usize = 1 << 16;
                let mut batch = Batch { first: Vec::new(), len: 0 };
                while batch.len < KEPT {
                    let Some(element) = seq.next_element()? else { return Ok(batch) };
                    batch.first.push(element);
                    batch.len += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    batch.len += 1;
                }
                Ok(batch)
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

/// A member of an object: there or not, which is not the same as null or not.
#[derive(Default)]
struct Member<'a>(Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Member<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(|raw| Self(Some(raw)))
    }
}

/// Every member that a message of any sort may have, none of them understood yet.
#[derive(DeriveDeserialize)]
struct Members<'a> {
    #[serde(borrow, default)]
    jsonrpc: Member<'a>,
    #[serde(borrow, default)]
    id: Member<'a>,
    #[serde(borrow, default)]
    method: Member<'a>,
    #[serde(borrow, default)]
    params: Member<'a>,
    #[serde(borrow, default)]
    meta: Member<'a>,
    #[serde(borrow, default)]
    result: Member<'a>,
    #[serde(borrow, default)]
    error: Member<'a>,
}

fn message(text: &str) -> Result<Message<'_>, Refused> {
    let invalid = |message: &'static str| Refused::new(code::INVALID_REQUEST, message);
    // An array would pass as the members in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => invalid("a request must be an object"),
            Err(error) => Refused::new(code::PARSE, format!("not JSON: {error}")),
        });
    }
    let members: Members<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data => Refused::new(code::INVALID_REQUEST, format!("not a request: {error}")),
        _ => Refused::new(code::PARSE, format!("not JSON: {error}")),
    })?;
    let id = match members.id.0 {
        None => None,
        Some(raw) => Some(
            Id::from_json(raw.get())
                .ok_or_else(|| invalid("\"id\" must be a string, a number or null, of at most 128 bytes"))?,
        ),
    };
    if members.jsonrpc.0.is_none_or(|raw| string(raw).as_deref() != Some("2.0")) {
        return Err(invalid("\"jsonrpc\" must be \"2.0\"").with_id(id));
    }
    let Some(method) = members.method.0 else {
        return match (id, members.result.0, members.error.0) {
            (Some(id), Some(result), None) => Ok(Message::Reply(id, Ok(result.to_owned()))),
            (Some(id), None, Some(error)) => Ok(Message::Reply(id, Err(fault(error)))),
            (id, ..) => Err(invalid("\"method\" is missing").with_id(id)),
        };
    };
    let Some(method) = string(method) else {
        return Err(invalid("\"method\" must be a string").with_id(id));
    };
    if members.params.0.is_some_and(|raw| !raw.get().starts_with(['[', '{'])) {
        return Err(invalid("\"params\" must be an array or an object").with_id(id));
    }
    // One that names no request is a notification like any other that nobody understands.
    if let (CANCEL, None, Some(cancelled)) = (&*method, &id, cancelled(members.params.0)) {
        return Ok(Message::Cancel(cancelled));
    }
    match meta(members.meta.0) {
        Ok(meta) => Ok(Message::Request(Request { id, method, params: members.params.0, meta })),
        Err(refused) => Err(refused.with_id(id)),
    }
}

fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if text.contains('\\') { serde_json::from_str(raw.get()).ok().map(Cow::Owned) } else { Some(text.into()) }
}

fn cancelled(params: Option<&RawValue>) -> Option<Id> {
    #[derive(DeriveDeserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    let params: Params<'_> = serde_json::from_str(params?.get()).ok()?;
    Id::from_json(params.id.get())
}

fn meta(raw: Option<&RawValue>) -> Result<Meta, Refused> {
    #[derive(DeriveDeserialize)]
    struct Wire {
        deadline_ms: Option<u64>,
        #[serde(default)]
        hops: u32,
    }
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(Meta::default()) };
    if !raw.get().starts_with('{') {
        return Err(Refused::new(code::INVALID_REQUEST, "\"meta\" must be an object"));
    }
    let wire: Wire = serde_json::from_str(raw.get())
        .map_err(|error| Refused::new(code::INVALID_REQUEST, format!("\"meta\": {error}")))?;
    Ok(Meta { deadline: wire.deadline_ms.map(Duration::from_millis), hops: wire.hops })
}

fn fault(raw: &RawValue) -> Fault {
    #[derive(DeriveDeserialize)]
    struct Wire {
        code: i64,
        message: String,
        data: Option<Box<RawValue>>,
    }
    match serde_json::from_str::<Wire>(raw.get()) {
        Ok(wire) => Fault { code: wire.code, message: wire.message.into(), data: wire.data },
        Err(_) => Fault::new(code::INTERNAL, "the peer sent an error that is not JSON-RPC's"),
    }
}

/// Appends a reply.
pub fn encode_reply(out: &mut Vec<u8>, id: &Id, outcome: &Outcome) {
    open(out, Some(id));
    match outcome {
        Ok(result) => {
            out.extend_from_slice(br#""result":"#);
            put_json(out, result);
        }
        Err(fault) => {
            put(out, format_args!(r#""error":{{"code":{},"message":"#, fault.code));
            put_string(out, &fault.message);
            if let Some(data) = &fault.data {
                out.extend_from_slice(br#","data":"#);
                put_json(out, data);
            }
            out.push(b'}');
        }
    }
    out.push(b'}');
}

/// Appends a request, or a notification if it has no id.
pub fn encode_request(out: &mut Vec<u8>, request: &Request<'_>) {
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
    if let Some(params) = request.params {
        out.extend_from_slice(br#","params":"#);
        put_json(out, params);
    }
    out.push(b'}');
}

/// Begins a message. The id comes first, so that [`id_at_front`] finds it when the rest is too long.
fn open(out: &mut Vec<u8>, id: Option<&Id>) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0","#);
    if let Some(id) = id {
        out.extend_from_slice(br#""id":"#);
        out.extend_from_slice(id.as_json().as_bytes());
        out.push(b',');
    }
}

/// Returns the id of a message of which only the beginning is known, if it comes as early as in ours.
pub fn id_at_front(beginning: &[u8]) -> Option<Id> {
    let rest = beginning.strip_prefix(br#"{"jsonrpc":"2.0","id":"#)?;
    let id = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>().next()?.ok()?;
    Id::from_json(id.get())
}

/// Appends the notification that gives up the request `id`.
pub fn encode_cancel(out: &mut Vec<u8>, id: &Id) {
    put(out, format_args!(r#"{{"jsonrpc":"2.0","method":"{CANCEL}","params":{{"id":{}}}}}"#, id.as_json()));
}

fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes every byte");
}

/// JSON as it came, but on one line: a line feed in it can only be white space, and would end our frame.
fn put_json(out: &mut Vec<u8>, json: &RawValue) {
    let start = out.len();
    out.extend_from_slice(json.get().as_bytes());
    let mut at = start;
    while let Some(found) = memchr2(b'\n', b'\r', &out[at..]) {
        at += found;
        out[at] = b' ';
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes every byte");
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { depth: 8, batch: 3 };

    /// A message in a word or two, so that tables can say what they expect of it.
    fn told(message: &Result<Message<'_>, Refused>) -> String {
        match message {
            Ok(Message::Request(Request { id, method, params, meta })) => {
                let mut told = format!("{} {method}", id.as_ref().map_or("none", Id::as_json));
                if let Some(params) = params {
                    told += &format!(" {params}");
                }
                if let Some(deadline) = meta.deadline {
                    told += &format!(" deadline {}", deadline.as_millis());
                }
                if meta.hops > 0 {
                    told += &format!(" hops {}", meta.hops);
                }
                told
            }
            Ok(Message::Cancel(id)) => format!("cancel {}", id.as_json()),
            Ok(Message::Reply(id, Ok(result))) => format!("result {} {result}", id.as_json()),
            Ok(Message::Reply(id, Err(Fault { code, message, data }))) => {
                let data = data.as_ref().map_or("none", |data| data.get());
                format!("error {} {code} {message} {data}", id.as_json())
            }
            Err(Refused { id, fault }) => {
                assert!(!fault.message.is_empty());
                format!("refused {} {}", id.as_json(), fault.code)
            }
        }
    }

    fn decoded(text: &[u8]) -> Vec<String> {
        match decode(text, BOUNDS) {
            Text::Single(message) => vec![told(&message)],
            Text::Batch(messages) => {
                std::iter::once("batch".to_owned()).chain(messages.iter().map(told)).collect()
            }
        }
    }

    #[test]
    fn requests() {
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"method":"f"}"#, "1 f"),
            (r#"{"jsonrpc":"2.0","method":"f"}"#, "none f"),
            (r#"{"jsonrpc":"2.0","id":null,"method":"f"}"#, "null f"),
            (r#"{"params":[1, 2],"method":"f","id":"a","jsonrpc":"2.0"}"#, "\"a\" f [1, 2]"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":{"a": 1}}"#, "1 f {\"a\": 1}"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"\u0066\n"}"#, "1 f\n"),
            (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, "1 "),
            (r#"{"\u006asonrpc":"\u0032.0","id":1,"\u006dethod":"f"}"#, "1 f"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","more":[{}],"":0}"#, "1 f"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{}}"#, "1 f"),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":1500,"hops":3,"trace":"x"}}"#,
                "1 f deadline 1500 hops 3",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":18446744073709551615}}"#,
                "1 f deadline 18446744073709551615",
            ),
            (" \t{\"jsonrpc\":\"2.0\",\r\n\"id\":1,\"method\":\"f\"} ", "1 f"),
            // Only as a notification is the name anything special.
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"$/cancelRequest","params":{"id":2}}"#,
                "1 $/cancelRequest {\"id\":2}",
            ),
        ] {
            assert_eq!(decoded(text.as_bytes()), [expected], "{text}");
        }
    }

    #[test]
    fn ids_are_kept_to_the_byte() {
        let longest = format!("\"{}\"", "x".repeat(Id::MAX_LEN - 2));
        for id in [
            "0",
            "-7",
            "-0",
            "1.0",
            "1e3",
            "1E+3",
            "1e999",
            "18446744073709551616",
            "0.10",
            "null",
            r#""""#,
            r#""\u0041""#,
            r#""A""#,
            r#""\"\\\/\b\n""#,
            r#""\ud83d\ude00""#,
            "\"é😀\"",
            r#""null""#,
            &longest,
        ] {
            let text = format!(r#"{{"jsonrpc":"2.0","id": {id} ,"method":"f"}}"#);
            assert_eq!(decoded(text.as_bytes()), [format!("{id} f")]);
        }
        let too_long = format!("\"{}\"", "x".repeat(Id::MAX_LEN - 1));
        for id in ["true", "false", "[]", "[1]", "{}", &too_long] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"f"}}"#);
            assert_eq!(decoded(text.as_bytes()), ["refused null -32600"], "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (text, expected) in [
            ("", "refused null -32700"),
            (" ", "refused null -32700"),
            ("nonsense", "refused null -32700"),
            ("{", "refused null -32700"),
            ("[", "refused null -32700"),
            ("{}{}", "refused null -32700"),
            ("[] []", "refused null -32700"),
            (r#"{"jsonrpc":"2.0","method":"f","id":01}"#, "refused null -32700"),
            (r#"{"jsonrpc":"2.0","method":"f",}"#, "refused null -32700"),
            ("{\"jsonrpc\":\"2.0\",\"method\":\"a\nb\"}", "refused null -32700"),
            ("1", "refused null -32600"),
            ("null", "refused null -32600"),
            ("\"text\"", "refused null -32600"),
            ("{}", "refused null -32600"),
            ("[]", "refused null -32600"),
            (r#"{"id":1,"method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":2.0,"id":1,"method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":null,"id":1,"method":"f"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":["f"]}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":1}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":"x"}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","params":null}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":7}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"hops":-1}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":{"deadline_ms":"1"}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"f"}"#, "refused null -32600"),
            (r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}"#, "refused 1 -32600"),
            (r#"{"jsonrpc":"2.0","result":1}"#, "refused null -32600"),
        ] {
            assert_eq!(decoded(text.as_bytes()), [expected], "{text}");
        }
        assert_eq!(decoded(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}"), ["refused null -32700"]);
    }

    #[test]
    fn replies_and_cancels() {
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, "result 1 null"),
            (r#"{"jsonrpc":"2.0","result":{"a": [1]},"id":"x"}"#, "result \"x\" {\"a\": [1]}"),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m"}}"#, "error 1 -1 m none"),
            (
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"m","data":[ ]}}"#,
                "error null -1 m [ ]",
            ),
            (r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1.0}}"#, "cancel 1.0"),
            (r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"a","more":1}}"#, "cancel \"a\""),
        ] {
            assert_eq!(decoded(text.as_bytes()), [expected], "{text}");
        }
        for error in ["1", "null", "{}", r#"{"code":"1","message":"m"}"#, r#"{"code":1}"#] {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#);
            let told = decoded(text.as_bytes());
            assert!(told[0].starts_with("error 1 -32603 "), "{text}: {told:?}");
        }
    }

    #[test]
    fn batches() {
        let one = r#"{"jsonrpc":"2.0","id":1,"method":"f"}"#;
        let told = "1 f";
        assert_eq!(decoded(format!("[{one}]").as_bytes()), ["batch", told]);
        assert_eq!(
            decoded(format!(" [1,{one},\n{{}}] ").as_bytes()),
            ["batch", "refused null -32600", told, "refused null -32600"]
        );
        assert_eq!(decoded(format!("[{one},{one},{one}]").as_bytes()).len(), 4);
        assert_eq!(decoded(format!("[{one},{one},{one},1]").as_bytes()), ["refused null -32010"]);
        assert_eq!(decoded(format!("[{}1]", "1,".repeat(70_000)).as_bytes()), ["refused null -32010"]);
        // What is no JSON is that first of all.
        assert_eq!(decoded(format!("[{one},{one},{one},{one}").as_bytes()), ["refused null -32700"]);
    }

    /// The members of a message have names; a list of values in the order that this code has for them is none.
    #[test]
    fn an_array_is_no_message() {
        for text in ["[[]]", r#"[["2.0",1,"f"]]"#, r#"[["2.0",1,"f",[1],{}]]"#] {
            assert_eq!(decoded(text.as_bytes()), ["batch", "refused null -32600"], "{text}");
        }
    }

    #[test]
    fn an_array_is_no_meta() {
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"f","meta":[5,2]}"#;
        assert_eq!(decoded(text.as_bytes()), ["refused 1 -32600"]);
    }

    #[test]
    fn depth() {
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"f","params":{open}{close}}}"#)
        };
        assert!(decoded(nested(BOUNDS.depth).as_bytes())[0].starts_with("1 f ["));
        assert_eq!(decoded(nested(BOUNDS.depth + 1).as_bytes()), ["refused null -32700"]);
        assert_eq!(decoded("[".repeat(1_000_000).as_bytes()), ["refused null -32700"]);
        // Brackets in strings are no nesting, and a quote behind a backslash is no string's end.
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"f","params":["\"[[[[[[[[[\\",1]}"#;
        assert!(decoded(text.as_bytes())[0].starts_with("1 f ["));
    }

    #[test]
    fn no_cut_of_a_message_is_a_message() {
        let text = r#"{"jsonrpc":"2.0","id":"é","method":"f","params":[1,{"a":null}],"meta":{"hops":1}}"#;
        for at in 0..text.len() {
            assert_eq!(decoded(&text.as_bytes()[..at]), ["refused null -32700"], "cut after {at}");
        }
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before".to_vec();
        encode(&mut out);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
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
                Err(Fault { data: Some(raw("[\n]")), ..Fault::new(7, "m") }),
                r#"{"jsonrpc":"2.0","id":2,"error":{"code":7,"message":"m","data":[ ]}}"#,
            ),
        ] {
            assert_eq!(encoded(|out| encode_reply(out, &id, &outcome)), expected);
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
                Some(&*params),
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
    fn what_is_encoded_is_decoded_to_the_same() {
        let (params, id) = (raw(r#"{"a":[1,"\n"]}"#), Id::from_json("-7").unwrap());
        let meta = Meta { deadline: Some(Duration::from_millis(3)), hops: 4 };
        let request =
            Request { id: Some(id.clone()), method: "a.b\u{1}\"\\é".into(), params: Some(&params), meta };
        let text = encoded(|out| encode_request(out, &request));
        assert_eq!(decoded(text.as_bytes()), [told(&Ok(Message::Request(request)))]);

        let text = encoded(|out| encode_cancel(out, &id));
        assert_eq!(decoded(text.as_bytes()), [told(&Ok(Message::Cancel(id.clone())))]);

        for outcome in [Ok(raw("[1]")), Err(Fault::new(-5, "\u{7f}\t").with_data(&"data"))] {
            let text = encoded(|out| encode_reply(out, &id, &outcome));
            assert_eq!(decoded(text.as_bytes()), [told(&Ok(Message::Reply(id.clone(), outcome)))]);
        }
    }
}
