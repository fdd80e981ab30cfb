//! `chanrpc offer`: a program as a function of another node.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Client, Folder, Node, Process, Relay, binary, binary_words, eventually, run};

/// Returns the command that offers a function which returns its parameters, with more options.
fn offer(to: &str, echo: &Node, options: &[&str], name: &str) -> Command {
    let mut command = binary();
    command.args(["offer", "--to", to]).args(options).arg(name).arg("--").args(binary_words());
    command.args(["call", "--to", &echo.address().to_string(), "--params", "-", "rpc.echo"]);
    command
}

#[track_caller]
fn offered(client: &mut Client, name: &str) {
    eventually("the function is offered", || {
        client.call("rpc.list", &json!([name])).unwrap() == json!([name])
    });
}

#[track_caller]
fn gone(client: &mut Client, name: &str) {
    eventually("the function is gone", || client.call("rpc.list", &json!([name])).unwrap() == json!([]));
}

#[test]
fn program_answers_calls_until_it_is_interrupted() {
    let node = Node::demo();
    let to = node.address().to_string();
    let mut process = Process::start(offer(&to, &node, &["--description", "returns"], "sh.echo"));
    let mut client = node.connect();
    offered(&mut client, "sh.echo");
    assert_eq!(client.call("sh.echo", &json!([1, "a"])), Ok(json!([1, "a"])));
    assert_eq!(node.run("call", &["sh.echo", "7"]).result(), "[7]");
    let listed = client.call("rpc.list", &json!(["sh.echo", true])).unwrap();
    assert_eq!(listed[0]["description"], "returns", "{listed}");
    process.kill();
    gone(&mut client, "sh.echo");
    assert!(process.log().contains("offering sh.echo at"), "{}", process.log());
}

#[test]
fn interrupted_offer_is_withdrawn() {
    if cfg!(windows) {
        return;
    }
    let node = Node::demo();
    let mut process = Process::start(offer(&node.address().to_string(), &node, &[], "sh.echo"));
    let mut client = node.connect();
    offered(&mut client, "sh.echo");
    process.signal("INT");
    assert_eq!(process.wait(), Some(130));
    gone(&mut client, "sh.echo");
}

#[test]
fn text_of_a_program_is_a_string() {
    let node = Node::demo();
    let _process = Process::start(offer(&node.address().to_string(), &node, &["--text"], "sh.echo"));
    let mut client = node.connect();
    offered(&mut client, "sh.echo");
    assert_eq!(client.call("sh.echo", &json!([1, "a"])), Ok(json!("[1,\"a\"]")));
}

/// The program is the worker of the tests of processes, which answers `echo`.
#[test]
fn program_that_stays_answers_all_calls() {
    let node = Node::demo();
    let mut command = binary();
    let (words, variable) = crate::processes::worker_command("lines");
    command.env(variable.0, variable.1);
    command.args([
        "offer",
        "--process",
        "--concurrency",
        "8",
        "--to",
        &node.address().to_string(),
        "echo",
        "--",
    ]);
    command.args(words);
    let mut process = Process::start(command);
    let mut client = node.connect();
    offered(&mut client, "echo");
    for number in 0..20 {
        let told = client.call("echo", &json!([number])).unwrap();
        assert_eq!(told["params"], json!([number]), "{told}");
    }
    process.kill();
    gone(&mut client, "echo");
    let ended = run(["offer", "--process", "--text", "f", "--", "x"]);
    assert!(ended.failed(2).contains("--text"), "{ended:?}");
}

#[test]
fn exit_codes_of_offers() {
    let token = |name: &str, offer: &str| {
        let hash = Process::run_with_input(
            {
                let mut command = binary();
                command.args(["token", "--hash", "--name", name]);
                command
            },
            &format!("{name}-token-which-is-long"),
        );
        let hash = hash.stdout.lines().find(|line| line.starts_with("token")).unwrap().to_owned();
        format!("[[access]]\nname = '{name}'\noffer = ['{offer}']\n{hash}\n")
    };
    let rules =
        "[[access]]\nfunctions = ['*']\n".to_owned() + &token("first", "sh.*") + &token("second", "*");
    let node = Node::with(Folder::new(), &rules);
    let to = node.address().to_string();
    let denied = Process::start(offer(&to, &node, &[], "sh.echo")).finish();
    assert!(denied.failed(5).contains("--token-file"), "{denied:?}");
    assert!(!denied.stderr.contains("offering sh.echo at"), "{denied:?}");
    let first = ["--token", "first-token-which-is-long"];
    let denied = Process::start(offer(&to, &node, &first, "py.echo")).finish();
    denied.failed(5);
    let mut holder = Process::start(offer(&to, &node, &first, "sh.echo"));
    let mut client = node.connect();
    offered(&mut client, "sh.echo");
    let second = ["--token", "second-token-which-is-long"];
    let taken = Process::start(offer(&to, &node, &second, "sh.echo")).finish();
    assert!(taken.failed(1).contains("taken by first"), "{taken:?}");
    // The same owner takes over, and the first command ends.
    let mut next = Process::start(offer(&to, &node, &first, "sh.echo"));
    assert_eq!(holder.wait(), Some(1));
    assert!(holder.log().contains("has taken over sh.echo"), "{}", holder.log());
    offered(&mut client, "sh.echo");
    assert_eq!(client.call("sh.echo", &json!([1])), Ok(json!([1])));
    next.kill();

    for (arguments, words) in [
        (&["offer", "f"][..], "PROGRAM is missing"),
        (&["offer", "f", "--", "no such program"], "no such program"),
        (&["offer", "rpc.f", "--", &binary_words()[0]], "reserved"),
        (&["offer", "--share", "all", "f", "--", "x"], "one or any"),
        (&["offer", "--concurrency", "0", "f", "--", "x"], "at least 1"),
    ] {
        let ended = run(arguments);
        let message = ended.failed(2);
        assert!(message.contains(words), "{message}");
    }
    let nobody = Process::start(offer("127.0.0.1:1", &node, &["--once"], "f")).finish();
    nobody.failed(3);
}

#[test]
fn offer_is_repeated_at_each_connection() {
    let (echo, first) = (Node::demo(), Node::demo());
    let (relay, address) = Relay::new();
    relay.lead_to(first.address());
    let process = Process::start(offer(&address.to_string(), &echo, &["--share=any"], "sh.echo"));
    let mut once = Process::start(offer(&address.to_string(), &echo, &["--share=any", "--once"], "sh.echo"));
    offered(&mut first.connect(), "sh.echo");
    eventually("both offer it", || first.metric("chanrpc_offers") == 2);
    let second = Node::demo();
    relay.lead_to(second.address());
    drop(first);
    offered(&mut second.connect(), "sh.echo");
    let result: Value = second.connect().call("sh.echo", &json!([3])).unwrap();
    assert_eq!(result, json!([3]));
    assert_eq!(once.wait(), Some(3));
    drop(process);
}
