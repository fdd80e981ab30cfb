//! The thread of a client without an executor.

use std::sync::Arc;
use std::{io, thread};

use async_channel::Sender;
use smol::Executor;

/// A thread that runs the connections of one client until this is dropped.
#[derive(Debug)]
pub(super) struct IoThread {
    _running: Sender<()>,
}

impl IoThread {
    pub(super) fn start() -> io::Result<(Arc<Executor<'static>>, Self)> {
        let executor = Arc::new(Executor::new());
        let (running, stopped) = async_channel::bounded::<()>(1);
        let thread = thread::Builder::new().name("chanrpc client".into());
        thread.spawn({
            let executor = executor.clone();
            move || {
                let _ = smol::block_on(executor.run(stopped.recv()));
            }
        })?;
        Ok((executor, Self { _running: running }))
    }
}
