//! The command line as a person uses it: help, suggestions, forms of output, and one call for each line.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::programs::program;
use crate::support::{Folder, Node, Process, binary, eventually, fake_node, run, signal};

/// Returns the rows of a help text or of a table, as name and meaning.
fn help_rows(help: &str) -> Vec<(String, String)> {
    let rows = help.lines().filter_map(|line| line.strip_prefix("  "));
    rows.filter_map(|row| row.split_once("  "))
        .map(|(name, about)| (name.into(), about.trim().into()))
        .collect()
}

fn options(rows: Vec<(String, String)>) -> Vec<(String, String)> {
    rows.into_iter().filter(|(name, _)| name.starts_with('-')).collect()
}

/// Options that only builds with gRPC or NATS have, of which other documents tell.
const OF_FEATURES: [&str; 2] = ["--proto", "--creds"];

/// The options in the help of each command are those of `docs/cli.md`.
#[test]
fn documents_have_the_options_of_the_help() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md")).unwrap();
    let section = |name: &str| -> Vec<(String, String)> {
        let from = document.split(&format!("\n## {name}\n")).nth(1);
        let text = from.unwrap_or_else(|| panic!("docs/cli.md has no section {name:?}"));
        let rows = text.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| row.strip_suffix(" |").unwrap().split_once("` | ").unwrap())
            .map(|(name, about)| (name.to_owned(), about.to_owned()))
            .collect()
    };
    let help = run(["help"]);
    let commands: Vec<_> = help_rows(help.result()).into_iter().map(|(name, _)| name).collect();
    let commands: Vec<_> = commands.iter().filter(|name| !name.starts_with(['-', 'h'])).collect();
    assert!(commands.len() >= 7, "{help:?}");
    for command in commands {
        let help = run(["help", command]);
        let mut shown = options(help_rows(help.result()));
        shown.retain(|(name, _)| !OF_FEATURES.iter().any(|option| name.starts_with(option)));
        let mut documented = section(command);
        if shown.iter().any(|(name, _)| name.starts_with("--to ")) {
            documented.append(&mut section("The node"));
        }
        assert_eq!(shown, documented, "{command}");
        assert_eq!(run([command, "--help"]).stdout, help.stdout);
        for line in help.stdout.lines() {
            assert!(line.chars().count() <= 110, "{command}: {line}");
        }
    }
}

#[test]
fn usage_errors_say_what_was_meant_and_where_the_help_is() {
    for (arguments, meant, hint) in [
        (&["cal", "f"][..], "did you mean call?", "Try: chanrpc --help\n"),
        (&["help", "lst"], "did you mean list?", "Try: chanrpc --help\n"),
        (&["call", "--tiemout", "3", "f"], "did you mean --timeout?", "Try: chanrpc call --help\n"),
        (&["list", "--jsn"], "did you mean --json?", "Try: chanrpc list --help\n"),
        (&["bench", "--rat", "3"], "did you mean --rate?", "Try: chanrpc bench --help\n"),
        (&["call", "--timeout", "soon", "f"], "such as 2s, 500ms or 2.5", "Try: chanrpc call --help\n"),
        (&["call", "--to", "http://board:7300/", "f"], "; here board:7300,", "Try: chanrpc call --help\n"),
        (&["call", "--to", "ws://board", "f"], "; here board,", "Try: chanrpc call --help\n"),
        (&["why", "f"], "--config FILE is missing", "Try: chanrpc why --help\n"),
    ] {
        let failed = run(arguments);
        assert!(failed.failed(2).contains(meant), "{arguments:?}: {failed:?}");
        assert!(failed.stderr.ends_with(hint), "{arguments:?}: {failed:?}");
    }
    assert_eq!(run(["-V"]).stdout, run(["--version"]).stdout);
}

#[test]
fn unknown_function_is_answered_with_the_nearest_name() {
    let node = Node::demo();
    for (wanted, near) in [("demo.ad", "demo.add"), ("divide", "demo.divide"), ("rpc.lists", "rpc.list")] {
        let failed = node.run("call", &[wanted]);
        assert!(failed.failed(3).contains(&format!("did you mean {near}?")), "{failed:?}");
    }
    assert!(!node.run("call", &["nonsense"]).failed(3).contains("did you mean"));
    let none = node.run("list", &["demo"]);
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""));
    assert!(none.stderr.contains("did you mean demo."), "{none:?}");
    // Nothing is disclosed to callers that may not list functions.
    let node = Node::with(
        Folder::new(),
        "[[access]]\nfunctions = ['secret.*']\n[[function]]\nname = 'secret.a'\nexec = ['x']\n",
    );
    assert!(!node.run("call", &["secret.b"]).failed(3).contains("did you mean"));
}

#[test]
fn address_comes_from_the_environment() {
    let node = Node::demo();
    let address = node.address().to_string();
    let mut command = binary();
    command.args(["call", "demo.add", "2", "3"]).env("CHANRPC_TO", &address);
    assert_eq!(Process::start(command).finish().result(), "5");
    // An option is stronger.
    let mut command = binary();
    command.args(["call", "--to", &address, "demo.add", "2", "3"]).env("CHANRPC_TO", "127.0.0.1:1");
    assert_eq!(Process::start(command).finish().result(), "5");
    let mut command = binary();
    command.args(["call", "demo.add"]).env("CHANRPC_TO", "here:there");
    assert!(Process::start(command).finish().failed(2).contains("CHANRPC_TO here:there"));
}

#[test]
fn durations_have_units_or_are_seconds() {
    let node = Node::demo();
    for timeout in ["5s", "5000ms", "5", "0.1m", "1h"] {
        assert_eq!(node.run("call", &["--timeout", timeout, "demo.add", "2", "3"]).result(), "5");
    }
    node.run("call", &["--timeout", "200ms", "demo.sleep", "3000"]).failed(4);
}

#[test]
fn raw_prints_texts_as_they_are() {
    let told =
        fake_node(|request| json!({ "jsonrpc": "2.0", "id": request["id"], "result": request["params"][0] }));
    let call = |arguments: &[&str]| {
        let told = told.to_string();
        run([&["call", "--to", &told][..], arguments].concat()).stdout
    };
    let text = "\"one\\n\\ttwo\\u001b\\n\"";
    assert_eq!(call(&["f", text]), format!("{text}\n"));
    assert_eq!(call(&["--json", "f", text]), format!("{text}\n"));
    assert_eq!(call(&["--raw", "f", text]), "one\n\ttwo\u{1b}\n");
    assert_eq!(call(&["--raw", "f", "\"one\""]), "one\n");
    assert_eq!(call(&["--raw", "f", "[\"one\"]"]), "[\"one\"]\n");
    assert_eq!(call(&["--raw", "--pretty", "f", "[1]"]), "[\n  1\n]\n");
    // A text in an error cannot control the terminal.
    let rude = fake_node(
        |request| json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": 1, "message": "red \u{1b}[31m" } }),
    );
    let failed = run(["call", "--to", &rude.to_string(), "f"]);
    assert!(failed.failed(1).contains("red \\u{1b}[31m"), "{failed:?}");
}

#[test]
fn each_line_is_a_call_and_answers_keep_its_order() {
    let node = Node::demo();
    let each = |arguments: &[&str], input: &str| {
        Process::run_with_input(node.command("call", &[&["--each"], arguments].concat()), input)
    };
    // The first answers arrive last.
    let slow = each(&["demo.sleep"], "0.3\n0.2\n\n[0.1]\n{\"seconds\": 0}");
    assert_eq!(slow.result(), "0.3\n0.2\n0.1\n0.0");
    let echoed =
        each(&["--in-flight=2", "rpc.echo"], "\u{feff}1\r\ntwo words\n\"3\"\n[4, null]\n{\"a\" : 5}\n");
    assert_eq!(echoed.result(), "[1]\n[\"two words\"]\n[\"3\"]\n[4,null]\n{\"a\":5}");
    let many: String = (0..1000).map(|n| format!("{n}\n")).collect();
    let counted = each(&["--in-flight=64", "rpc.echo"], &many);
    let expected: Vec<_> = (0..1000).map(|n| format!("[{n}]")).collect();
    assert_eq!(counted.result(), expected.join("\n"));
    // Errors have a line too.
    let mixed = each(&["demo.divide"], "[17, 5]\n[1, 0]\n[9, 3]\n");
    assert_eq!(mixed.code, Some(1), "{mixed:?}");
    let lines: Vec<Value> = mixed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&lines[0], &lines[1]["error"]["code"], &lines[2]),
        (&json!([3, 2]), &json!(-32602), &json!([3, 0]))
    );
    assert!(each(&["rpc.echo"], "").stdout.is_empty());
    // An invalid line ends it, after the answers so far.
    let wrong = each(&["rpc.echo"], "1\n[2\n3\n");
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(2), "[1]\n"));
    assert!(wrong.stderr.contains("line 2 of standard input"), "{wrong:?}");
    each(&["rpc.echo", "1"], "").failed(2);
    each(&["--in-flight=0", "rpc.echo"], "").failed(2);
    let gone = Process::run_with_input(
        {
            let mut command = binary();
            command.args(["call", "--to", "127.0.0.1:1", "--each", "f"]);
            command
        },
        "1\n",
    );
    assert_eq!(gone.code, Some(3), "{gone:?}");
    assert!(gone.stdout.starts_with("{\"error\":{\"code\":-32001,"), "{gone:?}");
}

/// A reader of the output sees an answer before the next line is written.
#[test]
fn each_answers_before_its_input_ends() {
    let node = Node::demo();
    let mut command = node.command("call", &["--each", "rpc.echo"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut output = std::io::BufReader::new(output);
    for number in 0..3 {
        std::io::Write::write_all(&mut input, format!("{number}\n").as_bytes()).unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, format!("[{number}]\n"));
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn each_can_be_interrupted_while_it_waits_for_input() {
    let node = Node::demo();
    let mut command = node.command("call", &["--each", "rpc.echo"]);
    let (reader, writer) = std::io::pipe().unwrap();
    let called = {
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.stdin(reader);
        command.spawn().unwrap()
    };
    eventually("it is connected", || node.metric("chanrpc_connections") > 1);
    assert!(signal(&called.id().to_string(), "INT"));
    let ended = called.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    drop(writer);
}

#[test]
fn every_listing_has_a_form_for_programs() {
    let node = Node::demo();
    let listed: Value = serde_json::from_str(node.run("list", &["--json", "demo.add"]).result()).unwrap();
    assert_eq!(listed[0]["params"][1]["schema"]["type"], "number", "{listed}");
    assert_eq!(node.run("list", &["--json", "nothing.*"]).result(), "[]");
    let token: Value =
        serde_json::from_str(run(["token", "--json", "--name", "x", "demo.*"]).result()).unwrap();
    assert!(token["token"].as_str().unwrap().starts_with("chanrpc_"), "{token}");
    let folder = Folder::new();
    let rule = token["rule"].as_str().unwrap();
    folder.write("node.toml", &format!("[[listen]]\naddress = '0.0.0.0:7300'\n{rule}"));
    let why = |token: &str, function: &str| {
        let config = folder.name("node.toml");
        run(["why", "--json", "--config", &config, "--token", token, function])
    };
    let token = token["token"].as_str().unwrap();
    let allowed: Value = serde_json::from_str(why(token, "demo.add").result()).unwrap();
    assert_eq!((&allowed[0]["address"], &allowed[0]["allowed"]), (&json!("0.0.0.0:7300"), &json!(true)));
    let denied = why(token, "rpc.stats");
    assert_eq!(denied.code, Some(5), "{denied:?}");
    let denied: Value = serde_json::from_str(denied.stdout.trim()).unwrap();
    assert_eq!(denied[0]["allowed"], false);
    assert_eq!(denied[0]["denied_by"].as_array().unwrap().len(), 1, "{denied}");
}

/// A node with one function of a program that has every kind of parameter.
fn described() -> Node {
    let params = "description = 'sets a fan'\nparams = { speed = { type = 'string', choices = ['low', 'it is'] }, \
                  time = { type = 'integer', default = 2, choices = [2, 3], description = 'in minutes' }, \
                  on = 'boolean' }";
    Node::with(Folder::new(), &program("fan", "echo", &["{speed}", "{time}", "{on}"], params))
}

#[test]
fn describe_shows_a_function_and_lines_that_call_it() {
    let node = described();
    let told = node.run("describe", &["fan"]);
    let address = node.address();
    let expected = "fan(speed: string, time?: integer, on: boolean) -> any\nsets a fan\n\nparameters:\n  \
         speed  string, one of \"low\", \"it is\"\n  time   integer, default 2, one of 2, 3: in minutes\n  \
         on     boolean\n\nresult:   any\nprovider: exec ";
    assert!(told.result().starts_with(expected), "{told:?}\n{expected}");
    let lines: Vec<_> = told.result().lines().collect();
    assert_eq!(
        lines[lines.len() - 2..],
        [
            &format!("chanrpc call --to {address} fan low true"),
            &format!(
                "curl http://{address}/ -d '{{\"jsonrpc\":\"2.0\",\"method\":\"fan\",\"params\":[\"low\",true],\"id\":1}}'"
            )
        ]
    );
    // The template is what `--params` takes.
    let template = node.run("call", &["--template", "fan"]).result().to_owned();
    assert_eq!(template, r#"{"speed":"low","time":2,"on":true}"#);
    assert_eq!(node.run("call", &["--params", &template, "fan"]).result(), r#"["low",2,true]"#);
    // Only the choices are accepted, in any notation.
    for (arguments, result) in [
        (&["it is", "3.0", "false"][..], Ok(r#"["it is",3,false]"#)),
        (&["slow", "3", "false"], Err("parameter \"speed\" must be one of \"low\", \"it is\"")),
        (&["low", "4", "false"], Err("parameter \"time\" must be one of 2, 3")),
    ] {
        let called = node.run("call", &[&["fan"], arguments].concat());
        match result {
            Ok(result) => assert_eq!(called.result(), result),
            Err(error) => assert!(called.failed(1).contains(error), "{called:?}"),
        }
    }
    let none = node.run("describe", &["fam"]);
    assert!(none.failed(3).contains("did you mean fan?"), "{none:?}");
    // Errors of the function's own.
    let demo = Node::demo();
    let told = demo.run("describe", &["demo.divide"]);
    assert!(told.result().contains("\nerror:    -32602 the second number is 0"), "{told:?}");
    let listed = demo.run("list", &["-v", "demo.add"]);
    assert_eq!(listed.result(), "demo.add(a: number, b: number) -> number   adds two numbers (native demo)");
}

#[test]
fn discover_returns_an_openrpc_document_of_what_the_caller_may_call() {
    let node = described();
    let document: Value = serde_json::from_str(node.run("describe", &["--json", "fan"]).result()).unwrap();
    assert_eq!(document["openrpc"], "1.2.6");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        document["methods"],
        json!([{
            "name": "fan",
            "summary": "sets a fan",
            "paramStructure": "either",
            "params": [
                { "name": "speed", "required": true, "schema": { "type": "string", "enum": ["low", "it is"] } },
                { "name": "time", "summary": "in minutes", "required": false,
                  "schema": { "type": "integer", "enum": [2, 3], "default": 2 } },
                { "name": "on", "required": true, "schema": { "type": "boolean" } },
            ],
            "result": { "name": "result", "schema": {} },
            "x-chanrpc": { "provider": "exec" },
        }])
    );
    let names = |document: &Value| -> Vec<String> {
        let methods = document["methods"].as_array().unwrap();
        methods.iter().map(|method| method["name"].as_str().unwrap().to_owned()).collect()
    };
    let all: Value = serde_json::from_str(node.run("call", &["rpc.discover"]).result()).unwrap();
    let listed: Value = serde_json::from_str(node.run("call", &["rpc.list"]).result()).unwrap();
    assert_eq!(json!(names(&all)), listed);
    let demo: Value =
        serde_json::from_str(Node::demo().run("call", &["rpc.discover", "demo.*"]).result()).unwrap();
    let divide =
        demo["methods"].as_array().unwrap().iter().find(|method| method["name"] == "demo.divide").unwrap();
    assert_eq!(divide["result"]["schema"]["type"], "array", "{divide}");
    assert_eq!(divide["errors"][0]["code"], -32602, "{divide}");
    // What the caller may not call is not there, nor is a family, which is no function.
    let rules = "[[access]]\nfunctions = ['rpc.discover', 'a.*']\n[[function]]\nname = 'a.one'\nexec = ['x']\n\
                 [[function]]\nname = 'b.two'\nexec = ['x']\n[[function]]\nname = 'a.far.*'\nforward = '127.0.0.1:1'\n";
    let seen = Node::with(Folder::new(), rules).run("call", &["rpc.discover"]).result().to_owned();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert!(
        names(&seen).contains(&"a.one".to_owned()) && !names(&seen).contains(&"b.two".to_owned()),
        "{seen}"
    );
    assert!(!names(&seen).contains(&"a.far.*".to_owned()), "{seen}");
}

#[test]
fn words_are_completed() {
    let node = described();
    let to = node.address().to_string();
    let complete = |line: &str| {
        let words = line.split(' ').map(|word| if word == "TO" { &*to } else { word });
        let ended = run(["complete", "--words", "--"].into_iter().chain(words));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout.lines().collect::<Vec<_>>().join(" ")
    };
    for (line, expected) in [
        ("ca", "call"),
        ("--v", "--version"),
        ("call --ti", "--timeout"),
        ("list --v", "--verbose"),
        ("call --timeout ", ""),
        ("call --to TO f", "fan"),
        ("list --to TO rpc.li", "rpc.list"),
        ("describe fa --to TO", ""),
        ("call --to TO fan ", "low it is"),
        ("call --to TO fan low ", "2 3"),
        ("call --to TO fan low 2 t", "true"),
        ("call --to TO fan low 2 true ", ""),
        ("call --to 127.0.0.1:1 f", ""),
        ("dance ", ""),
    ] {
        let found = complete(line);
        assert_eq!(found, expected, "{line}");
    }
    assert!(complete("").split(' ').any(|word| word == "help"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(["complete", shell]).result().contains("complete --words -- "), "{shell}");
    }
    assert!(run(["complete", "tcsh"]).failed(2).contains("bash, zsh or fish"));
}

#[test]
fn check_reports_all_mistakes_and_which_key_was_meant() {
    let folder = Folder::new();
    folder.write(
        "node.toml",
        "nmae = 'board'\n[limits]\nconnectoins = 3\nmessage = 'big'\ndeadline = 'soon'\n[[listen]]\nadress = 'x'\n\
         [[function]]\nname = 'a'\nexec = []\n[[function]]\nname = 'b'\nexec = ['b']\ntimeot = '2s'\nqueue = -1\n",
    );
    let checked = run(["serve", "--check", "--config", &folder.name("node.toml")]);
    let message = checked.failed(2).to_owned();
    for (line, text) in [
        (1, "unknown key \"nmae\"; did you mean name?"),
        (3, "unknown key \"connectoins\" in [limits]; did you mean connections?"),
        (4, "message in [limits]: expected a number of bytes"),
        (5, "deadline in [limits]: expected a duration"),
        (7, "unknown key \"adress\" in [[listen]]; did you mean address?"),
        (10, "exec in [[function]]"),
        (14, "unknown key \"timeot\" in [[function]]; did you mean timeout?"),
        (15, "queue in [[function]]"),
    ] {
        assert!(message.contains(&format!("node.toml:{line}: {text}")), "{line}: {text}\n{message}");
    }
    folder.write("node.toml", "[limits]\n[[function]]\nname = 'a'\nname = 'board'\nexec = ['x']\n");
    let checked = run(["serve", "--check", "--config", &folder.name("node.toml")]);
    assert!(
        checked.failed(2).contains("node.toml:4: duplicate key \"name\"; a key of the file"),
        "{checked:?}"
    );
}

#[test]
fn check_warns_of_what_only_the_whole_configuration_shows() {
    let folder = Folder::new();
    folder.write(
        "node.toml",
        "[limits]\nconnections = 5\nper_host = 6\n\
         [[listen]]\naddress = '127.0.0.1:7411'\n[[listen]]\naddress = 'localhost:7411'\n\
         [[process]]\nname = 'idle'\nrun = ['python3', '/nowhere/missing.py']\n\
         [[function]]\nname = 'a'\nexec = ['echo', '$1']\n\
         [[function]]\nname = 'b'\nexec = ['cat', '~/x']\n\
         [[function]]\nname = 'c'\nexec = ['sh', '-c', 'echo $1', 'sh']\n\
         [[function]]\nname = 'd'\nforward = '127.0.0.1:7411'\n\
         [[access]]\nfunctions = ['rpc.lst', 'nothing', 'py.x']\n[[access]]\noffer = ['py.*']\n\
         [[offer]]\nto = '127.0.0.1:7412'\nfunctions = ['none.*']\n",
    );
    let checked = run(["serve", "--check", "--config", &folder.name("node.toml")]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for warning in [
        "per_host in [limits] is 6, but connections is 5",
        "node.toml:7: address in [[listen]]: localhost:7411 has the port of \"127.0.0.1:7411\"",
        "node.toml:9: name in [[process]]: no function uses it",
        "node.toml:10: run in [[process]]: the file /nowhere/missing.py does not exist",
        "node.toml:13: exec in [[function]]: the program gets \"$1\" as it is",
        "node.toml:16: exec in [[function]]: the program gets \"~/x\" as it is",
        "node.toml:22: forward in [[function]]: \"127.0.0.1:7411\" is this node itself",
        "node.toml:23: no built-in function matches \"rpc.lst\"; did you mean \"rpc.list\"?",
        "node.toml:23: no function matches \"nothing\"",
        "node.toml:29: functions in [[offer]]: no function matches \"none.*\"",
    ] {
        assert!(checked.stderr.contains(warning), "{warning}: {}", checked.stderr);
    }
    for right in ["py.x", "node.toml:19"] {
        assert!(!checked.stderr.contains(right), "{right}: {}", checked.stderr);
    }
}

#[test]
fn check_tells_of_all_unusable_files_and_open_addresses() {
    let folder = Folder::new();
    folder.write("two.token", "one\ntwo\n");
    folder.write("empty.token", "\n");
    let token = |name: &str| folder.name(name).replace('\\', "/");
    let config = format!(
        "[[listen]]\naddress = '0.0.0.0:7300'\n[[function]]\nname = 'a'\nforward = '127.0.0.1:1'\ntoken_file = '{}'\n\
         [[topic]]\nname = 'b'\nforward = '127.0.0.1:2'\ntoken_file = '{}'\n\
         [[offer]]\nto = '127.0.0.1:3'\nfunctions = ['a']\ntoken_file = '{}'\n\
         [[process]]\nname = 'idle'\nrun = ['no-such-program-anywhere']\n",
        token("absent.token"),
        token("two.token"),
        token("empty.token")
    );
    folder.write("node.toml", &config);
    let checked = run(["serve", "--check", "--config", &folder.name("node.toml")]);
    let message = checked.failed(2);
    for text in [
        "node.toml:2: address in [[listen]]: 0.0.0.0:7300 is reachable from other machines",
        "node.toml:6: token_file in [[function]]: cannot use ",
        "node.toml:10: token_file in [[topic]]: cannot use ",
        "the file has 2 lines; it must hold the token alone",
        "node.toml:14: token_file in [[offer]]: cannot use ",
        "the file is empty",
        "node.toml:17: run in [[process]]: \"idle\" cannot run: no folder in PATH",
    ] {
        assert!(message.contains(text), "{text}: {message}");
    }
}

#[test]
fn check_warns_of_what_is_likely_wrong() {
    let folder = Folder::new();
    let hash = "0".repeat(64);
    let config = format!(
        "[[listen]]\naddress = '203.0.113.7:7300'\n[[function]]\nname = 'disk.free'\nexec = ['no-such-program-anywhere']\n\
         [[function]]\nname = 'far.*'\nforward = 'nowhere.invalid'\n\
         [[access]]\nfunctions = ['disks.*', 'disk.*', 'far.a', 'rpc.list', 'f*']\n\
         [[access]]\nfunctions = ['*']\ntoken = 'sha256:{hash}'\nexpires = 2020-01-01T00:00:00Z\n"
    );
    folder.write("node.toml", &config);
    let check = |options: &[&str]| {
        let file = folder.name("node.toml");
        run(["serve", "--check", "--config", &file].iter().chain(options))
    };
    let checked = check(&[]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for warning in [
        "no-such-program-anywhere",
        "node.toml:2: address in [[listen]]: 203.0.113.7 is no address of this machine",
        "node.toml:5: exec in [[function]]: \"disk.free\" cannot run: no folder in PATH",
        "node.toml:8: forward in [[function]]: \"nowhere.invalid\": ",
        "node.toml:9: no function matches \"disks.*\"; did you mean \"disk.*\"?",
        "node.toml:11: the rule has expired",
    ] {
        assert!(checked.stderr.contains(warning), "{warning}: {}", checked.stderr);
    }
    assert_eq!(checked.stderr.matches("no function matches").count(), 1, "{}", checked.stderr);
    let strict = check(&["--strict"]);
    assert_eq!(strict.code, Some(2), "{strict:?}");
    assert!(strict.stderr.contains("which --strict takes for errors"), "{strict:?}");
    // Missing programs alone are warnings too, and a right configuration has none.
    let program = env!("CARGO_BIN_EXE_chanrpc");
    for (program, code) in [("no-such-program-anywhere", 2), (program, 0)] {
        for stanza in [
            format!("[[function]]\nname = 'a'\nexec = ['{program}']\n"),
            format!(
                "[[process]]\nname = 'a'\nrun = ['{program}']\n[[function]]\nname = 'a'\nprocess = 'a'\n"
            ),
        ] {
            folder.write("node.toml", &stanza);
            let checked = check(&["--strict"]);
            assert_eq!(checked.code, Some(code), "{stanza}: {checked:?}");
            assert_eq!(checked.stderr.contains(program), code != 0, "{stanza}: {checked:?}");
        }
    }
}
