//! Peers over HTTP/2: a client by h2, and one that sends whatever frames it likes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::io::{AsyncRead, AsyncWrite};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use socket2::{Domain, Socket, Type};
use tokio::io::ReadBuf;

use crate::support::LIMIT;

pub(crate) struct Io(pub(crate) smol::net::TcpStream);

impl tokio::io::AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = ready!(Pin::new(&mut self.0).poll_read(cx, into.initialize_unfilled()))?;
        into.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

/// A connection by h2.
pub(crate) struct Peer {
    pub(crate) sender: SendRequest<Bytes>,
    pub(crate) pings: h2::PingPong,
    /// Ends with the connection.
    pub(crate) driver: smol::Task<Result<(), h2::Error>>,
}

/// The end of a call: its messages, and its status with the message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) status: u32,
    pub(crate) text: String,
    pub(crate) details: Vec<u8>,
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &mut h2::client::Builder::new()).await
    }

    pub(crate) async fn with(address: SocketAddr, builder: &mut h2::client::Builder) -> Self {
        let stream = smol::net::TcpStream::connect(address).await.unwrap();
        let (sender, mut connection) = builder.handshake(Io(stream)).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        Self { sender, pings, driver: smol::spawn(connection) }
    }

    /// Waits until the node has received everything that was sent.
    pub(crate) async fn await_received(&mut self) {
        self.pings.ping(h2::Ping::opaque()).await.unwrap();
    }

    /// Waits for the end of the connection, which has no error. The node may close the socket first.
    pub(crate) async fn end(self) {
        let ended = self.driver.await;
        assert!(ended.as_ref().is_err_and(h2::Error::is_io) || ended.is_ok(), "{ended:?}");
    }

    /// Begins a request.
    pub(crate) async fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        is_end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let sender = self.sender.clone().ready().await.unwrap();
        let mut request = Request::builder().method(method).uri(format!("http://localhost{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender = sender.clone();
        self.sender.send_request(request.body(()).unwrap(), is_end).unwrap()
    }

    /// Sends a request and returns its status and its body.
    pub(crate) async fn request(&mut self, method: &str, path: &str, body: &str) -> (u16, HeaderMap, String) {
        let (response, mut stream) = self.begin(method, path, &[], body.is_empty()).await;
        if !body.is_empty() {
            let _ = stream.send_data(body.to_owned().into(), true);
        }
        let (head, body) = response.await.unwrap().into_parts();
        let (bytes, _) = body_of(body).await;
        (head.status.as_u16(), head.headers, String::from_utf8(bytes).unwrap())
    }

    /// Begins a call with one message.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        message: &[u8],
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let headers = [&[("content-type", "application/grpc"), ("te", "trailers")], headers].concat();
        let (response, mut stream) = self.begin("POST", path, &headers, false).await;
        // Fails if the node has answered already.
        let _ = stream.send_data(prefixed(message).into(), true);
        (response, stream)
    }

    /// Calls a method and returns its end.
    pub(crate) async fn reply(&mut self, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Reply {
        let (response, _stream) = self.call(path, headers, message).await;
        reply(response.await.unwrap()).await
    }

    /// Calls a function by `chanrpc.v1.Node/Call`.
    pub(crate) async fn function(&mut self, name: &str, params: &str) -> Reply {
        self.reply(CALL, &[], &call_request(name, params)).await
    }
}

pub(crate) const CALL: &str = "/chanrpc.v1.Node/Call";

impl Reply {
    /// Returns the result of a function.
    #[track_caller]
    pub(crate) fn result(&self) -> &str {
        assert_eq!((self.status, self.messages.len()), (0, 1), "{self:?}");
        let message = &self.messages[0];
        // A field of text, whose length may take several bytes.
        let start = 1 + message[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        std::str::from_utf8(&message[start..]).unwrap()
    }
}

/// Returns a message with its prefix.
pub(crate) fn prefixed(message: &[u8]) -> Vec<u8> {
    [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// Returns fields of text.
pub(crate) fn texts(fields: &[(u8, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, text) in fields {
        out.push(number << 3 | 2);
        let mut length = text.len();
        while length >= 0x80 {
            out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap());
        out.extend(text.as_bytes());
    }
    out
}

pub(crate) fn call_request(function: &str, params: &str) -> Vec<u8> {
    texts(&[(1, function), (2, params)])
}

/// Reads the end of a call.
pub(crate) async fn reply(response: Response<RecvStream>) -> Reply {
    let (head, body) = response.into_parts();
    assert_eq!(
        (head.status.as_u16(), head.headers["content-type"].as_bytes()),
        (200, &b"application/grpc"[..])
    );
    let (bytes, trailers) = body_of(body).await;
    let (mut messages, mut rest) = (Vec::new(), &bytes[..]);
    while let [0, a, b, c, d, after @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        messages.push(after[..length].to_vec());
        rest = &after[length..];
    }
    assert!(rest.is_empty());
    let trailers = trailers.unwrap_or(head.headers);
    let text = |name| trailers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let details = data_encoding::BASE64_NOPAD.decode(text("grpc-status-details-bin").as_bytes()).unwrap();
    Reply { messages, status: text("grpc-status").parse().unwrap(), text: text("grpc-message"), details }
}

/// Reads a body and its trailers.
pub(crate) async fn body_of(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    (bytes, body.trailers().await.unwrap())
}

/// A connection whose frames the test makes.
pub(crate) struct Raw(pub(crate) TcpStream);

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const UNKNOWN: u8 = 200;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame as received: its kind, flags, stream and payload.
pub(crate) type Frame = (u8, u8, u32, Vec<u8>);

impl Raw {
    /// Connects, and sends the preface with empty SETTINGS.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::with_settings(address, &[])
    }

    pub(crate) fn with_settings(address: SocketAddr, settings: &[u8]) -> Self {
        Self::over(TcpStream::connect(address).unwrap(), settings)
    }

    /// Connects with a socket that takes little which is not read.
    pub(crate) fn with_little_buffer(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(8192).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into(), &[])
    }

    fn over(stream: TcpStream, settings: &[u8]) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Self(stream);
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        raw.send(&frame(SETTINGS, 0, 0, settings)).unwrap();
        raw
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Reads a frame; `None` at the end of the connection.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((kind, flags, u32::from_be_bytes(id), payload))
    }

    /// Reads frames until one of this kind.
    pub(crate) fn await_frame(&mut self, kind: u8) -> Option<Frame> {
        std::iter::from_fn(|| self.frame()).find(|frame| frame.0 == kind)
    }

    /// Reads to the end of the connection. Returns the reason in the last GOAWAY, if there was one.
    pub(crate) fn end(&mut self) -> Option<u32> {
        let frames = std::iter::from_fn(|| self.frame());
        let reasons = frames.filter(|frame| frame.0 == GOAWAY);
        let last = reasons.last()?;
        Some(u32::from_be_bytes(last.3[4..8].try_into().unwrap()))
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns a header block of literals that are not indexed.
pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).unwrap());
            out.extend(text.as_bytes());
        }
    }
    out
}

/// Returns the header block of a call.
pub(crate) fn call_block() -> Vec<u8> {
    block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", CALL),
        ("content-type", "application/grpc"),
    ])
}
