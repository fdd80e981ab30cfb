//! tarpc with bincode over TCP.

use futures::StreamExt;
use tarpc::context::{self, Context};
use tarpc::serde_transport::tcp;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;

use super::{announce, own_client};
use crate::measured::{How, Measured};

#[tarpc::service]
trait Adder {
    async fn add(a: i64, b: i64) -> i64;
}

#[derive(Clone)]
struct Sums;

impl Adder for Sums {
    async fn add(self, _: Context, a: i64, b: i64) -> i64 {
        a + b
    }
}

pub(super) fn serve() {
    own_client::runtime().block_on(async {
        let mut listener = tcp::listen("127.0.0.1:0", Bincode::default).await.expect("a free port");
        announce(Ok(listener.local_addr()));
        while let Some(transport) = listener.next().await {
            let Ok(transport) = transport else { continue };
            transport.get_ref().set_nodelay(true).expect("TCP has no delay");
            let answers = BaseChannel::with_defaults(transport).execute(Sums.serve());
            tokio::spawn(answers.for_each(|answer| async {
                tokio::spawn(answer);
            }));
        }
    });
}

pub(super) fn client(address: &str, how: How) -> Measured {
    let connect = async || {
        let transport = tcp::connect(address, Bincode::default).await.expect("the server is there");
        transport.get_ref().set_nodelay(true).expect("TCP has no delay");
        AdderClient::new(tarpc::client::Config::default(), transport).spawn()
    };
    own_client::closed_loop(how, connect, async |client: &mut AdderClient| {
        assert_eq!(client.add(context::current(), 12, 30).await.expect("an answer"), 42);
    })
}
