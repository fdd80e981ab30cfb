//! The node as the first process of a container.

use std::time::Duration;

use pid1::Pid1Settings;

/// How long the node has to stop once it is told to: more than the longest `limits.drain`. Whoever stops a container does
/// not wait for so long.
const PATIENCE: Duration = Duration::from_secs(2 * 3_600);

/// Has the node run as a child of this process if this is process number 1, to which every process falls that has lost its
/// parent. This one then does nothing but reap those and pass signals on, and ends as the node does; it never returns. A
/// node that shared that task with the wait for its programs would take one for the other.
pub(super) fn reap_orphans() {
    // Without its own file the node cannot be started once more.
    if std::process::id() == 1
        && std::env::current_exe().is_ok()
        && let Err(error) = Pid1Settings::new().timeout(PATIENCE).launch()
    {
        log::warn!("processes that lose their parent will not be reaped: {error}");
    }
}
