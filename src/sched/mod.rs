//! The loop of a service that owns its state.
//!
//! A [`Scheduler`] owns a state and handles one event at a time: calls of the functions of a [chan
//! server](crate::chan::Server), posted tasks, callbacks of its own async calls, timers, results of blocking jobs and
//! futures, and items of attached streams. Each source gets its share, even if another one is busy. A [`Handle`]
//! reaches the loop from anywhere, also from its own callbacks.
//!
//! | for | use |
//! | --- | --- |
//! | a task for the loop, with its result | [`Handle::post`] |
//! | a call to another server, with a callback | [`Handle::call`] |
//! | timers | [`Handle::after`], [`Handle::every`], [`Handle::cron`](Handle::cron) |
//! | blocking work | [`Handle::spawn_blocking`] |
//! | futures and streams | [`Handle::spawn`], [`Handle::attach_stream`] |
//! | async steps in sequence | [`Handle::waterfall`] |
//! | calls in order by key | [`Lanes`](crate::lanes::Lanes) |
//! | services that start and end together | [`Modules`] |
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use chanrpc::chan::Functions;
//! use chanrpc::sched::{Handle, Scheduler};
//!
//! struct Lamp { me: Handle<Lamp>, on: bool }
//!
//! let mut functions = Functions::new();
//! functions.register0("flash", |lamp: &mut Lamp, time: Duration| {
//!     lamp.on = true;
//!     lamp.me.after(time, |lamp| lamp.on = false).unwrap();
//! })?;
//!
//! let executor = Arc::new(smol::Executor::new());
//! let scheduler = Scheduler::new(&executor, functions, |me| Lamp { me: me.clone(), on: false });
//! let (client, handle) = (scheduler.client(), scheduler.handle());
//! let owner = executor.spawn(scheduler.run());
//!
//! smol::block_on(executor.run(async {
//!     client.call0("flash", Duration::from_secs(60)).await?;
//!     assert!(handle.post(|lamp| lamp.on)?.await?);
//!     handle.drain(Duration::from_secs(1)).await;
//!     assert!(owner.await.on, "a timer that is not due by the end never fires");
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! }))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blocking_pool;
mod call;
mod chain;
#[cfg(feature = "cron")]
mod cron;
mod error;
mod handle;
mod inbox;
#[cfg(all(test, chanrpc_loom))]
mod loom_models;
mod modules;
mod scheduler;
mod settings;
mod shared;
mod sources;
mod timers;
mod waterfall;

pub use call::HandleCall;
#[cfg(feature = "cron")]
pub use cron::{Cron, CronError, Zone};
pub use error::ScheduleError;
pub use handle::{Handle, PostHandle, StreamHandle};
pub use modules::{ModuleError, Modules};
pub use scheduler::Scheduler;
pub use settings::SchedulerSettings;
pub use timers::TimerId;
pub use waterfall::Waterfall;
