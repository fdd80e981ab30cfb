//! Signals that stop a command, and SIGHUP, which does not.

use std::sync::Arc;

use async_signal::{Signal, Signals};
use futures_lite::{StreamExt, future};

use crate::threads;

/// Calls `stop` on each SIGINT, SIGTERM and Ctrl-C, and `hang_up` on each SIGHUP. The handlers run on their own
/// threads, so a busy executor does not delay them. On Windows only Ctrl-C and closing the console are reported.
pub(super) fn watch(
    stop: Arc<dyn Fn() + Send + Sync>,
    hang_up: Arc<dyn Fn() + Send + Sync>,
) -> Result<(), ctrlc::Error> {
    let interrupted = stop.clone();
    ctrlc::set_handler(move || interrupted())?;
    // Windows has neither signal.
    let Ok(mut signals) = Signals::new([Signal::Term, Signal::Hup]) else { return Ok(()) };
    let wait = async move {
        while let Some(Ok(signal)) = signals.next().await {
            if signal == Signal::Hup { hang_up() } else { stop() }
        }
    };
    // Not smol's `block_on`, which would make this thread poll the executor's sockets.
    let wait = Box::new(|| future::block_on(wait));
    threads::spawn("signals", wait).map(drop).map_err(ctrlc::Error::System)
}
