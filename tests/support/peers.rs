//! Servers that are no node: what others meet at their ports.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::client::Client;

/// A node that is none: answers each line with what a function makes of it.
pub(crate) fn fake_node(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> SocketAddr {
    let answer = Arc::new(answer);
    listen(move |stream| {
        let mut client = Client::new(stream);
        while let Some(line) = client.full_line() {
            let reply = answer(&serde_json::from_str(&line).unwrap());
            if client.try_send(format!("{reply}\n")).is_err() {
                return;
            }
        }
    })
}

/// A port that treats every connection, on a thread of its own, as it is told. It lives as long as the tests
/// do.
pub(crate) fn listen(treat: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let treat = treat.clone();
            // On Windows every process that is started inherits what `accept` gives, and so keeps the connection
            // open; a copy is not inherited.
            let stream = stream.try_clone().unwrap();
            thread::spawn(move || treat(stream));
        }
    });
    address
}

/// A port that passes connections on to a node, which may change, or be missing; then it ends them.
#[derive(Clone, Default)]
pub(crate) struct Relay(Arc<Mutex<Option<SocketAddr>>>);

impl Relay {
    pub(crate) fn new() -> (Self, SocketAddr) {
        let relay = Self::default();
        let target = relay.clone();
        let address = listen(move |near| {
            let far = target.0.lock().unwrap().and_then(|address| TcpStream::connect(address).ok());
            let Some(far) = far else { return };
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            thread::scope(|scope| {
                scope.spawn(|| pass_on(&near, &far));
                pass_on(&back.0, &back.1);
            });
        });
        (relay, address)
    }

    pub(crate) fn lead_to(&self, address: SocketAddr) {
        *self.0.lock().unwrap() = Some(address);
    }
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
