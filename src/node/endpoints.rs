//! What a node answers over HTTP.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::Method;

use super::{Shared, connection};
use crate::codec::Dialect;
use crate::session::Session;
use crate::transport::http::{Reply, Request, Service};
use crate::transport::{Pipe, Received};
use crate::web;

/// What there is, for who asks for something else.
const USAGE: &str = "GET / for a page; POST a JSON-RPC 2.0 request to / or /rpc; GET /healthz or /metrics\n";

/// The node's paths.
#[derive(Clone)]
pub(super) struct Endpoints {
    node: Arc<Shared>,
    /// Whether this connection has made a request.
    asked: Arc<AtomicBool>,
}

impl Endpoints {
    pub(super) fn new(node: Arc<Shared>) -> Self {
        Self { node, asked: Arc::default() }
    }

    /// Tells whether a request has come. A connection that then waits too long is idle, and no slow head.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Has a session of its own answer one body.
    async fn rpc(&self, body: Vec<u8>) -> Reply {
        let session = self.node.session(Dialect::Frames);
        let mut answer = Vec::new();
        let exchange = Exchange { body: Some(body), answer: &mut answer };
        // What was taken in is answered also while the node stops, so no signal is waited for here.
        match connection::drive(session, Box::new(exchange), None, self.node.stopper.last_call()).await {
            Ok(()) if answer.is_empty() => Reply::accepted(),
            Ok(()) => Reply::json(answer),
            Err(error) => Reply::text(500, error.to_string()),
        }
    }
}

impl Service for Endpoints {
    async fn answer(&self, request: Request) -> Reply {
        self.asked.store(true, Ordering::Relaxed);
        match (&request.method, request.path.as_str()) {
            (&Method::POST, "/" | "/rpc") => self.rpc(request.body).await,
            (&Method::GET | &Method::HEAD, "/healthz") => Reply::text(200, "ok\n"),
            (&Method::GET | &Method::HEAD, "/metrics") => Reply::text(200, self.node.registry.prometheus()),
            (method, path) => match web::file(path) {
                Some(web::File { content_type, text }) if matches!(*method, Method::GET | Method::HEAD) => {
                    Reply::typed(content_type, text).with_headers(&web::HEADERS)
                }
                _ => misdirected(path),
            },
        }
    }

    fn too_large(&self) -> Reply {
        let mut session: Session = self.node.session(Dialect::Frames);
        session.too_long(&[]);
        Reply::json(session.output().to_vec()).with_status(413)
    }
}

/// Says what would be answered: at this path, or where it is none.
fn misdirected(path: &str) -> Reply {
    let allowed: &[(&str, &str)] = match path {
        "/" => &[("allow", "GET, HEAD, POST")],
        "/rpc" => &[("allow", "POST")],
        _ if matches!(path, "/healthz" | "/metrics") || web::file(path).is_some() => {
            &[("allow", "GET, HEAD")]
        }
        _ => return Reply::text(404, USAGE),
    };
    Reply::text(405, USAGE).with_headers(allowed)
}

/// One body in, one answer out.
struct Exchange<'a> {
    body: Option<Vec<u8>>,
    answer: &'a mut Vec<u8>,
}

impl Pipe for Exchange<'_> {
    fn poll_receive(&mut self, _: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<Received>> {
        Poll::Ready(Ok(match self.body.take() {
            Some(body) => {
                *into = body;
                Received::Some
            }
            None => Received::End,
        }))
    }

    fn poll_send(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.len();
        self.answer.extend_from_slice(bytes);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
