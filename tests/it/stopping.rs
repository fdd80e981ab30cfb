//! What a peer receives when the node stops.

use async_tungstenite::tungstenite::protocol::Message;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use chanrpc::config::Limits;
use futures_lite::StreamExt;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream as Socket;

use crate::spec;
use crate::support::{post, request};

#[test]
fn waiting_peer_of_a_stopping_node_gets_reply_and_reason() {
    let hold = request(1, "hold", &serde_json::json!([7]));
    spec::run(async |executor| {
        let fixture = spec::Fixture::start(&executor, Limits::default()).await;
        let connect = async || {
            let stream = Socket::connect(fixture.address).await.unwrap();
            async_tungstenite::client_async(format!("ws://{}/", fixture.address), stream).await.unwrap().0
        };
        let (mut idle, mut busy) = (connect().await, connect().await);
        busy.send(Message::text(hold.clone())).await.unwrap();
        let (mut http, mut lines) = (
            Socket::connect(fixture.address).await.unwrap(),
            Socket::connect(fixture.address).await.unwrap(),
        );
        http.write_all(post(&hold).as_bytes()).await.unwrap();
        lines.write_all(format!("{hold}\n").as_bytes()).await.unwrap();
        while fixture.metric("in_flight") < 3 {
            smol::future::yield_now().await;
        }
        fixture.stop();
        let close = |message: Message| match message {
            Message::Close(Some(frame)) => (frame.code, frame.reason.to_string()),
            other => panic!("no close frame: {other:?}"),
        };
        let away = (CloseCode::Away, "the node is stopping".to_owned());
        assert_eq!(close(idle.next().await.unwrap().unwrap()), away);
        // So that it stays unread, and would cause a reset.
        lines.write_all(&[b' '; 5000]).await.unwrap();
        // The held replies are dropped.
        let serving = fixture.end_server().await;
        let answer = busy.next().await.unwrap().unwrap();
        assert!(answer.to_text().unwrap().contains("\"id\":1"), "{answer:?}");
        assert_eq!(close(busy.next().await.unwrap().unwrap()), away);
        let mut answer = String::new();
        http.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nconnection: close"), "{head}");
        assert!(body.contains("\"id\":1"), "{body}");
        let mut answer = String::new();
        lines.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("\"id\":1"), "{answer}");
        drop((idle, busy, http, lines));
        serving.await;
    });
}
