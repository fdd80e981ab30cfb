//! A node as a gRPC server, and grpcio: the client is tonic's, for all of them.

use std::path::PathBuf;
use std::sync::Arc;

use chanrpc::chan::Functions;
use chanrpc::config::Config;
use chanrpc::node::Node;
use smol::Executor;

use super::{Drive, Entrant, GRPCIO, Start, announce, tonic};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/servers");

/// Serves the function as a method of a service, whose messages are converted from protobuf to JSON and back.
pub(super) fn serve() {
    let mut functions = Functions::exported();
    functions.register1("add", |_: &mut (), (a, b): (i64, i64)| a + b).expect("the first of its name");
    let config = format!(
        "[grpc]\ndescriptors = ['{FOLDER}/adder.binpb']\n[grpc.methods]\n'bench.Adder/Add' = 'add'\n"
    );
    let config = Config::parse(&config, "bench.toml").expect("a valid configuration");
    let executor = Arc::new(Executor::new());
    let node = Node::from_config(config).serve(functions, ()).listen("127.0.0.1:0").executor(&executor);
    let node = node.start().expect("the node starts");
    announce(Ok(node.addresses()[0]));
    smol::block_on(executor.run(std::future::pending()))
}

/// Returns grpcio's server, whose core is in C and its function in Python, if `GRPCIO` names a Python that has it.
pub(super) fn grpcio() -> Option<Entrant> {
    let program = PathBuf::from(std::env::var_os("GRPCIO")?);
    let arguments = |port: u16| vec![format!("{FOLDER}/grpcio.py"), port.to_string()];
    Some(Entrant {
        name: GRPCIO,
        start: Start::Installed { program, arguments },
        drive: Drive::Own(tonic::client),
    })
}
