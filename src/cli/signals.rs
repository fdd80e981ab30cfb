//! The signals that end a command, or must not.

use std::sync::Arc;
use std::thread;

use async_signal::{Signal, Signals};
use futures_lite::{StreamExt, future};

/// Calls `stop` at each SIGINT, SIGTERM and Ctrl-C, and `hang_up` at each SIGHUP, from now on and on threads of their
/// own, so that no busy executor delays them. Windows has Ctrl-C and the closing of a console only.
pub(super) fn watch(
    stop: impl Fn() + Send + Sync + 'static,
    hang_up: impl Fn() + Send + 'static,
) -> Result<(), ctrlc::Error> {
    let stop = Arc::new(stop);
    let interrupted = stop.clone();
    ctrlc::set_handler(move || interrupted())?;
    // Windows has neither of them.
    let Ok(mut signals) = Signals::new([Signal::Term, Signal::Hup]) else { return Ok(()) };
    let wait = async move {
        while let Some(Ok(signal)) = signals.next().await {
            if signal == Signal::Hup { hang_up() } else { stop() }
        }
    };
    // Not smol's block_on: this thread would poll sockets for the executor's.
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(|| future::block_on(wait))
        .map(drop)
        .map_err(ctrlc::Error::System)
}
