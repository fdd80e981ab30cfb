//! What no server on smol can undercut: it sends back what it reads, as much as comes at once.

use std::future::Future;
use std::io;
use std::rc::Rc;

use smol::LocalExecutor;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

use super::announce;

const BUFFER: usize = 16 * 1024;

pub(super) fn serve() {
    accept(echo);
}

/// Gives each connection a task of an executor on this thread.
pub(super) fn accept<F>(connection: impl Fn(TcpStream) -> F + 'static)
where
    F: Future<Output = io::Result<()>> + 'static,
{
    let executor = Rc::new(LocalExecutor::new());
    let tasks = executor.clone();
    let accept = async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        announce(listener.local_addr());
        loop {
            let (stream, _) = listener.accept().await.expect("connections come");
            stream.set_nodelay(true).expect("TCP has no delay");
            // A peer that is gone ends its own task only.
            tasks.spawn(connection(stream)).detach();
        }
    };
    // As a task: inside `block_on` it would cost two more system calls at each wake-up.
    smol::block_on(executor.run(executor.spawn(accept)));
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; BUFFER];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            count => stream.write_all(&bytes[..count]).await?,
        }
    }
}
