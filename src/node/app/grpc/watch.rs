//! `chanrpc.v1.Node/Watch`: the events of a topic, or of a family of topics, as a stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::messages::WatchRequest;
use super::stream::{Messages, streamed};
use super::{App, Head};
use crate::codec::grpc::{Status, prefixed};
use crate::codec::protobuf::MessageType;
use crate::codec::protobuf::wire::{put_bytes, put_integer};
use crate::config::{OVERFLOWS, Overflow};
use crate::message::{Fault, code};
use crate::metrics::Metrics;
use crate::route::{
    Action, EXPIRED, Grants, Mailbox, Notice, Peer, Posts, ShutdownSignal, Subscribe, Subscribed, TopicHub,
    WITHDRAWN,
};
use crate::transport::http::HttpResponse;

/// The size of the events that are encoded at once, in bytes.
const ROOM: usize = 16 * 1024;

impl App<'_> {
    pub(super) fn grpc_watch(&self, message: &[u8], head: &Head) -> Result<HttpResponse, Status> {
        let request = WatchRequest::read(message)?;
        self.logged(self.watch(&request, Form::Node, &head.grants), head).map(|watch| streamed(watch, head))
    }

    /// Subscribes to a topic, for a method of the user's services.
    pub(super) fn watch_topic(&self, topic: &str, form: Form, head: &Head) -> Result<Watch, Status> {
        let request = WatchRequest { topic, ..WatchRequest::default() };
        self.logged(self.watch(&request, form, &head.grants), head)
    }

    fn logged(&self, watch: Result<Watch, Fault>, head: &Head) -> Result<Watch, Status> {
        head.grants.log_call("rpc.subscribe", watch.as_ref().err(), Duration::ZERO);
        watch.map_err(|fault| {
            if fault.code == code::DENIED {
                self.node.metrics().denied.inc();
            }
            self.grpc_status(&fault, &head.grants)
        })
    }

    fn watch(&self, request: &WatchRequest<'_>, form: Form, grants: &Grants) -> Result<Watch, Fault> {
        let WatchRequest { topic, since, epoch, when_full } = *request;
        let invalid = || Fault::invalid_params(format!("when_full is {OVERFLOWS}"));
        let overflow = (!when_full.is_empty()).then(|| Overflow::named(when_full).ok_or_else(invalid));
        let epoch = (!epoch.is_empty()).then_some(epoch);
        grants.allow(Action::Subscribe, topic)?;
        let right = Some(grants.right(Action::Subscribe, topic));
        let overflow = overflow.transpose()?;
        let request = Subscribe { topic, since, epoch, overflow, right, ..Subscribe::default() };
        let topics = self.node.registry.topics();
        let mut watch = Watch {
            mailbox: Arc::default(),
            metrics: self.node.registry.metrics().clone(),
            posts: Posts { room: ROOM, ..Posts::default() },
            out: Vec::new(),
            stop: self.node.shutdown.signal(),
            is_ending: false,
            end: None,
            form,
        };
        let Subscribed { seq, is_missing } = topics.subscribe(&Peer::new(&watch.mailbox), &request)?;
        if let Form::Node = watch.form {
            watch.put(1, |out| {
                put_bytes(out, 1, topics.epoch().as_bytes());
                if let Some(seq) = seq {
                    put_integer(out, 2, seq);
                }
                put_integer(out, 3, is_missing.into());
            });
        }
        Ok(watch)
    }
}

/// The messages of a stream.
pub(super) enum Form {
    /// `chanrpc.v1.WatchReply`.
    Node,
    /// The user's own.
    Typed(Typed),
}

/// How events become messages of the user's.
pub(super) struct Typed {
    pub(super) reply: MessageType,
    /// A member that the message lacks is an error.
    pub(super) is_strict: bool,
    /// The stream continues when events were dropped, which its messages cannot tell.
    pub(super) skips_missed: bool,
}

/// The events of one subscription.
pub(super) struct Watch {
    /// Closed when dropped, which ends the subscription.
    mailbox: Arc<Mailbox>,
    metrics: Arc<Metrics>,
    posts: Posts,
    /// What is sent next.
    out: Vec<u8>,
    stop: ShutdownSignal,
    is_ending: bool,
    end: Option<Status>,
    form: Form,
}

impl Watch {
    /// Appends a `chanrpc.v1.WatchReply` with one field, which is a message.
    fn put(&mut self, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = Vec::new();
        write(&mut inner);
        self.out.append(&mut prefixed(|out| put_bytes(out, field, &inner)));
    }

    /// Appends an event as a message of the user's. What does not fit ends the stream.
    fn put_typed(&mut self, topic: &str, data: &str) {
        let Form::Typed(Typed { reply, is_strict, .. }) = &self.form else { return };
        match reply.of_result(data, *is_strict) {
            Ok((message, dropped)) => {
                self.metrics.events_sent.inc();
                self.metrics.grpc_dropped.add(dropped.is_some().into());
                self.out.append(&mut prefixed(|out| out.extend_from_slice(&message)));
            }
            Err(error) => {
                let message = format!("an event of {topic} is no {}: {error}", reply.name());
                self.end = Some(Status::of_code(code::INTERNAL, message));
            }
        }
    }

    fn put_notice(&mut self, notice: &Notice, now: Instant) {
        match notice {
            _ if self.end.is_some() => {}
            Notice::Event { event, .. } if matches!(self.form, Form::Typed(_)) => {
                self.put_typed(&event.topic, event.data());
            }
            Notice::Missed { .. } if matches!(&self.form, Form::Typed(typed) if typed.skips_missed) => {}
            Notice::Missed { topic, count, .. } if matches!(self.form, Form::Typed(_)) => {
                let count = count.map_or("some".to_owned(), |count| count.to_string());
                let message =
                    format!("{count} events of {topic} were dropped, since they were read too slowly");
                self.end = Some(Status::new(Status::DATA_LOSS, message));
            }
            Notice::Event { event, is_kept, .. } => {
                self.metrics.events_sent.inc();
                self.put(2, |out| {
                    put_bytes(out, 1, event.topic.as_bytes());
                    put_integer(out, 2, event.seq);
                    put_bytes(out, 3, event.data().as_bytes());
                    if *is_kept {
                        let age = now.saturating_duration_since(event.published).as_millis();
                        put_integer(out, 4, u64::try_from(age).unwrap_or(u64::MAX));
                    }
                });
            }
            Notice::Missed { topic, count, next } => self.put(3, |out| {
                put_bytes(out, 1, topic.as_bytes());
                if let Some(count) = count {
                    put_integer(out, 2, *count);
                }
                put_integer(out, 3, *next);
            }),
            Notice::Ended { reason, .. } => {
                let code = match &**reason {
                    EXPIRED | WITHDRAWN => code::DENIED,
                    _ if self.is_ending => code::CLOSED,
                    _ => code::BUSY,
                };
                self.end = Some(Status::of_code(code, reason.to_string()));
            }
        }
    }
}

impl Messages for Watch {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, Status>> {
        if !self.is_ending && Pin::new(&mut self.stop).poll(cx).is_ready() {
            self.is_ending = true;
            TopicHub::end(&self.mailbox, "the node is stopping");
        }
        if self.mailbox.poll(cx, &mut VecDeque::new(), &mut self.posts).is_ready() {
            let now = Instant::now();
            while let Some(notice) = self.posts.events.pop_front() {
                self.put_notice(&notice, now);
            }
        }
        match std::mem::take(&mut self.out) {
            out if !out.is_empty() => Poll::Ready(Ok(Some(out))),
            _ => self.end.clone().map_or(Poll::Pending, |status| Poll::Ready(Err(status))),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}
