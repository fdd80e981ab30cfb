//! What a node without a configuration offers, so that there is something to call: one of each kind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::{Executor, Timer};

use crate::chan::{Functions, Id1, RegisterError, Responder};
use crate::message::{Fault, code};
use crate::route::Exports;

/// The state of the demonstration server.
#[derive(Default)]
pub(super) struct Demo {
    count: i64,
}

/// The longest that `demo.sleep` sleeps.
const LONGEST_SLEEP: f64 = 3600.0;
/// How many sleep at a time.
const SLEEPERS: usize = 10_000;
/// How soon a sleeper notices that nobody waits for it any more.
const LOOK: Duration = Duration::from_millis(200);

pub(super) fn functions(executor: &Arc<Executor<'static>>) -> Result<Exports<Demo>, RegisterError> {
    let mut native = Functions::exported();
    native
        .register1("demo.add", |_: &mut Demo, (a, b): (f64, f64)| number(a + b))?
        .register_n("demo.divide", |_, (a, b): (i64, i64)| {
            let whole = a.checked_div(b).zip(a.checked_rem(b));
            whole.ok_or_else(|| match b {
                0 => Fault::invalid_params("the second number must not be 0"),
                _ => Fault::invalid_params("the result is beyond 64 bits"),
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
    native.register_deferred(
        Id1::new("demo.sleep"),
        move |_, seconds: f64, responder: Responder<Result<f64, Fault>>| {
            if !(0.0..=LONGEST_SLEEP).contains(&seconds) {
                return responder.reply(Err(Fault::invalid_params("seconds are from 0 to 3600")));
            }
            let place = sleepers.clone();
            if Arc::strong_count(&place) > SLEEPERS {
                return responder.reply(Err(Fault::new(code::BUSY, "too many sleep already")));
            }
            // The server is free for other calls meanwhile.
            let sleep = async move {
                let end = Instant::now() + Duration::from_secs_f64(seconds);
                while Instant::now() < end && !responder.is_abandoned() {
                    Timer::at(end.min(Instant::now() + LOOK)).await;
                }
                responder.reply(Ok(seconds));
                drop(place);
            };
            executor.spawn(sleep).detach();
        },
    )?;
    Ok(native)
}

/// Whole numbers without a fraction: 3 and not 3.0.
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
