//! Providers of the user's, which may panic.

use smol::future::Boxed;

use super::Provider;
use super::call::{Call, unanswered};
use crate::chan::panic;
use crate::message::{Fault, RawJson};

/// A provider of the user's. If it panics, the call is dropped, and so answered. Its destructor, which may run where the
/// last of its calls ends, may panic too.
pub(super) struct Caught<P>(Option<P>);

impl<P: Provider> Caught<P> {
    pub(super) fn new(provider: P) -> Self {
        Self(Some(provider))
    }
}

impl<P: Provider> Provider for Caught<P> {
    fn call(&self, call: Call<'_>) {
        if let Some(provider) = &self.0 {
            let _ = panic::catch(|| provider.call(call));
        }
    }

    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        let Some(provider) = &self.0 else { return Ok(()) };
        panic::catch(|| provider.check(params)).unwrap_or_else(|_| Err(unanswered()))
    }

    fn stop(&self) -> Boxed<()> {
        match &self.0 {
            Some(provider) => provider.stop(),
            None => Box::pin(std::future::ready(())),
        }
    }
}

impl<P> Drop for Caught<P> {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            panic::drop_quietly(provider);
        }
    }
}
