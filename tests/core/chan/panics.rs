//! The errors that callers get for panics of all origins.

use std::borrow::Cow;
use std::panic::{catch_unwind, panic_any, resume_unwind};
use std::process::Command;

use super::*;

type Throw = fn();

/// Functions that panic, one for each way to reply.
fn throwing() -> Functions<Ledger> {
    let mut functions = functions();
    functions
        .register0("plain", |_: &mut Ledger, throw: Throw| throw())
        .unwrap()
        .register_deferred(Id0::new("deferred"), |_, throw: Throw, _: Responder<()>| throw())
        .unwrap()
        .register_async(Id0::new("async"), |_, throw: Throw| Box::pin(async move { throw() }))
        .unwrap()
        .register_async(Id0::new("async late"), |_, throw: Throw| {
            Box::pin(async move {
                smol::future::yield_now().await;
                throw();
            })
        })
        .unwrap()
        .register_deferred(Id0::new("kept"), |_, throw: Throw, responder: Responder<()>| {
            let _ = catch_unwind(std::panic::AssertUnwindSafe(|| {
                let _responder = responder;
                throw();
            }));
        })
        .unwrap();
    functions
}

fn message(result: Result<(), CallError>) -> String {
    match result {
        Err(CallError::Panicked(panic)) => panic.message().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn error_contains_the_panic_message() {
    let caught_before: Throw = || {
        let _ = catch_unwind(|| panic!("caught"));
        resume_unwind(Box::new("the real one"));
    };
    let ways: &[(Throw, &str)] = &[
        (|| panic!("plain"), "plain"),
        (|| panic!("number {}", 7), "number 7"),
        (|| resume_unwind(Box::new("resumed")), "resumed"),
        (|| resume_unwind(Box::new(String::from("resumed text"))), "resumed text"),
        // Resumed by a task or a thread of others.
        (|| block_on(smol::unblock(|| panic!("on another thread"))), "on another thread"),
        (|| resume_unwind(catch_unwind(|| panic!("caught and resumed")).unwrap_err()), "caught and resumed"),
        (|| panic_any(catch_unwind(|| panic!("thrown again")).unwrap_err()), "thrown again"),
        (|| panic_any(Cow::Borrowed("a cow")), "a cow"),
        (|| panic_any(Box::<str>::from("a box")), "a box"),
        (|| panic_any(7), "a panic without a text"),
        (|| resume_unwind(Box::new(7)), "a panic without a text"),
        (|| panic_any(Bomb), "a panic without a text"),
        (|| resume_unwind(Box::new(Bomb)), "a panic without a text"),
        (caught_before, "the real one"),
        (
            || {
                let _ = catch_unwind(|| panic_any(Bomb)).map_err(std::mem::forget);
                panic_any(7)
            },
            "a panic without a text",
        ),
    ];
    let server = Server::new(Ledger::default(), throwing());
    let client = server.client();
    let mut run = asleep(server.run());
    for (throw, expected) in ways {
        for id in ["plain", "deferred", "async", "async late"] {
            let mut call = client.call0(id, *throw);
            let mut result = poll(&mut call);
            while result.is_pending() {
                assert!(poll(&mut run).is_pending());
                result = poll(&mut call);
            }
            let Poll::Ready(result) = result else { unreachable!() };
            assert_eq!(message(result), *expected, "{id}");
        }
    }
    assert_eq!(client.stats().panicked, 4 * ways.len() as u64);
    // A function that catches its own panic has still dropped its responder by a panic.
    let mut kept = client.call0("kept", (|| panic!("while holding it")) as Throw);
    assert!(poll(&mut kept).is_pending() && poll(&mut run).is_pending());
    let Poll::Ready(result) = poll(&mut kept) else { panic!("no answer") };
    assert_eq!(message(result), "while holding it");
}

#[test]
fn error_contains_only_the_backtrace_of_its_own_panic() {
    let (client, owner) = running(4);
    let backtrace =
        |server: &Client, id: &'static str, text: &str| match server.call0(id, text.to_owned()).wait() {
            Err(CallError::Panicked(panic)) => panic.backtrace(),
            other => panic!("{other:?}"),
        };
    assert!(backtrace(&client, "panic", "x").contains("chan.rs:"));

    let mut functions = Functions::new();
    functions
        .register0("outer", |inner: &mut Client, text: String| {
            // Other panics happen meanwhile, in place and here.
            let unwound = catch_unwind(|| panic!("outer"));
            let _ = inner.call0("panic", "inner".to_owned()).wait();
            drop(unwound);
            resume_unwind(Box::new(text));
        })
        .unwrap();
    let outer = Server::new(client.clone(), functions);
    let outer_client = outer.client();
    let outer_owner = thread::spawn(move || block_on(outer.run()));
    assert_eq!(backtrace(&outer_client, "outer", "resumed"), "", "nothing is known of one that is resumed");
    drop((client, outer_client));
    drop(ended(outer_owner));
    drop(ended(owner));
}

#[test]
fn panic_during_another_unwind_is_distinguished() {
    /// Calls a function in `drop`.
    struct Last<'a>(&'a Client, &'a Mutex<Vec<Result<(), CallError>>>);
    impl Drop for Last<'_> {
        fn drop(&mut self) {
            let mut results = self.1.lock().unwrap();
            results.push(self.0.call0("panic", "in the destructor".to_owned()).wait());
            results.push(self.0.call1::<_, u64>("drop", 1_u64).wait().map(drop));
            results.push(self.0.call1::<_, u64>("echo", 1_u64).wait().map(drop));
        }
    }

    let (client, owner) = running(4);
    let results = Arc::new(Mutex::new(Vec::new()));
    let mut functions = Functions::new();
    functions
        .register0("outer", {
            let (client, results) = (client.clone(), results.clone());
            move |_: &mut (), ()| {
                let _last = Last(&client, &results);
                panic!("outer");
            }
        })
        .unwrap();
    let mut outer = Server::new((), functions);
    let outer_client = outer.client();
    let mut call = outer_client.call0("outer", ());
    assert!(poll(&mut call).is_pending());
    exec(&mut outer);
    let Poll::Ready(result) = poll(&mut call) else { panic!("no answer") };
    assert_eq!(message(result), "outer");
    drop(outer);
    let results = std::mem::take(&mut *results.lock().unwrap());
    let [panicked, dropped, fine]: [Result<(), CallError>; 3] = results.try_into().unwrap();
    assert_eq!(message(panicked), "in the destructor");
    assert!(matches!(dropped, Err(CallError::Unanswered)), "{dropped:?}");
    fine.unwrap();
    drop(client);
    drop((call, owner));
}

/// The environment variable that makes the test binary act as the other program.
const PART: &str = "CHANRPC_TEST_FIRST_FUNCTION";

/// The first function of the process runs in a destructor during unwinding.
#[test]
#[cfg_attr(miri, ignore = "starts a program")]
fn first_function_of_a_process_may_run_during_unwinding() {
    struct Last;
    impl Drop for Last {
        fn drop(&mut self) {
            let mut server = server(4);
            let client = server.client();
            let mut fine = client.call1::<_, u64>("echo", 1_u64);
            let mut panics = client.call0("panic", "first".to_owned());
            assert!(poll(&mut fine).is_pending() && poll(&mut panics).is_pending());
            assert!(exec(&mut server) && exec(&mut server));
            assert!(matches!(poll(&mut fine), Poll::Ready(Ok(1))));
            let Poll::Ready(result) = poll(&mut panics) else { panic!("no answer") };
            assert_eq!(message(result), "first");
        }
    }

    if std::env::var_os(PART).is_none() {
        let test = format!("{}::first_function_of_a_process_may_run_during_unwinding", module());
        let runner = std::env::var("CHANRPC_TEST_RUNNER").ok();
        let program = std::env::current_exe().unwrap().into_os_string();
        let words: Vec<_> = runner.into_iter().map(Into::into).chain([program]).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args([&test, "--exact", "--nocapture"]).env(PART, "1");
        let ended = command.output().unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
        return;
    }
    let unwound = catch_unwind(|| {
        let _last = Last;
        panic!("outer");
    });
    assert_eq!(unwound.unwrap_err().downcast_ref(), Some(&"outer"));
    // The next error is complete.
    let (client, owner) = running(4);
    let Err(CallError::Panicked(panic)) = client.call0("panic", "later".to_owned()).wait() else {
        panic!("no panic")
    };
    assert_eq!(panic.message(), "later");
    assert!(panic.backtrace().contains("chan.rs:"));
    drop(client);
    drop(ended(owner));
}

/// This module's path as the test binary names it.
fn module() -> &'static str {
    module_path!().split_once("::").unwrap().1
}
