//! Tells the service manager what the node does, by the protocol of sd_notify(3). Without one, nothing happens.

use std::env;
use std::io;
use std::time::{Duration, Instant};

use smol::future::Boxed;
use smol::{Executor, Timer};
use socket2::{Domain, SockAddr, Socket, Type};

/// How long the service manager may take to make room for a message.
const SEND_TIMEOUT: Duration = Duration::from_millis(200);

/// Sends a state: assignments such as `READY=1`, one a line.
pub(super) fn notify(state: &str) {
    if let Ok(to) = env::var("NOTIFY_SOCKET")
        && let Err(error) = send(&to, state)
    {
        log::warn!("the service manager does not take a message (NOTIFY_SOCKET={to}): {error}");
    }
}

/// Tells that the node serves, and what there is to say about that.
pub(super) fn ready(status: &str) {
    notify(&format!("READY=1\nSTATUS={}", status.lines().next().unwrap_or_default()));
}

/// Tells that the configuration is being loaded again. A [`ready`] ends that.
pub(super) fn reloading() {
    let now = monotonic_time().map(|now| format!("\nMONOTONIC_USEC={}", now.as_micros()));
    notify(&format!("RELOADING=1{}", now.unwrap_or_default()));
}

/// Tells at intervals that the node works, if the service manager waits for that (`WatchdogSec=`).
pub(super) fn watch(executor: &Executor<'static>) {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let is_for_this_process = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    if let Some(timeout @ 1..) = number("WATCHDOG_USEC").filter(|_| is_for_this_process) {
        let beat: Boxed<()> = Box::pin(async move {
            loop {
                notify("WATCHDOG=1");
                Timer::after(Duration::from_micros(timeout) / 2).await;
            }
        });
        executor.spawn(beat).detach();
    }
}

fn send(to: &str, state: &str) -> io::Result<()> {
    let abstract_name = to.strip_prefix('@').map(|name| format!("\0{name}"));
    let address = SockAddr::unix(abstract_name.as_deref().unwrap_or(to))?;
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.send_to(state.as_bytes(), &address).map(drop)
}

/// Returns the system's monotonic clock, which the standard library shows in the debug format of an `Instant` only.
fn monotonic_time() -> Option<Duration> {
    let shown = format!("{:?}", Instant::now());
    let mut numbers = shown.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut next = || numbers.next()?.parse().ok();
    Some(Duration::new(next()?, u32::try_from(next()?).ok()?))
}
