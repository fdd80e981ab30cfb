//! tonic: gRPC over HTTP/2. The generated code is written by hand, so that `protoc` is not needed.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::{BoxFuture, FutureExt};
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::{announce, own_client};
use crate::measured::{How, Measured};

const PATH: &str = "/bench.Adder/Add";

#[derive(Clone, PartialEq, prost::Message)]
struct Numbers {
    #[prost(int64, tag = "1")]
    a: i64,
    #[prost(int64, tag = "2")]
    b: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sum {
    #[prost(int64, tag = "1")]
    sum: i64,
}

struct Add;

impl UnaryService<Numbers> for Add {
    type Response = Sum;
    type Future = Ready<Result<Response<Sum>, Status>>;

    fn call(&mut self, request: Request<Numbers>) -> Self::Future {
        let Numbers { a, b } = request.into_inner();
        ready(Ok(Response::new(Sum { sum: a + b })))
    }
}

/// The service with its only function.
#[derive(Clone)]
struct Adder;

impl NamedService for Adder {
    const NAME: &'static str = "bench.Adder";
}

impl Service<http::Request<Body>> for Adder {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        async {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Sum, Numbers>::default());
            Ok(grpc.unary(Add, request).await)
        }
        .boxed()
    }
}

pub(super) fn serve() {
    own_client::runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        announce(listener.local_addr());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Server::builder().add_service(Adder).serve_with_incoming(incoming).await.expect("it serves");
    });
}

pub(super) fn client(address: &str, how: How) -> Measured {
    let connect = async || {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        endpoint.tcp_nodelay(true).connect().await.expect("the server is there")
    };
    own_client::closed_loop(how, connect, async |channel: &mut Channel| {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.expect("the connection lives");
        let (numbers, codec) = (Numbers { a: 12, b: 30 }, ProstCodec::<Numbers, Sum>::default());
        let answer = grpc.unary(Request::new(numbers), PathAndQuery::from_static(PATH), codec).await;
        assert_eq!(answer.expect("an answer").into_inner().sum, 42);
    })
}
