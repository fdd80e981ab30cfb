//! Opens connections, up to where requests can flow.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::value::to_raw_value;

use super::answer::{self, Next};
use super::request::{FIRST_ID, Template, authorization};
use super::{Dialect, LoadError};

/// How long connecting may take, and each word of a handshake.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How many connections are made side by side.
const SIDE_BY_SIDE: usize = 16;
/// A longer answer to a handshake is none.
const LONGEST: usize = 16 * 1024;

/// How a connection begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening<'a> {
    pub(super) address: SocketAddr,
    pub(super) host: &'a str,
    pub(super) dialect: Dialect,
    pub(super) token: Option<&'a str>,
}

impl Opening<'_> {
    /// Opens so many connections; the first failure is the end of it. `is_stopped` may end it early too.
    pub(super) fn open(
        &self,
        connections: usize,
        is_stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<TcpStream>, LoadError> {
        let left = AtomicUsize::new(connections);
        let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let open_some = || {
            let mut streams = Vec::new();
            while !is_stopped() && take().is_ok() {
                match self.open_one() {
                    Ok(stream) => streams.push(stream),
                    Err(error) => {
                        left.store(0, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(streams)
        };
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..connections.min(SIDE_BY_SIDE)).map(|_| scope.spawn(open_some)).collect();
            let mut streams = Vec::with_capacity(connections);
            for thread in threads {
                streams.append(&mut thread.join().expect("opening does not panic")?);
            }
            Ok(streams)
        })
    }

    fn open_one(&self) -> Result<TcpStream, LoadError> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let unreachable = |reason: io::Error| LoadError::Unreachable {
            address: self.host.to_owned(),
            reason: match reason.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
                _ => reason.to_string(),
            },
        };
        let mut stream = connect().map_err(unreachable)?;
        let refusal = match (self.dialect, self.token) {
            (Dialect::WebSocket, _) => self.upgrade(&mut stream).map_err(unreachable)?,
            (Dialect::Http, _) | (_, None) => None,
            (_, Some(token)) => self.authorize(&mut stream, token).map_err(unreachable)?,
        };
        refusal.map_or(Ok(stream), Err)
    }

    /// Asks for WebSocket (RFC 6455, section 4.1); returns the refusal, if it is one.
    fn upgrade(&self, stream: &mut TcpStream) -> io::Result<Option<LoadError>> {
        let credentials = authorization(self.token);
        // The key is there to be answered, which proves that the server speaks WebSocket; a fixed one does.
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: {}\r\n{credentials}Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: Y2hhbnJwYyBiZW5jaCBrZQ==\r\n\r\n",
            self.host
        )?;
        let head = read_until(stream, |bytes| bytes.ends_with(b"\r\n\r\n"))?;
        let head = String::from_utf8_lossy(&head);
        let (address, answer) = (self.host.to_owned(), head.lines().next().unwrap_or_default().to_owned());
        Ok(match head.get(9..12) {
            Some("101") => None,
            Some("401" | "403") => Some(LoadError::Denied { address, answer }),
            _ => Some(LoadError::Refused { address, answer }),
        })
    }

    /// Shows a token; returns the refusal, if it is one.
    fn authorize(&self, stream: &mut TcpStream, token: &str) -> io::Result<Option<LoadError>> {
        let params = to_raw_value(&[token]).ok();
        let request = Template::new(self.dialect, self.host, None, "rpc.auth", params.as_deref());
        let mut bytes = Vec::new();
        request.append(FIRST_ID, &mut bytes);
        stream.write_all(&bytes)?;
        let answer =
            read_until(stream, |bytes| !matches!(answer::next(self.dialect, bytes), Next::Incomplete))?;
        let said = |text: &[u8]| (self.host.to_owned(), String::from_utf8_lossy(text).trim_end().to_owned());
        Ok(match answer::next(self.dialect, &answer) {
            Next::Answer(answer, _) => answer.error.map(|text| {
                let (address, answer) = said(text);
                LoadError::Denied { address, answer }
            }),
            _ => {
                let (address, answer) = said(&answer);
                Some(LoadError::Refused { address, answer })
            }
        })
    }
}

/// Reads no byte more than it takes, since what follows is not for here.
fn read_until(stream: &mut TcpStream, is_whole: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.is_empty() || !is_whole(&bytes) {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
        if bytes.len() > LONGEST {
            return Err(io::Error::other("an answer without end"));
        }
    }
    Ok(bytes)
}
