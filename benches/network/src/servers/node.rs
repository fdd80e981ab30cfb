//! A node with one native function, optimised like its rivals.

use std::sync::Arc;

use chanrpc::chan::{Functions, Server};
use chanrpc::config::Limits;
use chanrpc::node::Node;
use chanrpc::route::Registry;
use smol::Executor;
use smol::net::TcpListener;

use super::announce;

pub(super) fn serve() {
    let mut functions = Functions::exported();
    functions.register1("add", |_: &mut (), (a, b): (i64, i64)| a + b).expect("the first of its name");
    let mut registry = Registry::builder("bench");
    let server = Server::new((), functions.clone());
    registry.export(&functions, &server.client()).expect("the first of its name");
    let executor = Arc::new(Executor::new());
    let _owner = executor.spawn(server.run());
    let node = Node::new(executor.clone(), registry.build(), Limits::default());
    smol::block_on(executor.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        announce(listener.local_addr());
        node.serve(vec![listener], std::future::pending()).await;
    }));
}
