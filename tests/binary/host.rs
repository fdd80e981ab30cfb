//! The host that a node runs on: its addresses, names and files.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{Client, Folder, Node, Process, Stderr, await_some, binary, eventually, fake_node, run};

/// An address that no machine has (RFC 5737), like one whose interface is not up yet.
const NOT_THERE: &str = "192.0.2.7:7399";
const OPEN: &str = "[[access]]\nfunctions = [\"*\"]\n";

/// Starts a node that may never be ready, and returns the first address that it prints.
fn start(arguments: &[&str]) -> (Process, SocketAddr) {
    let mut command = binary();
    command.arg("serve").args(arguments);
    let node = Process::start(command);
    let address = await_some("the node tells where it listens", || {
        node.printed().lines().find_map(|line| line.strip_prefix("listening on ")?.parse().ok())
    });
    (node, address)
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[test]
fn unavailable_address_is_retried_while_the_others_serve() {
    let folder = Folder::new();
    let listen = |address: &str| format!("[[listen]]\naddress = \"{address}\"\n");
    let text =
        [listen(NOT_THERE), listen("nowhere.invalid:7399"), listen("127.0.0.1:0"), OPEN.into()].concat();
    let config = folder.write("node.toml", &text);
    let ready = folder.name("ready");
    let (mut node, address) = start(&["--config", config.to_str().unwrap(), "--ready-file", &ready]);
    assert_eq!(Client::connect(address).call("rpc.echo", &json!([1])), Ok(json!([1])));
    eventually("the log tells what is waited for", || {
        let log = node.log();
        [NOT_THERE, "nowhere.invalid:7399"]
            .iter()
            .all(|address| log.lines().any(|line| line.contains(address) && line.contains("retrying")))
    });
    // Not all addresses are bound.
    assert_eq!(folder.read("ready"), None);
    assert_eq!(node.printed(), format!("listening on {address}\n"));
    node.kill();

    // `--check` only checks the configuration and binds nothing.
    assert!(run(["serve", "--check", "--config", config.to_str().unwrap()]).result().contains("valid"));
}

#[test]
fn port_in_use_fails_immediately_also_for_a_name() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("localhost:{}", taken.local_addr().unwrap().port());
    let failed = run(["serve", "--listen", "127.0.0.1:0", "--listen", &name]);
    assert!(failed.failed(2).contains(&name), "{failed:?}");
    if has_ipv6() {
        let taken = TcpListener::bind("[::1]:0").unwrap();
        let address = taken.local_addr().unwrap();
        let failed = run(["serve", "--listen", &format!("localhost:{}", address.port())]);
        assert!(failed.failed(2).contains(&address.to_string()), "{failed:?}");
    }
}

#[test]
fn node_listens_on_every_address_of_a_name() {
    let node = Node::launch(Folder::new(), None, &["--listen", "localhost:0"], &Stderr::Read);
    let addresses = node.addresses().to_vec();
    let wanted: &[&str] = if has_ipv6() { &["127.0.0.1", "::1"] } else { &["127.0.0.1"] };
    let found: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    assert_eq!(found, wanted);
    let port = addresses[0].port();
    for address in &addresses {
        assert_eq!(address.port(), port);
        assert_eq!(run(["call", "--to", &address.to_string(), "demo.add", "1", "2"]).result(), "3");
    }
    assert_eq!(run(["call", "--to", &format!("LocalHost:{port}"), "demo.add", "1", "2"]).result(), "3");
}

#[test]
fn client_tries_every_address_of_a_name() {
    if !has_ipv6() {
        return;
    }
    let node = Node::launch(Folder::new(), None, &["--listen", "[::1]:0"], &Stderr::Read);
    let to = format!("localhost:{}", node.address().port());
    assert_eq!(run(["call", "--to", &to, "demo.add", "1", "2"]).result(), "3");
    let config = format!("[[function]]\nname = \"demo.*\"\nforward = \"{to}\"\n");
    let near = Node::with(Folder::new(), &config);
    assert_eq!(near.run("call", &["demo.add", "1", "2"]).result(), "3");
    let bench = run(["bench", "--to", &to, "--duration", "0.05", "--warmup", "0"]);
    assert_eq!(bench.code, Some(0), "{bench:?}");
    // A zone selects the interface, by number as here or by name.
    let zoned = format!("[::1%1]:{}", node.address().port());
    assert!(!run(["call", "--to", &zoned, "demo.add", "1", "2"]).stderr.contains("an address is"));
}

#[test]
fn error_names_a_missing_bracket() {
    for wrong in ["::1", "::1:7300", "fe80::1%eth0:7300"] {
        for arguments in [["serve", "--listen", wrong, "--check"], ["call", "--to", wrong, "f"]] {
            let failed = run(arguments);
            assert!(failed.failed(2).contains("brackets, such as \"[::1]:7300\""), "{failed:?}");
        }
    }
}

/// The same parser reads the addresses of nodes to forward to.
#[test]
fn forward_accepts_the_same_addresses_as_options() {
    let other = fake_node(|request| json!({ "jsonrpc": "2.0", "id": request["id"], "result": 7 }));
    let config = format!("[[function]]\nname = \"f\"\nforward = \"LOCALHOST:{}\"\n", other.port());
    let node = Node::with(Folder::new(), &config);
    assert_eq!(node.run("call", &["f"]).result(), "7");
}

/// Encodes a text like PowerShell 5's `>`.
fn utf16(text: &str) -> Vec<u8> {
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

#[test]
fn files_written_by_windows_tools_are_read() {
    const TOKEN: &str = "chanrpc_the-token-of-this-test";
    let folder = Folder::new();
    let rule = Process::run_with_input(
        {
            let mut token = binary();
            token.args(["token", "--hash"]);
            token
        },
        &format!("\u{feff}{TOKEN}\r\n"),
    );
    let text = format!("name = \"Gerät\"\r\n{}", rule.result().replace('\n', "\r\n"));
    // A name must be ASCII; the error quotes this one, which shows that it was decoded.
    let wrong = folder.path("wrong.toml");
    fs::write(&wrong, utf16(&text)).unwrap();
    let failed = run(["serve", "--check", "--config", wrong.to_str().unwrap()]);
    assert!(failed.failed(2).contains("Gerät"), "{failed:?}");

    let near = folder.path("near.toml");
    fs::write(&near, utf16(&text.replace("Gerät", "board"))).unwrap();
    fs::write(folder.path("token.txt"), utf16(&format!("{TOKEN}\r\n"))).unwrap();
    let token_file = folder.name("token.txt");
    let (_node, address) = start(&["--listen", "127.0.0.1:0", "--config", near.to_str().unwrap()]);
    let call = |arguments: &[&str]| {
        let mut call = binary();
        call.args(["call", "--to", &address.to_string(), "--token-file", &token_file]).args(arguments);
        call
    };
    assert_eq!(Process::start(call(&["rpc.echo", "1"])).finish().result(), "[1]");
    let marked = Process::run_with_input(call(&["--params", "-", "rpc.echo"]), "\u{feff}[\"é\"]\r\n");
    assert_eq!(marked.result(), "[\"é\"]");
    // The token that a node presents to another.
    let config =
        format!("[[function]]\nname = \"rpc2.*\"\nforward = \"{address}\"\ntoken_file = '{token_file}'\n");
    let far = Node::with(Folder::new(), &config);
    // It is authorized; the error is that no such function exists.
    assert!(far.run("call", &["rpc2.echo"]).failed(3).contains("-32601"));

    fs::write(&near, b"name = \"Ger\xe4t\"\n").unwrap();
    let failed = run(["serve", "--check", "--config", near.to_str().unwrap()]);
    assert!(failed.failed(2).contains("line 1 is not UTF-8; save it as UTF-8"), "{failed:?}");
}

#[test]
fn ready_file_is_replaced_only_if_it_is_a_regular_file() {
    let folder = Folder::new();
    let serve = |path: &str| start(&["--listen", "127.0.0.1:0", "--ready-file", path]);

    // An existing file, and one left behind by a killed node.
    folder.write("ready", "old\n");
    folder.write("ready.new", "half\n");
    let (_node, address) = serve(&folder.name("ready"));
    assert_eq!(folder.read("ready"), Some(format!("{address}\n")));
    assert_eq!(folder.read("ready.new"), None);

    let failed = run(["serve", "--listen", "127.0.0.1:0", "--ready-file", folder.path("").to_str().unwrap()]);
    assert!(failed.failed(2).contains("--ready-file"), "{failed:?}");

    let full = Path::new("/dev/full");
    if full.exists() {
        let failed = run(["serve", "--listen", "127.0.0.1:0", "--ready-file", "/dev/full"]);
        assert!(failed.failed(2).contains("/dev/full"), "{failed:?}");
        assert!(!full.is_file(), "a file stands where a device was");
        assert!(!Path::new("/dev/full.new").exists());
    }
}

#[test]
fn pipe_as_ready_file_stays_a_pipe() {
    let folder = Folder::new();
    let pipe = folder.name("pipe");
    let mut mkfifo = Command::new("mkfifo");
    mkfifo.arg(&pipe);
    assert_eq!(Process::start(mkfifo).finish().code, Some(0));
    // The pipe has no reader yet, and the node serves nevertheless.
    let (_node, address) = start(&["--listen", "127.0.0.1:0", "--ready-file", &pipe]);
    assert_eq!(Client::connect(address).call("rpc.echo", &json!([1])), Ok(json!([1])));
    assert_eq!(fs::read_to_string(&pipe).unwrap(), format!("{address}\n"));
    assert!(!folder.path("pipe").is_file());
}
