//! Server reflection (<https://github.com/grpc/grpc/blob/master/doc/server-reflection.md>), both versions, which differ
//! in their names only: old clients know `v1alpha`, some new ones only `v1`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smol::Timer;

use super::messages::each_field;
use super::stream::{Messages, streamed};
use super::{App, Head, own};
use crate::codec::grpc::{Status, next_message, prefixed};
use crate::codec::protobuf::Wanted;
use crate::codec::protobuf::wire::{put_bytes, put_integer};
use crate::message::code;
use crate::node::services::Services;
use crate::route::{Grants, ShutdownSignal};
use crate::transport::http::{HttpRequest, HttpResponse, IncomingData};

/// Maximum length of a question, in bytes.
const MAX_QUESTION: usize = 4096;

impl App<'_> {
    /// Answers the questions of a stream. A caller that may not list functions learns nothing of services.
    pub(super) fn reflection(&self, request: &mut HttpRequest, head: &Head) -> Result<HttpResponse, Status> {
        let allowed = head.grants.check("rpc.list");
        head.grants.log_call("rpc.list", allowed.as_ref().err(), Duration::ZERO);
        if let Err(fault) = allowed {
            self.node.metrics().denied.inc();
            return Err(self.grpc_status(&fault, &head.grants));
        }
        self.has_served_request.store(true, std::sync::atomic::Ordering::Relaxed);
        // A client may keep the stream for further questions, but not for ever.
        let silence = self.limits.deadline;
        let reflection = Reflection {
            services: self.node.services(),
            grants: head.grants.clone(),
            data: request.take_data(),
            input: Vec::new(),
            timer: Timer::after(silence),
            silence,
            stop: self.node.shutdown.signal(),
        };
        Ok(streamed(reflection, head))
    }
}

struct Reflection {
    services: Arc<Services>,
    grants: Grants,
    data: IncomingData,
    input: Vec<u8>,
    timer: Timer,
    silence: Duration,
    stop: ShutdownSignal,
}

impl Messages for Reflection {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, Status>> {
        loop {
            if let Some((question, length)) = next_message(&self.input, MAX_QUESTION)? {
                let answer = answer(question, &self.services, &self.grants)?;
                self.input.drain(..length);
                self.timer.set_after(self.silence);
                return Poll::Ready(Ok(Some(answer)));
            }
            if Pin::new(&mut self.stop).poll(cx).is_ready() {
                return Poll::Ready(Err(Status::of_code(code::CLOSED, "the node is stopping")));
            }
            if Pin::new(&mut self.timer).poll(cx).is_ready() {
                let message = "no further question arrived in time (limits.deadline)";
                return Poll::Ready(Err(Status::of_code(code::DEADLINE, message)));
            }
            match ready!(self.data.poll_next(cx)) {
                Some(Ok(data)) => {
                    self.input.extend_from_slice(&data);
                }
                Some(Err(error)) => {
                    return Poll::Ready(Err(Status::new(Status::CANCELLED, error.to_string())));
                }
                None if self.input.is_empty() => return Poll::Ready(Ok(None)),
                None => {
                    let message = "the message is cut off";
                    return Poll::Ready(Err(Status::new(Status::INVALID_ARGUMENT, message)));
                }
            }
        }
    }
}

/// What a `ServerReflectionRequest` asks: the number of its field, and the name in it.
#[derive(Default)]
struct Question<'a> {
    host: &'a str,
    field: u32,
    name: &'a str,
}

/// Returns the `ServerReflectionResponse` to a request, which it repeats.
fn answer(message: &[u8], services: &Services, grants: &Grants) -> Result<Vec<u8>, Status> {
    let mut question = Question::default();
    each_field(message, |number, value| {
        match number {
            1 => question.host = value.text()?,
            3 | 4 | 6 | 7 => (question.field, question.name) = (number, value.text()?),
            // An extension: its type and number.
            5 => (question.field, question.name) = (number, value.bytes().map(|_| "")?),
            _ => {}
        }
        Some(())
    })?;
    let Question { host, field, name } = question;
    let mut found = Vec::new();
    let own = |file: &[u8]| Some(file.to_vec());
    let file = match field {
        3 => own::file_named(name).and_then(own).or_else(|| services.file(Wanted::Name(name), grants)),
        4 => own::file_of(name).and_then(own).or_else(|| services.file(Wanted::Symbol(name), grants)),
        _ => None,
    };
    let answered = match field {
        3 | 4 => file.map(|file| {
            put_bytes(&mut found, 1, &file);
            4
        }),
        7 => {
            for service in own::SERVICES.into_iter().chain(services.visible(grants)) {
                let mut named = Vec::new();
                put_bytes(&mut named, 1, service.as_bytes());
                put_bytes(&mut found, 1, &named);
            }
            Some(6)
        }
        _ => None,
    };
    let answered = answered.unwrap_or_else(|| {
        let (status, text) = match field {
            0 => (Status::INVALID_ARGUMENT, "the request asks nothing"),
            _ => (Status::NOT_FOUND, "not found"),
        };
        put_integer(&mut found, 1, u64::from(status));
        put_bytes(&mut found, 2, text.as_bytes());
        7
    });
    Ok(prefixed(|out| {
        put_bytes(out, 1, host.as_bytes());
        put_bytes(out, 2, message);
        put_bytes(out, answered, &found);
    }))
}
