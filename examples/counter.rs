//! A server that owns its state, called from this process and, over one port, from anywhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chanrpc::chan::{Functions, Server};
use chanrpc::config::Limits;
use chanrpc::node::Node;
use chanrpc::remote::Remote;
use chanrpc::route::Registry;
use serde_json::value::RawValue;
use smol::{Executor, net::TcpListener};

struct Counter {
    total: i64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let executor = Arc::new(Executor::new());
    smol::block_on(executor.run(async {
        let mut functions = Functions::exported();
        functions.register1("add", |counter: &mut Counter, n: i64| {
            counter.total += n;
            counter.total
        })?;
        let mut registry = Registry::builder("example");
        let server = Server::new(Counter { total: 0 }, functions.clone());
        registry.export(&functions, &server.client())?;
        let client = server.client();
        let _owner = executor.spawn(server.run());

        // In this process: a typed call, awaited. `client.go` would not wait.
        let total: i64 = client.call1("add", 40_i64).await?;
        println!("in process: {total}");

        // The same function over the network, for any JSON-RPC, HTTP or WebSocket client.
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let node = Node::new(executor.clone(), registry.build(), Limits::default());
        let _node = executor.spawn(async move { node.serve(vec![listener], std::future::pending()).await });

        let remote = Remote::new(&executor, address.to_string(), Limits::default());
        let params = RawValue::from_string("[2]".into())?;
        let soon = Instant::now() + Duration::from_secs(5);
        println!("over TCP: {}", remote.call("add", Some(&params), soon, 0).await?);
        Ok(())
    }))
}
