//! Runs tests that are futures.

use std::sync::Arc;
use std::time::Duration;

use smol::future::FutureExt;
use smol::{Executor, Timer};

/// A test that waits for this long waits for something that never comes.
const HANG: Duration = Duration::from_secs(60);

/// Runs a test and everything that it starts on the current thread.
pub(crate) fn run(test: impl AsyncFnOnce(Arc<Executor<'static>>)) {
    let executor = Arc::new(Executor::new());
    let hang = async {
        Timer::after(HANG).await;
        panic!("the test waits for something that does not come");
    };
    smol::block_on(executor.run(test(executor.clone()).or(hang)));
}
