//! The cases, by tonic's client.

use std::time::Duration;

use futures_util::future::join_all;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::Done;
use crate::messages::{
    EchoStatus, Empty, SimpleRequest, SimpleResponse, StreamingOutputCallResponse, payload,
};

const SPECIAL: &str = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";

/// The stubs of the services.
#[derive(Clone)]
struct Test(Channel);

impl Test {
    async fn unary<Q, R>(&self, path: &'static str, request: Request<Q>) -> Result<Response<R>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::default()).await
    }

    async fn empty(&self, path: &'static str) -> Result<Response<Empty>, Status> {
        self.unary(path, Request::new(Empty {})).await
    }

    async fn call(&self, request: SimpleRequest) -> Result<SimpleResponse, Status> {
        self.with(Request::new(request)).await
    }

    async fn with(&self, request: Request<SimpleRequest>) -> Result<SimpleResponse, Status> {
        self.unary("/grpc.testing.TestService/UnaryCall", request).await.map(Response::into_inner)
    }

    async fn stream(&self) -> Result<Streaming<StreamingOutputCallResponse>, Status> {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/grpc.testing.TestService/StreamingOutputCall");
        let mut request = Request::new(Empty {});
        request.set_timeout(Duration::from_secs(20));
        grpc.server_streaming(request, path, ProstCodec::default()).await.map(Response::into_inner)
    }
}

pub(crate) async fn run(address: &str) -> Done {
    let test = Test(Endpoint::from_shared(format!("http://{address}"))?.connect().await?);
    test.empty("/grpc.testing.TestService/EmptyCall").await?;
    let large =
        SimpleRequest { response_size: 314_159, payload: payload(vec![0; 271_828]), ..Default::default() };
    for answer in join_all((0..5).map(|_| test.call(large.clone()))).await {
        assert_eq!(answer?.payload, payload(vec![0; 314_159]));
    }
    for message in ["test status message", SPECIAL] {
        let status = EchoStatus { code: 2, message: message.to_owned() };
        let status = test.call(SimpleRequest { response_status: Some(status), ..Default::default() }).await;
        let status = status.expect_err("the function fails");
        assert_eq!((status.code(), status.message()), (Code::Unknown, message));
        assert!(status.details().windows(9).any(|part| part == b"ErrorInfo"), "{status:?}");
    }
    for path in [
        "/grpc.testing.TestService/UnimplementedCall",
        "/grpc.testing.UnimplementedService/UnimplementedCall",
    ] {
        assert_eq!(test.empty(path).await.expect_err(path).code(), Code::Unimplemented);
    }
    let mut request = Request::new(SimpleRequest { response_size: 1, ..Default::default() });
    request.metadata_mut().insert("x-grpc-test-echo-initial", "initial".parse()?);
    let bytes = tonic::metadata::MetadataValue::from_bytes(&[0xab, 0xab, 0xab]);
    request.metadata_mut().insert_bin("x-grpc-test-echo-trailing-bin", bytes);
    assert_eq!(test.with(request).await?.payload, payload(vec![0]));

    let sleep = SimpleRequest { payload: payload(b"sleep".to_vec()), ..Default::default() };
    let mut request = Request::new(sleep.clone());
    request.set_timeout(Duration::from_millis(200));
    // tonic's own timer says CANCELLED.
    let late = test.with(request).await.expect_err("it sleeps").code();
    assert!(matches!(late, Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
    // A dropped call is cancelled, and others of the connection go on.
    let dropped = tokio::time::timeout(Duration::from_millis(100), test.call(sleep)).await;
    assert!(dropped.is_err());

    let mut stream = test.stream().await?;
    for size in [31_415, 9, 2_653, 58_979] {
        let reply = stream.message().await?.expect("a message");
        assert_eq!(reply.payload.unwrap_or_default().body.len(), size);
    }
    drop(stream);
    test.empty("/grpc.testing.TestService/EmptyCall").await?;
    println!("ok      the same cases by tonic");
    Ok(())
}
