//! Helpers of the tests of the core.

mod drops;
#[path = "../../support/executor.rs"]
mod executor;
mod service;
#[path = "../../support/waits.rs"]
mod waits;
#[path = "../../support/woken.rs"]
mod woken;

pub(crate) use drops::{Bomb, DropGuard, Drops};
pub(crate) use executor::run;
pub(crate) use service::Service;
pub(crate) use waits::{LIMIT, await_some, ended, eventually, got, scale};
pub(crate) use woken::Woken;
