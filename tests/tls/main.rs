//! TLS: listeners, the command line and forwarded functions, against curl, openssl and misbehaving peers. openssl
//! creates the certificates.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::process::Command;

use chanrpc::internals::transport::tls::{Acceptor, Connector};
use chanrpc::internals::transport::{self, Stream};
use futures_lite::future::try_zip;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use serde_json::json;

use crate::support::{Client, Ended, Folder, Node, Process, Stderr, eventually, listen, post, request, run};

const OPENSSL: &str = "[req]
distinguished_name = dn
prompt = no
[dn]
CN = chanrpc test
[ca]
basicConstraints = critical, CA:TRUE
[leaf]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
";

/// A folder with certificates.
struct Certificates(Folder);

impl Certificates {
    /// Creates two authorities, `ca` and `other`, and a certificate by the first, `node`, for this machine.
    fn new() -> Self {
        let folder = Folder::new();
        folder.write("openssl.cnf", OPENSSL);
        let made = Self(folder);
        made.authority("ca");
        made.authority("other");
        made.leaf("node", "ca", "2");
        made
    }

    fn openssl(&self, line: &str) {
        let mut command = Command::new("openssl");
        command.args(line.split(' ')).current_dir(self.0.path(""));
        let ended = Process::start(command).finish();
        assert_eq!(ended.code, Some(0), "openssl {line}: {ended:?}");
    }

    fn authority(&self, name: &str) {
        self.openssl(&format!(
            "req -config openssl.cnf -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -keyout {name}.key -out {name}.pem -extensions ca -days 2"
        ));
    }

    fn leaf(&self, name: &str, authority: &str, days: &str) {
        self.openssl(&format!(
            "req -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key \
             -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days {days} \
             -extfile openssl.cnf -extensions leaf -out {name}.pem"
        ));
    }

    fn name(&self, file: &str) -> String {
        self.0.name(file)
    }

    /// Returns the configuration of a listener with a certificate.
    fn listener(&self, certificate: &str, more: &str) -> String {
        let (certificate, key) =
            (self.name(&format!("{certificate}.pem")), self.name(&format!("{certificate}.key")));
        format!(
            "[[listen]]\naddress = '127.0.0.1:0'\n\
             tls = {{ certificate = '{certificate}', key = '{key}'{more} }}\n"
        )
    }

    /// Returns the configuration of a listener that requires a client certificate by `ca`.
    fn asking_listener(&self) -> String {
        self.listener("node", &format!(", client_ca = '{}'", self.name("ca.pem")))
    }

    fn node(&self) -> Node {
        Node::with(Folder::new(), &self.listener("node", ""))
    }

    /// Runs a command of the binary that trusts `authority`.
    fn run(&self, node: &Node, authority: &str, command: &[&str]) -> Ended {
        let ca = self.name(&format!("{authority}.pem"));
        node.run(command[0], &[&["--ca", &ca], &command[1..]].concat())
    }

    fn connector(&self) -> Connector {
        Connector::load(&self.0.path("ca.pem"), None).unwrap()
    }

    /// Performs a handshake with a node.
    async fn connect(&self, node: &Node) -> Box<dyn Stream> {
        let stream = smol::net::TcpStream::connect(node.address()).await.unwrap();
        transport::connect(&self.connector(), "localhost:1", stream).await.unwrap()
    }

    /// A port without TLS that relays to a port with TLS.
    fn tunnel(&self, to: SocketAddr) -> SocketAddr {
        let connector = self.connector();
        listen(move |near| {
            smol::block_on(async {
                let near = smol::net::TcpStream::try_from(near).unwrap();
                let far = smol::net::TcpStream::connect(to).await.unwrap();
                let far = transport::connect(&connector, "localhost:1", far).await.unwrap();
                let (from_near, mut to_near) = split(near);
                let (from_far, mut to_far) = split(far);
                let there = async {
                    copy(from_near, &mut to_far).await?;
                    to_far.close().await
                };
                let back = async {
                    copy(from_far, &mut to_near).await?;
                    to_near.close().await
                };
                let _ = try_zip(there, back).await;
            });
        })
    }
}

/// Runs curl, which trusts `ca`.
fn curl(certificates: &Certificates, arguments: &[&str]) -> Ended {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--cacert", &certificates.name("ca.pem")]);
    command.args(arguments);
    Process::start(command).finish()
}

/// Reads a value from `/metrics`.
fn metric(node: &Node, certificates: &Certificates, name: &str) -> u64 {
    let url = format!("https://localhost:{}/metrics", node.address().port());
    let page = curl(certificates, &[&url]);
    let number =
        page.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    number.unwrap_or_else(|| panic!("{name} is not in {page:?}"))
}

#[test]
fn every_dialect_works_over_tls() {
    let certificates = Certificates::new();
    let node = certificates.node();
    let address = certificates.tunnel(node.address());
    let ping = request(1, "rpc.echo", &json!(["hello"]));

    let mut lines = Client::connect(address);
    assert_eq!(lines.call("rpc.echo", &json!(["hello"])).unwrap(), json!(["hello"]));
    // More than a record, and more than a socket accepts at once.
    let long = json!(["x".repeat(900_000)]);
    for _ in 0..3 {
        assert_eq!(lines.call("rpc.echo", &long).unwrap(), long);
    }
    // Both directions are closed with close_notify.
    lines.begin(9, "rpc.ping", &json!([]));
    lines.end();
    assert_eq!(lines.reply()["id"], 9);
    lines.assert_closed();

    let mut headers = Client::connect(address);
    headers.send(format!("Content-Length: {}\r\n\r\n{ping}", ping.len()));
    headers.end();
    let answer = String::from_utf8(headers.rest()).unwrap();
    assert!(answer.starts_with("Content-Length:") && answer.contains("hello"), "{answer}");

    let mut msgpack = Client::connect(address);
    msgpack.send(b"\x94\x00\x01\xa8rpc.echo\x91\xa5hello");
    assert_eq!(msgpack.take(11), b"\x94\x01\x01\xc0\x91\xa5hello");

    let mut http = Client::connect(address);
    for _ in 0..2 {
        http.send(post(&ping));
        assert_eq!(http.http().json()["result"], json!(["hello"]));
    }

    let mut websocket = Client::connect(address);
    websocket.send(
        "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://localhost\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(websocket.http().status, 101);
    let mut frame = vec![0x81, 0x80 | u8::try_from(ping.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(ping.as_bytes());
    websocket.send(frame);
    assert_eq!(websocket.take(2)[0], 0x81);
}

#[test]
fn curl_connects_with_both_tls_versions() {
    let certificates = Certificates::new();
    let node = certificates.node();
    let url = format!("https://localhost:{}/", node.address().port());
    let call = request(1, "rpc.echo", &json!(["hello"]));
    for version in [["--tlsv1.2", "--tls-max", "1.2"], ["--tlsv1.3", "--tls-max", "1.3"]] {
        let ended = curl(&certificates, &[&version[..], &["-d", &call, &url]].concat());
        assert!(ended.stdout.contains("[\"hello\"]"), "{ended:?}");
    }
    let old = curl(&certificates, &["--tls-max", "1.1", &url]);
    assert_ne!(old.code, Some(0), "{old:?}");
    let stranger = Certificates::new();
    assert_eq!(curl(&stranger, &[&url]).code, Some(60));
}

/// gRPC clients refuse a server that does not negotiate it.
#[cfg(feature = "grpc")]
#[test]
fn http2_is_negotiated() {
    let certificates = Certificates::new();
    let node = certificates.node();
    let url = format!("https://localhost:{}/healthz", node.address().port());
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let ended = curl(&certificates, &[option, "--write-out", "%{http_version}\n", &url]);
        assert_eq!(ended.result(), format!("ok\n{version}"), "{ended:?}");
    }
    let to = format!("grpcs://{}", node.address());
    let call = |remote: chanrpc::remote::RemoteBuilder| {
        remote.connect().call1::<_, serde_json::Value>("chanrpc.v1.Node/Call", ("rpc.echo", "[1]")).wait()
    };
    let tls = |name: &str| Connector::load(&certificates.0.path(&format!("{name}.pem")), None).unwrap();
    assert_eq!(call(chanrpc::Remote::builder(&to).tls(tls("ca"))).unwrap()["result"], "[1]");
    for (remote, expected) in [
        (chanrpc::Remote::builder(&to).tls(tls("other")), "the TLS handshake failed"),
        (chanrpc::Remote::builder(&to), "grpcs:// needs TLS"),
        (chanrpc::Remote::builder(to.replace("grpcs", "grpc")), "HTTP/2"),
    ] {
        let error = call(remote).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn command_line_trusts_the_given_authority() {
    let certificates = Certificates::new();
    let node = certificates.node();
    assert_eq!(certificates.run(&node, "ca", &["call", "rpc.echo", "1"]).result(), "[1]");
    assert_eq!(certificates.run(&node, "ca", &["go", "rpc.echo", "1"]).code, Some(0));
    assert!(certificates.run(&node, "ca", &["list"]).result().contains("rpc.ping"));
    let said = certificates.run(&node, "other", &["call", "rpc.ping"]).failed(3).to_owned();
    assert!(said.contains("the TLS handshake failed"), "{said}");
    node.run("call", &["rpc.ping"]).failed(3);
    let plain = Node::demo();
    certificates.run(&plain, "ca", &["call", "--timeout", "5", "rpc.ping"]).failed(3);
    assert_eq!(plain.metric("chanrpc_foreign_dialects_total"), 1);
    eventually("it is told", || plain.log().contains("(tls under [[listen]])"));
}

#[test]
fn bench_measures_over_tls() {
    let text = "x".repeat(20_000);
    let certificates = Certificates::new();
    let node = certificates.node();
    for dialect in ["lines", "headers", "msgpack", "http", "websocket"] {
        for connections in ["1", "4"] {
            let arguments = [
                "bench",
                "--json",
                "--duration",
                "200ms",
                "--warmup=0",
                "--dialect",
                dialect,
                "--connections",
            ];
            let arguments = [&arguments[..], &[connections, "rpc.echo", &text]].concat();
            let measured = certificates.run(&node, "ca", &arguments);
            let figures: serde_json::Value = serde_json::from_str(measured.result()).unwrap();
            assert!(figures["calls"].as_u64().unwrap() > 0, "{dialect}: {figures}");
            assert_eq!(
                (&figures["errors"], &figures["lost_connections"]),
                (&json!(0), &json!(0)),
                "{figures}"
            );
        }
    }
    let refused = certificates.run(&node, "other", &["bench", "--duration", "200ms"]);
    assert!(refused.failed(3).contains("certificate"), "{refused:?}");
}

#[test]
fn client_certificate_is_required() {
    let certificates = Certificates::new();
    certificates.leaf("stranger", "other", "2");
    let node = Node::with(Folder::new(), &certificates.asking_listener());
    let url = format!("https://localhost:{}/healthz", node.address().port());
    let with = |name: &str| {
        let (certificate, key) =
            (certificates.name(&format!("{name}.pem")), certificates.name(&format!("{name}.key")));
        curl(&certificates, &["--cert", &certificate, "--key", &key, &url])
    };
    assert_eq!(with("node").result(), "ok");
    for refused in [curl(&certificates, &[&url]), with("stranger")] {
        assert_ne!(refused.code, Some(0), "{refused:?}");
        assert_eq!(refused.stdout, "");
    }
    certificates.run(&node, "ca", &["call", "rpc.ping"]).failed(3);
    eventually("it is told", || node.log().matches("TLS handshake with ").count() == 3);
}

#[test]
fn nodes_forward_over_tls() {
    let certificates = Certificates::new();
    let far = Node::with(Folder::new(), &certificates.asking_listener());
    let forward = |ca: &str, identity: &str| {
        let ca = certificates.name(ca);
        Node::with(
            Folder::new(),
            &format!(
                "[[function]]\nname = 'far.*'\nforward = '{}'\ntls = {{ ca = '{ca}'{identity} }}\n",
                far.address()
            ),
        )
    };
    let identity = format!(
        ", certificate = '{}', key = '{}'",
        certificates.name("node.pem"),
        certificates.name("node.key")
    );
    let near = forward("ca.pem", &identity);
    // The error of the unknown function comes from the other node.
    let fault = near.connect().call("far.away", &json!([])).unwrap_err();
    assert_eq!((fault.code, &fault.data["via"]), (-32601, &json!(["chanrpc"])));
    for near in [forward("other.pem", &identity), forward("ca.pem", "")] {
        let fault = near.connect().call("far.away", &json!([])).unwrap_err();
        assert_eq!(fault.code, -32001, "{fault:?}");
    }
}

#[test]
fn expired_certificate_is_rejected() {
    let certificates = Certificates::new();
    // It expires within this second.
    certificates.leaf("old", "ca", "0");
    let node = Node::with(Folder::new(), &certificates.listener("old", ""));
    eventually("it has expired", || {
        let ended = certificates.run(&node, "ca", &["call", "rpc.ping"]);
        ended.code == Some(3) && ended.failed(3).contains("certificate expired")
    });
}

#[test]
fn invalid_certificate_files_are_errors() {
    let certificates = Certificates::new();
    certificates.0.write("empty.pem", "");
    certificates.0.write("empty.key", "");
    let check = |certificate: &str, key: &str, more: &str| {
        let config = format!(
            "[[listen]]\naddress = '127.0.0.1:0'\ntls = {{ certificate = '{}', key = '{}'{more} }}\n",
            certificates.name(certificate),
            certificates.name(key)
        );
        let file = certificates.0.write("config.toml", &config);
        run(["serve", "--check", "--config", file.to_str().unwrap()])
    };
    let valid = check("node.pem", "node.key", "");
    assert!(valid.result().starts_with("the configuration is valid"), "{}", valid.result());
    let empty = format!(", client_ca = '{}'", certificates.name("empty.pem"));
    for (certificate, key, more, wanted) in [
        ("absent.pem", "node.key", "", "absent.pem"),
        ("node.pem", "absent.key", "", "absent.key"),
        ("empty.pem", "node.key", "", "empty.pem: contains no PEM certificate"),
        ("node.pem", "empty.key", "", "empty.key: contains no unencrypted PEM private key"),
        ("node.pem", "ca.key", "", "ca.key"),
        ("node.key", "node.key", "", "node.key: contains no PEM certificate"),
        ("node.pem", "node.key", empty.as_str(), "empty.pem: contains no PEM certificate"),
    ] {
        let said = check(certificate, key, more).failed(2).to_owned();
        assert!(said.contains("tls of 127.0.0.1:0") && said.contains(wanted), "{said}");
    }
}

#[test]
fn connection_without_a_handshake() {
    let certificates = Certificates::new();
    let node = certificates.node();
    let mut browser = node.connect();
    browser.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let reply = browser.http();
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("https://"), "{reply:?}");
    browser.assert_closed();
    let mut lines = node.connect();
    lines.send(request(1, "rpc.ping", &json!([])) + "\n");
    assert!(lines.line().unwrap().contains("this port speaks TLS"));
    lines.assert_closed();
    let mut garbage = node.connect();
    garbage.send(b"\x16\x03\x01\x00\x05hello and so on");
    garbage.rest();
    let mut broken_off = node.connect();
    broken_off.send(b"\x16\x03\x01\x02\x00\x01");
    broken_off.end();
    broken_off.rest();
    eventually("all are counted", || {
        metric(&node, &certificates, "chanrpc_tls_handshakes_failed_total") == 4
    });
    node.await_log("the peer does not speak TLS");
}

#[test]
fn each_side_reports_the_protocol_of_the_other() {
    let certificates = Certificates::new();
    let node = certificates.node();
    let plain = node.run("call", &["rpc.ping"]);
    assert!(plain.failed(3).contains("this port speaks TLS"), "{plain:?}");
    let plain = Node::demo();
    let secured = certificates.run(&plain, "ca", &["call", "rpc.ping"]);
    assert!(secured.failed(3).contains("does not use TLS"), "{secured:?}");
    // A third-party server answers an invalid handshake with an alert.
    let alerting = listen(|mut stream| {
        let _ = std::io::Write::write_all(&mut stream, b"\x15\x03\x01\x00\x02\x02\x0a");
        let _ = std::io::Read::read(&mut stream, &mut [0; 512]);
    });
    let told = run(["call", "--to", &alerting.to_string(), "rpc.ping"]);
    assert!(told.failed(3).contains("speaks TLS at this port"), "{told:?}");
}

#[test]
fn calls_close_their_connection_in_an_orderly_way() {
    let certificates = Certificates::new();
    let config = certificates.listener("node", "");
    let node = Node::launch(Folder::new(), Some(&config), &["--log", "debug"], &Stderr::Read);
    for _ in 0..3 {
        assert_eq!(certificates.run(&node, "ca", &["call", "rpc.ping"]).result(), "\"pong\"");
    }
    // Only that of this request is open.
    eventually("all have ended", || metric(&node, &certificates, "chanrpc_connections") == 1);
    assert!(!node.log().contains("ended"), "{}", node.log());
}

#[test]
fn slow_handshake_does_not_block_others() {
    let certificates = Certificates::new();
    let listener = certificates.listener("node", "");
    let node = Node::with(Folder::new(), &format!("limits.head_timeout = '300ms'\n{listener}"));
    let mut silent = node.connect();
    let mut slow = node.connect();
    slow.send(b"\x16\x03\x01\x02");
    let mut never_reads = node.connect();
    never_reads.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    silent.assert_closed();
    slow.assert_closed();
    never_reads.rest();
    assert_eq!(metric(&node, &certificates, "chanrpc_slow_heads_total"), 2);
}

#[test]
fn truncated_request_without_close_notify_is_not_run() {
    let certificates = Certificates::new();
    let config = certificates.listener("node", "");
    let node = Node::launch(Folder::new(), Some(&config), &["--log", "debug"], &Stderr::Read);
    let calls = || metric(&node, &certificates, "chanrpc_calls_total");
    let unended = request(1, "rpc.echo", &json!([1]));
    smol::block_on(async {
        let mut stream = certificates.connect(&node).await;
        stream.write_all(unended.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // Without a close_notify.
        drop(stream);
    });
    // A reset, if the node's output was still unread.
    let told = |log: &str| log.contains("close_notify") || log.contains("reset");
    eventually("it is told", || told(&node.log()));
    assert_eq!(calls(), 0);
    smol::block_on(async {
        let mut stream = certificates.connect(&node).await;
        stream.write_all(unended.as_bytes()).await.unwrap();
        stream.close().await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.contains("[1]"), "{reply}");
    });
    assert_eq!(calls(), 1);
}

#[test]
fn truncated_response_is_lost() {
    let certificates = Certificates::new();
    let acceptor =
        Acceptor::load(&certificates.0.path("node.pem"), &certificates.0.path("node.key"), None).unwrap();
    let address = listen(move |stream| {
        smol::block_on(async {
            let stream = smol::net::TcpStream::try_from(stream).unwrap();
            let mut stream = transport::accept(&acceptor, stream).await.unwrap();
            let (mut asked, mut bytes) = (Vec::new(), [0; 512]);
            while !asked.ends_with(b"}\n") {
                let count = stream.read(&mut bytes).await.unwrap();
                assert!(count > 0, "the request ended early");
                asked.extend_from_slice(&bytes[..count]);
            }
            stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":5}").await.unwrap();
            stream.flush().await.unwrap();
        });
    });
    let ended = run(["call", "--to", &address.to_string(), "--ca", &certificates.name("ca.pem"), "rpc.ping"]);
    assert!(ended.failed(3).contains("was lost"), "{ended:?}");
}

#[test]
fn peer_that_does_not_read_is_cut_off() {
    let certificates = Certificates::new();
    let listener = certificates.listener("node", "");
    let node = Node::with(Folder::new(), &format!("limits.stall_timeout = '300ms'\n{listener}"));
    smol::block_on(async {
        let mut stream = certificates.connect(&node).await;
        let long = request(1, "rpc.echo", &json!(["x".repeat(500_000)])) + "\n";
        // It ends because the node stops reading and then closes.
        while stream.write_all(long.as_bytes()).await.is_ok() {}
    });
    eventually("it is told", || node.log().contains("limits.stall_timeout"));
}

#[test]
fn openssl_sees_an_orderly_close() {
    let certificates = Certificates::new();
    let node = certificates.node();
    let mut command = Command::new("openssl");
    let (address, ca) = (node.address().to_string(), certificates.name("ca.pem"));
    command.args(["s_client", "-quiet", "-verify_return_error", "-connect", &address, "-CAfile", &ca]);
    // The request closes the connection; s_client would report a close without close_notify.
    let call = "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 46\r\n\r\n\
                {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.ping\"}\r\n";
    let ended = Process::run_with_input(command, call);
    assert!(ended.stdout.contains("\"id\":1"), "{ended:?}");
    assert!(!ended.stderr.contains("unexpected eof"), "{ended:?}");
}

#[test]
fn renewed_certificate_is_for_new_connections_after_a_reload() {
    let certificates = Certificates::new();
    let rules = "[[access]]\nfunctions = ['*', 'rpc.reload']\n";
    let node = Node::with(Folder::new(), &format!("{rules}{}", certificates.listener("node", "")));
    let expiry = || {
        metric(&node, &certificates, "chanrpc_certificate_expiry_timestamp_seconds{listen=\"127.0.0.1:0\"}")
    };
    let first = expiry();
    let mut open = Client::connect(certificates.tunnel(node.address()));
    assert_eq!(open.call("rpc.ping", &json!([])), Ok(json!("pong")));

    certificates.leaf("node", "ca", "30");
    assert_eq!(expiry(), first, "nothing was reloaded");
    let changed = "listener 127.0.0.1:0 has another certificate";
    assert_eq!(certificates.run(&node, "ca", &["reload"]).result(), changed);
    assert_eq!(certificates.run(&node, "ca", &["reload"]).result(), "nothing has changed");
    let days = (expiry() - first) / 86_400;
    assert_eq!(days, 28, "from 2 to 30");

    certificates.leaf("node", "other", "30");
    assert_eq!(certificates.run(&node, "ca", &["reload"]).result(), changed);
    certificates.run(&node, "ca", &["call", "rpc.ping"]).failed(3);
    assert_eq!(certificates.run(&node, "other", &["call", "rpc.ping"]).result(), "\"pong\"");
    assert_eq!(open.call("rpc.ping", &json!([])), Ok(json!("pong")), "an open connection stays");

    // The key of another certificate.
    certificates.leaf("else", "other", "2");
    let key = certificates.0.read("else.key").unwrap();
    certificates.0.write("node.key", &key);
    assert!(certificates.run(&node, "other", &["reload"]).failed(2).contains("nothing has changed"));
    assert_eq!(certificates.run(&node, "other", &["call", "rpc.ping"]).result(), "\"pong\"");
}
