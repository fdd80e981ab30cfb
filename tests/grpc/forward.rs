//! Calls to gRPC servers: a node with services, and servers that answer whatever a test says.

use std::net::SocketAddr;
use std::time::Duration;

use chanrpc::config::{Balance, Config, Limits};
use chanrpc::message::{RawJson, code};
use chanrpc::node::RunningNode;
use chanrpc::remote::{Balanced, Policy};
use chanrpc::{CallError, Fault, Id1, Node, Remote};
use h2::Reason;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::HeaderMap;

use crate::peer::Io;
use crate::services::{SET, set_in, shop};
use crate::support::{Folder, LIMIT, eventually};
use crate::{address, metric};

const ADD: Id1<(i64, i64), Sum> = Id1::new("shop.v1.Shop/Add");

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Sum {
    sum: i64,
}

/// Starts a node that forwards to a server. `settings` follow those of the family.
fn forwarding(to: SocketAddr, settings: &str) -> RunningNode {
    let folder = Folder::new();
    let descriptors = set_in(&folder);
    let text = format!(
        "[[function]]\nname = 'shop.*'\nforward = 'grpc://{to}'\nservice = 'shop.v1.Shop'\ndescriptors = {descriptors}\n\
         {settings}\n[[function]]\nname = 'plus'\nforward = 'grpc://{to}'\nmethod = 'shop.v1.Shop/Add'\n"
    );
    let config = Config::parse(&text, "test.toml").unwrap();
    Node::from_config(config).listen("127.0.0.1:0").start().unwrap()
}

fn remote(node: &RunningNode) -> Remote {
    Remote::connect(address(node).to_string())
}

fn call(remote: &Remote, function: &str, params: &str) -> Result<String, CallError> {
    let params: Box<serde_json::value::RawValue> = serde_json::from_str(params).unwrap();
    let params = RawJson::of(&params).unwrap();
    Ok(remote.call_raw(function, Some(params)).wait()?.get().to_owned())
}

#[track_caller]
fn fault(result: Result<String, CallError>) -> Fault {
    let error = result.unwrap_err();
    error.fault().unwrap_or_else(|| panic!("{error:?}")).clone()
}

#[test]
fn functions_of_a_server_are_called_with_json() {
    let server = shop("");
    let node = forwarding(address(&server), "");
    let remote = remote(&node);
    for params in
        ["[9007199254740993,-3]", r#"{"a":9007199254740993,"b":-3}"#, r#"{"b":"-3","a":9007199254740993}"#]
    {
        for function in ["shop.add", "plus", "shop.Add"] {
            assert_eq!(call(&remote, function, params).unwrap(), r#"{"sum":9007199254740990}"#);
        }
    }
    assert_eq!(call(&remote, "shop.reset", "[]").unwrap(), "{}");
    // What they take and give is told like that of a node's functions.
    let listed = || call(&remote, "rpc.list", "[\"*\", true]").unwrap();
    eventually("the server's functions are listed", || listed().contains("\"shop.add\""));
    let signature = r#""params":[{"name":"a","schema":{"type":"integer"},"required":false}"#;
    let listed = listed();
    assert_eq!(
        listed.matches(signature).count(),
        2 + 2,
        "shop.add, shop.divide, shop.missing and plus: {listed}"
    );
    assert!(!listed.contains("shop.watch"), "{listed}");
    let large = "x".repeat(300_000);
    let echoed = call(&remote, "shop.echo", &format!(r#"{{"a_string":"{large}"}}"#)).unwrap();
    assert!(echoed.contains(&large));
    for (function, params, code, expected) in [
        ("shop.add", r#"{"a":1,"c":2}"#, code::INVALID_PARAMS, "c: unrecognized field name"),
        ("shop.add", "[1,2,3]", code::INVALID_PARAMS, "3 values; shop.v1.Numbers has 2 fields"),
        ("shop.ad", "[1,2]", code::UNKNOWN_FUNCTION, "did you mean \"shop.v1.Shop/Add\"?"),
        ("shop.watch", "[]", code::UNKNOWN_FUNCTION, "takes or gives a stream"),
        ("shop.missing", "[1,2]", code::UNKNOWN_FUNCTION, "shop.missing"),
        ("shop.divide", "[1,0]", code::INTERNAL, "divide by zero"),
    ] {
        let fault = fault(call(&remote, function, params));
        assert_eq!(fault.code, code, "{fault}");
        assert!(fault.message.contains(expected), "{fault}");
    }
    // Each code of a node passes as it is, with its data.
    for code in [
        code::PARSE,
        code::INVALID_REQUEST,
        code::INVALID_PARAMS,
        code::UNKNOWN_FUNCTION,
        code::INTERNAL,
        code::FAILED,
        code::NO_PROVIDER,
        code::DENIED,
        code::DEADLINE,
        code::WOULD_DEADLOCK,
        code::REQUEST_TOO_LARGE,
        code::REPLY_TOO_LARGE,
        code::BUSY,
        code::BATCH_TOO_LARGE,
        code::LOST,
        code::HOP_LIMIT,
        code::PROGRAM_FAILED,
        code::CLOSED,
        code::TAKEN,
        code::CANCELLED,
        1,
        5,
        16,
        0,
        17,
        -5,
    ] {
        let fault = fault(call(&remote, "shop.fail", &format!("[{code}]")));
        assert_eq!((fault.code, &*fault.message), (code, &*format!("code {code}")));
        assert_eq!(fault.data.unwrap().get(), format!("[{code}]"));
    }
}

#[test]
fn a_server_is_asked_for_its_services() {
    let server = shop("");
    let remote = Remote::builder(format!("grpc://{}", address(&server))).connect();
    assert_eq!(remote.call(ADD, (2, 3)).wait().unwrap(), Sum { sum: 5 });
    assert_eq!(remote.call1::<_, Sum>("shop.v1.Shop/add", (2, 3)).wait().unwrap(), Sum { sum: 5 });
    // It has a service of its own, too.
    let called = remote.call1::<_, serde_json::Value>("chanrpc.v1.Node/Call", ("shop.add", "[1,2]")).wait();
    assert_eq!(called.unwrap()["result"], "3");
    // A caller that may not list functions is not told.
    let closed = shop("[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nfunctions = ['shop.add']\n");
    let remote = Remote::builder(format!("grpc://{}", address(&closed))).connect();
    let error = remote.call(ADD, (2, 3)).wait().unwrap_err().to_string();
    assert!(
        error.contains("does not describe its services") && error.contains("name its descriptors"),
        "{error}"
    );
    let builder = Remote::builder(format!("grpc://{}", address(&closed)));
    let remote = builder.descriptors(SET).unwrap().connect();
    assert_eq!(remote.call(ADD, (2, 3)).wait().unwrap(), Sum { sum: 5 });
    assert!(Remote::builder("grpc://127.0.0.1:1").descriptors(b"x").is_err());
}

#[test]
fn a_balanced_client_calls_grpc_servers() {
    let (first, second) = (shop(""), shop(""));
    let closed = "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nfunctions = ['shop.echo']\n";
    let remotes = [&first, &second].map(|server| Remote::builder(format!("grpc://{}", address(server))));
    let shops = Balanced::connect(remotes, Policy::default().balance(Balance::Turns));
    let sum = || shops.call(ADD, (2, 3)).timeout(LIMIT).wait();
    let served = |server: &RunningNode| metric(server, "chanrpc_calls_total");
    eventually("both are asked", || {
        assert_eq!(sum().unwrap(), Sum { sum: 5 });
        served(&first) > 0 && served(&second) > 0
    });
    // One that stops takes no further call, and none is lost.
    let before = served(&second);
    smol::block_on(first.stop());
    for _ in 0..10 {
        assert_eq!(sum().unwrap(), Sum { sum: 5 });
    }
    assert_eq!(served(&second), before + 10);
    smol::block_on(second.stop());
    let error = sum().unwrap_err();
    let fault = error.fault().unwrap_or_else(|| panic!("{error}"));
    assert_eq!(fault.code, code::NO_PROVIDER, "{fault}");
    // A server that refuses has not run the call, but says so: another is asked only if it has no place.
    let closed = shop(closed);
    let remotes = [Remote::builder(format!("grpc://{}", address(&closed))).descriptors(SET).unwrap()];
    let refused = Balanced::connect(remotes, Policy::default()).call(ADD, (2, 3)).wait().unwrap_err();
    assert_eq!(refused.fault().map(|fault| fault.code), Some(code::DENIED), "{refused}");
}

#[test]
fn tokens_deadlines_and_cancellations_reach_the_server() {
    let server = shop("");
    let node = forwarding(address(&server), "");
    let remote = remote(&node);
    let waiting = || metric(&server, "chanrpc_calls_in_flight");
    let params = || Some(RawJson::of(&()).unwrap()).filter(|json| json.get() != "null");
    let late = remote.call_raw("shop.wait", params()).timeout(Duration::from_millis(50)).wait();
    assert!(late.unwrap_err().is_deadline());
    eventually("its function has ended", || waiting() == 0);
    let mut call = Box::pin(remote.call_raw("shop.wait", params()));
    smol::block_on(async {
        assert!(smol::future::poll_once(&mut call).await.is_none());
    });
    eventually("the call runs", || waiting() == 1);
    drop(call);
    eventually("the call is cancelled", || waiting() == 0);
    // The SHA-256 of "good".
    let config = "[[listen]]\naddress = '127.0.0.1:0'\n[[access]]\nfunctions = ['shop.add']\n\
                  token = 'sha256:770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c'\n";
    let server = shop(config);
    for (token, code) in [("good", None), ("bad", Some(code::DENIED))] {
        let folder = Folder::new();
        let file = serde_json::to_string(&folder.write("token", token)).unwrap();
        let node = forwarding(address(&server), &format!("token_file = {file}"));
        let result = self::call(&self::remote(&node), "shop.add", "[2,3]");
        assert_eq!(result.err().and_then(|error| Some(error.fault()?.code)), code, "{token}");
    }
}

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Does {
    /// Answers with a status.
    Status(&'static str),
    /// Answers with this status of HTTP.
    Http(u16),
    /// Answers with these bytes and success.
    Body(&'static [u8]),
    Resets(Reason),
    /// Leaves, with this request as the last that it has handled, or before it.
    Leaves {
        has_handled: bool,
    },
    /// Closes the connection.
    Closes,
}

/// Starts a server whose requests are all treated so.
fn server(does: Does) -> SocketAddr {
    let listener = smol::block_on(smol::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    smol::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            smol::spawn(serve(stream, does)).detach();
        }
    })
    .detach();
    address
}

async fn serve(stream: smol::net::TcpStream, does: Does) {
    let mut connection = h2::server::handshake(Io(stream)).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let head = |status| Response::builder().status(status).header("content-type", "application/grpc");
        match does {
            Does::Status(status) => {
                let head = head(200).header("grpc-status", status).header("grpc-message", "why%0A%C3%A4");
                respond.send_response(head.body(()).unwrap(), true).unwrap();
            }
            Does::Http(status) => {
                respond.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
            }
            Does::Body(body) => {
                let mut stream = respond.send_response(head(200).body(()).unwrap(), false).unwrap();
                stream.send_data(Bytes::from_static(body), false).unwrap();
                let trailers: HeaderMap =
                    [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
                stream.send_trailers(trailers).unwrap();
            }
            Does::Resets(reason) => respond.send_reset(reason),
            Does::Leaves { has_handled: false } => respond.send_reset(Reason::REFUSED_STREAM),
            Does::Leaves { has_handled: true } | Does::Closes => return,
        }
    }
}

fn called(does: Does) -> Result<Sum, CallError> {
    let limits = Limits::default().message(1000);
    let builder = Remote::builder(format!("grpc://{}", server(does))).limits(limits);
    builder.descriptors(SET).unwrap().connect().call(ADD, (2, 3)).wait()
}

#[test]
fn each_status_has_its_code() {
    for (status, expected) in [
        ("1", code::CANCELLED),
        ("2", 2),
        ("3", code::INVALID_PARAMS),
        ("4", code::DEADLINE),
        ("5", 5),
        ("6", 6),
        ("7", code::DENIED),
        ("8", code::BUSY),
        ("9", 9),
        ("10", 10),
        ("11", 11),
        ("12", code::UNKNOWN_FUNCTION),
        ("13", code::INTERNAL),
        ("14", code::NO_PROVIDER),
        ("15", code::INTERNAL),
        ("16", code::DENIED),
        ("x", 2),
    ] {
        let error = called(Does::Status(status)).unwrap_err();
        let fault = error.fault().unwrap();
        assert_eq!((fault.code, &*fault.message), (expected, "why\nä"), "{status}");
    }
    for (status, expected) in [
        (200, 2),
        (400, code::INTERNAL),
        (401, code::DENIED),
        (403, code::DENIED),
        (404, code::UNKNOWN_FUNCTION),
        (429, code::NO_PROVIDER),
        (503, code::NO_PROVIDER),
        (500, 2),
    ] {
        let error = called(Does::Http(status)).unwrap_err();
        assert_eq!(error.fault().unwrap().code, expected, "{status}");
    }
    for (reason, expected) in [
        (Reason::CANCEL, code::CANCELLED),
        (Reason::ENHANCE_YOUR_CALM, code::BUSY),
        (Reason::INADEQUATE_SECURITY, code::DENIED),
        (Reason::INTERNAL_ERROR, code::INTERNAL),
    ] {
        let error = called(Does::Resets(reason)).unwrap_err();
        assert_eq!(error.fault().unwrap().code, expected, "{reason}");
    }
}

#[test]
fn replies_that_are_wrong_are_told() {
    assert_eq!(called(Does::Body(b"\0\0\0\0\x02\x08\x05")).unwrap(), Sum { sum: 5 });
    assert_eq!(called(Does::Body(b"\0\0\0\0\0")).unwrap(), Sum { sum: 0 });
    for (body, expected, text) in [
        (&b""[..], code::INTERNAL, "no message"),
        (b"\0\0\0\0\x02\x08", code::INTERNAL, "cut off"),
        (b"\x01\0\0\0\0", code::INTERNAL, "compressed"),
        (b"\0\0\0\0\x03\x0a\x01x", code::INTERNAL, "sum (field 1 of shop.v1.Sum): invalid wire type"),
        (&[0; 2000], code::REPLY_TOO_LARGE, "more than 1000 bytes (limits.message)"),
    ] {
        let error = called(Does::Body(body)).unwrap_err();
        let fault = error.fault().unwrap();
        assert_eq!(fault.code, expected, "{fault}");
        assert!(fault.message.contains(text), "{fault}");
    }
}

#[test]
fn calls_that_were_not_handled_are_told_from_lost_ones() {
    assert!(matches!(called(Does::Leaves { has_handled: false }), Err(CallError::Unreachable { .. })));
    assert!(matches!(called(Does::Resets(Reason::REFUSED_STREAM)), Err(CallError::Unreachable { .. })));
    assert!(matches!(called(Does::Closes), Err(CallError::Lost { .. })));
    assert!(matches!(called(Does::Leaves { has_handled: true }), Err(CallError::Lost { .. })));
    let node = forwarding("127.0.0.1:1".parse().unwrap(), "");
    assert_eq!(fault(call(&remote(&node), "shop.add", "[2,3]")).code, code::NO_PROVIDER);
    let node = forwarding(server(Does::Closes), "");
    assert_eq!(fault(call(&remote(&node), "shop.add", "[2,3]")).code, code::LOST);
    // A port that speaks something else.
    let other = Node::builder("other").listen("127.0.0.1:0").start().unwrap();
    let remote = Remote::builder(format!("lines://{}", address(&other))).connect();
    assert!(remote.call1::<_, Vec<i32>>("rpc.echo", [1]).wait().is_ok());
}

#[test]
fn calls_go_to_a_server_that_answers() {
    let (good, mute) = (shop(""), server(Does::Resets(Reason::REFUSED_STREAM)));
    let folder = Folder::new();
    let text = format!(
        "[[function]]\nname = 'shop.*'\nforward = ['grpc://127.0.0.1:1', 'grpc://{mute}', 'grpc://{}']\n\
         service = 'shop.v1.Shop'\ndescriptors = {}\nbalance = 'turns'\n",
        address(&good),
        set_in(&folder)
    );
    let config = Config::parse(&text, "test.toml").unwrap();
    let node = Node::from_config(config).listen("127.0.0.1:0").start().unwrap();
    let remote = remote(&node);
    for _ in 0..6 {
        assert_eq!(call(&remote, "shop.add", "[2,3]").unwrap(), r#"{"sum":5}"#);
    }
    // A server that comes back is found again.
    let at = address(&good);
    drop(good);
    eventually("nobody answers", || call(&remote, "shop.add", "[2,3]").is_err());
    let _again = Node::builder("again").listen(at.to_string()).start();
}

#[test]
fn more_calls_than_a_server_takes_wait() {
    let server = shop("");
    let builder = Remote::builder(format!("grpc://{}", address(&server)));
    let remote = builder.descriptors(SET).unwrap().connect();
    let calls: Vec<_> = (0..1000).map(|number| remote.call(ADD, (number, 1))).collect();
    smol::block_on(async {
        let mut running = Vec::new();
        for call in calls {
            running.push(smol::spawn(call));
        }
        for (number, call) in running.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().sum, number as i64 + 1);
        }
    });
    let go = remote.go(ADD, (1, 2)).wait();
    assert!(go.is_ok(), "{go:?}");
    smol::block_on(remote.close(Duration::from_secs(5)));
    assert!(remote.call(ADD, (1, 2)).wait().is_err());
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let parse = |text: &str| Config::parse(text, "test.toml").map(drop).map_err(|error| error.to_string());
    for (text, expected) in [
        ("name = 'a.*'\nforward = 'grpc://h:1'", "needs service"),
        ("name = 'a'\nforward = 'grpc://h:1'", "needs method"),
        ("name = 'a'\nforward = 'grpc://h:1'\nservice = 'p.S'", "one function has method"),
        ("name = 'a.*'\nforward = 'grpc://h:1'\nmethod = 'p.S/M'", "a family has service"),
        ("name = 'a'\nforward = 'grpc://h:1'\nmethod = 'p.S'", "expected a name such as"),
        ("name = 'a'\nforward = 'h:1'\nmethod = 'p.S/M'", "only for a gRPC server"),
        ("name = 'a'\nforward = ['h:1', 'grpc://h:1']\nmethod = 'p.S/M'", "not to both"),
        ("name = 'a'\nforward = 'http://h:1'", "grpc://"),
    ] {
        let error = parse(&format!("[[function]]\n{text}")).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert!(parse("[[topic]]\nname = 'a'\nforward = 'grpc://h:1'").unwrap_err().contains("functions only"));
    assert!(parse("[[offer]]\nto = 'grpc://h:1'\nfunctions = ['a']").unwrap_err().contains("functions only"));
    let error = Node::from_config(
        Config::parse(
            "[[function]]\nname = 'a'\nforward = 'grpc://h:1'\nmethod = 'p.S/M'\ndescriptors = 'absent'",
            "test.toml",
        )
        .unwrap(),
    );
    assert!(error.listen("127.0.0.1:0").start().unwrap_err().to_string().contains("descriptors absent: "));
}
