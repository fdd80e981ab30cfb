//! `chanrpc.v1.Node/Call`: any function, with parameters and result as JSON texts.

use std::time::Instant;

use super::messages::CallRequest;
use super::{App, Head, replied};
use crate::codec::grpc::{self, Status};
use crate::codec::jsonrpc::DecodeLimits;
use crate::codec::protobuf::wire::put_bytes;
use crate::message::{Id, Meta, RawJson, Request};
use crate::node::app::rpc;
use crate::session::Session;
use crate::transport::http::{HttpRequest, HttpResponse};

impl App<'_> {
    pub(super) async fn grpc_call(
        &self,
        request: &mut HttpRequest,
        head: Head,
    ) -> Result<HttpResponse, Status> {
        let message = self.grpc_message(request, &head).await?;
        let CallRequest { function, params } = CallRequest::read(&message)?;
        if function.is_empty() {
            let message = "function is empty: name one, such as rpc.list";
            return Err(Status::new(Status::INVALID_ARGUMENT, message));
        }
        let params = grpc::params(params, self.limits.depth)
            .map_err(|fault| self.grpc_status(&fault, &head.grants))?;
        let result = self.grpc_run(request, &head, function, params.map(RawJson::into_owned)).await?;
        Ok(replied(|out| put_bytes(out, 1, result.as_bytes())))
    }

    /// Calls a function, and returns its result as JSON.
    pub(super) async fn grpc_run(
        &self,
        request: &mut HttpRequest,
        head: &Head,
        function: &str,
        params: Option<RawJson<'static>>,
    ) -> Result<String, Status> {
        let (limits, now) = (self.limits, Instant::now());
        let mut grants = head.grants.clone().for_single_request();
        grants.set_dialect("grpc");
        let codec = grpc::codec(limits.message, DecodeLimits { depth: limits.depth, batch: limits.batch });
        let mut session =
            Session::with_codec(self.node.registry.clone(), limits.clone(), codec, grants.clone(), now);
        let deadline = head.deadline.map(|(at, _)| at.saturating_duration_since(now));
        let meta = Meta { deadline, hops: head.hops };
        session.request(Request { id: Some(Id::null()), method: function.into(), params, meta }, now);
        let output = if session.has_replied() {
            session.take_output()
        } else {
            rpc::note_running(&session, request);
            let finished = rpc::finish(session, self.node.shutdown.force_signal());
            Box::pin(finished).await.map_err(|error| Status::new(Status::INTERNAL, error.to_string()))?
        };
        grpc::outcome(output).map_err(|fault| self.grpc_status(&fault, &grants))
    }
}
