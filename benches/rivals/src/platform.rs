//! The executors that contestants run on; tokio without its I/O driver, which no contestant needs.

use std::future::Future;
use std::sync::Arc;
use std::thread;

use actix_rt::{Arbiter, ArbiterHandle, System};
use smol::Executor;
use tokio::runtime::{Builder, Runtime};

/// An executor that tasks can reach.
pub(crate) trait Platform: Clone + Send + Sync + 'static {
    /// Runs `main` as a task on this thread alone; waking a task is faster than waking the future passed to `block_on`.
    fn one_thread<T: Send + 'static, F>(main: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static;

    /// Runs `main` as a task on two threads.
    fn two_threads<T: Send + 'static, F>(main: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static;

    /// Runs tasks concurrently until all have ended.
    fn all<F>(&self, tasks: Vec<F>) -> impl Future<Output = ()> + Send
    where
        F: Future<Output = ()> + Send + 'static;
}

/// `current_thread` for one thread, `multi_thread` for two.
#[derive(Clone, Copy)]
pub(crate) struct Tokio;

impl Tokio {
    fn run<T: Send + 'static>(mut on: Builder, main: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = on.enable_time().build().expect("tokio starts");
        runtime.block_on(async { tokio::spawn(main).await.expect("it ends well") })
    }
}

impl Platform for Tokio {
    fn one_thread<T: Send + 'static, F>(main: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        Self::run(Builder::new_current_thread(), main(Self))
    }

    fn two_threads<T: Send + 'static, F>(main: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut two = Builder::new_multi_thread();
        two.worker_threads(2);
        Self::run(two, main(Self))
    }

    async fn all<F>(&self, tasks: Vec<F>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
        for task in tasks {
            task.await.expect("it ends well");
        }
    }
}

/// One executor on one thread or two. `smol::block_on` also drives timers, and was as fast here as
/// `smol::future::block_on`, which does not.
#[derive(Clone)]
pub(crate) struct Smol(Arc<Executor<'static>>);

impl Smol {
    pub(crate) fn executor(&self) -> &Arc<Executor<'static>> {
        &self.0
    }

    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) {
        self.0.spawn(task).detach();
    }
}

impl Platform for Smol {
    fn one_thread<T: Send + 'static, F>(main: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let executor = Arc::new(Executor::new());
        let main = executor.spawn(main(Self(executor.clone())));
        smol::block_on(executor.run(main))
    }

    fn two_threads<T: Send + 'static, F>(main: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let executor = Arc::new(Executor::new());
        let main = executor.spawn(main(Self(executor.clone())));
        let (stop, stopped) = async_channel::bounded::<()>(1);
        thread::scope(|scope| {
            scope.spawn(|| smol::block_on(executor.run(stopped.recv())));
            let result = smol::block_on(executor.run(main));
            drop(stop);
            result
        })
    }

    async fn all<F>(&self, tasks: Vec<F>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks: Vec<_> = tasks.into_iter().map(|task| self.0.spawn(task)).collect();
        for task in tasks {
            task.await;
        }
    }
}

/// The system's own arbiter, and a second arbiter for two threads. Actors run on the first, and half of their callers
/// on each. Putting all callers on the second was sometimes slightly faster, but far slower on a busy machine.
#[derive(Clone)]
pub(crate) struct Actix(Option<ArbiterHandle>);

fn actix_runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("tokio starts")
}

impl Platform for Actix {
    fn one_thread<T: Send + 'static, F>(main: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let system = System::with_tokio_rt(actix_runtime);
        let main = main(Self(None));
        system.block_on(async { actix_rt::spawn(main).await.expect("it ends well") })
    }

    fn two_threads<T: Send + 'static, F>(main: impl FnOnce(Self) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let system = System::with_tokio_rt(actix_runtime);
        let second = Arbiter::with_tokio_rt(actix_runtime);
        let main = main(Self(Some(second.handle())));
        let result = system.block_on(async { actix_rt::spawn(main).await.expect("it ends well") });
        second.stop();
        second.join().expect("it ends well");
        result
    }

    async fn all<F>(&self, tasks: Vec<F>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (running, ended) = async_channel::bounded::<()>(1);
        for (index, task) in tasks.into_iter().enumerate() {
            let running = running.clone();
            let task = async move {
                task.await;
                drop(running);
            };
            match &self.0 {
                Some(second) if index % 2 == 1 => assert!(second.spawn(task), "the second arbiter runs"),
                _ => drop(actix_rt::spawn(task)),
            }
        }
        drop(running);
        // Nothing is sent; the channel closes when the last task has ended.
        let _ = ended.recv().await;
    }
}
