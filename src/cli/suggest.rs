//! Hints for a person who named no function of the node.

use std::time::Duration;

use smol::Timer;
use smol::future::FutureExt;

use super::connection::Connected;
use super::print_error;
use crate::nearest::nearest;

/// How long to wait for the list of functions.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Prints the function that was most likely meant, if the caller may list the functions.
pub(super) async fn suggest(connected: &Connected, wanted: &str) {
    let timeout = async {
        Timer::after(TIMEOUT).await;
        None
    };
    let listed = async { connected.call("rpc.list", None).await.ok() }.or(timeout).await;
    let Some(listed) = listed else { return };
    let names: Vec<String> = serde_json::from_str(listed.get()).unwrap_or_default();
    if let Some(near) = nearest(wanted, &mut names.iter().map(String::as_str)) {
        print_error(format_args!("did you mean {near}?"));
    }
}
