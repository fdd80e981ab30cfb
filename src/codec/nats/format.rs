//! The messages of NATS.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use memchr::memchr;
use serde_json::value::RawValue;

use super::headers::Headers;
use super::subject::is_subject;
use super::{ERROR, FLUSH, INFO, NOT_JSON, REFUSED, REPLIES, TOPICS};
use crate::codec::format::{DecodeLimits, FormatTraits, MessageFormat, Outgoing};
use crate::codec::frame::{DecodeError, Decoded};
use crate::message::json::Scanner;
use crate::message::{Answer, Fault, Id, Message, Meta, Object, Outcome, RawJson, Request, code};

/// The method that asks for a sign of life.
const PING: &str = "rpc.ping";
/// The id of the server's `PING`. No reply subject has a space.
const PING_ID: &str = "PING ";
const DEADLINE: &str = "Rpc-Deadline-Ms";
const HOPS: &str = "Rpc-Hops";
/// The headers of an error, by ADR-32.
const SERVICE_ERROR: &str = "Nats-Service-Error";
const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
/// The status of a message that nobody has subscribed to.
const NO_RESPONDERS: &str = "503";
/// Maximum length of an error's text in its header, in bytes.
const MAX_ERROR_TEXT: usize = 1024;

/// The messages of NATS.
#[derive(Debug)]
pub struct Nats;

impl MessageFormat for Nats {
    fn traits(&self) -> FormatTraits {
        FormatTraits { is_json: false, has_results_only: false }
    }

    fn decode<'a>(&self, frame: &'a [u8], limits: DecodeLimits, _max: usize) -> Decoded<'a> {
        let end = memchr(b'\n', frame).unwrap_or(frame.len());
        let (line, payload) = (&frame[..end], frame.get(end + 1..));
        let line = std::str::from_utf8(line).unwrap_or_default().trim_ascii_end();
        let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        Decoded::Single(match () {
            () if verb.eq_ignore_ascii_case("PING") => Ok(request(Some(Id::opaque(PING_ID)), PING, None)),
            () if verb.eq_ignore_ascii_case("INFO") => {
                let json = json(rest.as_bytes(), limits).unwrap_or(RawJson::NULL);
                Ok(request(None, INFO, Some(json)))
            }
            () if verb.eq_ignore_ascii_case("-ERR") => Ok(error(rest.trim_ascii().trim_matches('\''))),
            () => message(verb.len() == "HMSG".len(), rest, payload, limits),
        })
    }

    fn reject(&self, _prefix: &[u8], _limits: DecodeLimits, fault: Fault) -> Decoded<'static> {
        Decoded::Single(Err(DecodeError { id: Id::null(), fault }))
    }

    fn encode(&self, out: &mut Vec<u8>, message: &Outgoing<'_>) -> bool {
        match message {
            Outgoing::Request(request) => encode_request(out, request),
            // Nobody listens for it.
            Outgoing::Cancel(_) => false,
            Outgoing::Reply(id, answer) => encode_reply(out, id.as_json(), *answer),
        }
    }
}

fn request<'a>(
    id: Option<Id<'a>>,
    method: impl Into<Cow<'a, str>>,
    params: Option<RawJson<'a>>,
) -> Message<'a> {
    Message::Request(Request { id, method: method.into(), params, meta: Meta::default() })
}

/// Returns the notification of an error.
fn error(text: &str) -> Message<'static> {
    let refused = text.strip_prefix("Permissions Violation for Publish to \"");
    match refused.and_then(|subject| subject.strip_suffix('"')) {
        Some(subject) => request(None, format!("{REFUSED} {subject}"), None),
        None => request(None, ERROR, RawJson::of(&[text]).ok()),
    }
}

/// Decodes what has arrived at a subscription. Without a payload it was too long.
fn message<'a>(
    has_headers: bool,
    line: &'a str,
    payload: Option<&'a [u8]>,
    limits: DecodeLimits,
) -> Result<Message<'a>, DecodeError> {
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    let (Some(subject), Some(subscription)) = (words.first(), words.get(1)) else {
        return Err(DecodeError::new(code::INVALID_REQUEST, "an incomplete message"));
    };
    let sizes = if has_headers { 2 } else { 1 };
    let reply = (words.len() > 2 + sizes).then(|| words[2]);
    let split = match has_headers {
        true => words[words.len() - 2].parse().unwrap_or(usize::MAX),
        false => 0,
    };
    let parts = payload.map(|payload| payload.split_at_checked(split).unwrap_or((b"", payload)));
    let headers = parts.and_then(|(headers, _)| Headers::read(headers));
    let payload = parts.map(|(_, payload)| payload);
    if *subscription == REPLIES {
        // The number of the call and the token behind it have been checked.
        let call = subject.rsplit('.').nth(1).and_then(|number| number.parse::<u64>().ok());
        return Ok(Message::Reply(call.map_or_else(Id::null, Id::from), outcome(headers, payload, limits)));
    }
    let id = reply.map(Id::opaque);
    let params = match payload {
        None => Err(Fault::new(code::REQUEST_TOO_LARGE, "a message exceeds the limit (limits.message)")),
        Some(b"") => Ok(None),
        Some(payload) if subscription.starts_with(TOPICS) => {
            json(payload, limits).or_else(|_| text(payload)).map(Some)
        }
        Some(payload) => json(payload, limits).map(Some),
    };
    match (params, id) {
        (Ok(params), id) => {
            let number = |name| headers.and_then(|headers| headers.get(name)?.parse().ok());
            let deadline = number(DEADLINE).map(Duration::from_millis);
            let hops = number(HOPS).and_then(|hops| u32::try_from(hops).ok()).unwrap_or(0);
            let meta = Meta { deadline, hops };
            Ok(Message::Request(Request { id, method: (*subject).into(), params, meta }))
        }
        (Err(fault), Some(id)) => Err(DecodeError { id: id.into_owned(), fault }),
        // Nobody waits for an answer, and others may publish whatever they like.
        (Err(fault), None) => {
            Ok(request(None, ERROR, RawJson::of(&[format!("{subject}: {}", fault.message)]).ok()))
        }
    }
}

/// Returns the outcome of a call.
fn outcome(headers: Option<Headers<'_>>, payload: Option<&[u8]>, limits: DecodeLimits) -> Outcome {
    let Some(payload) = payload else {
        return Err(Fault::new(code::REPLY_TOO_LARGE, "the reply exceeds the limit (limits.message)"));
    };
    let get = |name| headers.and_then(|headers| headers.get(name));
    if let Some(number) = get(SERVICE_ERROR_CODE) {
        return Err(service_error(number, get(SERVICE_ERROR), payload, limits));
    }
    if let Some(text) = get(SERVICE_ERROR) {
        return Err(service_error("", Some(text), payload, limits));
    }
    if let Some(status) = headers.and_then(Headers::status) {
        return Err(match status {
            NO_RESPONDERS => Fault::not_sent("nobody answers at the function's subject (no responders)"),
            _ => Fault::new(code::INTERNAL, format!("the NATS server answered with status {status}")),
        });
    }
    match payload {
        b"" => Ok(RawJson::NULL),
        payload => json(payload, limits).map(RawJson::into_owned).map_err(|fault| {
            let data = text(payload)
                .and_then(|text| RawValue::from_string(text.get().to_owned()).map_err(|_| fault));
            Fault { data: data.ok(), ..Fault::new(code::INTERNAL, NOT_JSON) }
        }),
    }
}

/// Returns the error of a service: of a node, with its data, or of another one.
fn service_error(number: &str, text: Option<&str>, payload: &[u8], limits: DecodeLimits) -> Fault {
    let message = text.unwrap_or("the service answered with an error").to_owned();
    let Ok(code) = number.parse() else {
        return Fault::new(code::INTERNAL, message).with_data(&number);
    };
    let details = json(payload, limits).ok();
    let object = details.as_ref().and_then(|json| serde_json::from_str::<Object<'_>>(json.get()).ok());
    let own = object.as_ref().filter(|object| object.get("code") == Some(number));
    let whole = own.and_then(|object| object.text("message").ok()?).unwrap_or(message);
    let data = match own {
        Some(object) => object.get("data"),
        None => details.as_ref().map(RawJson::get),
    };
    Fault {
        data: data.and_then(|data| RawValue::from_string(data.to_owned()).ok()),
        ..Fault::new(code, whole)
    }
}

/// Returns a payload if it is JSON.
fn json(payload: &[u8], limits: DecodeLimits) -> Result<RawJson<'_>, Fault> {
    let text = std::str::from_utf8(payload)
        .map_err(|error| Fault::new(code::PARSE, format!("not UTF-8 after {} bytes", error.valid_up_to())))?;
    let mut scanner = Scanner::new(text, limits.depth);
    match scanner.value().and_then(|value| scanner.expect_end().map(|()| value)) {
        Ok(value) => Ok(RawJson::checked(value)),
        Err(_) => Err(Fault::new(code::PARSE, scanner.error().to_string())),
    }
}

/// Returns a payload as a text in JSON.
fn text(payload: &[u8]) -> Result<RawJson<'static>, Fault> {
    let text = std::str::from_utf8(payload).map_err(|error| Fault::new(code::PARSE, error.to_string()))?;
    RawJson::of(text).map_err(|error| Fault::new(code::PARSE, error.to_string()))
}

fn encode_request(out: &mut Vec<u8>, request: &Request<'_>) -> bool {
    let Request { id, method, params, meta } = request;
    let subject = match &**method {
        PING => {
            out.extend_from_slice(b"PING");
            return true;
        }
        FLUSH => "",
        line if line.contains(' ') => {
            out.extend_from_slice(line.as_bytes());
            return true;
        }
        // What nodes tell each other is not for everybody.
        method if method.starts_with("rpc.") || !is_subject(method) => return false,
        method => method,
    };
    let has_headers = *meta != Meta::default() && !subject.is_empty();
    put(out, format_args!("{} {subject}", if has_headers { "HPUB" } else { "PUB" }));
    if let Some(id) = id {
        put(out, format_args!(" {}", id.as_json()));
    }
    out.push(b'\n');
    if has_headers {
        put(out, format_args!("NATS/1.0\r\n"));
        if let Some(deadline) = meta.deadline {
            put(out, format_args!("{DEADLINE}: {}\r\n", deadline.as_millis()));
        }
        put(out, format_args!("{HOPS}: {}\r\n\r\n", meta.hops));
    }
    if let Some(params) = params {
        out.extend_from_slice(params.get().as_bytes());
    }
    true
}

fn encode_reply(out: &mut Vec<u8>, subject: &str, answer: Answer<'_>) -> bool {
    if subject == PING_ID {
        out.extend_from_slice(b"PONG");
        return true;
    }
    if !is_subject(subject) {
        return false;
    }
    match answer {
        Ok(result) => {
            put(out, format_args!("PUB {subject}\n"));
            out.extend_from_slice(result.as_bytes());
        }
        Err(Fault { code, message, data }) => {
            let is_visible = |c: &char| !c.is_control();
            let line: String = message.chars().filter(is_visible).take(MAX_ERROR_TEXT / 4).collect();
            put(out, format_args!("HPUB {subject}\nNATS/1.0\r\n{SERVICE_ERROR}: {line}\r\n"));
            put(out, format_args!("{SERVICE_ERROR_CODE}: {code}\r\n\r\n{{\"code\":{code},\"message\":"));
            let _ = serde_json::to_writer(&mut *out, &**message);
            if let Some(data) = data {
                put(out, format_args!(",\"data\":{}", data.get()));
            }
            out.push(b'}');
        }
    }
    true
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes every byte");
}
