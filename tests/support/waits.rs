//! Waiting for conditions, and the size of heavy tests.
//!
//! Nothing here sleeps to give something time to happen. If a test has to wait, it polls a condition; [`LIMIT`] only
//! determines when that has failed.

use std::num::NonZeroU32;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The timeout of every wait. No wait takes a tenth of it, and it is shorter than the default deadline that a node
/// gives a call.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// The interval at which conditions are polled.
const PAUSE: Duration = Duration::from_millis(5);

/// The size of a heavy test: `size` divided by `CHANRPC_TEST_SCALE` (100: a hundredth), for platforms where calls take
/// many times as long as usual.
pub(crate) fn scale(size: u32) -> u32 {
    let divisor = std::env::var("CHANRPC_TEST_SCALE").map_or(NonZeroU32::MIN, |text| {
        text.parse().unwrap_or_else(|error| panic!("CHANRPC_TEST_SCALE={text}: {error}"))
    });
    (size / divisor).max(1)
}

/// Waits until `condition` returns a value.
pub(crate) fn await_some<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "timed out: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until `condition` returns `true`.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    await_some(what, || condition().then_some(()));
}

/// Receives from a channel within the timeout.
pub(crate) fn got<T>(channel: &mpsc::Receiver<T>) -> T {
    channel.recv_timeout(LIMIT).expect("a message within the limit")
}

/// Joins a thread within the timeout.
pub(crate) fn ended<T>(thread: JoinHandle<T>) -> T {
    eventually("the thread ends", || thread.is_finished());
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
