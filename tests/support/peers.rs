//! Servers other than nodes, to connect to.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::client::Client;

/// Starts a fake node, which replies to each line with the result of a function.
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

/// Listens on a port and runs `treat` for every connection on its own thread, as long as the tests run.
pub(crate) fn listen(treat: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let treat = treat.clone();
            // On Windows every child process inherits the socket returned by `accept`, which keeps the connection open;
            // a duplicate is not inherited.
            let stream = stream.try_clone().unwrap();
            thread::spawn(move || treat(stream));
        }
    });
    address
}

/// A port that relays connections to a node. The node may change or be missing; connections then end.
#[derive(Clone, Default)]
pub(crate) struct Relay(Arc<Mutex<Leading>>);

#[derive(Default)]
struct Leading {
    to: Option<SocketAddr>,
    /// Both ends of each connection so far.
    streams: Vec<TcpStream>,
}

impl Relay {
    pub(crate) fn new() -> (Self, SocketAddr) {
        let relay = Self::default();
        let target = relay.clone();
        let address = listen(move |near| {
            let mut leading = target.0.lock().unwrap();
            let Some(far) = leading.to.and_then(|address| TcpStream::connect(address).ok()) else { return };
            leading.streams.extend([&near, &far].map(|stream| stream.try_clone().unwrap()));
            drop(leading);
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            thread::scope(|scope| {
                scope.spawn(|| pass_on(&near, &far));
                pass_on(&back.0, &back.1);
            });
        });
        (relay, address)
    }

    pub(crate) fn lead_to(&self, address: SocketAddr) {
        self.0.lock().unwrap().to = Some(address);
    }

    /// Ends all connections, and accepts no more until it leads somewhere again.
    pub(crate) fn cut(&self) {
        let mut leading = self.0.lock().unwrap();
        leading.to = None;
        for stream in leading.streams.drain(..) {
            // It may have ended.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
