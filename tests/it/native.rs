//! Functions of a server, called from the network.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chanrpc::chan::{Id1, Server};
use chanrpc::internals::route::{RegistryInternals as _, ReplyQueue, responder};
use chanrpc::message::RawJson;
use chanrpc::route::{Exports, Registry};
use serde::{Deserialize, Deserializer};

use crate::support::executor::run;

/// The number of times that an argument was decoded.
static DECODED: AtomicU64 = AtomicU64::new(0);

struct Counted(u64);

const PLAIN: Id1<Counted, u64> = Id1::new("plain");
const DEFERRED: Id1<Counted, u64> = Id1::new("deferred");
const ASYNC: Id1<Counted, u64> = Id1::new("async");

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DECODED.fetch_add(1, Ordering::Relaxed);
        <[u64; 1]>::deserialize(deserializer).map(|[number]| Self(number))
    }
}

#[test]
fn arguments_are_decoded_once_however_the_function_answers() {
    run(async |executor| {
        let mut functions = Exports::<u64>::exported();
        functions.register(PLAIN, |_, Counted(number)| number).unwrap();
        functions
            .register_deferred(DEFERRED, |_, Counted(number), responder| responder.reply(number))
            .unwrap();
        functions.register_async(ASYNC, |_, Counted(number)| Box::pin(async move { number })).unwrap();
        let server = Server::new(0, functions.clone());
        let mut builder = Registry::builder("test");
        builder.export(&functions, &server.client()).unwrap();
        let registry = builder.build();
        let running = executor.spawn(async move { server.run().await });
        let replies = Arc::<ReplyQueue>::default();
        for name in ["plain", "deferred", "async"] {
            let before = DECODED.load(Ordering::Relaxed);
            for call in 0..100_u64 {
                let params = Some(RawJson::of(&[call]).unwrap());
                let deadline = Instant::now() + Duration::from_secs(60);
                let now = registry.begin(name, params, deadline, || responder(&replies, call, false));
                let result = match now {
                    Some(result) => result.unwrap(),
                    None => {
                        let mut answers = VecDeque::new();
                        std::future::poll_fn(|cx| replies.poll_replies(cx, &mut answers)).await;
                        answers.pop_front().unwrap().1.unwrap().get().to_owned()
                    }
                };
                assert_eq!(result, call.to_string(), "{name}");
            }
            assert_eq!(DECODED.load(Ordering::Relaxed) - before, 100, "{name}");
        }
        drop(running);
    });
}
