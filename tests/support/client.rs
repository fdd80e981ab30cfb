//! A peer that uses plain TCP and is independent of the library.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::messages::{Fault, HttpReply, outcome, request};
use super::waits::{LIMIT, await_some};

/// A peer that uses plain TCP and is independent of the library.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
    next_id: u64,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = await_some("a connection", || TcpStream::connect(address).ok());
        stream.set_nodelay(true).unwrap();
        let client = Self::new(stream);
        client.set_limit(LIMIT);
        client
    }

    /// Wraps a connection without a timeout.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { reader: BufReader::new(stream), next_id: 0 }
    }

    /// Sets the timeout of reads and writes.
    pub(crate) fn set_limit(&self, limit: Duration) {
        self.stream().set_read_timeout(Some(limit)).unwrap();
        self.stream().set_write_timeout(Some(limit)).unwrap();
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends bytes unchanged.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the node takes what is sent");
    }

    /// Sends all bytes within the timeout, which would otherwise restart with each partial write.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut stream = self.stream();
        let until = stream.write_timeout()?.map(|limit| Instant::now() + limit);
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !rest.is_empty() && until.is_some_and(|until| Instant::now() >= until) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Closes the sending half.
    pub(crate) fn end(&self) {
        // The node may be gone already.
        let _ = self.stream().shutdown(Shutdown::Write);
    }

    /// Returns the next line, or `None` if the connection has ended.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line),
            Err(error) if is_end(&error) => None,
            Err(error) => panic!("no line came: {error}"),
        }
    }

    /// Returns the next non-empty line.
    #[track_caller]
    pub(crate) fn full_line(&mut self) -> Option<String> {
        loop {
            let line = self.line()?;
            if !line.trim().is_empty() {
                return Some(line);
            }
        }
    }

    /// Returns the next line as JSON.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> Value {
        let line = self.line().expect("the connection ended instead of a reply");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a line and reads one.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: impl AsRef<[u8]>) -> Value {
        self.send([line.as_ref(), b"\n"].concat());
        self.reply()
    }

    /// Sends a request without waiting for the reply.
    #[track_caller]
    pub(crate) fn begin(&mut self, id: impl Into<Value>, method: &str, params: &Value) {
        self.send(request(id, method, params) + "\n");
    }

    /// Calls a function when no other reply is pending.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Result<Value, Fault> {
        self.next_id += 1;
        let id = Value::from(self.next_id);
        self.begin(id.clone(), method, params);
        let reply = self.reply();
        assert_eq!(reply["id"], id, "{reply}");
        outcome(&reply)
    }

    /// Asserts that the node ends the connection without sending anything.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        assert_eq!(self.line(), None);
    }

    /// Reads until the node ends the connection.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.reader.read_to_end(&mut bytes) {
            Err(error) if !is_end(&error) => panic!("the connection does not end: {error}"),
            _ => bytes,
        }
    }

    /// Reads exactly `count` bytes.
    #[track_caller]
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).expect("the node sends enough bytes");
        bytes
    }

    /// Returns the next HTTP response.
    #[track_caller]
    pub(crate) fn http(&mut self) -> HttpReply {
        self.try_http().expect("the connection ended instead of a response")
    }

    pub(crate) fn try_http(&mut self) -> Option<HttpReply> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &self.line()?;
        }
        let status = head.split(' ').nth(1)?.parse().unwrap();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        self.reader.read_exact(&mut body).ok()?;
        Some(HttpReply { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// Closes the connection so that the node receives a reset instead of an orderly close: the system sends a reset if
    /// a socket is closed with unread input.
    pub(crate) fn reset(mut self) {
        self.send(request("unread", "rpc.ping", &json!([])) + "\n");
        let mut byte = [0];
        assert_eq!(self.stream().peek(&mut byte).unwrap(), 1);
        assert!(self.reader.buffer().is_empty(), "a reply was read that the test does not know of");
    }
}

/// Returns `true` if a read error means that the connection has ended.
pub(crate) fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    )
}
