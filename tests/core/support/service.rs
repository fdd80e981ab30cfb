//! A scheduler for tests.

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use chanrpc::chan;
use chanrpc::sched::{Handle, Scheduler, SchedulerSettings};
use smol::Executor;

use super::{LIMIT, ended, got};

/// A scheduler whose loop and executor run on one thread, so blocking that thread stops everything.
pub(crate) struct Service<S: 'static> {
    pub(crate) me: Handle<S>,
    pub(crate) client: chan::Client,
    thread: JoinHandle<S>,
}

impl<S: Send + 'static> Service<S> {
    pub(crate) fn start(
        settings: SchedulerSettings,
        functions: chan::Functions<S>,
        state: impl FnOnce(&Handle<S>) -> S,
    ) -> Self {
        let executor = Arc::new(Executor::new());
        let scheduler = Scheduler::with_settings(&executor, functions, settings, state);
        let (me, client) = (scheduler.handle(), scheduler.client());
        let thread = thread::spawn(move || smol::block_on(executor.run(scheduler.run())));
        Self { me, client, thread }
    }

    /// Runs something on the loop and waits for it.
    pub(crate) fn ask<R: Send + 'static>(&self, f: impl FnOnce(&mut S) -> R + Send + 'static) -> R {
        self.me.post(f).unwrap().timeout(LIMIT).wait().unwrap()
    }

    /// Blocks the loop until the sender is dropped.
    pub(crate) fn block(&self) -> mpsc::Sender<()> {
        let (release, gate) = mpsc::channel::<()>();
        let (begins, begun) = mpsc::channel();
        let _posted = self.me.post(move |_| {
            begins.send(()).unwrap();
            let _ = gate.recv_timeout(LIMIT);
        });
        got(&begun);
        release
    }

    pub(crate) fn close(self) -> S {
        self.me.close();
        ended(self.thread)
    }

    pub(crate) fn drain(self) -> S {
        assert!(smol::block_on(self.me.drain(LIMIT)), "not everything was run");
        ended(self.thread)
    }

    /// Waits until the loop ends by itself.
    pub(crate) fn end(self) -> S {
        ended(self.thread)
    }
}
