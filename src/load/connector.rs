//! Establishes connections, including the WebSocket handshake and authentication.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::value::to_raw_value;
use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::reply::{self, Parsed};
use super::request::{FIRST_ID, Template, authorization};
use super::{Dialect, LoadError, Secure, Socket};
use crate::threads;

/// The maximum number of concurrent connection attempts.
const MAX_CONCURRENT: usize = 16;
/// The maximum length of the reply to a handshake, in bytes.
const MAX_REPLY: usize = 16 * 1024;

/// Establishes connections to one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connector<'a> {
    pub(super) address: SocketAddr,
    pub(super) host: &'a str,
    pub(super) dialect: Dialect,
    pub(super) token: Option<&'a str>,
    pub(super) timeout: Duration,
    pub(super) secure: Option<&'a Secure>,
}

/// An established connection.
pub(super) enum Opened {
    Plain(TcpStream),
    Secure(Box<dyn Socket>),
}

impl Opened {
    pub(super) fn into_socket(self) -> io::Result<Box<dyn Socket>> {
        Ok(match self {
            Self::Plain(stream) => Box::new(smol::net::TcpStream::try_from(stream)?),
            Self::Secure(stream) => stream,
        })
    }
}

/// A stream with which a handshake can be made.
trait Handshaking: Read + Write {}

impl<T: Read + Write> Handshaking for T {}

/// Waits for each read and write of an encrypted connection.
struct Blocking<'a> {
    stream: &'a mut dyn Socket,
    timeout: Duration,
}

impl Blocking<'_> {
    fn wait<T>(timeout: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let late = async {
            Timer::after(timeout).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        smol::block_on(step.or(late))
    }
}

impl Read for Blocking<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Self::wait(self.timeout, self.stream.read(into))
    }
}

impl Write for Blocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = Self::wait(self.timeout, self.stream.write(bytes))?;
        self.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::wait(self.timeout, self.stream.flush())
    }
}

impl Connector<'_> {
    /// Establishes `connections` connections. Stops at the first error, or early if `is_stopped` returns `true`.
    pub(super) fn open(
        &self,
        connections: usize,
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Opened>, LoadError> {
        let left = AtomicUsize::new(connections);
        let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let opened = Mutex::new(Ok(Vec::with_capacity(connections)));
        let open_some = || {
            while !is_stopped() && take().is_ok() {
                let stream = self.open_one();
                let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *opened, stream) {
                    (Ok(streams), Ok(stream)) => streams.push(stream),
                    (Ok(_), Err(error)) => {
                        left.store(0, Ordering::Relaxed);
                        *opened = Err(error);
                    }
                    (Err(_), _) => {}
                }
            }
        };
        threads::run_all((0..connections.min(MAX_CONCURRENT)).map(|_| Box::new(open_some) as _).collect());
        opened.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_one(&self) -> Result<Opened, LoadError> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(self.timeout))?;
            stream.set_write_timeout(Some(self.timeout))?;
            Ok(match self.secure {
                None => Opened::Plain(stream),
                Some(Secure(handshake)) => {
                    let stream = smol::net::TcpStream::try_from(stream)?;
                    Opened::Secure(Blocking::wait(self.timeout, handshake(stream))?)
                }
            })
        };
        let unreachable = |reason: io::Error| LoadError::Unreachable {
            address: self.host.to_owned(),
            reason: match reason.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timed out".to_owned(),
                _ => reason.to_string(),
            },
        };
        let mut opened = connect().map_err(unreachable)?;
        let mut blocking;
        let stream: &mut dyn Handshaking = match &mut opened {
            Opened::Plain(stream) => stream,
            Opened::Secure(stream) => {
                blocking = Blocking { stream: &mut **stream, timeout: self.timeout };
                &mut blocking
            }
        };
        let refusal = match (self.dialect, self.token) {
            (Dialect::WebSocket, _) => self.upgrade(stream).map_err(unreachable)?,
            (Dialect::Http, _) | (_, None) => None,
            (_, Some(token)) => self.authorize(stream, token).map_err(unreachable)?,
        };
        refusal.map_or(Ok(opened), Err)
    }

    /// Upgrades the connection to WebSocket (RFC 6455, section 4.1). Returns the error if the server refuses.
    fn upgrade(&self, stream: &mut dyn Handshaking) -> io::Result<Option<LoadError>> {
        let credentials = authorization(self.token);
        // The server's response to the key proves that it speaks WebSocket; a fixed key suffices.
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: {}\r\n{credentials}Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: Y2hhbnJwYyBiZW5jaCBrZQ==\r\n\r\n",
            self.host
        )?;
        let head = read_until(stream, |bytes| bytes.ends_with(b"\r\n\r\n"))?;
        let head = String::from_utf8_lossy(&head);
        let (address, reply) = (self.host.to_owned(), head.lines().next().unwrap_or_default().to_owned());
        Ok(match head.get(9..12) {
            Some("101") => None,
            Some("401" | "403") => Some(LoadError::Denied { address, reply }),
            _ => Some(LoadError::Refused { address, reply }),
        })
    }

    /// Authenticates with a token. Returns the error if the server refuses.
    fn authorize(&self, stream: &mut dyn Handshaking, token: &str) -> io::Result<Option<LoadError>> {
        let params = to_raw_value(&[token]).ok();
        let request = Template::new(self.dialect, self.host, None, "rpc.auth", params.as_deref());
        let mut bytes = Vec::new();
        request.append(FIRST_ID, &mut bytes);
        stream.write_all(&bytes)?;
        let reply =
            read_until(stream, |bytes| !matches!(reply::parse(self.dialect, bytes), Parsed::Incomplete))?;
        let reply_text =
            |text: &[u8]| (self.host.to_owned(), String::from_utf8_lossy(text).trim_end().to_owned());
        Ok(match reply::parse(self.dialect, &reply) {
            Parsed::Reply(reply, _) => reply.error.map(|text| {
                let (address, reply) = reply_text(text);
                LoadError::Denied { address, reply }
            }),
            _ => {
                let (address, reply) = reply_text(&reply);
                Some(LoadError::Refused { address, reply })
            }
        })
    }
}

/// Reads byte by byte until `is_whole` returns `true`, because the bytes that follow belong to the load.
fn read_until(stream: &mut dyn Handshaking, is_whole: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.is_empty() || !is_whole(&bytes) {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
        if bytes.len() > MAX_REPLY {
            return Err(io::Error::other("the reply to the handshake is too long"));
        }
    }
    Ok(bytes)
}
