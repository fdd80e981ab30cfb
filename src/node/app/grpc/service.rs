//! Methods of the user's services.

use std::sync::atomic::Ordering;

use super::stream::streamed;
use super::watch::{Form, Typed};
use super::{App, Head, replied};
use crate::codec::grpc::Status;
use crate::codec::protobuf::TranscodeError;
use crate::message::{Fault, code};
use crate::node::services::{Mapped, Services, Target, filled_in};
use crate::remote::unblocked;
use crate::transport::http::{HttpRequest, HttpResponse};

impl App<'_> {
    /// Answers a method of the user's services.
    pub(super) async fn grpc_service(
        &self,
        request: &mut HttpRequest,
        head: Head,
        services: &Services,
        mapped: &Mapped,
    ) -> Result<HttpResponse, Status> {
        let max = self.limits.message;
        match &mapped.target {
            Target::Nothing(reason) => {
                Err(Status::new(Status::UNIMPLEMENTED, format!("{}: {reason}", mapped.method.path())))
            }
            Target::Function { name, is_positional } => {
                let message = self.grpc_message(request, &head).await?;
                let is_positional = is_positional.unwrap_or_else(|| self.node.registry.takes_positions(name));
                let depth = self.limits.depth;
                let from = mapped.method.request();
                let params =
                    unblocked(message.len(), move || from.to_params(&message, is_positional, max, depth));
                let params = params.await.map_err(|error| invalid(&error, max))?;
                let result = self.grpc_run(request, &head, name, params).await?;
                let (to, is_strict) = (mapped.method.reply(), services.is_strict);
                let made = unblocked(result.len(), move || to.of_result(&result, is_strict)).await;
                let reply = self.fitting(mapped, name, made)?;
                Ok(replied(|out| out.extend_from_slice(&reply)))
            }
            Target::Topic { name, skips_missed } => {
                let message = self.grpc_message(request, &head).await?;
                let json =
                    mapped.method.request().to_json(&message, max).map_err(|error| invalid(&error, max))?;
                let topic =
                    filled_in(name, &json).map_err(|error| Status::new(Status::INVALID_ARGUMENT, error))?;
                let typed = Typed {
                    reply: mapped.method.reply(),
                    is_strict: services.is_strict,
                    skips_missed: *skips_missed,
                };
                let watch = self.watch_topic(&topic, Form::Typed(typed), &head)?;
                Ok(streamed(watch, &head))
            }
        }
    }

    /// Returns the message of a result.
    fn fitting(
        &self,
        mapped: &Mapped,
        function: &str,
        made: Result<(Vec<u8>, Option<String>), String>,
    ) -> Result<Vec<u8>, Status> {
        let reply = mapped.method.reply();
        let (message, dropped) = made.map_err(|error| {
            let message = format!("the result of {function} is no {}: {error}", reply.name());
            Status::of(&Fault::new(code::INTERNAL, message))
        })?;
        if let Some(dropped) = dropped {
            self.node.metrics().grpc_dropped.inc();
            if !mapped.is_logged.swap(true, Ordering::Relaxed) {
                log::warn!("a part of the result of {function} is not in {}: {dropped}", reply.name());
            }
        }
        let max = self.limits.message;
        if message.len() > max {
            self.node.metrics().replies_too_large.inc();
            let text = format!("a reply of {} bytes; at most {max} are sent (limits.message)", message.len());
            return Err(Status::of_code(code::REPLY_TOO_LARGE, text));
        }
        Ok(message)
    }
}

/// Returns the status of a request that cannot be converted.
fn invalid(error: &TranscodeError, max: usize) -> Status {
    match error {
        TranscodeError::TooLong => {
            let message = format!("as JSON, the message has more than {max} bytes (limits.message)");
            Status::of_code(code::REQUEST_TOO_LARGE, message)
        }
        TranscodeError::Wrong(error) => Status::of_code(code::INVALID_PARAMS, error.clone()),
    }
}
