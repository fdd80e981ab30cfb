//! jsonrpsee, which serves JSON-RPC over HTTP and WebSocket on one port.

use jsonrpsee::RpcModule;
use jsonrpsee::server::{Server, ServerConfig};
use jsonrpsee::types::ErrorObjectOwned;

use super::{announce, own_client};

pub(super) fn serve() {
    own_client::runtime().block_on(async {
        // The default is 100.
        let config = ServerConfig::builder().max_connections(4096).build();
        let server = Server::builder().set_config(config).build("127.0.0.1:0").await.expect("a free port");
        announce(server.local_addr());
        let mut module = RpcModule::new(());
        module
            .register_method("add", |params, (), _| {
                let (a, b): (i64, i64) = params.parse()?;
                Ok::<i64, ErrorObjectOwned>(a + b)
            })
            .expect("the first of its name");
        server.start(module).stopped().await;
    });
}
