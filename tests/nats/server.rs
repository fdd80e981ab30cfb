//! A server of NATS that does what a test says, and nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

use crate::support::LIMIT;

pub(crate) struct Server(TcpListener);

/// A connection of a node.
pub(crate) struct Peer {
    reader: BufReader<TcpStream>,
    /// What the client has said of itself.
    pub(crate) connect: Value,
}

/// A message that was published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) subject: String,
    pub(crate) reply: String,
    pub(crate) headers: String,
    pub(crate) payload: String,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Accepts a connection, and greets it.
    pub(crate) fn greet(&self, info: &Value) -> Peer {
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut peer = Peer { reader: BufReader::new(stream), connect: Value::Null };
        peer.send(&format!("INFO {info} \r\n"));
        peer
    }

    /// Gives every client the same answer to what it says of itself, as long as the test runs.
    pub(crate) fn answer_all(self, info: Value, answer: &'static str) {
        thread::spawn(move || {
            loop {
                let (stream, _) = self.0.accept().unwrap();
                let mut reader = BufReader::new(stream);
                let _ = reader.get_mut().write_all(format!("INFO {info} \r\n").as_bytes());
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                    if std::mem::take(&mut line) == "PING\r\n" {
                        let _ = reader.get_mut().write_all(answer.as_bytes());
                    }
                }
            }
        });
    }

    /// Accepts a connection that is made in the usual way.
    pub(crate) fn accept(&self) -> Peer {
        self.accept_with(&info())
    }

    pub(crate) fn accept_with(&self, info: &Value) -> Peer {
        let mut peer = self.greet(info);
        let connect = peer.line();
        peer.connect = serde_json::from_str(connect.strip_prefix("CONNECT ").unwrap()).unwrap();
        let inbox = peer.line();
        assert!(inbox.starts_with("SUB _INBOX.") && inbox.ends_with(".> r"), "{inbox}");
        assert_eq!(peer.any_line(), "PING");
        peer.send("PONG\r\n");
        peer
    }
}

/// What a server tells of itself.
pub(crate) fn info() -> Value {
    json!({ "server_id": "one", "version": "2.9.10", "headers": true, "max_payload": 1000 })
}

impl Peer {
    pub(crate) fn send(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Returns the next line, without `PING`s, which are answered, and what is asked of all services, which is not.
    pub(crate) fn line(&mut self) -> String {
        loop {
            match self.any_line().as_str() {
                line if line.is_empty() || line.contains(" i_INBOX.") || line.starts_with("pub $SRV.") => {}
                "PING" if !self.connect.is_null() => self.send("PONG\r\n"),
                line => return line.to_owned(),
            }
        }
    }

    pub(crate) fn any_line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        assert!(line.ends_with("\r\n"), "{line:?}");
        line.trim_end().to_owned()
    }

    /// Reads what is asked of all services. Returns where the answers go, and the subscription.
    pub(crate) fn inquiry(&mut self) -> (String, String) {
        let line = loop {
            match self.any_line() {
                ping if ping == "PING" => self.send("PONG\r\n"),
                end if end.starts_with("UNSUB ") => {}
                line => break line,
            }
        };
        let (subject, subscription) = line.strip_prefix("SUB ").unwrap().split_once(' ').unwrap();
        assert_eq!(self.any_line(), format!("pub $SRV.INFO {subject} 0"));
        assert_eq!(self.any_line(), "");
        (subject.to_owned(), subscription.to_owned())
    }

    /// Returns the next message.
    pub(crate) fn published(&mut self) -> Published {
        let line = self.line();
        let words: Vec<_> = line.split(' ').collect();
        let total: usize = words.last().unwrap().parse().unwrap();
        let (split, has_reply) = match words[0] {
            "PUB" => (0, words.len() == 4),
            "HPUB" => (words[words.len() - 2].parse().unwrap(), words.len() == 5),
            _ => panic!("{line}"),
        };
        let mut bytes = vec![0; total + 2];
        self.reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes[total..], b"\r\n");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Published {
            subject: words[1].to_owned(),
            reply: if has_reply { words[2].to_owned() } else { String::new() },
            headers: text(&bytes[..split]),
            payload: text(&bytes[split..total]),
        }
    }

    /// Delivers a message.
    pub(crate) fn deliver(&mut self, subject: &str, subscription: &str, reply: &str, payload: &str) {
        let reply = if reply.is_empty() { String::new() } else { format!("{reply} ") };
        self.send(&format!("MSG {subject} {subscription} {reply}{}\r\n{payload}\r\n", payload.len()));
    }

    /// Delivers a message with headers.
    pub(crate) fn deliver_with(
        &mut self,
        subject: &str,
        subscription: &str,
        reply: &str,
        headers: &str,
        payload: &str,
    ) {
        let headers = format!("NATS/1.0{headers}\r\n\r\n");
        let reply = if reply.is_empty() { String::new() } else { format!("{reply} ") };
        let sizes = format!("{} {}", headers.len(), headers.len() + payload.len());
        self.send(&format!("HMSG {subject} {subscription} {reply}{sizes}\r\n{headers}{payload}\r\n"));
    }

    /// Returns `true` if the node has closed the connection.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.reader.read(&mut [0]).is_ok_and(|count| count == 0)
    }
}
