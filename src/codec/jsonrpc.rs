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
    if method == CANCEL && id.is_none() {
        return cancel(members.params.0);
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

fn cancel<'a>(params: Option<&RawValue>) -> Result<Message<'a>, Refused> {
    #[derive(DeriveDeserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        id: &'a RawValue,
    }
    params
        .and_then(|raw| serde_json::from_str::<Params<'_>>(raw.get()).ok())
        .and_then(|params| Id::from_json(params.id.get()))
        .map(Message::Cancel)
        .ok_or_else(|| Refused::new(code::INVALID_PARAMS, "$/cancelRequest takes {\"id\": the request's id}"))
}

fn meta(raw: Option<&RawValue>) -> Result<Meta, Refused> {
    #[derive(DeriveDeserialize)]
    struct Wire {
        deadline_ms: Option<u64>,
        #[serde(default)]
        hops: u32,
    }
    let Some(raw) = raw else { return Ok(Meta::default()) };
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
    out.extend_from_slice(br#"{"jsonrpc":"2.0","#);
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
    out.extend_from_slice(br#","id":"#);
    out.extend_from_slice(id.as_json().as_bytes());
    out.push(b'}');
}

/// Appends a request, or a notification if it has no id.
pub fn encode_request(out: &mut Vec<u8>, request: &Request<'_>) {
    out.extend_from_slice(br#"{"jsonrpc":"2.0","method":"#);
    put_string(out, &request.method);
    if let Some(params) = request.params {
        out.extend_from_slice(br#","params":"#);
        put_json(out, params);
    }
    if request.meta != Meta::default() {
        put(out, format_args!(r#","meta":{{"hops":{}"#, request.meta.hops));
        if let Some(deadline) = request.meta.deadline {
            put(out, format_args!(r#","deadline_ms":{}"#, deadline.as_millis()));
        }
        out.push(b'}');
    }
    if let Some(id) = &request.id {
        out.extend_from_slice(br#","id":"#);
        out.extend_from_slice(id.as_json().as_bytes());
    }
    out.push(b'}');
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
