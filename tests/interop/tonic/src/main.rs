//! tonic's unmodified client against a node, and its server for one. The generated code is written by hand, so that
//! `protoc` is not needed.
//!
//! `interop-tonic client ADDRESS` makes the calls of tests/interop/grpc/cases.py; `interop-tonic server` answers them.

mod client;
mod messages;
mod server;

use std::error::Error;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["client", address] => runtime.block_on(client::run(address)),
        ["server"] => runtime.block_on(server::run()),
        _ => Err("usage: interop-tonic client ADDRESS | server".into()),
    }
}
