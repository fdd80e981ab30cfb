//! A waker for tests that poll.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A waker that records whether it was woken since the last check.
#[derive(Default)]
pub(crate) struct Woken(AtomicBool);

impl Woken {
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }

    /// Polls a future and asserts that it is pending.
    pub(crate) fn sleep(self: &Arc<Self>, future: &mut (impl Future + Unpin)) {
        let waker = self.clone().into();
        let polled = std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
}

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
