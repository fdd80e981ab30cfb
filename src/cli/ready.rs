//! `--ready-file`: tells other programs that a node listens, and where.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use smol::Timer;
use smol::future::FutureExt;

/// How long a node waits until a device or a pipe takes what is written to it.
const PATIENCE: Duration = Duration::from_millis(200);

/// Writes addresses to a file, one a line. A regular file appears, or is replaced, as a whole, since who waits for it must
/// never see half of it. Anything else, such as a device or a pipe, is written to and stays what it is; a pipe that nobody
/// reads yet holds up no node.
pub(super) async fn write(path: &Path, addresses: impl Iterator<Item = SocketAddr>) -> Result<(), String> {
    let lines: String = addresses.map(|address| format!("{address}\n")).collect();
    let written = match fs::canonicalize(path) {
        // What a link leads to is replaced, and not the link.
        Ok(target) if target.is_file() => replace(&target, &lines),
        // A link that leads nowhere yet.
        Err(_) if fs::symlink_metadata(path).is_ok() => fs::write(path, &lines),
        Err(_) => replace(path, &lines),
        Ok(target) => {
            let mut writing = smol::unblock(move || {
                OpenOptions::new().write(true).open(target)?.write_all(lines.as_bytes())
            });
            let late = async {
                Timer::after(PATIENCE).await;
                None
            };
            let written = async { Some((&mut writing).await) }.or(late).await;
            written.unwrap_or_else(|| {
                log::info!("--ready-file {}: nobody reads it yet", path.display());
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
    // Left behind by a node that was killed. Whatever it is, nothing is written through it.
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).open(&draft)?;
    let written = file.write_all(lines.as_bytes()).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}
