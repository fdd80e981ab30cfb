//! Functions of a server, called from the network.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chanrpc::chan::{Id1, Server};
use chanrpc::internals::route::{Mailbox, Posts, RegistryInternals as _, responder};
use chanrpc::message::{RawJson, code};
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
        let replies = Arc::<Mailbox>::default();
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
                        std::future::poll_fn(|cx| replies.poll(cx, &mut answers, &mut Posts::default()))
                            .await;
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

#[derive(Deserialize)]
struct Light {
    pin: u8,
    #[serde(default = "bright")]
    level: f64,
    note: Option<String>,
}

fn bright() -> f64 {
    0.5
}

#[test]
fn parameters_fit_by_position_and_by_name() {
    const DIVIDE: Id1<(i64, i64), i64> = Id1::new("divide");
    const LIGHT: Id1<Light, String> = Id1::new("light");
    const BYTE: Id1<u8, u8> = Id1::new("byte");
    const TEXTS: Id1<Option<Vec<String>>, usize> = Id1::new("texts");
    const PAIR: Id1<Option<(String, u64)>, usize> = Id1::new("pair");
    let mut functions = Exports::<()>::exported();
    functions.register(DIVIDE, |(), (a, b)| a / b).unwrap();
    functions.describe(DIVIDE, |signature| signature.names(["a", "b"]));
    functions
        .register(LIGHT, |(), Light { pin, level, note }| {
            format!("{pin} {level} {}", note.unwrap_or_default())
        })
        .unwrap();
    functions.register(BYTE, |(), byte| byte).unwrap();
    functions.register(TEXTS, |(), texts| texts.unwrap_or_default().concat().len()).unwrap();
    functions.register(PAIR, |(), pair| pair.map_or(0, |(text, _)| text.len())).unwrap();
    let server = Server::new((), functions.clone());
    let mut builder = Registry::builder("test");
    builder.export(&functions, &server.client()).unwrap();
    let registry = builder.build();
    std::thread::spawn(|| smol::block_on(server.run()));
    let queue = Arc::<Mailbox>::default();
    let call = |name: &str, params: &str| {
        let params = Some(
            RawJson::from(&*serde_json::value::RawValue::from_string(params.into()).unwrap()).into_owned(),
        );
        let deadline = Instant::now() + Duration::from_secs(60);
        match registry.begin(name, params, deadline, || responder(&queue, 0, false)) {
            Some(result) => result,
            None => smol::block_on(async {
                let mut answers = VecDeque::new();
                std::future::poll_fn(|cx| queue.poll(cx, &mut answers, &mut Posts::default())).await;
                answers.pop_front().unwrap().1.map(|json| json.get().to_owned())
            }),
        }
    };
    let long = "x".repeat(100_000);
    let (texts, pair) = (format!("[\"{long}\",\"b\"]"), format!("[\"{long}\",7]"));
    for (name, params, result) in [
        // The only parameter may be the whole array.
        ("texts", texts.as_str(), "100001"),
        ("pair", &pair, "100000"),
        ("divide", "[17,5]", "3"),
        ("divide", "[17.0,5e0]", "3"),
        ("divide", r#"{"b":5,"a":17}"#, "3"),
        ("divide", r#"{"b":5.0,"a":1.7e1}"#, "3"),
        ("byte", "[255]", "255"),
        ("byte", r#"{"0":255.0}"#, "255"),
        ("light", r#"{"pin":3}"#, r#""3 0.5 ""#),
        ("light", r#"{"pin":3.0,"level":1,"note":"x"}"#, r#""3 1 x""#),
        ("light", r#"{"pin":3,"level":null,"note":null}"#, r#""3 0.5 ""#),
        ("light", r#"{"pin":3,"more":[]}"#, r#""3 0.5 ""#),
        ("light", "[3]", r#""3 0.5 ""#),
        ("light", "[3.0,null,\"x\"]", r#""3 0.5 x""#),
    ] {
        assert_eq!(
            call(name, params).as_deref().map_err(|fault| &*fault.message),
            Ok(result),
            "{name} {params}"
        );
    }
    for (name, params, reason) in [
        ("divide", r#"{"a":17,"b":5,"a":10}"#, "parameter \"a\" occurs twice"),
        ("divide", r#"{"a":17,"c":5}"#, "parameter \"c\" is unknown"),
        ("divide", "[17,5.5]", "parameter \"b\" must be of type integer, not 5.5"),
        ("divide", r#"{"a":17,"b":1e300}"#, "expected i64"),
        ("byte", "[300]", "invalid value: integer `300`, expected u8"),
        ("byte", r#"{"0":300}"#, "invalid value: integer `300`, expected u8"),
        ("byte", "[1.5]", "parameter \"0\" must be of type integer, not 1.5"),
        ("light", r#"{"pin":300}"#, "invalid value: integer `300`, expected u8"),
        ("light", r#"{"pin":3,"pin":4}"#, "parameter \"pin\" occurs twice"),
        ("light", r#"{"level":null}"#, "parameter \"pin\" is missing"),
        ("light", "[3,1,null,null]", "got 4 parameters"),
    ] {
        let fault = call(name, params).unwrap_err();
        assert_eq!(fault.code, code::INVALID_PARAMS, "{name} {params}");
        assert!(fault.message.contains(reason), "{name} {params}: {}", fault.message);
    }
}
