//! The rivals, one per file.

mod actix;
mod bare;
mod kameo;
mod ractor;
mod tokio;
mod xtra;

pub(crate) use self::actix::Actix;
pub(crate) use self::bare::{Bare, SmolTimers};
pub(crate) use self::kameo::Kameo;
pub(crate) use self::ractor::Ractor;
pub(crate) use self::tokio::{Delays, Sleeps, Tokio};
pub(crate) use self::xtra::Xtra;

/// Returns the version of a package that this program was built with.
pub(crate) fn version(package: &str) -> &'static str {
    let lock = include_str!("../../../../Cargo.lock");
    let entry = format!("name = \"{package}\"\nversion = \"");
    let (_, version) = lock.split_once(&entry).expect("all contestants are in the lock file");
    version.split('"').next().unwrap_or_default()
}
