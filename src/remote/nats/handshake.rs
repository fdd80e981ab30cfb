//! Establishes a connection to a server of NATS: `INFO`, TLS, `CONNECT`.

use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;

use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use smol::Timer;
use smol::future::FutureExt;

use super::NatsClient;
use crate::codec::nats::{NatsFramer, REPLIES, ServerInfo, connect_line};
use crate::config::{Limits, NatsServer};
use crate::remote::tcp::connect;
use crate::transport::Stream;

/// Maximum length of a line of the server, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// A connection that the server has accepted.
pub(in crate::remote) struct Established {
    pub(in crate::remote) stream: Box<dyn Stream>,
    /// What the server has sent already.
    pub(in crate::remote) received: Vec<u8>,
    pub(in crate::remote) peer: Option<SocketAddr>,
    pub(in crate::remote) server: NatsServer,
    pub(in crate::remote) info: ServerInfo,
    pub(in crate::remote) framer: NatsFramer,
    pub(in crate::remote) is_encrypted: bool,
}

/// Connects to the first server that accepts.
pub(in crate::remote) async fn establish(client: &NatsClient, limits: &Limits) -> io::Result<Established> {
    let candidates = client.servers().candidates();
    let is_only = candidates.len() == 1;
    let mut failures = String::new();
    for server in candidates {
        let timeout = async {
            Timer::after(limits.connect_timeout).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "timed out (limits.connect_timeout)"))
        };
        match connect_to(client, &server, limits).or(timeout).await {
            Ok(established) => {
                client.servers().note(&established.info);
                return Ok(established);
            }
            Err(error) if is_only => return Err(error),
            Err(error) => {
                let separator = if failures.is_empty() { "" } else { "; " };
                failures += &format!("{separator}{server}: {error}");
            }
        }
    }
    Err(io::Error::other(failures))
}

async fn connect_to(client: &NatsClient, server: &NatsServer, limits: &Limits) -> io::Result<Established> {
    let settings = &client.settings;
    let (stream, peer) = connect(&server.address, limits).await?;
    let mut lines = Lines { stream: Box::new(stream), buffer: Vec::new() };
    let mut info = lines.info().await?;
    let is_encrypted = settings.tls.is_some() || server.is_encrypted || info.requires_tls;
    if is_encrypted {
        let tls = settings.tls.as_ref().ok_or_else(|| {
            io::Error::other(
                "the NATS server requires TLS: add tls = { ca = \"ca.pem\" } under [nats], or --ca ca.pem",
            )
        })?;
        if !info.has_tls || !lines.buffer.is_empty() {
            return Err(io::Error::other("the NATS server does not use TLS: remove tls under [nats]"));
        }
        lines.stream = tls
            .connect(&server.address.to_string(), lines.stream, false)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("the TLS handshake failed: {error}")))?;
    }
    if !info.has_headers {
        return Err(io::Error::other("the NATS server has no headers: version 2.2 or later is needed"));
    }
    let inbox = format!("{}.{:016x}", settings.inbox, fastrand::u64(..));
    let credentials = settings.credentials.for_nonce(info.nonce.as_deref());
    let mut hello = connect_line(&settings.name, &credentials, is_encrypted);
    hello += &format!("SUB {inbox}.> {REPLIES}\r\nPING\r\n");
    lines.stream.write_all(hello.as_bytes()).await?;
    lines.stream.flush().await?;
    loop {
        let line = lines.line().await?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("PONG", _) => break,
            ("INFO", json) => info = ServerInfo::read(json).unwrap_or(info),
            ("+OK", _) => {}
            ("-ERR", text) => {
                let advice = match text.contains("for Subscription") {
                    true => ": let this user subscribe to its inbox, or choose another by inbox under [nats]",
                    false => "",
                };
                return Err(io::Error::other(format!("the NATS server says {text}{advice}")));
            }
            _ => return Err(unexpected(&line)),
        }
    }
    let Lines { stream, buffer } = lines;
    // Replies have an envelope of a few headers.
    let framer = NatsFramer::new(limits.message + MAX_LINE, info.max_payload, inbox, RandomState::new());
    Ok(Established { stream, received: buffer, peer, server: server.clone(), info, framer, is_encrypted })
}

/// Reads the lines before the session begins.
struct Lines {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Lines {
    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(line.trim_ascii()).into_owned());
            }
            if self.buffer.len() >= MAX_LINE {
                return Err(unexpected("a line of more than 64 KiB"));
            }
            let mut bytes = [0; 1024];
            match self.stream.read(&mut bytes).await? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the NATS server")),
                count => self.buffer.extend_from_slice(&bytes[..count]),
            }
        }
    }

    async fn info(&mut self) -> io::Result<ServerInfo> {
        let line = self.line().await?;
        let info = line.strip_prefix("INFO ").and_then(ServerInfo::read);
        info.ok_or_else(|| unexpected(&line))
    }
}

fn unexpected(line: &str) -> io::Error {
    let shown: String = line.chars().take(64).collect();
    io::Error::other(format!("this is no NATS server: {shown:?}"))
}
