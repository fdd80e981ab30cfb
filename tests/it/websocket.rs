//! WebSocket conformance: every case of the suite kosoku, against an echo server on this transport.

use std::env;
use std::future::{pending, poll_fn};
use std::io;
use std::process::Command;
use std::task::{Poll, ready};
use std::thread;
use std::time::Duration;

use chanrpc::internals::transport::http::{self, HttpRequest, HttpResponse, HttpService, RequestLimits};
use chanrpc::internals::transport::{CloseReason, Pipe, Received, Rewind, WebSocket};
use smol::net::{TcpListener, TcpStream};
use smol::{LocalExecutor, block_on};

/// The largest message of the suite has 16 MiB.
const MAX: usize = 32 << 20;
/// The number of cases, except those for compression, which is not offered.
const CASES: usize = 301;
const COMPRESSION: [&str; 4] = ["--exclude", "12.*", "--exclude", "13.*"];

/// Accepts every upgrade and answers nothing else.
struct Door;

impl HttpService for Door {
    async fn respond(&self, request: &mut HttpRequest) -> HttpResponse {
        request.accept_websocket("echo").unwrap_or_else(|_| HttpResponse::text(404, "only WebSocket"))
    }
}

/// Echoes every message until the peer disconnects.
async fn echo(stream: TcpStream) -> io::Result<()> {
    let wait = Duration::from_secs(60);
    let bounds = RequestLimits { body: MAX, head_timeout: wait, stall_timeout: wait };
    let upgraded =
        http::serve(Rewind::new(stream), &Door, bounds, pending()).await.map_err(io::Error::other)?;
    let Some(stream) = upgraded else { return Ok(()) };
    let (first, stream) = stream.into_parts();
    let mut pipe = WebSocket::accept(stream, first, MAX, Duration::ZERO, wait).await;
    let mut message = Vec::new();
    loop {
        message.clear();
        if poll_fn(|cx| pipe.poll_receive(cx, &mut message)).await? != Received::Data {
            return poll_fn(|cx| pipe.poll_close(cx, CloseReason::Done)).await;
        }
        poll_fn(|cx| {
            ready!(pipe.poll_send(cx, &message))?;
            Poll::Ready(io::Result::Ok(()))
        })
        .await?;
        poll_fn(|cx| pipe.poll_flush(cx)).await?;
    }
}

/// `ci/websocket` installs the suite and passes its path.
#[test]
#[ignore = "needs the suite: ci/websocket"]
fn every_case_of_the_suite_passes() {
    let suite = env::var_os("CHANRPC_KOSOKU").expect("CHANRPC_KOSOKU names the program kosoku");
    let reports = env::var_os("CHANRPC_KOSOKU_REPORTS").expect("CHANRPC_KOSOKU_REPORTS names a folder");
    let listener = block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    // It lives as long as the tests.
    thread::spawn(move || {
        let executor = LocalExecutor::new();
        block_on(executor.run(async {
            while let Ok((stream, _)) = listener.accept().await {
                // Cases may break their connections.
                executor.spawn(async move { drop(echo(stream).await) }).detach();
            }
        }));
    });
    let mut run = Command::new(suite);
    run.arg(address.to_string()).args(COMPRESSION).arg("--outdir").arg(reports);
    let ended = run.output().expect("it starts");
    let (said, complaints) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{said}{complaints}");
    let passed = said.lines().find_map(|line| line.strip_suffix(" cases passed")?.parse::<usize>().ok());
    assert_eq!(passed, Some(CASES), "not every case ran: {said}");
}
