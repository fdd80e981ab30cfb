//! Shows a person that a call still runs.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::pin::Pin;
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::FutureExt;

/// How long a call runs before the first line.
const QUIET: Duration = Duration::from_secs(1);
/// The interval between lines.
const INTERVAL: Duration = Duration::from_millis(200);

/// Waits for a call. At a terminal, shows the time after a second.
pub(super) async fn with_progress<T>(
    function: &str,
    timeout: Duration,
    call: Pin<&mut dyn Future<Output = T>>,
) -> T {
    let mut stderr = std::io::stderr();
    if !stderr.is_terminal() {
        return call.await;
    }
    let width = Cell::new(0);
    let start = Instant::now();
    let show = async {
        let mut pause = QUIET;
        for turn in ["|", "/", "-", "\\"].into_iter().cycle() {
            Timer::after(pause).await;
            pause = INTERVAL;
            let (elapsed, all) = (start.elapsed().as_secs(), timeout.as_secs_f64());
            let line = super::visible(&format!("{turn} {function}: {elapsed} s of {all} s"));
            let _ = write!(std::io::stderr(), "\r{line}");
            width.set(line.len());
        }
        std::future::pending().await
    };
    let ended = call.or(show).await;
    if width.get() > 0 {
        let _ = write!(stderr, "\r{:width$}\r", "", width = width.get());
    }
    ended
}
