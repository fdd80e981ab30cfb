//! Servers of this machine with other protocols, for orientation. They return a payload as large as a request of the
//! others.

use std::env;
use std::path::PathBuf;

use super::pipelined::{Protocol, drive};
use super::{Drive, Entrant, NATS, REDIS, Start};
use crate::measured::{How, Measured};

const PAYLOAD: &str = r#"{"jsonrpc":"2.0","id":100,"method":"demo.add","params":[12,30]}"#;

/// Returns those that are installed.
pub(super) fn all() -> Vec<Entrant> {
    let redis = find("redis-server").map(|program| Entrant {
        name: REDIS,
        start: Start::Installed { program, arguments: redis_arguments },
        drive: Drive::Own(redis),
    });
    let nats = find("nats-server").map(|program| Entrant {
        name: NATS,
        start: Start::Installed { program, arguments: nats_arguments },
        drive: Drive::Own(nats),
    });
    redis.into_iter().chain(nats).collect()
}

/// Searches a program where shells do, and where Debian puts servers.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn redis_arguments(port: u16) -> Vec<String> {
    let port = port.to_string();
    ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"].map(str::to_owned).into()
}

fn redis(address: &str, how: How) -> Measured {
    let bulk = format!("${}\r\n{PAYLOAD}\r\n", PAYLOAD.len());
    let (hello, request) = ("PING\r\n".to_owned(), format!("*2\r\n$4\r\nECHO\r\n{bulk}"));
    let protocol = Protocol { hello, ready: "+PONG\r\n", request, reply: bulk, probe: "" };
    drive(&|_| protocol.clone(), address, how)
}

fn nats_arguments(port: u16) -> Vec<String> {
    ["--addr", "127.0.0.1", "--port", &port.to_string()].map(str::to_owned).into()
}

/// Each connection publishes to the subject to which it has subscribed.
fn nats(address: &str, how: How) -> Measured {
    let size = PAYLOAD.len();
    let protocol = |number| Protocol {
        hello: format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB echo.{number} 1\r\nPING\r\n"),
        ready: "PONG\r\n",
        request: format!("PUB echo.{number} {size}\r\n{PAYLOAD}\r\n"),
        reply: format!("MSG echo.{number} 1 {size}\r\n{PAYLOAD}\r\n"),
        // One soon after the connection begins, then every two minutes.
        probe: "PING\r\n",
    };
    drive(&protocol, address, how)
}
