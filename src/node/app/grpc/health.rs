//! `grpc.health.v1.Health` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use std::pin::Pin;
use std::task::{Context, Poll};

use super::messages::each_field;
use super::own;
use super::stream::{Messages, streamed};
use super::{App, Head, replied};
use crate::codec::grpc::{Status, prefixed};
use crate::codec::protobuf::wire::put_integer;
use crate::message::code;
use crate::route::ShutdownSignal;
use crate::transport::http::HttpResponse;

const SERVING: u64 = 1;
const NOT_SERVING: u64 = 2;
const SERVICE_UNKNOWN: u64 = 3;

impl App<'_> {
    /// Returns whether the node serves: until it stops.
    pub(super) fn health_check(&self, message: &[u8], head: &Head) -> Result<HttpResponse, Status> {
        if !self.has_service(service(message)?, head) {
            return Err(Status::new(Status::NOT_FOUND, "no such service"));
        }
        let is_stopping = self.node.shutdown.signal().is_given();
        Ok(replied(|out| put_integer(out, 1, if is_stopping { NOT_SERVING } else { SERVING })))
    }

    /// Returns the same as a stream, which ends when the node stops.
    pub(super) fn health_watch(&self, message: &[u8], head: &Head) -> Result<HttpResponse, Status> {
        let state = if self.has_service(service(message)?, head) { SERVING } else { SERVICE_UNKNOWN };
        Ok(streamed(Watch { next: Some(state), stop: Some(self.node.shutdown.signal()) }, head))
    }

    /// Returns `true` if the caller sees a service of this name.
    fn has_service(&self, name: &str, head: &Head) -> bool {
        name.is_empty()
            || own::has_service(name)
            || self.node.services().visible(&head.grants).contains(&name)
    }
}

fn service(message: &[u8]) -> Result<&str, Status> {
    let mut service = "";
    each_field(message, |number, value| {
        if number == 1 {
            service = value.text()?;
        }
        Some(())
    })?;
    Ok(service)
}

struct Watch {
    next: Option<u64>,
    /// `None` if the node stops.
    stop: Option<ShutdownSignal>,
}

impl Messages for Watch {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Vec<u8>>, Status>> {
        if let Some(stop) = &mut self.stop
            && Pin::new(stop).poll(cx).is_ready()
        {
            self.stop = None;
            self.next = Some(NOT_SERVING);
        }
        match self.next.take() {
            Some(state) => Poll::Ready(Ok(Some(prefixed(|out| put_integer(out, 1, state))))),
            None if self.stop.is_none() => {
                Poll::Ready(Err(Status::of_code(code::CLOSED, "the node is stopping")))
            }
            None => Poll::Pending,
        }
    }
}
