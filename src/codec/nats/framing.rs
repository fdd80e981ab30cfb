//! Control lines and payloads in a stream of bytes.

use std::hash::{BuildHasher, RandomState};

use memchr::{memchr, memmem};

use super::REPLIES;
use crate::codec::frame::FrameResult;
use crate::codec::framing::Framing;

/// Maximum length of a control line, in bytes: `INFO` lists all servers of a cluster.
const MAX_LINE: usize = 64 * 1024;
const END: &[u8] = b"\r\n";

/// Finds messages of the server, and completes those for it.
///
/// A message is found as its control line and, behind the line's end, its payload; without that if it is too long.
/// Replies must be addressed as the call has asked for, which only those know who have received it.
#[derive(Debug)]
pub struct NatsFramer {
    /// The maximum length of a message that is received, with its headers.
    max: usize,
    /// That of one that is sent, which the server has told.
    max_payload: usize,
    inbox: String,
    /// Makes the last part of reply subjects.
    tokens: RandomState,
    /// Bytes of a message that is skipped.
    skip: usize,
}

impl NatsFramer {
    /// Creates a framer for messages of at most `max` bytes from the server, and `max_payload` bytes to it. Replies to
    /// calls arrive below the subject `inbox`.
    pub fn new(max: usize, max_payload: usize, inbox: String, tokens: RandomState) -> Self {
        Self { max, max_payload, inbox, tokens, skip: 0 }
    }

    fn token(&self, call: &str) -> String {
        format!("{:016x}", self.tokens.hash_one(call))
    }

    /// Returns `true` if a subject is that of a reply to one of our calls.
    fn is_reply(&self, subject: &str) -> bool {
        let parts =
            subject.strip_prefix(&*self.inbox).and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
        parts.is_some_and(|(call, token)| self.token(call) == token)
    }

    /// Finds the message whose control line, of `line` bytes with its end, announces a payload.
    fn message(&mut self, buffer: &[u8], text: &str, line: usize) -> FrameResult {
        let mut words = text.split_ascii_whitespace();
        let has_headers = words.next().is_some_and(|verb| verb.len() == "HMSG".len());
        let words: Vec<_> = words.collect();
        let sizes = if has_headers { 2 } else { 1 };
        let (Some(subject), Some(subscription), Some(total)) = (words.first(), words.get(1), words.last())
        else {
            return invalid(text);
        };
        let is_complete = words.len() == 2 + sizes || words.len() == 3 + sizes;
        let Some(total) = total.parse().ok().filter(|_| is_complete) else { return invalid(text) };
        let headers = if has_headers { words[words.len() - 2].parse().unwrap_or(usize::MAX) } else { 0 };
        if headers > total {
            return invalid(text);
        }
        if total > self.max || (*subscription == REPLIES && !self.is_reply(subject)) {
            // Without its payload it shows what it belongs to.
            self.skip = total.saturating_add(END.len());
            let is_told = total > self.max && (*subscription != REPLIES || self.is_reply(subject));
            return if is_told {
                FrameResult::Frame(0..text.len(), line)
            } else {
                FrameResult::Incomplete(line)
            };
        }
        let end = line + total;
        match buffer.get(end..end + END.len()) {
            None => FrameResult::Incomplete(0),
            Some(END) => FrameResult::Frame(0..end, end + END.len()),
            Some(_) => FrameResult::Invalid("a payload is longer than its control line says".into()),
        }
    }
}

impl Framing for NatsFramer {
    fn next_frame(&mut self, buffer: &[u8]) -> FrameResult {
        if self.skip > 0 {
            let cut = self.skip.min(buffer.len());
            self.skip -= cut;
            return FrameResult::Incomplete(cut);
        }
        let Some(end) = memchr(b'\n', &buffer[..buffer.len().min(MAX_LINE)]) else {
            if buffer.len() >= MAX_LINE {
                return FrameResult::Invalid("a control line of more than 64 KiB".into());
            }
            return FrameResult::Incomplete(0);
        };
        let (line, text) = (end + 1, &buffer[..end]);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let Ok(text) = std::str::from_utf8(text) else {
            return FrameResult::Invalid("a control line is not UTF-8".into());
        };
        let verb = text.split_ascii_whitespace().next().unwrap_or_default();
        let is = |name: &str| verb.eq_ignore_ascii_case(name);
        match () {
            () if is("MSG") || is("HMSG") => self.message(buffer, text, line),
            () if is("PING") || is("INFO") || is("-ERR") => FrameResult::Frame(0..text.len(), line),
            () if is("PONG") || is("+OK") => FrameResult::Frame(0..0, line),
            () => invalid(text),
        }
    }

    fn is_skipping(&self) -> bool {
        self.skip > 0
    }

    fn lengths(&self) -> (usize, usize) {
        (0, self.max_payload)
    }

    fn limit_name(&self) -> &'static str {
        "limits.message, or max_payload of the NATS server"
    }

    /// Completes a control line, or a message: `PUB` or `HPUB`, its subject and the number of a call, then a line feed,
    /// the headers and the payload.
    fn finish(&self, out: &mut Vec<u8>, start: usize) -> bool {
        if let Some(head) = head(&out[start..]) {
            let (payload, is_error) = (start + head.end, head.call.is_none());
            let headers = match head.verb {
                "HPUB" => memmem::find(&out[payload..], b"\r\n\r\n").map_or(0, |at| at + 4),
                _ => 0,
            };
            let total = out.len() - payload;
            let total = match total <= self.max_payload {
                true => total,
                // An error goes without its details.
                false if is_error && headers > 0 && headers <= self.max_payload => headers,
                false => {
                    out.truncate(start);
                    return false;
                }
            };
            let reply = head.call.map(|call| format!("{}.{call}.{}", self.inbox, self.token(call)));
            let subject = if head.subject.is_empty() { reply.as_deref() } else { Some(head.subject) };
            let mut line = format!("{} {}", head.verb, subject.unwrap_or_default());
            if let Some(reply) = reply.as_ref().filter(|_| !head.subject.is_empty()) {
                line.extend([" ", reply]);
            }
            if headers > 0 {
                line += &format!(" {headers}");
            }
            line += &format!(" {total}\r\n");
            out.truncate(payload + total);
            out.splice(start..payload, line.into_bytes());
        }
        out.extend_from_slice(END);
        true
    }
}

/// The first line of a message that is to be completed.
struct Head<'a> {
    verb: &'a str,
    subject: &'a str,
    call: Option<&'a str>,
    /// The position of the headers and the payload.
    end: usize,
}

fn head(body: &[u8]) -> Option<Head<'_>> {
    if !body.starts_with(b"PUB ") && !body.starts_with(b"HPUB ") {
        return None;
    }
    let end = memchr(b'\n', body)?;
    let mut words = std::str::from_utf8(&body[..end]).ok()?.split(' ');
    Some(Head { verb: words.next()?, subject: words.next()?, call: words.next(), end: end + 1 })
}

fn invalid(line: &str) -> FrameResult {
    let shown: String = line.chars().take(64).collect();
    FrameResult::Invalid(format!("not a message of NATS: {shown:?}").into())
}
