//! A server that owns a state, called from this process and, over one port, from anywhere.

use std::thread;

use chanrpc::{Functions, Id1, Node, Remote, Server};

struct Counter {
    total: i64,
}

impl Counter {
    fn add(&mut self, n: i64) -> i64 {
        self.total += n;
        self.total
    }
}

const ADD: Id1<i64, i64> = Id1::new("add");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut functions = Functions::exported();
    functions.register(ADD, Counter::add)?;
    let server = Server::new(Counter { total: 0 }, functions.clone());
    let client = server.client();
    thread::spawn(|| smol::block_on(server.run()));

    // In this process: a typed call. A task awaits it, a thread waits; `client.go` does neither.
    println!("in process: {}", client.call(ADD, 40).wait()?);

    // The same function over the network, for any JSON-RPC, HTTP or WebSocket client.
    let node = Node::builder("example").export(&functions, &client).listen("127.0.0.1:0").start()?;
    let remote = Remote::connect(node.addresses()[0].to_string());
    println!("over TCP: {}", remote.call(ADD, 2).wait()?);
    Ok(())
}
