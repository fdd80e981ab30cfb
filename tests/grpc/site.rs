//! What a node answers over HTTP, over HTTP/2.

use crate::peer::{Peer, body_of};
use crate::{address, node};

#[test]
fn the_whole_site_is_served() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let (status, headers, body) = peer.request("GET", "/healthz", "").await;
        assert_eq!((status, &*body, headers["content-length"].to_str().unwrap()), (200, "ok\n", "3"));
        let (status, headers, body) = peer.request("HEAD", "/healthz", "").await;
        assert_eq!((status, &*body, headers["content-length"].to_str().unwrap()), (200, "", "3"));
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":["x"]}"#;
        for path in ["/", "/rpc"] {
            let (status, _, body) = peer.request("POST", path, call).await;
            assert_eq!((status, &*body), (200, r#"{"jsonrpc":"2.0","id":1,"result":"x"}"#));
        }
        let notification = r#"{"jsonrpc":"2.0","method":"echo","params":["x"]}"#;
        assert_eq!(peer.request("POST", "/rpc", notification).await.0, 202);
        assert!(peer.request("GET", "/", "").await.2.contains("<html"));
        assert!(peer.request("GET", "/metrics", "").await.2.contains("chanrpc_connections "));
        assert_eq!(peer.request("GET", "/absent", "").await.0, 404);
        assert_eq!(peer.request("PUT", "/rpc", "x").await.0, 405);
        let (status, ..) = peer.request("POST", "/rpc", &"x".repeat(2_000_000)).await;
        assert_eq!(status, 413);
        // Of gRPC, only calls are: a page cannot make one without a check of its origin.
        let (response, _) =
            peer.begin("GET", "/chanrpc.v1.Node/Call", &[("content-type", "application/grpc")], true).await;
        assert_eq!(response.await.unwrap().status(), 404);
        for headers in [[("origin", "http://evil.example")], [("content-type", "application/grpc-web")]] {
            let (response, mut stream) = peer.begin("POST", "/chanrpc.v1.Node/Call", &headers, false).await;
            let _ = stream.send_data((&b"\0\0\0\0\0"[..]).into(), true);
            assert!(matches!(response.await.unwrap().status().as_u16(), 403 | 404));
        }
    });
}

#[test]
fn clients_that_wait_for_it_are_told_to_go_on() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let (mut response, mut stream) =
            peer.begin("POST", "/rpc", &[("expect", "100-continue")], false).await;
        let proceed = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(proceed.status(), 100);
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":["x"]}"#;
        stream.send_data(call.into(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(body_of(response.into_body()).await.0.ends_with(b"\"x\"}"));
    });
}

#[test]
fn events_are_a_stream_among_other_requests() {
    let node = node("");
    smol::block_on(async {
        let mut peer = Peer::connect(address(&node)).await;
        let (response, _) = peer.begin("GET", "/events?topic=news", &[], true).await;
        let mut body = response.await.unwrap().into_body();
        assert!(body.data().await.unwrap().unwrap().starts_with(b"id: "));
        assert_eq!(peer.function("rpc.publish", r#"["news","hello"]"#).await.result(), "1");
        let event = body.data().await.unwrap().unwrap();
        assert!(event.ends_with(b"\"data\":\"hello\"}\n\n"), "{event:?}");
        assert_eq!(peer.request("GET", "/healthz", "").await.0, 200);
        let ((), rest) = smol::future::zip(node.stop(), body_of(body)).await;
        assert!(String::from_utf8(rest.0).unwrap().contains("event: ended"));
        peer.end().await;
    });
}
