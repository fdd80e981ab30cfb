//! Runs the node under an init process if it is process 1 of a container.

use std::time::Duration;

use pid1::Pid1Settings;

/// How long the node may take to stop, longer than the maximum `limits.drain`. Container runtimes kill it earlier.
const STOP_TIMEOUT: Duration = Duration::from_secs(2 * 3_600);

/// If this process is number 1, starts the node as a child process and never returns. This process then only reaps
/// orphaned processes, forwards signals and exits with the node's status. A node that reaped orphans itself could
/// mistake one for a program it waits for.
pub(super) fn run_under_init() {
    // Without its executable, the node cannot be started again.
    if std::process::id() == 1
        && std::env::current_exe().is_ok()
        && let Err(error) = Pid1Settings::new().timeout(STOP_TIMEOUT).launch()
    {
        log::warn!("orphaned processes will not be reaped: {error}");
    }
}
