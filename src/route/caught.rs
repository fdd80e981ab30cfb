//! Providers of the user's, which may panic.

use smol::future::Boxed;

use super::Provider;
use super::call::{Call, unanswered};
use crate::chan::panic;
use crate::message::{Fault, RawJson};

/// A provider of the user's. If it panics, the call is dropped, and so answered.
pub(super) struct Caught<P>(pub(super) P);

impl<P: Provider> Provider for Caught<P> {
    fn call(&self, call: Call<'_>) {
        let _ = panic::catch(|| self.0.call(call));
    }

    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        panic::catch(|| self.0.check(params)).unwrap_or_else(|_| Err(unanswered()))
    }

    fn stop(&self) -> Boxed<()> {
        self.0.stop()
    }
}
