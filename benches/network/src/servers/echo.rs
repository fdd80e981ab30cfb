//! A lower bound for every server on smol: sends back what it reads, as much as arrives at once.

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

/// Runs a task for each connection on an executor of this thread.
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
            // A disconnected peer ends only its own task.
            tasks.spawn(connection(stream)).detach();
        }
    };
    // As a task, because inside `block_on` it would cost two more system calls per wake-up.
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
