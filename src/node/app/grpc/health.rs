//! `grpc.health.v1.Health` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use std::pin::Pin;
use std::task::{Context, Poll};

use super::messages::each_field;
use super::own;
use super::stream::{Messages, streamed};
use super::{App, Head, replied};
use crate::codec::grpc::proto::put_integer;
use crate::codec::grpc::{Status, prefixed};
use crate::message::code;
use crate::route::ShutdownSignal;
use crate::transport::http::HttpResponse;

const SERVING: u64 = 1;
const NOT_SERVING: u64 = 2;
const SERVICE_UNKNOWN: u64 = 3;

impl App<'_> {
    /// Returns whether the node serves: until it stops.
    pub(super) fn health_check(&self, message: &[u8]) -> Result<HttpResponse, Status> {
        let service = service(message)?;
        if !is_known(service) {
            return Err(Status::new(Status::NOT_FOUND, "no such service"));
        }
        let is_stopping = self.node.shutdown.signal().is_given();
        Ok(replied(|out| put_integer(out, 1, if is_stopping { NOT_SERVING } else { SERVING })))
    }

    /// Returns the same as a stream, which ends when the node stops.
    pub(super) fn health_watch(&self, message: &[u8], head: &Head) -> Result<HttpResponse, Status> {
        let state = if is_known(service(message)?) { SERVING } else { SERVICE_UNKNOWN };
        Ok(streamed(Watch { next: Some(state), stop: Some(self.node.shutdown.signal()) }, head))
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

fn is_known(service: &str) -> bool {
    service.is_empty() || own::has_service(service)
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
