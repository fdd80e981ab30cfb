//! `--ready-file`: tells other programs that the node listens, and on which addresses.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use smol::Timer;
use smol::future::FutureExt;

/// How long the node waits for a device or a pipe to accept the addresses.
const WRITE_TIMEOUT: Duration = Duration::from_millis(200);

/// Writes addresses to a file, one per line. Creates or replaces a regular file atomically, so that a waiting process
/// never reads half of it. Writes to anything else, such as a device or a pipe, in place; a pipe without a reader does
/// not delay the node.
pub(super) async fn write(path: &Path, addresses: impl Iterator<Item = SocketAddr>) -> Result<(), String> {
    let lines: String = addresses.map(|address| format!("{address}\n")).collect();
    let written = match fs::canonicalize(path) {
        // Replace the target of a link, not the link.
        Ok(target) if target.is_file() => replace(&target, &lines),
        // A dangling link.
        Err(_) if fs::symlink_metadata(path).is_ok() => fs::write(path, &lines),
        Err(_) => replace(path, &lines),
        Ok(target) => {
            let mut writing = smol::unblock(move || {
                OpenOptions::new().write(true).open(target)?.write_all(lines.as_bytes())
            });
            let timeout = async {
                Timer::after(WRITE_TIMEOUT).await;
                None
            };
            let written = async { Some((&mut writing).await) }.or(timeout).await;
            written.unwrap_or_else(|| {
                log::info!("--ready-file {}: no reader yet", path.display());
                writing.detach();
                Ok(())
            })
        }
    };
    written.map_err(|error| format!("cannot write --ready-file {}: {error}", path.display()))
}

fn replace(path: &Path, lines: &str) -> io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    // A killed node may have left it behind. Remove it, whatever it is, so that nothing is written through it.
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).open(&draft)?;
    let written = file.write_all(lines.as_bytes()).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}
