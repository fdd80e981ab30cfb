//! A listener for clients of Leaf with its protobuf processor: the bytes that a real one reads and writes.

use chanrpc::config::Config;
use chanrpc::route::WithCaller;
use chanrpc::{Functions, Node};

use crate::address;
use crate::support::{Client, Folder};

/// The first registered message, whose field 1 is "leaf".
const HELLO: &[u8] = b"\x00\x08\x00\x00\x0a\x04leaf";
/// The second one, whose field 1 is 3.
const WELCOME: &[u8] = b"\x00\x04\x00\x01\x08\x03";

#[derive(serde::Serialize, serde::Deserialize)]
struct Hello {
    #[serde(rename = "Name")]
    name: String,
}

#[test]
fn messages_are_read_and_written_like_leafs() {
    let folder = Folder::new();
    let path = folder.path("leaf.binpb");
    std::fs::write(&path, include_bytes!("proto/leaf.binpb")).unwrap();
    let path = serde_json::to_string(&path).unwrap();
    let config = |messages: &str| {
        let text = format!(
            "[[listen]]\naddress = '127.0.0.1:0'\ndialect = 'leaf'\n[listen.leaf]\ndescriptors = {path}\n\
             messages = [{messages}]\n"
        );
        Config::parse(&text, "test.toml").unwrap()
    };
    let mut functions = Functions::exported();
    functions
        .register1("Hello", |(): &mut (), hello: Hello| hello)
        .unwrap()
        .register0("Welcome", |(), WithCaller(caller, _): WithCaller<serde_json::Value>| {
            caller.send("Welcome", &3).unwrap();
        })
        .unwrap();
    let node = Node::from_config(config("'msg.Hello', 'msg.Welcome'")).serve(functions, ());
    let node = node.start().unwrap();
    let mut client = Client::connect(address(&node));
    for byte in HELLO {
        client.send([*byte]);
    }
    assert_eq!(client.take(HELLO.len()), HELLO);
    client.send([HELLO, HELLO].concat());
    assert_eq!(client.take(2 * HELLO.len()), [HELLO, HELLO].concat());
    client.send(WELCOME);
    assert_eq!(client.take(WELCOME.len()), WELCOME);
    // A number that the listener does not have closes the connection, as in Leaf.
    client.send(b"\x00\x02\x00\x07");
    client.assert_closed();
    let start = |messages: &str| Node::from_config(config(messages)).start().unwrap_err().to_string();
    assert!(start("'msg.Absent'").contains("no message \"msg.Absent\""));
}
