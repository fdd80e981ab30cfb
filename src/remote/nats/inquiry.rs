//! A question to all services, and their answers as they arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_channel::{Receiver, Sender};
use smol::Timer;
use smol::future::FutureExt;

use super::{NatsClient, control};
use crate::codec::nats::inquiry;
use crate::message::RawJson;
use crate::route::Peer;

/// Where services are asked for all that they tell.
pub(super) const INFO: &str = "$SRV.INFO";
/// The maximum number of answers that wait to be read.
const MAX_WAITING: usize = 4096;

/// An answer to an inquiry.
pub(super) enum Answer {
    Service(RawJson<'static>),
    /// Nobody has subscribed, as far as the server knows.
    Nobody,
    /// The server does not let this client ask.
    Refused,
}

/// The answers that wait to be read.
pub(super) struct Answers {
    waiting: Sender<Answer>,
    bytes: AtomicUsize,
    max_bytes: usize,
    /// An answer was dropped, since too much waited.
    is_cut: AtomicBool,
}

impl Answers {
    /// Notes an answer.
    pub(super) fn push(&self, params: Option<&RawJson<'_>>) {
        let answer = params.map_or(Answer::Nobody, |params| Answer::Service(params.clone().into_owned()));
        let length = answer.length();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        if before.saturating_add(length) > self.max_bytes || self.waiting.try_send(answer).is_err() {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            self.is_cut.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that the server refuses what is published to a subject.
    pub(super) fn refuse(&self, subject: &str) {
        if subject == INFO {
            let _ = self.waiting.try_send(Answer::Refused);
        }
    }
}

impl Answer {
    fn length(&self) -> usize {
        match self {
            Self::Service(json) => json.get().len(),
            Self::Nobody | Self::Refused => 0,
        }
    }
}

/// A subscription to what services answer, until this is dropped.
pub(super) struct Inquiry<'a> {
    client: &'a NatsClient,
    peer: &'a Peer,
    subject: String,
    answers: Arc<Answers>,
    waiting: Receiver<Answer>,
}

impl<'a> Inquiry<'a> {
    /// Asks all services. At most `max_bytes` of their answers wait to be read.
    pub(super) fn start(client: &'a NatsClient, peer: &'a Peer, max_bytes: usize) -> Self {
        let subject = format!("{}.{:016x}", client.settings.inbox, fastrand::u64(..));
        let (sender, waiting) = async_channel::bounded(MAX_WAITING);
        let (bytes, is_cut) = (AtomicUsize::new(0), AtomicBool::new(false));
        let answers = Arc::new(Answers { waiting: sender, bytes, max_bytes, is_cut });
        client.inquiries().insert(subject.clone(), answers.clone());
        control(peer, &[format!("SUB {subject} i{subject}"), inquiry(INFO, &subject)]);
        Self { client, peer, subject, answers, waiting }
    }

    /// Returns the next answer. `None` if `timeout` is first.
    pub(super) async fn next(&self, timeout: Timer) -> Option<Answer> {
        let timeout = async {
            timeout.await;
            None
        };
        let answer = async { self.waiting.recv().await.ok() }.or(timeout).await?;
        self.answers.bytes.fetch_sub(answer.length(), Ordering::Relaxed);
        Some(answer)
    }

    /// Returns `true` if answers were dropped, since too much waited.
    pub(super) fn is_cut(&self) -> bool {
        self.answers.is_cut.load(Ordering::Relaxed)
    }
}

impl Drop for Inquiry<'_> {
    fn drop(&mut self) {
        let Self { client, peer, subject, .. } = self;
        client.inquiries().remove(&**subject);
        control(peer, &[format!("UNSUB i{subject}")]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(max_bytes: usize) -> (Answers, Receiver<Answer>) {
        let (waiting, received) = async_channel::bounded(MAX_WAITING);
        let (bytes, is_cut) = (AtomicUsize::new(0), AtomicBool::new(false));
        (Answers { waiting, bytes, max_bytes, is_cut }, received)
    }

    #[test]
    fn answers_that_wait_are_bounded_in_bytes_and_number() {
        let json = RawJson::checked("\"12345678\"");
        let (bytes, received) = answers(25);
        for _ in 0..3 {
            bytes.push(Some(&json));
        }
        assert_eq!((received.len(), bytes.is_cut.into_inner()), (2, true));
        let (many, received) = answers(usize::MAX);
        for _ in 0..=MAX_WAITING {
            many.push(None);
        }
        assert_eq!((received.len(), many.is_cut.into_inner()), (MAX_WAITING, true));
    }
}
