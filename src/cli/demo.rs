//! The demo functions of a node without a configuration, one of each kind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::{Executor, Timer};

use crate::chan::{Functions, Id1, RegisterError, Responder};
use crate::message::{Fault, Param, Schema, Signature, code};
use crate::route::Exports;

/// The state of the demonstration server.
#[derive(Default)]
pub(super) struct Demo {
    count: i64,
}

/// The longest that `demo.sleep` sleeps, in seconds.
const MAX_SLEEP: f64 = 3600.0;
/// The maximum number of concurrent sleeps.
const MAX_SLEEPERS: usize = 10_000;
/// How often a sleep checks whether its caller still waits.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

pub(super) fn functions(executor: &Arc<Executor<'static>>) -> Result<Exports<Demo>, RegisterError> {
    let mut exports = Functions::exported();
    exports
        .register1("demo.add", |_: &mut Demo, (a, b): (f64, f64)| number(a + b))?
        .register_n("demo.divide", |_, (a, b): (i64, i64)| {
            let whole = a.checked_div(b).zip(a.checked_rem(b));
            whole.ok_or_else(|| match b {
                0 => Fault::invalid_params("the second number must not be 0"),
                _ => Fault::invalid_params("the result is out of range for 64 bits"),
            })
        })?
        .register1("demo.count", |demo, by: Option<i64>| {
            demo.count = demo.count.wrapping_add(by.unwrap_or(1));
            demo.count
        })?
        .register0("demo.reset", |demo, ()| demo.count = 0)?
        .register1("demo.panic", |_, ()| -> () { panic!("this function always panics") })?;
    let executor = executor.clone();
    let sleepers = Arc::new(());
    exports.register_deferred(
        Id1::new("demo.sleep"),
        move |_, seconds: f64, responder: Responder<Result<f64, Fault>>| {
            if !(0.0..=MAX_SLEEP).contains(&seconds) {
                return responder.reply(Err(Fault::invalid_params("seconds must be from 0 to 3600")));
            }
            let slot = sleepers.clone();
            if Arc::strong_count(&slot) > MAX_SLEEPERS {
                return responder.reply(Err(Fault::new(code::BUSY, "too many concurrent sleeps")));
            }
            // The server handles other calls meanwhile.
            let sleep = async move {
                let end = Instant::now() + Duration::from_secs_f64(seconds);
                while Instant::now() < end && !responder.is_abandoned() {
                    Timer::at(end.min(Instant::now() + POLL_INTERVAL)).await;
                }
                responder.reply(Ok(seconds));
                drop(slot);
            };
            executor.spawn(sleep).detach();
        },
    )?;
    describe(&mut exports);
    Ok(exports)
}

/// Adds what the functions' types do not show.
fn describe(exports: &mut Exports<Demo>) {
    exports
        .describe("demo.add", |add| {
            add.names(["a", "b"]).result(Schema::number()).description("adds two numbers")
        })
        .describe("demo.divide", |divide| {
            let divide = divide
                .error(code::INVALID_PARAMS, "the second number is 0, or the result needs more than 64 bits");
            divide.names(["a", "b"]).description("returns the quotient and the remainder of two integers")
        })
        .describe("demo.count", |count| {
            let by = Param::new("by", Schema::integer()).default(&1);
            Signature { params: Some(vec![by]), ..count }.description("adds to a counter, and returns it")
        })
        .describe("demo.reset", |reset| reset.description("sets the counter to 0"))
        .describe("demo.panic", |panic| panic.description("always panics, to show what its caller gets"))
        .describe("demo.sleep", |sleep| {
            sleep.names(["seconds"]).result(Schema::number()).description("answers after some seconds")
        });
}

/// Returns a value that serializes whole numbers without a fraction: 3, not 3.0.
fn number(n: f64) -> Number {
    #[allow(clippy::cast_possible_truncation)]
    if n.fract() == 0.0 && n.abs() < 9e15 { Number::Whole(n as i64) } else { Number::Other(n) }
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Other(f64),
}
