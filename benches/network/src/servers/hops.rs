//! Nodes whose function is answered by another process: another node, a peer that offers it, or a program that stays.
//! That process runs on the same core, and its processor time is not counted.

use std::io::{BufRead, BufReader, BufWriter, Read, Write, stdin, stdout};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use chanrpc::config::Config;
use chanrpc::node::{Node, RunningNode};
use chanrpc::remote::Remote;
use serde_json::Value;

use super::{announce, node};

/// Where the peer offers its function.
const OFFER_TO: &str = "CHANRPC_BENCH_OFFER_TO";

/// The number of calls that the peer has at a time: more than any load, since few more wait.
const OFFERED: usize = 4096;
/// The number of calls that the program has at a time, the maximum. More wait.
const IN_FLIGHT: usize = 1024;

/// The names by which this program starts as the other process.
pub(super) const FAR: &str = "(other node)";
pub(super) const PEER: &str = "(peer that offers)";
pub(super) const PROGRAM: &str = "(program that stays)";

pub(super) fn forward() {
    let mut far = other(FAR, None);
    let mut line = String::new();
    let output = far.stdout.take().expect("its output is a pipe");
    BufReader::new(output).read_line(&mut line).expect("its output is text");
    let address = line.trim_end().strip_prefix("listening on ").expect("it listens");
    let node = start(&format!("[[function]]\nname = 'add'\nforward = '{address}'\n"));
    serve(&node, Some(far));
}

pub(super) fn offer() {
    let node =
        start(&format!("[limits]\nin_flight = {OFFERED}\n[[access]]\nfunctions = ['*']\noffer = ['*']\n"));
    let peer = other(PEER, Some(&node.addresses()[0].to_string()));
    serve(&node, Some(peer));
}

pub(super) fn process() {
    let this = std::env::current_exe().expect("this program has a path");
    let node = start(&format!(
        "[[process]]\nname = 'p'\nrun = ['{}', '--serve', '{PROGRAM}']\nin_flight = {IN_FLIGHT}\nqueue = 65536\n\
         [[function]]\nname = 'add'\nprocess = 'p'\n",
        this.display()
    ));
    serve(&node, None);
}

/// Serves as the other node until its input ends, which is when the process that has started it ends.
pub(super) fn far() {
    thread::spawn(|| {
        let _ = stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    node::serve();
}

/// Offers the function to the node that has started this process.
pub(super) fn peer() {
    let to = std::env::var(OFFER_TO).expect("the node names its address");
    let stream = TcpStream::connect(to).expect("the node listens");
    stream.set_nodelay(true).expect("the system supports it");
    let mut output = stream.try_clone().expect("a socket can be duplicated");
    let offer = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"rpc.offer\",\"params\":{{\"name\":\"add\",\"in_flight\":{OFFERED}}}}}\n"
    );
    output.write_all(offer.as_bytes()).expect("the node reads");
    answer(stream, output);
}

/// Answers requests until its input ends.
pub(super) fn program() {
    answer(stdin(), stdout());
}

/// Answers requests in lines. Writes when no further one has been read.
fn answer(input: impl Read, output: impl Write) {
    let (mut input, mut output) = (BufReader::new(input), BufWriter::new(output));
    let mut line = String::new();
    while input.read_line(&mut line).is_ok_and(|length| length > 0) {
        let request = serde_json::from_str::<Value>(&line).unwrap_or_default();
        let [a, b] = [0, 1].map(|at| request["params"][at].as_i64());
        // Neither the reply to the offer nor a blank line is a request. The node also pings a peer that it has not heard
        // for a while, and closes the connection of one that does not answer.
        if request["method"].is_string() {
            let (id, result) = (&request["id"], a.zip(b).map_or(0, |(a, b)| a + b));
            writeln!(output, "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}")
                .expect("the node reads");
        }
        if input.buffer().is_empty() {
            output.flush().expect("the node reads");
        }
        line.clear();
    }
}

fn start(config: &str) -> RunningNode {
    let text = format!("[[listen]]\naddress = '127.0.0.1:0'\n{config}");
    let config = Config::parse(&text, "bench.toml").expect("the configuration is valid");
    Node::from_config(config).start().expect("a free port")
}

/// Starts this program again, as another process.
fn other(name: &str, to: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["--serve", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(to) = to {
        command.env(OFFER_TO, to);
    }
    command.spawn().expect("this program starts")
}

/// Announces the node once its function answers. Does not return while `other` runs.
fn serve(node: &RunningNode, other: Option<Child>) {
    let address = node.addresses()[0];
    let remote = Remote::connect(address.to_string());
    while remote.call1::<_, i64>("add", (1, 2)).wait().is_err() {
        thread::sleep(Duration::from_millis(5));
    }
    drop(remote);
    announce(Ok(address));
    match other {
        Some(mut other) => {
            // `wait` would close it, and the process ends when it is closed.
            let _input = other.stdin.take();
            let _ = other.wait();
        }
        None => loop {
            thread::park();
        },
    }
}
