//! Calls to a gRPC server: JSON ↔ its messages, by descriptors that are given or that it tells.

mod calls;
mod exchange;
mod reflection;

use std::fmt;
use std::io;
use std::sync::Arc;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request};

use super::protocol::{Link, Protocol, Server};
use crate::address::NodeAddress;
use crate::chan::BoxFuture;
use crate::codec::grpc::PREFIX;
use crate::codec::protobuf::Schema;
use crate::session::SessionError;
use crate::transport::http2::{Client, ClientLimits};
use crate::transport::{Stream, is_keepalive_timeout};
use calls::Calls;
pub(crate) use exchange::unblocked;

/// gRPC as a client.
pub(super) struct Grpc {
    /// The server's services; `None` if it is asked for them on each connection.
    schema: Option<Arc<Schema>>,
}

/// What all requests to a server have in common.
#[derive(Clone)]
struct Head {
    authority: String,
    is_encrypted: bool,
    token: Option<HeaderValue>,
}

impl Grpc {
    pub(super) fn new(schema: Option<Arc<Schema>>) -> Arc<Self> {
        Arc::new(Self { schema })
    }
}

impl Protocol for Grpc {
    fn serve<'a>(&'a self, stream: Box<dyn Stream>, link: &'a dyn Link) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let server = link.server();
            let limits = server.limits;
            let limits = ClientLimits {
                handshake: limits.connect_timeout,
                response: limits.message + PREFIX,
                in_flight: limits.in_flight,
                stall_timeout: limits.stall_timeout,
                silence: limits.forward_silence,
            };
            let head = Head::of(&server)?;
            let mut client = Client::connect(stream, limits).await?;
            let schema = match &self.schema {
                Some(schema) => schema.clone(),
                None => Arc::new(reflection::ask(&mut client, &head, server.limits.message).await?),
            };
            link.connected();
            let ended = Calls::new(link, client, schema, head).await;
            // Called again only when it has answered.
            ended.map_err(|error| match is_keepalive_timeout(&error) {
                true => io::Error::other(SessionError::Vanished),
                false => error,
            })
        })
    }
}

impl Head {
    fn of(server: &Server<'_>) -> io::Result<Self> {
        let address: NodeAddress = server.address.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        let token = server.token.map(|token| {
            HeaderValue::from_str(&format!("Bearer {token}")).map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        let token = token.transpose().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "the token has characters that no header may have")
        })?;
        Ok(Self { authority: address.address.to_string(), is_encrypted: server.is_encrypted, token })
    }

    /// Returns the head of a call to `package.Service/Method`.
    fn request(&self, path: &str, extra: &[(&'static str, String)]) -> Request<()> {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{scheme}://{}/{path}", self.authority))
            .header(header::TE, "trailers")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::USER_AGENT, concat!("chanrpc/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token);
        }
        for (name, value) in extra {
            request = request.header(HeaderName::from_static(name), value);
        }
        // The names of services and methods are identifiers, and an address has no other characters than a URI.
        request.body(()).unwrap_or_default()
    }
}

impl fmt::Debug for Grpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grpc")
    }
}

/// Runs the examples of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/grpc.md")]
struct Examples;
