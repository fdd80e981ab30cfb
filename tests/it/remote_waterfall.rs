//! A waterfall with a step that calls another node.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use chanrpc::chan::{CallError, Functions};
use chanrpc::config::Limits;
use chanrpc::message::RawJson;
use chanrpc::remote::Remote;
use chanrpc::sched::{Handle, Scheduler};
use serde_json::value::RawValue;
use smol::Executor;

use crate::support::{LIMIT, Node, ended, got};

/// The error of a chain that fails.
#[derive(Debug)]
enum Trouble {
    Call(CallError),
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

#[derive(Default)]
struct State {
    log: Vec<String>,
}

#[test]
fn step_may_call_another_node() {
    let node = Node::demo();
    let executor = Arc::new(Executor::new());
    let scheduler = Scheduler::new(&executor, Functions::new(), |_: &Handle<State>| State::default());
    let remote = Arc::new(
        Remote::builder(node.address().to_string()).executor(&executor).limits(Limits::default()).connect(),
    );
    let me = scheduler.handle();
    let owner = thread::spawn(move || smol::block_on(executor.run(scheduler.run())));

    let call = |method: &'static str| {
        let remote = remote.clone();
        move |state: &mut State, params: String| {
            state.log.push(format!("{method}{params}"));
            async move {
                let params = RawValue::from_string(params).unwrap();
                let result = remote
                    .call_raw(method, Some(RawJson::from(&*params)))
                    .deadline(Instant::now() + LIMIT)
                    .await?;
                Ok::<_, CallError>(result.get().to_owned())
            }
        }
    };
    let (sender, ends) = mpsc::channel();
    let tell = || {
        let sender = sender.clone();
        move |_: &mut State, result| sender.send(result).unwrap()
    };
    let good = me
        .waterfall::<Trouble>()
        .step(|_, ()| Ok("[2, 3]".to_owned()))
        .then(call("demo.add"))
        .spawn_blocking(|sum| format!("[{sum}, 2]"))
        .then(call("demo.divide"));
    good.finish(tell()).unwrap();
    assert_eq!(got(&ends).unwrap().replace(' ', ""), "[2,1]");
    let bad = me.waterfall::<Trouble>().step(|_, ()| Ok("[1, 0]".to_owned())).then(call("demo.divide"));
    bad.then(call("demo.add")).finish(tell()).unwrap();
    assert!(matches!(got(&ends), Err(Trouble::Call(CallError::Failed(_)))));
    let slow = me.waterfall::<Trouble>().step(|_, ()| Ok("[60]".to_owned())).then(call("demo.sleep"));
    // Long enough on a slow machine.
    slow.timeout(Duration::from_millis(500)).finish(tell()).unwrap();
    assert!(matches!(got(&ends), Err(Trouble::Call(CallError::Deadline))));
    drop(remote);
    me.close();
    assert_eq!(
        ended(owner).log,
        ["demo.add[2, 3]", "demo.divide[5, 2]", "demo.divide[1, 0]", "demo.sleep[60]"]
    );
}
