//! Programs that stay and answer many calls. The program is this test binary, started again as a worker.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    self, Client, Fault, Folder, Node, await_some, ended, eventually, outcome, post, request, scale,
};

/// Selects what the worker does.
const MODE: &str = "CHANRPC_TEST_WORKER";

/// Returns the command of this worker, and the variable that selects what it does.
pub(crate) fn worker_command(mode: &str) -> (Vec<String>, (&'static str, String)) {
    // A line of the test runner comes before the worker's output.
    let program = std::env::current_exe().unwrap().display().to_string();
    let mut words: Vec<_> = std::env::var("CHANRPC_TEST_RUNNER").ok().into_iter().collect();
    words.extend([&program, "--exact", "processes::worker", "--nocapture"].map(str::to_owned));
    (words, (MODE, mode.to_owned()))
}

/// Returns the table of a process with this worker, and a family of functions that it provides.
pub(crate) fn worker_of(name: &str, mode: &str, process: &str, function: &str) -> String {
    let (words, _) = worker_command(mode);
    let run: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    format!(
        "[[process]]\nname = '{name}'\nrun = [{}]\nenv = {{ {MODE} = '{mode}' }}\n{process}\n\
         [[function]]\nname = '{name}.*'\nprocess = '{name}'\nmethod = '{{tail}}'\n{function}\n",
        run.join(", ")
    )
}

fn node(process: &str, function: &str) -> Node {
    Node::with(Folder::new(), &worker_of("w", "lines", process, function))
}

/// Calls a function until its process takes calls.
#[track_caller]
pub(crate) fn call(client: &mut Client, method: &str, params: &Value) -> Result<Value, Fault> {
    await_some("the process takes calls", || match client.call(method, params) {
        Err(fault) if fault.code == -32001 => None,
        result => Some(result),
    })
}

/// Waits until the worker holds this many calls.
#[track_caller]
fn await_held(client: &mut Client, count: usize) {
    eventually("the worker has the calls", || client.call("w.held", &json!([])).unwrap() == json!(count));
}

#[test]
fn many_callers_get_their_own_answers_from_one_program() {
    let node = node("in_flight = 64", "");
    let address = node.address();
    let calls = u64::from(scale(500));
    let callers = (0..8_u64).map(|caller| {
        thread::spawn(move || {
            let mut client = Client::connect(address);
            let mut ids: BTreeMap<u64, u64> = BTreeMap::new();
            // Several of each caller are in flight at any time.
            for number in 0..calls {
                ids.insert(number, caller * 1_000_000 + number);
                client.begin(number, "w.echo", &json!([ids[&number]]));
                if number % 7 == 6 || number == calls - 1 {
                    for _ in 0..ids.len() {
                        let reply = client.reply();
                        let sent = ids.remove(&reply["id"].as_u64().unwrap()).unwrap();
                        assert_eq!(reply["result"]["params"], json!([sent]), "{reply}");
                    }
                }
            }
        })
    });
    callers.collect::<Vec<_>>().into_iter().for_each(ended);
    assert_eq!(node.metric("chanrpc_process_starts_total{process=\"w\"}"), 1);
    assert_eq!(node.metric("chanrpc_process_in_flight{process=\"w\"}"), 0);
    assert_eq!(node.metric("chanrpc_process_up{process=\"w\"}"), 1);
}

#[test]
fn request_has_the_method_and_the_deadline() {
    let strict = worker_of("strict", "lines", "meta = false", "");
    let fixed = "[[function]]\nname = 'greet'\nprocess = 'strict'\nmethod = 'echo'\n";
    let node = Node::with(Folder::new(), &format!("{}{strict}{fixed}", worker_of("w", "lines", "", "")));
    let mut client = node.connect();
    let echoed = client.call("w.echo", &json!({ "a": 1 })).unwrap();
    assert_eq!((&echoed["method"], &echoed["params"]), (&json!("echo"), &json!({ "a": 1 })));
    assert!(echoed["meta"]["deadline_ms"].as_u64().is_some_and(|left| left > 0), "{echoed}");
    for method in ["strict.echo", "greet"] {
        let echoed = client.call(method, &json!([])).unwrap();
        assert_eq!((&echoed["method"], echoed.get("meta")), (&json!("echo"), None), "{echoed}");
    }
    let unknown = client.call("w.nothing", &json!([])).unwrap_err();
    assert_eq!((unknown.code, &*unknown.message), (-32601, "no nothing"));
    let listed = node.run("list", &["-v", "greet"]);
    assert!(listed.result().contains("process") && listed.result().contains("strict"), "{listed:?}");
    let stats = client.call("rpc.stats", &json!([])).unwrap();
    assert_eq!(stats["processes"][0]["name"], "w");
    assert_eq!(stats["processes"][0]["pids"].as_array().unwrap().len(), 1, "{stats}");
}

#[test]
fn declared_parameters_are_checked_before_the_program_gets_them() {
    let declared = "[[function]]\nname = 'sum'\nprocess = 'w'\nmethod = 'echo'\ndescription = 'adds'\nresult = 'object'\n\
                    params = { a = 'integer', mode = { type = 'string', default = 'fast', choices = ['fast', 'slow'] } }\n\
                    [[function]]\nname = 'nothing'\nprocess = 'w'\nmethod = 'echo'\nparams = {}\n";
    let node = node("", declared);
    let mut client = node.connect();
    for (given, passed) in [
        (json!([1, "slow"]), json!([1, "slow"])),
        (json!([1]), json!([1, "fast"])),
        (json!({ "a": 2.0 }), json!({ "a": 2, "mode": "fast" })),
        (json!({ "mode": "slow", "a": 3 }), json!({ "a": 3, "mode": "slow" })),
    ] {
        assert_eq!(client.call("sum", &given).unwrap()["params"], passed, "{given}");
    }
    let takes = "; the function takes (a: integer, mode?: string)";
    for (given, message) in [
        (json!(["x"]), format!("parameter \"a\" must be of type integer, not \"x\"{takes}")),
        (json!({ "mode": "fast" }), format!("parameter \"a\" is missing{takes}")),
        (json!([1, "fast", 3]), format!("got 3 parameters{takes}")),
        (
            json!([1, "medium"]),
            "parameter \"mode\" must be one of \"fast\", \"slow\", not \"medium\"".to_owned(),
        ),
    ] {
        let fault = client.call("sum", &given).unwrap_err();
        assert_eq!((fault.code, fault.message), (-32602, message), "{given}");
    }
    let fault = client.call("nothing", &json!([1])).unwrap_err();
    assert_eq!((fault.code, &*fault.message), (-32602, "got 1 parameter; the function takes ()"));
    assert_eq!(client.call("nothing", &json!([])).unwrap()["params"], json!([]));
    // A function without declared parameters takes any.
    assert_eq!(client.call("w.echo", &json!(["x"])).unwrap()["params"], json!(["x"]));
    let listed = node.run("list", &["-v", "sum"]);
    assert!(listed.result().contains("(a: integer, mode?: string) -> object"), "{listed:?}");
    let described = node.run("describe", &["sum"]);
    assert!(described.result().contains("adds") && described.result().contains("slow"), "{described:?}");
}

#[test]
fn notification_reaches_the_program() {
    let node = node("", "");
    assert_eq!(node.run("go", &["w.note", "7"]).code, Some(0));
    let mut client = node.connect();
    eventually("it has arrived", || client.call("w.noted", &json!([])).unwrap() == json!([[7]]));
}

#[test]
fn exit_answers_the_calls_in_flight_and_the_program_is_started_again() {
    let node = node("", "");
    let (mut one, mut two, mut other) = (node.connect(), node.connect(), node.connect());
    let first = call(&mut other, "w.pid", &json!([])).unwrap();
    one.begin(1, "w.hold", &json!([]));
    two.begin(2, "w.hold", &json!([]));
    await_held(&mut other, 2);
    let exit = other.call("w.exit", &json!([3])).unwrap_err();
    for fault in [support::fault(&one.reply()), support::fault(&two.reply()), exit] {
        assert_eq!((fault.code, &*fault.message), (-32013, "w exited with code 3"));
        assert_eq!((&fault.data["exit"], &fault.data["signal"]), (&json!(3), &Value::Null));
        assert!(fault.data["stderr"].as_str().unwrap().ends_with("the last words"), "{fault:?}");
    }
    assert_ne!(call(&mut other, "w.pid", &json!([])).unwrap(), first);
    assert_eq!(node.metric("chanrpc_process_exits_total{process=\"w\",how=\"exited\"}"), 1);
    node.await_log("]: the last words");
    assert_eq!(call(&mut other, "w.abort", &json!([])).unwrap_err().code, -32013);
    assert_eq!(call(&mut other, "w.echo", &json!([])).unwrap()["method"], "echo");
    assert_eq!(node.metric("chanrpc_process_starts_total{process=\"w\"}"), 3);
}

/// The program ends again and again, with calls in flight.
#[test]
fn every_call_has_its_own_answer_whenever_the_program_ends() {
    let node = node("in_flight = 8", "");
    let (address, is_over) = (node.address(), Arc::new(AtomicBool::new(false)));
    let callers = (0..6_u64).map(|caller| {
        let is_over = is_over.clone();
        thread::spawn(move || {
            let mut client = Client::connect(address);
            let mut answered = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                let numbers = answered..answered + 5;
                for number in numbers.clone() {
                    client.begin(number, "w.echo", &json!([caller, number]));
                }
                let mut open: Vec<_> = numbers.collect();
                while !open.is_empty() {
                    let reply = client.reply();
                    let number = reply["id"].as_u64().unwrap();
                    open.remove(open.iter().position(|open| *open == number).expect("one answer"));
                    match outcome(&reply) {
                        Ok(echoed) => assert_eq!(echoed["params"], json!([caller, number])),
                        Err(fault) => assert!([-32013, -32001].contains(&fault.code), "{fault:?}"),
                    }
                }
                answered += 5;
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut client = node.connect();
    for end in 1..=4 {
        assert_eq!(call(&mut client, "w.exit", &json!([end])).unwrap_err().code, -32013);
    }
    call(&mut client, "w.echo", &json!([])).unwrap();
    is_over.store(true, Ordering::Relaxed);
    callers.into_iter().for_each(ended);
    assert_eq!(node.metric("chanrpc_process_in_flight{process=\"w\"}"), 0);
}

#[test]
fn calls_are_refused_with_the_reason_while_the_program_fails() {
    let node = Node::with(Folder::new(), &worker_of("w", "fail", "", ""));
    let mut client = node.connect();
    let fault = await_some("a refusal", || {
        let fault = client.call("w.echo", &json!([])).unwrap_err();
        // The call may also come while the program is about to fail.
        if fault.code == -32013 { None } else { Some(fault) }
    });
    assert_eq!((fault.code, &fault.data), (-32001, &json!({ "sent": false })));
    let (before, after) = fault.message.split_once("; it is started again in ").expect("when it is started");
    assert_eq!(before, "w exited with code 7, after its last words no such tool");
    assert!(after.ends_with('s'), "{after}");
    let missing =
        "[[process]]\nname = 'm'\nrun = ['no-such-program']\n[[function]]\nname = 'm'\nprocess = 'm'\n";
    let node = Node::with(Folder::new(), missing);
    node.await_log("process \"m\" cannot run: no folder in PATH contains no-such-program");
    let mut client = node.connect();
    let fault = await_some("a refusal", || client.call("m", &json!([])).err());
    assert_eq!(fault.code, -32001);
    eventually("the failure is counted", || {
        node.metric("chanrpc_process_exits_total{process=\"m\",how=\"not_started\"}") > 0
    });
}

#[test]
fn output_that_is_no_message_is_ignored_and_counted() {
    let node = node("", "");
    let mut client = node.connect();
    assert_eq!(client.call("w.banner", &json!([])).unwrap(), "after the banner");
    // The line of the test runner, three lines, and two replies without a call.
    eventually("all are counted", || node.metric("chanrpc_process_stray_lines_total{process=\"w\"}") == 6);
    node.await_log("w wrote what is no message to its stdout");
    assert_eq!(node.metric("chanrpc_process_starts_total{process=\"w\"}"), 1);
}

#[test]
fn request_of_the_program_is_answered_with_an_error() {
    let node = node("", "");
    let mut client = node.connect();
    assert_eq!(client.call("w.ask", &json!([])).unwrap()["code"], -32601);
}

#[test]
fn answer_that_is_too_long_fails_its_call_only() {
    let config = format!("limits.message = '64 KiB'\n{}", worker_of("w", "lines", "", ""));
    let node = Node::with(Folder::new(), &config);
    let mut client = node.connect();
    let fault = client.call("w.long", &json!([300_000])).unwrap_err();
    assert_eq!(fault.code, -32008, "{fault:?}");
    assert_eq!(client.call("w.echo", &json!([])).unwrap()["method"], "echo");
    // A line without an end belongs to no call.
    let fault = client.call("w.flood", &json!([2_000_000])).unwrap_err();
    assert_eq!(fault.code, -32013, "{fault:?}");
    assert!(fault.message.contains("limits.message"), "{fault:?}");
    assert_eq!(call(&mut client, "w.echo", &json!([])).unwrap()["method"], "echo");
}

#[test]
fn program_that_does_not_read_is_killed_and_its_calls_are_answered() {
    let config = format!("limits.deadline = '1h'\n{}", worker_of("w", "deaf", "stall = '500ms'", ""));
    let node = Node::with(Folder::new(), &config);
    let mut client = node.connect();
    let calls = u64::from(scale(100).clamp(4, 16));
    for id in 0..calls {
        client.begin(id, "w.echo", &json!(["x".repeat(50_000)]));
    }
    // Those that fit into the pipe were sent, the others were not.
    for _ in 0..calls {
        let fault = support::fault(&client.reply());
        assert!([-32013, -32001].contains(&fault.code), "{fault:?}");
    }
    eventually("it is killed", || {
        node.metric("chanrpc_process_exits_total{process=\"w\",how=\"killed\"}") > 0
    });
}

#[test]
fn caller_is_freed_at_once_and_the_place_when_the_program_answers() {
    let node = node("in_flight = 2", "timeout = '2s'");
    let mut client = node.connect();
    // The timeout includes the start.
    let echoed = await_some("the program is up", || client.call("w.echo", &json!([])).ok());
    assert_eq!(echoed["method"], "echo");
    let in_flight = || node.metric("chanrpc_process_in_flight{process=\"w\"}");
    let fault = client.call("w.hold", &json!([])).unwrap_err();
    assert_eq!(fault.code, -32003, "{fault:?}");
    assert_eq!(in_flight(), 1);
    // One is cancelled by its caller, and one by the function's timeout.
    assert_eq!(client.call("w.cancelled", &json!([])).unwrap().as_array().unwrap().len(), 1);
    assert_eq!(client.call("w.release", &json!([])).unwrap(), 1);
    eventually("the place is free", || in_flight() == 0);
    client.begin("gone", "w.hold", &json!([]));
    await_held(&mut node.connect(), 1);
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":\"gone\"}}\n");
    let fault = support::fault(&client.reply());
    assert!([-32800, -32003].contains(&fault.code), "{fault:?}");
    eventually("the program is told", || {
        client.call("w.cancelled", &json!([])).unwrap().as_array().unwrap().len() == 2
    });
    assert_eq!(in_flight(), 1);
}

#[test]
fn calls_wait_for_a_place_and_then_are_refused() {
    let node = node("in_flight = 1\nqueue = 2", "");
    let mut client = node.connect();
    assert_eq!(client.call("w.echo", &json!([])).unwrap()["method"], "echo");
    client.begin(1, "w.hold", &json!([]));
    client.begin(2, "w.release", &json!([]));
    client.begin(3, "w.echo", &json!([]));
    client.begin(4, "w.echo", &json!([]));
    let fault = support::fault(&client.reply());
    assert_eq!(fault.code, -32009, "{fault:?}");
    assert!(fault.message.ends_with("(instances, in_flight and queue of [[process]])"), "{fault:?}");
    assert_eq!(node.metric("chanrpc_process_refused_total{process=\"w\"}"), 1);
    assert_eq!(node.metric("chanrpc_process_waiting{process=\"w\"}"), 2);
    // A call that is cancelled leaves the queue.
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"$/cancelRequest\",\"params\":{\"id\":3}}\n");
    assert_eq!(support::fault(&client.reply()).code, -32800);
    eventually("it has left", || node.metric("chanrpc_process_waiting{process=\"w\"}") == 1);
}

#[test]
fn calls_go_to_the_instance_with_the_fewest() {
    let node = node("instances = 3\nin_flight = 1", "");
    eventually("all are up", || node.metric("chanrpc_process_up{process=\"w\"}") == 3);
    let mut clients: Vec<_> = (0..3).map(|_| node.connect()).collect();
    for client in &mut clients {
        client.begin(1, "w.hold", &json!([]));
    }
    eventually("each has one", || node.metric("chanrpc_process_in_flight{process=\"w\"}") == 3);
    assert_eq!(node.metric("chanrpc_process_waiting{process=\"w\"}"), 0);
}

#[test]
fn first_calls_start_one_program_and_idleness_ends_it() {
    let node = node("start = 'call'\nidle = '200ms'", "");
    assert_eq!(node.metric("chanrpc_process_starts_total{process=\"w\"}"), 0);
    let mut clients: Vec<_> = (0..64).map(|_| node.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.begin(1, "w.echo", &json!([number]));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.reply()["result"]["params"], json!([number]));
    }
    assert_eq!(node.metric("chanrpc_process_starts_total{process=\"w\"}"), 1);
    eventually("it is ended", || {
        node.metric("chanrpc_process_exits_total{process=\"w\",how=\"stopped\"}") == 1
    });
    assert_eq!(clients[0].call("w.echo", &json!([])).unwrap()["method"], "echo");
    assert_eq!(node.metric("chanrpc_process_starts_total{process=\"w\"}"), 2);
}

#[test]
fn stopping_node_closes_stdin_and_waits() {
    let mut node = node("", "");
    assert_eq!(node.connect().call("w.echo", &json!([])).unwrap()["method"], "echo");
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
    node.await_log("]: stdin has ended");
    node.await_log("w exited with code 0");
}

#[test]
fn stopping_node_kills_a_program_that_does_not_exit() {
    let mut node = Node::with(Folder::new(), &worker_of("w", "deaf", "stop = '50ms'", ""));
    eventually("it is up", || node.metric("chanrpc_process_up{process=\"w\"}") == 1);
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
    node.await_log("w was killed, since it did not exit within 50ms after its stdin was closed");
}

#[test]
fn program_gets_calls_after_its_handshake() {
    let hello =
        "hello = { method = 'initialize', params = { version = 1 } }\nthen = 'initialized'\nping = 'ping'";
    for speaks in ["lines", "headers"] {
        let process = format!("speaks = '{speaks}'\n{hello}");
        let node = Node::with(Folder::new(), &worker_of("w", &format!("strict {speaks}"), &process, ""));
        let mut client = node.connect();
        assert_eq!(client.call("w.hello", &json!([])).unwrap(), json!({ "version": 1 }));
        let ready = await_some("the time", || {
            let text = node.run("call", &["rpc.stats"]).result().to_owned();
            text.contains("\"up_seconds\":[").then_some(text)
        });
        assert!(ready.contains("\"starts\":1"), "{ready}");
    }
}

#[test]
fn program_that_refuses_the_handshake_is_started_again() {
    let process = "hello = { method = 'initialize', params = { version = 2 } }";
    let node = Node::with(Folder::new(), &worker_of("w", "strict lines", process, ""));
    let mut client = node.connect();
    let fault = await_some("a refusal", || client.call("w.hello", &json!([])).err());
    assert_eq!(fault.code, -32001);
    let expected = "w was killed: it answered initialize with: ";
    assert!(fault.message.starts_with(expected), "{fault:?}");
}

#[test]
fn program_that_is_not_ready_in_time_is_killed() {
    let process = "hello = { method = 'initialize' }\nready = '100ms'";
    let node = Node::with(Folder::new(), &worker_of("w", "deaf", process, ""));
    let mut client = node.connect();
    let fault = await_some("a refusal", || client.call("w.hello", &json!([])).err());
    assert_eq!(fault.code, -32001);
    assert!(fault.message.starts_with("w was killed, since it was not ready within 100ms"), "{fault:?}");
}

#[test]
fn program_speaks_messagepack() {
    let node = Node::with(Folder::new(), &worker_of("w", "msgpack", "speaks = 'msgpack'", ""));
    let mut client = node.connect();
    for number in [0, 7] {
        assert_eq!(client.call("w.echo", &json!([number])).unwrap(), json!(number));
    }
}

#[test]
fn each_connection_has_its_own_program_until_it_ends() {
    let node = node("per = 'connection'\ninstances = 2", "");
    let (mut one, mut two, mut three) = (node.connect(), node.connect(), node.connect());
    let pid = |client: &mut Client| client.call("w.pid", &json!([])).unwrap();
    let (first, second) = (pid(&mut one), pid(&mut two));
    assert_ne!(first, second);
    assert_eq!((pid(&mut one), pid(&mut two)), (first.clone(), second));
    let fault = three.call("w.pid", &json!([])).unwrap_err();
    assert_eq!(
        (fault.code, &*fault.message),
        (-32009, "2 connections have a w of their own (instances of [[process]])")
    );
    assert_eq!(node.metric("chanrpc_process_up{process=\"w\"}"), 2);
    one.begin(1, "w.hold", &json!([]));
    await_held(&mut one, 1);
    one.reset();
    eventually("it has ended", || {
        node.metric("chanrpc_process_exits_total{process=\"w\",how=\"stopped\"}") == 1
    });
    let third = await_some("its place is free", || three.call("w.pid", &json!([])).ok());
    assert_ne!(third, first);
    assert_eq!(node.metric("chanrpc_process_in_flight{process=\"w\"}"), 0);
    let mut http = node.connect();
    http.send(post(&request(1, "w.pid", &json!([]))));
    let fault = support::fault(&http.http().json());
    assert_eq!(fault.code, -32001);
    assert!(fault.message.contains("call over TCP or WebSocket"), "{fault:?}");
}

/// Returns a node whose only process is a line of shell, and the fault of a call of it with this code.
fn shell(line: &str, code: i64) -> (Node, Fault) {
    let config = format!(
        "[[process]]\nname = 's'\nrun = ['sh', '-c', '{line}']\n[[function]]\nname = 's'\nprocess = 's'\n"
    );
    let node = Node::with(Folder::new(), &config);
    let mut client = node.connect();
    let fault =
        await_some("the fault", || client.call("s", &json!([])).err().filter(|fault| fault.code == code));
    (node, fault)
}

#[test]
fn program_that_closes_its_stdout_and_lives_on_is_killed() {
    let (_node, fault) = shell("exec >&-; exec sleep 1000", -32001);
    assert!(fault.message.starts_with("s closed its stdout and was killed"), "{fault:?}");
}

#[test]
fn exit_is_noticed_while_another_process_holds_the_pipes() {
    let (_node, fault) = shell("sleep 1000 & exit 3", -32013);
    assert_eq!(fault.message, "s exited with code 3");
}

/// The worker, if the test binary is started as one.
#[test]
fn worker() {
    let Ok(mode) = std::env::var(MODE) else { return };
    match mode.as_str() {
        "fail" => {
            eprintln!("no such tool");
            std::process::exit(7);
        }
        "deaf" => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        "msgpack" => answer_messagepack(),
        _ => Worker::new(&mode).run(),
    }
    eprintln!("stdin has ended");
    std::process::exit(0);
}

/// A worker that handles one request after the other.
struct Worker {
    has_headers: bool,
    /// It answers nothing before its handshake, of which it has the parameters.
    is_strict: bool,
    hello: Option<Value>,
    is_ready: bool,
    held: Vec<Value>,
    cancelled: Vec<Value>,
    noted: Vec<Value>,
    input: io::StdinLock<'static>,
}

impl Worker {
    fn new(mode: &str) -> Self {
        Self {
            has_headers: mode.ends_with("headers"),
            is_strict: mode.starts_with("strict"),
            hello: None,
            is_ready: false,
            held: Vec::new(),
            cancelled: Vec::new(),
            noted: Vec::new(),
            input: io::stdin().lock(),
        }
    }

    fn run(&mut self) {
        while let Some(request) = self.receive() {
            let (id, params) = (&request["id"], &request["params"]);
            let method = request["method"].as_str().unwrap_or_default();
            if request.get("id").is_none() {
                match method {
                    "$/cancelRequest" => self.cancelled.push(params["id"].clone()),
                    "initialized" => self.is_ready = true,
                    _ => self.noted.push(params.clone()),
                }
                continue;
            }
            match self.answer(method, params, &request) {
                Some(Ok(result)) => self.send(&json!({ "jsonrpc": "2.0", "id": id, "result": result })),
                Some(Err(error)) => self.send(&json!({ "jsonrpc": "2.0", "id": id, "error": error })),
                None => self.held.push(id.clone()),
            }
        }
    }

    /// Returns the answer to a request, unless it is held.
    fn answer(&mut self, method: &str, params: &Value, request: &Value) -> Option<Result<Value, Value>> {
        if self.is_strict && !self.is_ready {
            let accepts = method == "initialize" && params["version"] == 1 && request.get("meta").is_none();
            if !accepts {
                return Some(Err(json!({ "code": -32602, "message": "not initialized" })));
            }
            self.hello = Some(params.clone());
            return Some(Ok(json!({})));
        }
        Some(Ok(match method {
            "echo" => request.clone(),
            "pid" => std::process::id().into(),
            "hello" => self.hello.clone().into(),
            "hold" => return None,
            "held" => self.held.len().into(),
            "release" => {
                let held = std::mem::take(&mut self.held);
                for id in &held {
                    self.send(&json!({ "id": id, "result": "held" }));
                }
                held.len().into()
            }
            "cancelled" => self.cancelled.clone().into(),
            "noted" => self.noted.clone().into(),
            "exit" => {
                eprintln!("first words\nthe last words");
                std::process::exit(params[0].as_i64().unwrap().try_into().unwrap());
            }
            "abort" => std::process::abort(),
            "banner" => {
                self.write(b"Listening on stdio\n{\"level\":\"info\"}\n\n\xff\xfe\n");
                self.write(b"{\"id\":4000000000,\"result\":1}\n{\"id\":\"x\",\"result\":1}\n");
                "after the banner".into()
            }
            "ask" => {
                self.send(&json!({ "jsonrpc": "2.0", "id": "mine", "method": "w.echo", "params": [] }));
                let reply = self.receive().unwrap();
                assert_eq!(reply["id"], "mine");
                reply["error"].clone()
            }
            "long" => "x".repeat(params[0].as_u64().unwrap().try_into().unwrap()).into(),
            "flood" => {
                self.write(&vec![b'x'; params[0].as_u64().unwrap().try_into().unwrap()]);
                return None;
            }
            _ => return Some(Err(json!({ "code": -32601, "message": format!("no {method}") }))),
        }))
    }

    fn receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.input.read_line(&mut line).ok().filter(|count| *count > 0)?;
        if !self.has_headers {
            return Some(serde_json::from_str(&line).unwrap());
        }
        let length = line.trim().strip_prefix("Content-Length: ").unwrap().parse().unwrap();
        self.input.read_line(&mut String::new()).unwrap();
        let mut body = vec![0; length];
        self.input.read_exact(&mut body).unwrap();
        Some(serde_json::from_slice(&body).unwrap())
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        match self.has_headers {
            true => self.write(format!("Content-Length: {}\r\n\r\n{text}", text.len()).as_bytes()),
            false => self.write(format!("{text}\n").as_bytes()),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut output = io::stdout().lock();
        // The node may be gone.
        let _ = output.write_all(bytes).and_then(|()| output.flush());
    }
}

/// Answers requests `[0, id, "echo", [number]]` with small numbers by `[1, id, nil, number]`.
fn answer_messagepack() {
    let mut input = io::stdin().lock();
    let mut request = [0; 10];
    while input.read_exact(&mut request).is_ok() {
        let [0x94, 0, id, 0xa4, b'e', b'c', b'h', b'o', 0x91, number] = request else {
            panic!("{request:x?}")
        };
        let mut output = io::stdout().lock();
        output.write_all(&[0x94, 1, id, 0xc0, number]).and_then(|()| output.flush()).unwrap();
    }
}
