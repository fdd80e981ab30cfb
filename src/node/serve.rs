//! One connection from its first byte to its end: TLS, dialect detection, refusal, and the session.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use smol::Timer;
use smol::future::{Boxed, FutureExt};

use super::app::App;
use super::listener::ListenerContext;
use super::sessions;
use super::shared::Shared;
use crate::codec::{Decoded, Detected, Dialect, detect, jsonrpc};
use crate::config::Limits;
use crate::driver;
use crate::message::{Fault, Id, code};
use crate::route::{Grants, PEER, PeerName};
use crate::session::Session;
#[cfg(feature = "grpc")]
use crate::transport::http2::{self, Http2Error};
use crate::transport::tls::Acceptor;
use crate::transport::{self, Pipe, Rewind, StallTimeout, Stream, StreamPipe, WebSocket, http};

/// The error for a peer that sends plain text to a TLS listener.
const TLS_REQUIRED: &str = "this port speaks TLS: a client needs the CA certificate (--ca FILE, or tls under \
                            [[function]] of a node)";

/// The stream of a connection. Boxed, since futures hold their arguments more than once, and type-erased, since the
/// code that serves it would otherwise exist once for each type.
pub(super) type PeerStream = Rewind<Box<dyn Stream>>;

/// Closes a stream whose peer does not read within the stall timeout.
pub(super) fn with_stall_timeout(limits: &Limits, stream: impl Stream) -> PeerStream {
    Rewind::new(Box::new(StallTimeout::new(stream, limits.stall_timeout)))
}

/// Serves a connection until it ends.
///
/// Each state of the connection is boxed: in one future, each would take as much memory as the largest, and those of
/// HTTP are large.
///
/// `silent` is dropped when the first bytes have arrived.
pub(super) async fn serve(
    node: &Shared,
    limits: &Arc<Limits>,
    context: &ListenerContext,
    peer: Option<SocketAddr>,
    mut stream: PeerStream,
    silent: Arc<()>,
) {
    if let Some(tls) = &context.tls {
        match Box::pin(accept_tls(node, limits, tls, peer, stream)).await {
            Some(secured) => stream = secured,
            None => return,
        }
    }
    let detected = match context.leaf {
        Some(leaf) if leaf.length_prefixed => Ok(Some((Detected::Dialect(Dialect::Leaf(leaf)), stream))),
        _ => Box::pin(detect_dialect(node, limits, stream)).await,
    };
    drop(silent);
    let result = match detected {
        Ok(Some((Detected::Dialect(dialect), _))) if context.is_websocket_only() => {
            node.metrics().foreign.inc();
            Err(format!("the peer speaks {dialect:?} to a listener for WebSocket only").into())
        }
        Ok(Some((Detected::Dialect(dialect), stream))) => {
            serve_stream(node, limits, context.grants_for(peer), stream, dialect).await.map_err(Into::into)
        }
        Ok(Some((Detected::Http, stream))) => Box::pin(serve_http(node, limits, context, peer, stream)).await,
        #[cfg(feature = "grpc")]
        Ok(Some((Detected::Http2, stream))) => {
            Box::pin(serve_http2(node, limits, context, peer, stream)).await
        }
        Ok(Some((foreign, stream))) => {
            node.metrics().foreign.inc();
            Box::pin(refuse(limits, stream, foreign, context)).await;
            Err(format!("the peer speaks {}", foreign_name(foreign)).into())
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = result {
        if transport::is_stall_timeout(&*error) {
            node.metrics().slow_readers.inc();
        } else if is_slow_head(&*error) {
            node.metrics().slow_heads.inc();
        } else if transport::is_keepalive_timeout(&*error) {
            node.metrics().vanished.inc();
        } else if transport::is_message_timeout(&*error) {
            node.metrics().slow_messages.inc();
        }
        let is_eof = transport::is_unexpected_eof(&*error);
        let level = if is_eof { log::Level::Debug } else { log::Level::Info };
        log::log!(target: PEER, level, "connection from {} ended: {error}", PeerName(peer));
    }
}

/// Performs the TLS handshake, with which the peer must begin. Counts and logs a failure, and returns `None`.
async fn accept_tls(
    node: &Shared,
    limits: &Limits,
    tls: &Acceptor,
    peer: Option<SocketAddr>,
    stream: PeerStream,
) -> Option<PeerStream> {
    let error = match detect_dialect(node, limits, stream).await {
        Ok(None) => return None,
        Ok(Some((Detected::Tls, stream))) => {
            let handshake = async { Some(tls.accept(stream).await) };
            match within_head_timeout(node, limits, handshake).await {
                None => return None,
                Some(Ok(stream)) => return Some(Rewind::new(stream)),
                Some(Err(error)) => error.to_string(),
            }
        }
        Ok(Some((plain, mut stream))) => {
            match plain {
                Detected::Http | Detected::Http2 => {
                    http::send_bad_request(&mut stream, "this port speaks TLS: use https:// or wss://\n")
                        .await;
                }
                // A client of another dialect could not read it.
                Detected::Dialect(Dialect::JsonLines) | Detected::Foreign(_) => {
                    write_error(&mut stream, &Fault::not_sent(TLS_REQUIRED)).await;
                }
                _ => {}
            }
            "the peer does not speak TLS, which this port requires".to_owned()
        }
        Err(error) => error.to_string(),
    };
    node.metrics().tls_failed.inc();
    log::info!(target: PEER, "TLS handshake with {} failed: {error}", PeerName(peer));
    None
}

/// Sends an error in the form that the peer most likely understands, and closes the stream.
async fn refuse(limits: &Limits, stream: PeerStream, foreign: Detected, context: &ListenerContext) {
    let (first, mut stream) = stream.into_parts();
    match foreign {
        Detected::Tls => {
            http::send_bad_request(&mut stream, "this port does not speak TLS: use http:// or ws://\n").await;
        }
        Detected::Http2 => {
            http::send_bad_request(&mut stream, "HTTP/2 is not supported: use HTTP/1.1\n").await;
        }
        _ if context.is_websocket_only() => {}
        _ => {
            let name = foreign_name(foreign);
            let message = format!("this is {name}: send HTTP/1.1 requests, or lines that start with {{ or [");
            write_error(&mut stream, &Fault::new(error_code(limits, &first), message)).await;
        }
    }
}

/// Returns the error code for a first line that starts with neither bracket: a string or a number is valid JSON, but no
/// request.
fn error_code(limits: &Limits, first: &[u8]) -> i64 {
    let line = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let limits = jsonrpc::DecodeLimits { depth: limits.depth, batch: limits.batch };
    match jsonrpc::decode(line, limits) {
        Decoded::Single(Err(refused)) => refused.fault.code,
        _ => code::PARSE,
    }
}

/// Writes an error reply with a null id as a line, and closes the stream.
async fn write_error(stream: &mut impl Stream, fault: &Fault) {
    let mut line = Vec::new();
    jsonrpc::encode_reply(&mut line, &Id::null(), Err(fault));
    line.push(b'\n');
    // On failure the peer has disconnected.
    let _ = transport::send_and_close(stream, &line).await;
}

fn foreign_name(foreign: Detected) -> &'static str {
    match foreign {
        Detected::Foreign(name) => name,
        Detected::Tls => "TLS, which this port does not (tls under [[listen]])",
        Detected::Http2 => "HTTP/2, which this port does not",
        Detected::Http | Detected::Dialect(_) => "another dialect",
    }
}

/// Reads until the dialect is known. Returns `None` on a timeout, at the end of an empty stream, or if the node stops.
async fn detect_dialect(
    node: &Shared,
    limits: &Limits,
    mut stream: PeerStream,
) -> io::Result<Option<(Detected, PeerStream)>> {
    let detected = async {
        let mut seen = 0;
        loop {
            let first = match stream.peek().await {
                Ok(first) => first,
                Err(error) => return Some(Err(error)),
            };
            match detect(first) {
                Some(dialect) => return Some(Ok(dialect)),
                // The end of the stream.
                None if first.len() == seen => {
                    let blank = first.trim_ascii().is_empty();
                    return (!blank).then_some(Ok(Detected::Foreign("neither JSON nor HTTP")));
                }
                None => seen = first.len(),
            }
        }
    };
    let detected = within_head_timeout(node, limits, detected).await.transpose()?;
    Ok(detected.map(|dialect| (dialect, stream)))
}

/// Waits for `first`. Returns `None` after the head timeout, which is counted, or if the node stops.
async fn within_head_timeout<T>(
    node: &Shared,
    limits: &Limits,
    first: impl Future<Output = Option<T>>,
) -> Option<T> {
    let timeout = async {
        Timer::after(limits.head_timeout).await;
        node.metrics().slow_heads.inc();
        None
    };
    let stopped = async {
        node.shutdown.signal().await;
        None
    };
    first.or(timeout).or(stopped).await
}

fn serve_stream(
    node: &Shared,
    limits: &Arc<Limits>,
    grants: Grants,
    stream: PeerStream,
    dialect: Dialect,
) -> Boxed<io::Result<()>> {
    let (first, stream) = stream.into_parts();
    let mut session = node.connection(limits, dialect, grants);
    session.input().extend_from_slice(&first);
    drive(node, session, Box::new(StreamPipe::new(stream)))
}

/// Drives a session until it ends. Observers of connections are told first.
fn drive(node: &Shared, session: Session, pipe: Box<dyn Pipe + Send>) -> Boxed<io::Result<()>> {
    let waiting = sessions::open(&node.observers, &session);
    let (stop, force_stop) = (node.shutdown.signal(), node.shutdown.force_signal());
    let drive = |mut session: Session| {
        if !session.input().is_empty() {
            session.received(Instant::now());
        }
        driver::drive(session, pipe, Some(stop), Some(force_stop))
    };
    if waiting.is_empty() {
        return drive(session).boxed();
    }
    let stopped = node.shutdown.signal();
    async move {
        let queued = async {
            for queued in waiting {
                let _ = queued.recv().await;
            }
            true
        };
        let stopped = async {
            stopped.await;
            false
        };
        if queued.or(stopped).await { drive(session).await } else { Ok(()) }
    }
    .boxed()
}

fn request_limits(limits: &Limits) -> http::RequestLimits {
    http::RequestLimits {
        body: limits.message,
        head_timeout: limits.head_timeout,
        stall_timeout: limits.stall_timeout,
    }
}

async fn serve_http(
    node: &Shared,
    limits: &Arc<Limits>,
    context: &ListenerContext,
    peer: Option<SocketAddr>,
    stream: PeerStream,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let upgraded = {
        let app = App::new(node, limits, context, peer);
        let served =
            Box::pin(http::serve(stream, &app, request_limits(limits), node.shutdown.signal())).await;
        if app.has_served_request() && matches!(served, Err(http::ServeError::SlowHead)) {
            return Ok(());
        }
        served?.zip(app.into_upgraded())
    };
    if let Some((stream, grants)) = upgraded {
        let (first, stream) = stream.into_parts();
        let (keepalive, stall) = (limits.keepalive, limits.stall_timeout);
        let (dialect, pipe) = match context.leaf {
            None => (
                Dialect::DetectPerFrame,
                WebSocket::accept(stream, first, limits.message, keepalive, stall).await,
            ),
            Some(leaf) => {
                let pipe = WebSocket::accept(stream, first, leaf.max as usize, keepalive, stall).await;
                (Dialect::Leaf(leaf), pipe.always_binary().with_limit_name("listen.leaf.max"))
            }
        };
        drive(node, node.connection(limits, dialect, grants), Box::new(pipe)).await?;
    }
    Ok(())
}

#[cfg(feature = "grpc")]
async fn serve_http2(
    node: &Shared,
    limits: &Arc<Limits>,
    context: &ListenerContext,
    peer: Option<SocketAddr>,
    stream: PeerStream,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let app = App::new(node, limits, context, peer);
    let limits = http2::Http2Limits {
        request: request_limits(limits),
        in_flight: limits.in_flight,
        output: limits.output,
        control_frames: limits.control_frames,
        keepalive: limits.keepalive,
        auth_timeout: limits.auth_timeout,
    };
    match http2::serve(stream, &app, limits, node.shutdown.signal()).await {
        Ok(()) => Ok(()),
        // Counted and logged as over other protocols.
        Err(Http2Error::Stream(error)) => Err(error.into()),
        Err(error) => {
            match error {
                Http2Error::Flood => node.metrics().floods.inc(),
                Http2Error::SlowHead => node.metrics().slow_heads.inc(),
                Http2Error::NoToken => node.metrics().unauthenticated.inc(),
                _ => node.metrics().foreign.inc(),
            }
            Err(error.into())
        }
    }
}

fn is_slow_head(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(http::ServeError::SlowHead))
}
