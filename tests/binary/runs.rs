//! Programs as functions: their input, their output, and what they leave behind.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::programs::program;
use crate::support::{Client, Folder, LIMIT, Node, Stderr, assert_fault, eventually, request, scale, signal};

/// Returns the configuration of a function that runs a line of shell, with more settings.
fn shell(name: &str, line: &str, settings: &str) -> String {
    format!("[[function]]\nname = '{name}'\nexec = ['sh', '-c', '''{line}''']\n{settings}\n")
}

/// Sends a message with verbatim parameters and returns the result or the error's code.
fn outcome(client: &mut Client, method: &str, params: &str) -> Result<Value, i64> {
    let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    let reply = client.ask(line);
    match reply.get("result") {
        Some(result) => Ok(result.clone()),
        None => Err(reply["error"]["code"].as_i64().unwrap()),
    }
}

// Leftovers of a run.

/// A command that waits as long as the test's folder exists.
const LINGER: &str = "while [ -e \"$F\" ]; do sleep 0.1; done";

/// Repeatedly calls a function whose process escapes with one of its pipes, and checks that nothing is left.
fn assert_nothing_left(redirected: &str, params: &Value, end: &str) {
    let folder = Folder::new();
    folder.write("open", "");
    folder.write("linger.sh", LINGER);
    let (file, linger) = (folder.name("open"), folder.name("linger.sh"));
    let last = if end == "success" { "echo done" } else { "echo begun >> \"$F.begun\"; . \"$L\"" };
    let timeout = if end == "timeout" { "timeout = '300ms'" } else { "" };
    let settings =
        format!("concurrency = 8\nqueue = 1000\nenv = {{ F = '{file}', L = '{linger}' }}\n{timeout}");
    let config = shell("job", &format!("setsid -f sh \"$L\" {redirected}; {last}"), &settings);
    let node = Node::with(folder, &config);
    let mut client = node.connect();
    let begun = || node.folder.read("open.begun").unwrap_or_default().lines().count();
    let mut round = |count: u32| {
        let mut left = count;
        while left > 0 {
            let some = left.min(4);
            let before = begun();
            for id in 0..some {
                client.send(request(id, "job", params) + "\n");
            }
            if end == "cancel" {
                eventually("they run", || begun() == before + some as usize);
                for id in 0..some {
                    let cancel =
                        json!({ "jsonrpc": "2.0", "method": "$/cancelRequest", "params": { "id": id } });
                    client.send(cancel.to_string() + "\n");
                }
            }
            for _ in 0..some {
                let reply = client.reply();
                match end {
                    "success" => assert_eq!(reply["result"], "done", "{reply}"),
                    "timeout" => assert_eq!(reply["error"]["code"], -32003, "{reply}"),
                    _ => assert_eq!(reply["error"]["code"], -32800, "{reply}"),
                }
            }
            left -= some;
        }
    };
    round(4);
    let before = node.holdings();
    round(24);
    // Threads of the pool end after being idle for a moment.
    let mut now = None;
    eventually(&format!("{end}: as much is held as before"), || {
        now = node.holdings();
        now.zip(before).is_none_or(|(now, before)| now.0 <= before.0 && now.1 <= before.1)
    });
}

#[test]
fn escaped_process_holding_stdout_leaves_nothing_in_the_node() {
    for end in ["success", "timeout", "cancel"] {
        assert_nothing_left("< /dev/null 2> /dev/null", &json!([]), end);
    }
}

#[test]
fn escaped_process_holding_stderr_leaves_nothing_in_the_node() {
    for end in ["success", "timeout", "cancel"] {
        assert_nothing_left("< /dev/null > /dev/null", &json!([]), end);
    }
}

#[test]
fn escaped_process_holding_stdin_leaves_nothing_in_the_node() {
    for end in ["success", "timeout", "cancel"] {
        assert_nothing_left("> /dev/null 2>&1", &json!(["x".repeat(200_000)]), end);
    }
}

/// The program's own output arrives complete, and what an escaped process adds is bounded.
#[test]
fn escaped_process_flooding_a_pipe_blocks_nothing() {
    let folder = Folder::new();
    folder.write("open", "");
    let flood = |redirected: &str| {
        format!(
            "setsid -f sh -c \"while [ -e $F ]; do echo flood; done\" {redirected}; head -c 60000 /dev/zero >&2; \
             exit 3"
        )
    };
    let settings = format!("env = {{ F = '{}' }}", folder.name("open"));
    let config =
        shell("err", &flood("> /dev/null"), &settings) + &shell("out", &flood("2> /dev/null"), &settings);
    let node = Node::with(folder, &config);
    let mut client = node.connect();
    for name in ["err", "out"] {
        let failed = client.call(name, &json!([])).unwrap_err();
        assert!(matches!(failed.code, -32013 | -32008), "{failed:?}");
    }
    assert_eq!(client.call("rpc.ping", &json!([])), Ok(json!("pong")));
}

// Programs that cannot start.

#[test]
fn program_that_can_never_start_has_no_provider() {
    let folder = Folder::new();
    let directory = folder.path("");
    fs::write(directory.join("empty"), "").unwrap();
    fs::write(directory.join("plain"), "just words\n").unwrap();
    fs::create_dir(directory.join("folder")).unwrap();
    let mut config = String::new();
    for name in ["empty", "plain", "folder", "none"] {
        config += &format!("[[function]]\nname = '{name}'\nexec = ['{}']\n", folder.name(name));
    }
    config += "[[function]]\nname = 'unknown'\nexec = ['no-such-program-anywhere']\n";
    config += &program("elsewhere", "echo", &["1"], &format!("directory = '{}'", folder.name("nowhere")));
    let node = Node::with(folder, &config);
    let mut client = node.connect();
    for name in ["empty", "plain", "folder", "none", "unknown", "elsewhere"] {
        let failed = client.call(name, &json!([])).unwrap_err();
        assert_eq!(failed.code, -32001, "{name}: {failed:?}");
        assert!(failed.message.contains("could not be started"), "{failed:?}");
    }
    for name in ["folder", "none", "unknown", "elsewhere"] {
        node.await_log(&format!("function \"{name}\" cannot run: "));
    }
}

#[test]
fn program_that_cannot_run_here_reports_why() {
    let folder = Folder::new();
    let mut config = String::new();
    for (name, bytes, mode) in [
        ("empty", &b""[..], "755"),
        ("script", b"echo hello\n", "755"),
        ("foreign", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0", "755"),
        ("orphan", b"#!/no/such/interpreter\n", "755"),
        ("locked", b"#!/bin/sh\necho hello\n", "644"),
    ] {
        fs::write(folder.path(name), bytes).unwrap();
        let path = folder.name(name);
        assert!(std::process::Command::new("chmod").args([mode, &path]).status().unwrap().success());
        config += &format!("[[function]]\nname = '{name}'\nexec = ['{path}']\n");
    }
    let node = Node::with(folder, &config);
    let mut client = node.connect();
    for (name, why) in [
        ("empty", "is empty"),
        ("script", "a script needs a first line such as #!/bin/sh"),
        ("foreign", "a binary must be built for this system"),
        ("orphan", "the interpreter in its first line, does not exist"),
        ("locked", "is not executable (chmod +x)"),
    ] {
        let failed = client.call(name, &json!([])).unwrap_err();
        assert!(failed.code == -32001 && failed.message.contains(why), "{name}: {failed:?}");
    }
    for warned in ["function \"empty\" cannot run: ", "function \"locked\" cannot run: "] {
        node.await_log(warned);
    }
}

#[test]
fn text_too_long_for_an_argument_is_the_callers_error() {
    let config = program("show", "echo", &["x={text}"], "params = { text = 'string' }");
    let node = Node::with(Folder::new(), &config);
    let failed = node.connect().call("show", &json!(["x".repeat(140_000)])).unwrap_err();
    assert_eq!(failed.code, -32602, "{failed:?}");
    assert!(failed.message.contains("131071 bytes for one"), "{failed:?}");
}

#[test]
fn program_being_written_is_busy() {
    let folder = Folder::new();
    fs::copy("/bin/true", folder.path("copy")).unwrap();
    let config = format!("[[function]]\nname = 'copy'\nexec = ['{}']\n", folder.name("copy"));
    let node = Node::with(folder, &config);
    let mut client = node.connect();
    let writer = fs::OpenOptions::new().append(true).open(node.folder.path("copy")).unwrap();
    assert_eq!(client.call("copy", &json!([])).unwrap_err().code, -32009);
    drop(writer);
    eventually("it runs", || client.call("copy", &json!([])) == Ok(json!("")));
}

/// The system does not report the exit of processes to a parent that ignores SIGCHLD.
#[test]
fn program_with_unknown_exit_status_is_lost() {
    let config = "[[function]]\nname = 'nap'\nexec = ['sleep', '0.1']\n";
    let with = "exec env --ignore-signal=CHLD \"$0\" \"$@\"";
    let node = Node::launch(Folder::new(), Some(config), &[], &Stderr::Shell(with));
    let failed = node.connect().call("nap", &json!([])).unwrap_err();
    assert_eq!((failed.code, &failed.data["sent"]), (-32011, &json!(true)), "{failed:?}");
}

// Input and output of a program.

#[test]
fn numbers_keep_their_text() {
    let both = "params = { n = 'integer', b = 'boolean' }";
    let config = [
        program("text", "echo", &["x{n}"], "params = { n = 'number' }"),
        program("whole", "echo", &["x{n}"], "params = { n = 'integer' }"),
        program("both", "echo", &["--params", "-"], both),
    ];
    let node = Node::with(Folder::new(), &config.concat());
    let mut client = node.connect();
    for number in NUMBERS {
        let shown = outcome(&mut client, "text", &format!("[{number}]"));
        assert_eq!(shown, Ok(json!([format!("x{number}")])), "{number}");
    }
    for (number, shown) in [
        ("5", "5"),
        ("5.0", "5"),
        ("1e3", "1000"),
        ("-7.00", "-7"),
        ("100000000000000000000", "100000000000000000000"),
    ] {
        assert_eq!(outcome(&mut client, "whole", &format!("[{number}]")), Ok(json!([format!("x{shown}")])));
    }
    for number in ["5.5", "1e-1", "1e400", "\"5\"", "null", "true"] {
        assert_eq!(outcome(&mut client, "whole", &format!("[{number}]")), Err(-32602), "{number}");
    }
    assert_eq!(outcome(&mut client, "both", "[5.0,false]"), Ok(json!({ "n": 5, "b": false })));
}

const NUMBERS: [&str; 7] =
    ["0.1234567890123456789", "1e2", "0.00000001", "100000000000000000000", "-0", "1E400", "-1.50"];

#[test]
fn numbers_keep_their_text_on_stdin_and_in_results() {
    let config = shell("same", "cat", "params = { n = 'number', s = 'string' }\noutput = 'json'");
    let node = Node::with(Folder::new(), &config);
    let mut client = node.connect();
    for number in NUMBERS {
        client.send(format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"same\",\"params\":[{number},\"\\u00e9\"]}}\n"
        ));
        let reply = client.full_line().unwrap();
        assert!(reply.contains(&format!(r#"{{"n":{number},"s":"\u00e9"}}"#)), "{number}: {reply}");
    }
}

#[test]
fn non_utf_8_output_is_an_error_or_base64() {
    let config = shell("text", "printf \"\\377\\376\"", "")
        + &shell("json", "printf \"\\042\\377\\042\"", "output = 'json'")
        + &shell("bytes", "printf \"\\377\\376\\000\\012\"", "output = 'base64'")
        + &shell("nothing", ":", "output = 'base64'")
        + &shell("marked", "printf \"\\357\\273\\277[1e400, 0.10]\"", "output = 'json'");
    let node = Node::with(Folder::new(), &config);
    let mut client = node.connect();
    for name in ["text", "json"] {
        let failed = client.call(name, &json!([])).unwrap_err();
        assert!(failed.code == -32013 && failed.message.contains("output = \"base64\""), "{failed:?}");
    }
    assert_eq!(client.call("bytes", &json!([])), Ok(json!("//4ACg==")));
    assert_eq!(client.call("nothing", &json!([])), Ok(json!("")));
    client.send(request(1, "marked", &json!([])) + "\n");
    let reply = client.full_line().unwrap();
    assert!(reply.contains("[1e400, 0.10]"), "{reply}");
}

#[test]
fn braces_of_a_programs_own_language_stay_unchanged() {
    let words = ["{{.Names}}", "{print}", "{print $1}", "x{}", "{0}", "a{b"];
    let text = ["{{.Names}}", "{print $1}", "x{}", "{{print}}", "{{text}}", "x{text}"];
    let config = program("plain", "echo", &words, "")
        + &program("declared", "echo", &text, "params = { text = 'string' }");
    let node = Node::with(Folder::new(), &config);
    let mut client = node.connect();
    assert_eq!(client.call("plain", &json!([])), Ok(json!(words)));
    let shown = ["{{.Names}}", "{print $1}", "x{}", "{print}", "{text}", "x1 {text}"];
    assert_eq!(client.call("declared", &json!(["1 {text}"])), Ok(json!(shown)));
}

// Environment.

#[test]
fn program_gets_only_named_variables() {
    let line = "echo \"$SECRET|$SHOWN|$BOARD_A|$BOARD_B|$OWN|${PATH:+path}\"";
    let settings = "inherit_env = ['SHOWN', 'BOARD_*']\nenv = { OWN = 'mine', BOARD_B = 'set' }";
    let config =
        shell("some", line, settings) + &shell("none", line, "") + &shell("all", line, "inherit_env = ['*']");
    let with = "SECRET=hush SHOWN=seen BOARD_A=a BOARD_B=b exec \"$0\" \"$@\"";
    let node = Node::launch(Folder::new(), Some(&config), &[], &Stderr::Shell(with));
    let mut client = node.connect();
    assert_eq!(client.call("some", &json!([])), Ok(json!("|seen|a|set|mine|path")));
    assert_eq!(client.call("none", &json!([])), Ok(json!("|||||path")));
    assert_eq!(client.call("all", &json!([])), Ok(json!("hush|seen|a|b||path")));
}

#[test]
fn program_learns_who_calls() {
    let names = ["FUNCTION", "NODE", "CONNECTION", "ADDRESS", "DIALECT", "RULES", "DEADLINE_MS"];
    let line = names.map(|name| format!("$CHANRPC_{name}")).join("|");
    let line = format!("echo \"{line}|$CHANRPC_TOKEN\"");
    let all = "inherit_env = ['*']\ntimeout = '5s'\n";
    let rule = "[[access]]\nname = 'everybody'\nfunctions = ['*']\n[[access]]\nfunctions = ['who']\n";
    let config = "name = 'board'\n".to_owned()
        + &shell("who", &line, all)
        + &shell("mine", "echo \"$CHANRPC_RULES\"", "env = { CHANRPC_RULES = 'mine' }")
        + rule;
    let with = "CHANRPC_ADDRESS=of-the-node CHANRPC_DEADLINE_MS=1 CHANRPC_TOKEN=inherited exec \"$0\" \"$@\"";
    let node = Node::launch(Folder::new(), Some(&config), &[], &Stderr::Shell(with));
    let mut client = node.connect();
    let told = client.call("who", &json!([])).unwrap();
    let told: Vec<_> = told.as_str().unwrap().split('|').collect();
    let own = client.stream().local_addr().unwrap().to_string();
    assert_eq!(told[..2], ["who", "board"]);
    assert!(told[2].parse::<u64>().is_ok_and(|connection| connection > 0), "{told:?}");
    assert_eq!(told[3..5], [&*own, "lines"]);
    assert!(told[5].starts_with("everybody,"), "{told:?}");
    assert!(told[6].parse::<u64>().is_ok_and(|left| (1..=5000).contains(&left)), "{told:?}");
    assert_eq!(told[7], "inherited");
    assert_eq!(client.call("mine", &json!([])), Ok(json!("mine")));
}

#[test]
fn program_is_found_in_its_own_path() {
    let folder = Folder::new();
    folder.write("only-here", "#!/bin/sh\necho found\n");
    let chmod = std::process::Command::new("chmod").args(["755", &folder.name("only-here")]).status();
    assert!(chmod.unwrap().success());
    let config = format!(
        "[[function]]\nname = 'here'\nexec = ['only-here']\nenv = {{ PATH = '{}:/usr/bin:/bin' }}\n",
        folder.path("").display()
    );
    let node = Node::with(folder, &config);
    assert_eq!(node.connect().call("here", &json!([])), Ok(json!("found")));
    assert!(!node.log().contains("cannot run"), "{}", node.log());
}

/// The node's parent may have left descriptors open; programs do not inherit them.
#[test]
fn program_inherits_no_descriptor_of_the_node() {
    let config = shell("list", "ls -l /proc/self/fd", "");
    let with = "exec 7< /dev/zero 9> /dev/full; exec \"$0\" \"$@\"";
    let node = Node::launch(Folder::new(), Some(&config), &[], &Stderr::Shell(with));
    let shown = node.connect().call("list", &json!([])).unwrap();
    let shown = shown.as_str().unwrap();
    assert!(
        shown.contains("pipe:") && !shown.contains("/dev/zero") && !shown.contains("/dev/full"),
        "{shown}"
    );
    // The node itself keeps them open: another process may wait for them to be closed.
    let mut kept = node.open_files();
    kept.retain(|file| file.ends_with("zero") || file.ends_with("full"));
    kept.sort();
    assert_eq!(kept, ["/dev/full", "/dev/zero"]);
}

/// Orphaned processes are adopted and reaped by process 1. Needs root or user namespaces.
#[test]
fn node_as_process_1_reaps_orphans() {
    let folder = Folder::new();
    let count = "grep -ls '^State:.Z' /proc/[0-9]*/status | wc -l";
    let config = shell("orphan", "setsid -f sh -c :", "")
        + &shell("zombies", count, "")
        + &shell("first", "cat /proc/1/cmdline | tr '\\0' ' '", "");
    let with = "[ \"$(id -u)\" = 0 ] || as=--map-root-user; exec unshare $as --pid --fork --kill-child --mount-proc \"$0\" \"$@\"";
    let mut node = Node::launch(folder, Some(&config), &[], &Stderr::Shell(with));
    let mut client = node.connect();
    let first = client.call("first", &json!([])).unwrap();
    assert!(first.as_str().unwrap().contains("serve"), "{first}");
    for _ in 0..scale(30) {
        assert_eq!(client.call("orphan", &json!([])), Ok(json!("")));
    }
    eventually("no zombie is left", || client.call("zombies", &json!([])) == Ok(json!("0")));
    drop(client);
    // unshare does not forward signals; process 1 does.
    let children = format!("/proc/{0}/task/{0}/children", node.id());
    let first = fs::read_to_string(children).unwrap();
    signal(first.trim(), "TERM");
    assert_eq!(node.wait(), Some(0));
}

// Timeouts.

#[test]
fn no_caller_gets_more_time_than_configured() {
    let config = "limits.deadline = '300ms'\n".to_owned()
        + &crate::programs::endless("")
        + &program("slow", "gate", &["{file}"], "params = { file = 'string' }\ntimeout = '60s'");
    let node = Node::with(Folder::new(), &config);
    let mut client = node.connect();
    let mut ask = |id: u32, method: &str, file: &str| {
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": [node.folder.name(file)],
            "meta": { "deadline_ms": 3_600_000_u64 } });
        client.send(request.to_string() + "\n");
    };
    ask(1, "endless", "state");
    ask(2, "slow", "open");
    // The client waits for less than it asked for. A function's own timeout may be longer than the global one.
    assert!(LIMIT < Duration::from_secs(60));
    assert_fault(&client.reply(), &json!(1), -32003);
    node.folder.write("open", "");
    assert_eq!(client.reply()["result"], "opened");
}
