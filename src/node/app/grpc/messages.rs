//! The messages of `chanrpc.v1` and of the other services, as far as this node reads them. `own.proto` describes them.

use crate::codec::grpc::Status;
use crate::codec::protobuf::wire::{Fields, Value};

fn invalid() -> Status {
    Status::new(Status::INVALID_ARGUMENT, "the message is not in the wire format of protobuf")
}

/// Visits the fields of a message.
///
/// # Errors
/// If it is not valid, or `visit` returns `None` for a field of a wrong type.
pub(super) fn each_field<'a>(
    message: &'a [u8],
    mut visit: impl FnMut(u32, Value<'a>) -> Option<()>,
) -> Result<(), Status> {
    for field in Fields::of(message) {
        let (number, value) = field.map_err(|_| invalid())?;
        visit(number, value).ok_or_else(invalid)?;
    }
    Ok(())
}

/// `chanrpc.v1.CallRequest`.
#[derive(Debug, Default)]
pub(super) struct CallRequest<'a> {
    pub(super) function: &'a str,
    pub(super) params: &'a str,
}

impl<'a> CallRequest<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, Status> {
        let mut read = Self::default();
        each_field(message, |number, value| {
            match number {
                1 => read.function = value.text()?,
                2 => read.params = value.text()?,
                _ => {}
            }
            Some(())
        })?;
        Ok(read)
    }
}

/// `chanrpc.v1.WatchRequest`.
#[derive(Debug, Default)]
pub(super) struct WatchRequest<'a> {
    pub(super) topic: &'a str,
    pub(super) since: Option<u64>,
    pub(super) epoch: &'a str,
    pub(super) when_full: &'a str,
}

impl<'a> WatchRequest<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, Status> {
        let mut read = Self::default();
        each_field(message, |number, value| {
            match number {
                1 => read.topic = value.text()?,
                2 => read.since = Some(value.integer()?),
                3 => read.epoch = value.text()?,
                4 => read.when_full = value.text()?,
                _ => {}
            }
            Some(())
        })?;
        Ok(read)
    }
}
