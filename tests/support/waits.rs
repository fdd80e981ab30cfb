//! Waiting for what takes its time, and the size of heavy tests.
//!
//! Nothing here sleeps to give something time to happen. Where a test has to wait, it looks for a condition
//! again and again; [`LIMIT`] only says when that has failed.

use std::num::NonZeroU32;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long anything may take before a test has failed. Nothing takes a tenth of it, and it is below the
/// deadline that a node gives a call by default.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// The size of a heavy test: `size`, or that part of it which `CHANRPC_TEST_SCALE` says, where every call takes
/// many times as long as usual (100: a hundredth).
pub(crate) fn scale(size: u32) -> u32 {
    let divisor = std::env::var("CHANRPC_TEST_SCALE").map_or(NonZeroU32::MIN, |text| {
        text.parse().unwrap_or_else(|error| panic!("CHANRPC_TEST_SCALE={text}: {error}"))
    });
    (size / divisor).max(1)
}

/// Waits until `condition` gives something.
pub(crate) fn await_some<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "waited in vain: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    await_some(what, || condition().then_some(()));
}

/// What comes over a channel, sooner or later.
pub(crate) fn got<T>(channel: &mpsc::Receiver<T>) -> T {
    channel.recv_timeout(LIMIT).expect("waited in vain")
}

/// What a thread ends with, sooner or later.
pub(crate) fn ended<T>(thread: JoinHandle<T>) -> T {
    eventually("the thread ends", || thread.is_finished());
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
