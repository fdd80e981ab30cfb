//! Events of topics, for the peer.

use std::time::Instant;

use super::Session;
use crate::codec::{Codec, Outgoing};
use crate::message::{Meta, RawJson, Request};
use crate::route::{Notice, TopicHub};

impl Session {
    /// Returns the size of the events that may be written now, in bytes. None are written during a batch: they must not
    /// precede the reply to a subscription in it.
    pub(super) fn room_for_events(&self) -> usize {
        if self.batches.is_empty() { self.limits.output.saturating_sub(self.output.len()) } else { 0 }
    }

    /// Writes the events that were taken from the mailbox.
    pub(super) fn send_events(&mut self) {
        while let Some(notice) = self.posts.events.pop_front() {
            let (codec, now, metrics) = (&self.codec, self.clock, self.registry.metrics());
            let is_sent = self.output.message(|out| {
                let start = out.len();
                encode(codec, out, &notice, now) && codec.finish(out, start)
            });
            match &notice {
                Notice::Event { .. } if is_sent => metrics.events_sent.inc(),
                Notice::Event { event, .. } => {
                    metrics.events_dropped.inc();
                    let (topic, next) = (event.topic.clone(), event.seq + 1);
                    self.posts.events.push_front(Notice::Missed { topic, count: Some(1), next });
                }
                _ => {}
            }
        }
    }

    /// Ends the peer's subscriptions for a reason, which it is told.
    pub fn end_subscriptions(&self, reason: &'static str) {
        if let Some(mailbox) = self.calls.existing_mailbox() {
            TopicHub::end(mailbox, reason);
        }
    }
}

/// Appends what a subscriber is told, without framing. Returns `false`, and appends nothing, if the dialect cannot express
/// it.
fn encode(codec: &Codec, out: &mut Vec<u8>, notice: &Notice, now: Instant) -> bool {
    let notify = |out: &mut Vec<u8>, method: &'static str, params| {
        let request =
            Request { id: None, method: method.into(), params: Some(params), meta: Meta::default() };
        codec.encode(out, &Outgoing::Request(&request))
    };
    match notice {
        // The name of the message is all that a Leaf client knows of its kind.
        Notice::Event { event, .. } if codec.sends_results_only() => {
            let (method, params) = (event.leaf_name().into(), Some(RawJson::checked(event.data())));
            let request = Request { id: None, method, params, meta: Meta::default() };
            codec.encode(out, &Outgoing::Request(&request))
        }
        _ if codec.sends_results_only() => false,
        Notice::Event { event, is_kept: false, .. } if !codec.sends_json() => {
            codec.encode_shared(out, event.encoded(), |out| {
                notify(out, notice.method(), as_array(notice, now))
            })
        }
        _ if !codec.sends_json() => notify(out, notice.method(), as_array(notice, now)),
        _ => notify(out, notice.method(), notice.params(now)),
    }
}

/// Returns the parameters of a notification as an array, which other dialects than JSON-RPC require.
fn as_array(notice: &Notice, now: Instant) -> RawJson<'static> {
    RawJson::checked(format!("[{}]", notice.params(now)))
}
