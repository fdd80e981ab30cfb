//! grpc.testing.TestService by tonic's server. Prints what becomes of calls that sleep.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::Done;
use crate::messages::{Empty, SimpleRequest, SimpleResponse, payload};

#[derive(Clone)]
struct TestService;

struct EmptyCall;

impl UnaryService<Empty> for EmptyCall {
    type Response = Empty;
    type Future = std::future::Ready<Result<Response<Empty>, Status>>;

    fn call(&mut self, _: Request<Empty>) -> Self::Future {
        std::future::ready(Ok(Response::new(Empty {})))
    }
}

struct UnaryCall;

impl UnaryService<SimpleRequest> for UnaryCall {
    type Response = SimpleResponse;
    type Future = BoxFuture<'static, Result<Response<SimpleResponse>, Status>>;

    fn call(&mut self, request: Request<SimpleRequest>) -> Self::Future {
        Box::pin(unary_call(request))
    }
}

/// Prints when a call ends before its answer.
struct Cancelled;

impl Drop for Cancelled {
    fn drop(&mut self) {
        println!("cancelled");
    }
}

async fn unary_call(request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
    let metadata =
        |name| request.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let username =
        format!("grpc-timeout: {}, chanrpc-hops: {}", metadata("grpc-timeout"), metadata("chanrpc-hops"));
    let request = request.into_inner();
    if let Some(status) = request.response_status {
        let details = b"details of tonic".to_vec().into();
        return Err(Status::with_details(Code::from(status.code), status.message, details));
    }
    if request.payload.is_some_and(|payload| payload.body == b"sleep") {
        let cancelled = Cancelled;
        println!("sleeping");
        tokio::time::sleep(Duration::from_secs(60)).await;
        std::mem::forget(cancelled);
    }
    let size = usize::try_from(request.response_size).unwrap_or_default();
    let username = if request.fill_username { username } else { String::new() };
    Ok(Response::new(SimpleResponse { payload: payload(vec![0; size]), username }))
}

impl NamedService for TestService {
    const NAME: &'static str = "grpc.testing.TestService";
}

impl Service<http::Request<Body>> for TestService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            Ok(match request.uri().path() {
                "/grpc.testing.TestService/EmptyCall" => {
                    Grpc::new(ProstCodec::default()).unary(EmptyCall, request).await
                }
                "/grpc.testing.TestService/UnaryCall" => {
                    Grpc::new(ProstCodec::default()).unary(UnaryCall, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

pub(crate) async fn run() -> Done {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder().add_service(TestService).serve_with_incoming(incoming).await?;
    Ok(())
}
