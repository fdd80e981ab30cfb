//! The command line: commands, options, exit codes, and output streams.

use std::io::{self, BufRead};
use std::net::TcpStream;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::programs::{gate, program};
use crate::support::{
    Folder, Node, Process, Stderr, await_some, binary, binary_in_shell, eventually, fake_node, is_gone,
    listen, run,
};

/// A port reserved for a system service that does not run.
const DEAD: &str = "127.0.0.1:1";

// Exit codes.

#[test]
fn exit_0_when_answered() {
    let node = Node::demo();
    assert_eq!(node.run("call", &["demo.add", "2", "3"]).result(), "5");
    let gone = node.run("go", &["demo.count", "5"]);
    assert_eq!((gone.code, gone.stdout.as_str(), gone.stderr.as_str()), (Some(0), "", ""));
    assert_eq!(node.run("call", &["demo.count", "0"]).result(), "5");
    assert!(node.run("list", &[]).result().lines().any(|name| name == "demo.add"));
}

#[test]
fn exit_1_when_the_function_fails() {
    let node = Node::with(Folder::new(), &program("fail", "fail", &["why"], ""));
    let failed = node.run("call", &["fail"]);
    let message = failed.failed(1);
    assert!(message.contains("-32013") && message.contains("\"exit\":1"), "{message}");
}

#[test]
fn exit_1_for_invalid_parameters() {
    let node = Node::demo();
    assert!(node.run("call", &["demo.add", "2", "three"]).failed(1).contains("-32602"));
    assert!(node.run("call", &["demo.divide", "1", "0"]).failed(1).contains("-32602"));
}

#[test]
fn exit_1_when_the_function_panics() {
    let node = Node::demo();
    let failed = node.run("call", &["demo.panic"]);
    assert!(failed.failed(1).contains("-32603"), "{failed:?}");
    assert!(failed.stderr.contains("this function always panics"), "{failed:?}");
    assert_eq!(node.run("call", &["demo.add", "2", "3"]).result(), "5");
}

#[test]
fn exit_2_for_a_bad_timeout() {
    let node = Node::demo();
    for bad in ["soon", "", "-1", "nan", "inf", "1e300", "2 days", "-2s"] {
        for command in ["call", "go", "list"] {
            let failed = node.run(command, &["--timeout", bad, "rpc.ping"]);
            assert!(failed.failed(2).contains("timeout"), "{bad}: {failed:?}");
        }
        node.run("call", &[&format!("--timeout={bad}"), "rpc.ping"]).failed(2);
    }
}

#[test]
fn exit_2_for_an_invalid_command_line() {
    for (arguments, told) in [
        (&[][..], "a command is missing"),
        (&["dance"], "dance"),
        (&["call"], "function"),
        (&["go"], "function"),
        (&["call", "--colour", "f"], "--colour"),
        (&["serve", "--colour"], "--colour"),
        (&["list", "-x"], "-x"),
        (&["list", "a", "b"], "b"),
        (&["serve", "here"], "here"),
        (&["call", "f", "--to"], "--to"),
        (&["serve", "--listen"], "--listen"),
        (&["serve", "--config"], "--config"),
        (&["serve", "--threads", "0"], "threads"),
        (&["serve", "--threads", "many"], "threads"),
        (&["serve", "--log", "loud"], "log"),
        (&["call", "--params", "3", "f"], "--params"),
        (&["call", "--params", "{", "f"], "--params"),
        (&["call", "--params", "[1] [2]", "f"], "--params"),
        (&["call", "--params", "[1]", "f", "2"], "--params"),
        (&["go", "--params", "[1]", "f", "2"], "--params"),
    ] {
        let failed = run(arguments);
        assert!(failed.failed(2).contains(told), "{arguments:?}: {failed:?}");
        assert!(failed.stderr.contains("--help"), "{arguments:?}: {failed:?}");
    }
}

#[test]
fn exit_2_for_an_invalid_listen_address() {
    for bad in ["here:", "::1", "127.0.0.1:65536", ":", "256.0.0.1:0", "http://here:80"] {
        assert!(run(["serve", "--listen", bad]).failed(2).contains(bad), "{bad}");
    }
}

#[test]
fn exit_2_for_an_invalid_configuration() {
    let folder = Folder::new();
    let config = folder.write("wrong.toml", "name = 'board'\nlissten = 3\n");
    for check in [&[][..], &["--check"]] {
        let mut command = binary();
        command.arg("serve").arg("--config").arg(&config).args(check);
        let failed = Process::start(command).finish();
        let message = failed.failed(2);
        assert!(message.contains("wrong.toml:2:") && message.contains("lissten"), "{message}");
    }
    let absent = folder.name("absent.toml");
    assert!(run(["serve", "--config", &absent]).failed(2).contains("absent.toml"));
}

#[test]
fn exit_2_when_the_address_is_in_use() {
    let node = Node::demo();
    let address = node.address().to_string();
    assert!(run(["serve", "--listen", &address]).failed(2).contains(&address));
    // A free address does not compensate.
    let message = run(["serve", "--listen", "127.0.0.1:0", "--listen", &address]);
    assert!(message.failed(2).contains(&address));
}

#[test]
fn exit_2_when_the_ready_file_cannot_be_written() {
    let folder = Folder::new();
    let path = folder.name("absent/ready");
    let failed = run(["serve", "--listen", "127.0.0.1:0", "--ready-file", &path]);
    assert_eq!(failed.code, Some(2), "{failed:?}");
    assert!(failed.stderr.contains("--ready-file"), "{failed:?}");
}

#[test]
fn exit_2_for_an_argument_that_is_not_utf_8() {
    for line in [
        "\"$0\" \"$@\" call \"$(printf 'f\\377')\"",
        "\"$0\" \"$@\" call f \"$(printf '\\377')\"",
        "\"$0\" \"$@\" call --to \"$(printf '\\377')\" f",
        "\"$0\" \"$@\" \"$(printf '\\377')\"",
    ] {
        let failed = Process::start(binary_in_shell(line)).finish();
        assert!(failed.failed(2).contains("UTF-8"), "{line}: {failed:?}");
    }
}

#[test]
fn exit_3_without_a_connection() {
    for command in ["call", "go", "list"] {
        let failed = run([command, "--to", DEAD, "f"]);
        assert!(failed.failed(3).contains(DEAD), "{failed:?}");
    }
    run(["call", "--to", "nowhere.invalid:7300", "f"]).failed(3);
    for none in ["nowhere:", "::1:7300", "127.0.0.1:99999", ":7300", "http://127.0.0.1"] {
        assert!(run(["call", "--to", none, "f"]).failed(2).contains("host:port"), "{none}");
    }
}

#[test]
fn exit_3_for_an_unknown_function() {
    let node = Node::demo();
    for name in ["demo.multiply", "help", "rpc.nothing"] {
        let failed = node.run("call", &[name]);
        assert!(failed.failed(3).contains("-32601"), "{failed:?}");
        assert!(failed.stderr.contains(name), "{failed:?}");
    }
}

#[test]
fn exit_3_when_the_provider_is_gone() {
    let config = format!("[[function]]\nname = 'away'\nforward = '{DEAD}'");
    let node = Node::with(Folder::new(), &config);
    let failed = node.run("call", &["away"]);
    assert!(failed.failed(3).contains("-32001"), "{failed:?}");
    assert!(failed.stderr.contains(DEAD), "{failed:?}");
    assert!(failed.stderr.contains("safe to repeat"), "{failed:?}");
}

#[test]
fn exit_3_when_the_connection_is_lost() {
    let rude = listen(|stream| {
        let mut lines = io::BufReader::new(&stream).lines().map_while(Result::ok);
        while lines.next().is_some_and(|line| line.is_empty() || line.contains("rpc.ping")) {}
    });
    let config = format!("[[function]]\nname = 'away'\nforward = '{rude}'");
    let node = Node::with(Folder::new(), &config);
    for failed in [node.run("call", &["away"]), run(["call", "--to", &rude.to_string(), "away"])] {
        assert!(failed.failed(3).contains("the call may have run"), "{failed:?}");
    }
}

#[test]
fn exit_3_when_the_program_is_missing() {
    let node =
        Node::with(Folder::new(), "[[function]]\nname = 'absent'\nexec = ['no-such-program-anywhere']");
    let failed = node.run("call", &["absent"]);
    assert!(failed.failed(3).contains("-32001"), "{failed:?}");
    assert!(failed.stderr.contains("no-such-program-anywhere"), "{failed:?}");
}

#[test]
fn exit_3_when_the_node_stops_before_replying() {
    let config = format!("limits.drain = '100ms'\n{}", gate(""));
    let mut node = Node::with(Folder::new(), &config);
    let call = Process::start(node.command("call", &["gate", &node.folder.name("never")]));
    await_in_flight(&node, 1);
    node.signal("TERM");
    call.finish().failed(3);
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn exit_4_when_the_deadline_passes() {
    let node = Node::demo();
    node.run("call", &["--timeout", "0.2", "demo.sleep", "3000"]).failed(4);
    node.run("call", &["--timeout", "0", "demo.sleep", "3000"]).failed(4);
    // The node was notified and has cancelled the calls.
    await_in_flight(&node, 0);
    // A node that accepts the connection and then does nothing.
    let silent = listen(|stream| {
        let _ = io::copy(&mut &stream, &mut io::sink());
    });
    for command in ["call", "go", "list"] {
        run([command, "--to", &silent.to_string(), "--timeout=0.2", "f"]).failed(4);
    }
}

#[test]
fn exit_130_when_interrupted() {
    for signal in ["INT", "TERM"] {
        let node = Node::demo();
        let call = Process::start(node.command("call", &["demo.sleep", "3000"]));
        await_in_flight(&node, 1);
        call.signal(signal);
        let ended = call.finish();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(130), ""), "SIG{signal}: {ended:?}");
    }
}

#[test]
fn interrupted_call_leaves_no_program_behind() {
    let folder = Folder::new();
    let config = folder.stubborn("");
    let node = Node::with(folder, &config);
    let call =
        Process::start(node.command("call", &["--timeout", "3000", "stubborn", &node.folder.name("ids")]));
    let ids = node.folder.await_words("ids");
    call.signal("INT");
    assert_eq!(call.finish().code, Some(130));
    for id in ids {
        eventually("the program has ended", || is_gone(&id));
    }
}

/// Every error code of the contract, from a fake node.
#[test]
fn every_error_code_has_its_exit_code() {
    let node = fake_node(|request| {
        let code = request["params"][0].clone();
        let error = json!({ "code": code, "message": "as told", "data": { "why": [1, 2] } });
        json!({ "jsonrpc": "2.0", "id": request["id"], "error": error })
    });
    for (code, exit) in [
        (-32700, 1),
        (-32600, 1),
        (-32602, 1),
        (-32601, 3),
        (-32603, 1),
        (-32001, 3),
        (-32002, 5),
        (-32003, 4),
        (-32004, 1),
        (-32007, 1),
        (-32008, 1),
        (-32009, 1),
        (-32010, 1),
        (-32011, 3),
        (-32012, 1),
        (-32013, 1),
        (-32014, 3),
        (-32015, 1),
        (-32800, 1),
        (-32000, 1),
        (7, 1),
    ] {
        let failed = run(["call", "--to", &node.to_string(), "f", &code.to_string()]);
        let message = failed.failed(exit);
        for part in ["as told", &code.to_string(), "{\"why\":[1,2]}"] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn node_with_invalid_replies_counts_as_unavailable() {
    let rude = listen(|stream| {
        let mut first = [0];
        let _ = io::Read::read(&mut &stream, &mut first);
        let _ = io::Write::write_all(&mut &stream, b"220 mail.example ESMTP\r\n");
    });
    run(["call", "--to", &rude.to_string(), "f"]).failed(3);
    let to_another = fake_node(|_| json!({ "jsonrpc": "2.0", "id": 99, "result": "not yours" }));
    let told = run(["call", "--to", &to_another.to_string(), "f"]);
    assert!(told.failed(1).contains("an id that is not the call's"), "{told:?}");
    let broken = fake_node(|request| json!({ "jsonrpc": "2.0", "id": request["id"], "error": "no" }));
    run(["call", "--to", &broken.to_string(), "f"]).failed(1);
}

// Help, version, and the syntax of arguments.

#[test]
fn help_goes_to_stdout() {
    for flag in ["--help", "-h"] {
        let top = run([flag]);
        for word in ["serve", "call", "go", "list", "--version"] {
            assert!(top.result().contains(word), "{word}: {top:?}");
        }
        for (command, words) in [
            ("serve", &["--listen", "--config", "--check", "--ready-file", "--threads", "--log"][..]),
            ("call", &["--to", "--timeout", "--params", "--pretty", "ARG", "127.0.0.1:7300"]),
            ("go", &["--to", "--timeout", "--params", "ARG"]),
            ("list", &["--to", "-v", "pattern"]),
        ] {
            let help = run([command, flag]);
            assert!(help.stderr.is_empty(), "{help:?}");
            for word in words {
                assert!(help.result().contains(word), "{command}: {word}: {help:?}");
            }
        }
    }
}

#[test]
fn version_goes_to_stdout() {
    let version = run(["--version"]);
    let features =
        [("tls", cfg!(feature = "tls")), ("grpc", cfg!(feature = "grpc")), ("nats", cfg!(feature = "nats"))];
    let has: Vec<_> = features.iter().filter(|feature| feature.1).map(|feature| feature.0).collect();
    let has = if has.is_empty() { String::new() } else { format!(" ({})", has.join(", ")) };
    assert_eq!(version.result(), format!("chanrpc {}{has}", env!("CARGO_PKG_VERSION")));
    assert_eq!(version.stderr, "");
}

#[test]
fn option_values_are_accepted_in_either_form_and_any_position() {
    let node = Node::demo();
    let to = node.address().to_string();
    let to_is = format!("--to={to}");
    for arguments in [
        &["call", "--to", &to, "rpc.echo", "7"][..],
        &["call", &to_is, "rpc.echo", "7"],
        &["call", "rpc.echo", &to_is, "7"],
        &["call", "rpc.echo", "7", "--to", &to],
        &["call", &to_is, "--timeout=5", "rpc.echo", "7"],
        &["call", &to_is, "--params=[7]", "rpc.echo"],
        &[&to_is, "call", "rpc.echo", "7"],
    ] {
        assert_eq!(run(arguments).result(), "[7]", "{arguments:?}");
    }
    let params = "--params={\"a\":\"b=c --to d\"}";
    assert_eq!(run(["call", &to_is, params, "rpc.echo"]).result(), "{\"a\":\"b=c --to d\"}");
}

#[test]
fn argument_is_json_or_else_a_string() {
    let node = Node::demo();
    let arguments =
        ["rpc.echo", "1", "01", "1.50", "two words", "{\"a\": 1}", "[]", "null", "\"null\"", "", "é", "a\nb"];
    assert_eq!(
        node.run("call", &arguments).result(),
        r#"[1,"01",1.50,"two words",{"a":1},[],null,"null","","é","a\nb"]"#
    );
    // No arguments mean no parameters, which differs from an empty list.
    assert_eq!(node.run("call", &["rpc.echo"]).result(), "null");
}

#[test]
fn argument_may_be_negative_or_look_like_an_option() {
    let node = Node::demo();
    assert_eq!(node.run("call", &["demo.add", "-5", "3"]).result(), "-2");
    assert_eq!(node.run("call", &["demo.add", "-0.5", "-1e1"]).result(), "-10.5");
    assert_eq!(
        node.run("call", &["rpc.echo", "--", "--to", "-h", "--", "-x=1"]).result(),
        r#"["--to","-h","--","-x=1"]"#
    );
    assert_eq!(node.run("call", &["rpc.echo", "-"]).result(), r#"["-"]"#);
}

#[test]
fn params_are_read_from_the_option_or_stdin() {
    let node = Node::demo();
    assert_eq!(node.run("call", &["--params", " [2, 3] ", "demo.add"]).result(), "5");
    for form in [&["--params", "-", "rpc.echo"][..], &["--params=-", "rpc.echo"]] {
        let ended = Process::run_with_input(node.command("call", form), "{\n  \"path\": \"/\"\n}\n");
        assert_eq!(ended.result(), r#"{"path":"/"}"#);
    }
    let counted = Process::run_with_input(node.command("go", &["--params", "-", "demo.count"]), "[4]");
    assert_eq!(counted.code, Some(0), "{counted:?}");
    assert_eq!(node.run("call", &["demo.count", "0"]).result(), "4");
    for bad in ["", "3", "{", "nonsense"] {
        Process::run_with_input(node.command("call", &["--params", "-", "rpc.echo"]), bad).failed(2);
    }
}

#[test]
fn result_is_one_line_of_json_or_pretty_printed() {
    let folder = Folder::new();
    let script = "printf '{\\n  \"b\" : [ 1.0, 2 ],\\r\\n\\t\"a\":\\n\"x\\\\n y\"\\n}\\n'";
    let config = folder.script("laid-out", script, "output = \"json\"");
    let node = Node::with(folder, &config);
    assert_eq!(node.run("call", &["laid-out"]).result(), r#"{"b":[1.0,2],"a":"x\n y"}"#);
    assert_eq!(
        node.run("call", &["--pretty", "laid-out"]).result(),
        "{\n  \"b\": [\n    1.0,\n    2\n  ],\n  \"a\": \"x\\n y\"\n}"
    );
}

#[test]
fn function_without_a_result_prints_null() {
    let node = Node::demo();
    assert_eq!(node.run("call", &["demo.reset"]).result(), "null");
}

#[test]
fn stdout_contains_only_results() {
    let mut node = Node::demo();
    let answered = node.run("call", &["demo.add", "1", "1"]);
    assert_eq!((answered.stdout.as_str(), answered.stderr.as_str()), ("2\n", ""));
    let listed = node.run("list", &["demo.*"]);
    assert_eq!(listed.stderr, "");
    assert!(listed.stdout.lines().count() > 3, "{listed:?}");
    assert!(listed.stdout.lines().all(|line| line.starts_with("demo.")), "{listed:?}");
    let told = node.run("list", &["-v", "demo.divide"]);
    assert!(told.result().contains("native"), "{told:?}");
    // A node prints its addresses; its log, including errors of peers, goes to stderr.
    node.run("call", &["demo.panic"]).failed(1);
    eventually("the panic is logged", || node.log().contains("this function always panics"));
    let address = node.address();
    node.kill();
    let (ended, _) = node.finish();
    assert_eq!(ended.stdout, format!("listening on {address}\n"));
}

#[test]
fn list_shows_signatures_and_errors_use_their_words() {
    let params = "params = { text = 'string', times = { type = 'integer', default = 2, description = 'how often' }, \
                  loud = { type = 'boolean', default = false } }";
    let config =
        program("say", "echo", &["{text}", "{times}", "{loud}"], params) + &program("any", "echo", &[], "");
    let node = Node::with(Folder::new(), &config);
    let listed = node.run("list", &["-v", "say"]).result().to_owned();
    assert!(
        listed.contains("say(text: string, times?: integer, loud?: boolean) -> any   (exec "),
        "{listed}"
    );
    let listed = node.run("list", &["-v", "*"]).result().to_owned();
    assert!(listed.contains("any(…) -> any"), "{listed}");
    assert!(listed.contains("rpc.echo(…) -> any"), "{listed}");
    assert!(listed.contains("rpc.list(pattern?: string, verbose?: boolean) -> array"), "{listed}");
    let takes = "; the function takes (text: string, times?: integer, loud?: boolean)";
    let mut client = node.connect();
    for (params, result) in [
        (json!(["a"]), Ok(json!(["a", 2, false]))),
        (json!(["a", 3]), Ok(json!(["a", 3, false]))),
        (json!({"text": "a", "loud": true}), Ok(json!(["a", 2, true]))),
        (json!(["a", null, true]), Ok(json!(["a", 2, true]))),
        (json!([]), Err("got 0 parameters")),
        (json!([1]), Err("parameter \"text\" must be of type string, not 1")),
        (json!({"times": 1}), Err("parameter \"text\" is missing")),
        (json!({"text": "", "often": 1}), Err("parameter \"often\" is unknown")),
    ] {
        let answer = client.call("say", &params).map_err(|fault| fault.message);
        assert_eq!(answer, result.map_err(|error| format!("{error}{takes}")), "{params}");
    }
    // And so do built-in ones.
    assert_eq!(client.call("rpc.list", &json!(["s*", null])), Ok(json!(["say"])));
    assert_eq!(client.call("rpc.list", &json!({"pattern": "s*", "verbose": null})), Ok(json!(["say"])));
    let wrong = client.call("rpc.list", &json!({"pattern": 1})).unwrap_err();
    assert_eq!(
        wrong.message,
        "parameter \"pattern\" must be of type string, not 1; \
         the function takes (pattern?: string, verbose?: boolean)"
    );
    // Native functions, by their types.
    let node = Node::demo();
    let listed = node.run("list", &["-v", "demo.*"]).result().to_owned();
    for signature in [
        "demo.add(a: number, b: number) -> number",
        "demo.count(by?: integer) -> integer",
        "demo.divide(a: integer, b: integer) -> n",
        "demo.reset() -> null",
        "demo.sleep(seconds: number) -> number",
    ] {
        assert!(listed.contains(signature), "{signature}: {listed}");
    }
    let mut client = node.connect();
    assert_eq!(client.call("demo.add", &json!({"b": 2, "a": 1})), Ok(json!(3)));
    assert_eq!(client.call("demo.count", &json!({"by": 5})), Ok(json!(5)));
    let wrong = client.call("demo.add", &json!({"a": "1", "b": 2})).unwrap_err();
    assert_eq!(wrong.code, -32602);
    assert_eq!(
        wrong.message,
        "parameter \"a\" must be of type number, not \"1\"; the function takes (a: number, b: number)"
    );
}

#[test]
fn closed_stdout_is_not_an_error() {
    let node = Node::demo();
    let mut help = binary();
    help.arg("--help");
    for mut command in [
        node.command("call", &["demo.add", "1", "2"]),
        node.command("list", &["-v"]),
        node.command("go", &["demo.count"]),
        help,
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        command.stdout(writer).stderr(Stdio::piped());
        let ended = Process::start_with(command).finish();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    }
    // A node keeps serving after the reader of its stdout has gone.
    let folder = Folder::new();
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = binary();
    command.args(["serve", "--listen", "127.0.0.1:0", "--ready-file"]).arg(folder.path("ready"));
    command.stdout(writer).stderr(Stdio::piped());
    let _node = Process::start_with(command);
    let address = &folder.await_words("ready")[0];
    assert_eq!(run(["call", "--to", address, "demo.add", "1", "2"]).result(), "3");
}

#[test]
fn missing_stdout_is_not_an_error() {
    for line in ["\"$0\" \"$@\" --version >&-", "\"$0\" \"$@\" call --help >&-"] {
        let ended = Process::start(binary_in_shell(line)).finish();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{line}: {ended:?}");
    }
}

// serve.

#[test]
fn result_that_cannot_be_written_is_a_failure() {
    let node = Node::demo();
    let address = node.address().to_string();
    let ended = |line: &str, arguments: &[&str]| {
        let mut command = binary_in_shell(line);
        command.args(arguments);
        Process::start(command).finish()
    };
    for arguments in [
        &["call", "--to", &address, "demo.add", "1", "2"][..],
        &["list", "--to", &address],
        &["token"],
        &["serve", "--check"],
        &["--version"],
    ] {
        let ended = ended("exec \"$0\" \"$@\" >/dev/full", arguments);
        assert!(ended.failed(1).contains("writing the result failed"), "{arguments:?}: {ended:?}");
    }
    // The rule printed with a token is a result too.
    assert_eq!(ended("exec \"$0\" \"$@\" 2>/dev/full", &["token"]).code, Some(1));
}

#[test]
fn params_nested_too_deeply_give_the_nodes_error() {
    let node = Node::demo();
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let refused = node.run("call", &["rpc.echo", &deep]);
    assert!(refused.failed(1).contains("nested deeper than 128 (limits.depth)"), "{refused:?}");
}

#[test]
fn message_size_is_limited_by_the_node() {
    let node = Node::with(Folder::new(), "limits.message = \"4 MiB\"\nlimits.output = \"4 MiB\"\n");
    let text = "x".repeat(3 << 20);
    let command = node.command("call", &["--params", "-", "rpc.echo"]);
    let echoed = Process::run_with_input(command, &json!([text]).to_string());
    assert_eq!(serde_json::from_str::<Value>(echoed.result()).unwrap(), json!([text]));
}

#[test]
fn check_binds_and_starts_nothing() {
    let folder = Folder::new();
    // Listening on an address in use would fail.
    let node = Node::demo();
    // A program that exists on every system.
    let program = env!("CARGO_BIN_EXE_chanrpc");
    let text = format!(
        "[[listen]]\naddress = '{}'\n[[function]]\nname = 'version'\nexec = ['{program}', '--version']\n",
        node.address()
    );
    let config = folder.write("good.toml", &text);
    let checked = run(["serve", "--config", config.to_str().unwrap(), "--check"]);
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
    assert!(!checked.stdout.contains("listening"), "{checked:?}");
    assert!(checked.stdout.contains("valid"), "{checked:?}");
}

#[test]
fn every_address_is_printed_and_served() {
    let mut node = Node::launch(
        Folder::new(),
        None,
        &["--listen", "127.0.0.1:0", "--listen=127.0.0.1:0", "--listen", "127.0.0.1:0"],
        &Stderr::Read,
    );
    let addresses = node.addresses().to_vec();
    assert_eq!(addresses.len(), 3);
    assert!(
        addresses.iter().all(|address| address.port() != 0 && address.ip().is_loopback()),
        "{addresses:?}"
    );
    assert!(addresses[0] != addresses[1]);
    for address in &addresses {
        assert_eq!(run(["call", "--to", &address.to_string(), "demo.add", "1", "2"]).result(), "3");
    }
    node.kill();
    let (ended, folder) = node.finish();
    let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    assert_eq!(folder.read("ready"), Some(lines));
    let lines: String = addresses.iter().map(|address| format!("listening on {address}\n")).collect();
    assert_eq!(ended.stdout, lines);
}

#[test]
fn listen_option_replaces_the_configured_addresses() {
    let config = "[[listen]]\naddress = '127.0.0.1:0'\n[[listen]]\naddress = '127.0.0.1:0'\n";
    let node = Node::with(Folder::new(), config);
    assert_eq!(node.addresses().len(), 2);
    let node = Node::launch(Folder::new(), Some(config), &["--listen", "127.0.0.1:0"], &Stderr::Read);
    assert_eq!(node.addresses().len(), 1);
}

#[test]
fn start_without_configuration_suggests_commands() {
    let node = Node::demo();
    let address = node.address().to_string();
    let log = await_some("the hints", || Some(node.log()).filter(|log| log.contains("/metrics")));
    for hint in [&format!("curl http://{address}/ -d "), &format!("chanrpc call --to {address} demo.add 2 3")]
    {
        assert!(log.contains(hint), "{log}");
    }
}

#[test]
fn several_threads_serve_calls() {
    let node = Node::launch(Folder::new(), None, &["--threads", "3"], &Stderr::Read);
    for _ in 0..5 {
        assert_eq!(node.run("call", &["demo.add", "2", "3"]).result(), "5");
    }
}

// Shutdown.

/// Waits until `calls` calls are in flight.
fn await_in_flight(node: &Node, calls: u64) {
    eventually("calls in flight", || node.metric("chanrpc_calls_in_flight") == calls);
}

/// Waits until a node no longer accepts connections.
fn await_refusal(node: &Node) {
    eventually("the port is closed", || TcpStream::connect(node.address()).is_err());
}

fn gated_node(settings: &str) -> Node {
    Node::with(Folder::new(), &(settings.to_owned() + &gate("")))
}

#[test]
fn either_signal_drains() {
    for signal in ["TERM", "INT"] {
        let node = gated_node("limits.drain = '1h'\n");
        let call = Process::start(node.command("call", &["gate", &node.folder.name("open")]));
        let mut raw = node.connect();
        raw.begin(1, "gate", &json!([node.folder.name("open")]));
        let mut idle = node.connect();
        idle.call("rpc.ping", &json!([])).unwrap();
        // A connection whose dialect is not known yet.
        let mut silent = node.connect();
        await_in_flight(&node, 2);

        node.signal(signal);
        await_refusal(&node);
        idle.assert_closed();
        silent.assert_closed();
        node.folder.write("open", "");
        assert_eq!(call.finish().result(), "\"opened\"");
        assert_eq!(raw.reply()["result"], "opened");
        raw.assert_closed();
        let address = node.address();
        let (ended, _) = node.finish();
        assert_eq!(ended.code, Some(0), "SIG{signal}");
        assert_eq!(ended.stdout, format!("listening on {address}\n"), "stopping is no result");
    }
}

#[test]
fn drain_waits_for_a_sleeping_function() {
    let mut node = Node::launch(Folder::new(), None, &["--threads", "3"], &Stderr::Read);
    let call = Process::start(node.command("call", &["demo.sleep", "0.5"]));
    await_in_flight(&node, 1);
    node.signal("TERM");
    assert_eq!(call.finish().result(), "0.5");
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn no_program_outlives_its_node() {
    let folder = Folder::new();
    let config = format!("limits.drain = '100ms'\nlimits.deadline = '1h'\n{}", folder.stubborn(""));
    let mut node = Node::with(folder, &config);
    let mut client = node.connect();
    client.begin(1, "stubborn", &json!([node.folder.name("ids")]));
    // The program of a notification outlives its connection, but not its node.
    node.run("go", &["stubborn", &node.folder.name("more")]);
    let ids = [node.folder.await_words("ids"), node.folder.await_words("more")].concat();
    node.signal("TERM");
    assert_eq!(node.wait(), Some(0));
    for id in ids {
        eventually("the program has ended", || is_gone(&id));
    }
}

#[test]
fn calls_exceeding_the_drain_get_an_error() {
    let mut node = gated_node("limits.drain = '100ms'\n");
    let mut client = node.connect();
    for id in 0..3 {
        client.begin(id, "gate", &json!([node.folder.name("never")]));
    }
    await_in_flight(&node, 3);
    node.signal("TERM");
    let mut ids = Vec::new();
    for _ in 0..3 {
        let reply = client.reply();
        assert_eq!(reply["error"]["code"], -32014, "{reply}");
        ids.push(reply["id"].as_u64().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2]);
    client.assert_closed();
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn second_signal_ends_a_node_immediately() {
    for second in ["TERM", "INT"] {
        let mut node = gated_node("limits.drain = '1h'\n");
        let mut client = node.connect();
        client.begin(1, "gate", &json!([node.folder.name("never")]));
        await_in_flight(&node, 1);
        node.signal("TERM");
        await_refusal(&node);
        node.signal(second);
        assert_eq!(node.wait(), Some(130));
        client.assert_closed();
    }
}

#[test]
fn sighup_reloads_and_does_not_end_a_node() {
    let mut node = gated_node("limits.drain = '1h'\n");
    let mut client = node.connect();
    client.begin(1, "gate", &json!([node.folder.name("open")]));
    await_in_flight(&node, 1);
    for count in 1..=2 {
        node.signal("HUP");
        eventually("it is reloaded", || node.log().matches("reloaded the configuration").count() == count);
    }
    assert_eq!(node.run("call", &["rpc.echo", "1"]).result(), "[1]");
    // It does not count as a second signal either.
    node.signal("TERM");
    await_refusal(&node);
    node.signal("HUP");
    node.folder.write("open", "");
    assert_eq!(client.reply()["result"], "opened");
    assert_eq!(node.wait(), Some(0));
}

#[test]
fn closing_the_terminal_interrupts_a_call() {
    let node = Node::demo();
    let call = Process::start(node.command("call", &["demo.sleep", "3000"]));
    await_in_flight(&node, 1);
    call.signal("HUP");
    assert_eq!(call.finish().code, Some(130));
}

#[test]
fn configured_node_offers_the_configured_functions() {
    let node = Node::with(Folder::new(), &program("show", "echo", &["so", "it is"], ""));
    assert_eq!(node.run("call", &["show"]).result(), "[\"so\",\"it is\"]");
    node.run("call", &["demo.add", "1", "2"]).failed(3);
    let names = node.connect().call("rpc.list", &json!({})).unwrap();
    assert!(names.as_array().unwrap().contains(&json!("show")), "{names}");
}
