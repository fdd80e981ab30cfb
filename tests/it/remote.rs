//! The network client, against nodes in this process and against misbehaving peers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use chanrpc::chan::CallError;
use chanrpc::config::Limits;
use chanrpc::message::{Fault, RawJson, code};
use chanrpc::remote::Remote;
use futures_lite::FutureExt;
use futures_lite::future::{poll_once, yield_now};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use smol::{Executor, Timer};

use crate::spec::{Fixture, run};
use crate::wires;

/// A peer that waits for this long waits for something that never comes.
const HANG: Duration = Duration::from_secs(60);

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// A deadline that no test reaches.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Acts as the other node on a separate thread.
fn peer<T: Send + 'static>(
    script: impl FnOnce(TcpListener) -> T + Send + 'static,
) -> (String, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (address, thread::spawn(move || script(listener)))
}

/// A connection as seen by the other node.
struct Link(BufReader<TcpStream>);

impl Link {
    fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Returns the next request, or `None` at the end, which is an error if the client has left something unread.
    fn next(&mut self) -> Option<Value> {
        let mut line = "\n".to_owned();
        // The first line is blank.
        while line == "\n" {
            line.clear();
            self.0.read_line(&mut line).ok()?;
        }
        let line = line.strip_suffix('\n')?;
        let request: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert_eq!(request["jsonrpc"], "2.0", "{request}");
        Some(request)
    }

    fn request(&mut self) -> Value {
        self.next().expect("a request")
    }

    /// Writes bytes, whether or not the client still reads.
    fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.0.get_mut().write_all(bytes.as_ref());
    }

    fn reply(&mut self, request: &Value, result: &Value) {
        self.write(format!("{}\n", json!({"jsonrpc": "2.0", "result": result, "id": request["id"]})));
    }

    /// Echoes the parameters of requests until the client disconnects.
    fn echo(&mut self) {
        while let Some(request) = self.next() {
            self.reply(&request, &request["params"]);
        }
    }
}

async fn call(remote: &Remote, method: &str, params: &str) -> Result<String, CallError> {
    remote
        .call_raw(method, Some(RawJson::from(&*raw(params))))
        .deadline(far())
        .await
        .map(|result| result.get().to_owned())
}

/// Calls until the connection is established again.
async fn call_when_up(remote: &Remote, method: &str, params: &str) -> Result<String, CallError> {
    loop {
        match call(remote, method, params).await {
            Err(CallError::Unreachable { .. }) => Timer::after(Duration::from_millis(2)).await,
            result => return result,
        };
    }
}

fn remote(executor: &Arc<Executor<'static>>, address: impl Into<String>) -> Remote {
    Remote::builder(address).executor(executor).limits(Limits::default()).connect()
}

/// A node closes idle connections, but not those of other nodes.
#[test]
fn idle_connection_is_kept() {
    run(async |executor| {
        let limits = Limits::default().head_timeout(Duration::from_millis(500));
        let fixture = Fixture::start(&executor, limits).await;
        let remote = remote(&executor, fixture.address.to_string());
        while fixture.metric("accepted") == 0 {
            Timer::after(Duration::from_millis(1)).await;
        }
        // A later idle connection is closed, which shows that the timeout has passed.
        let mut silent = smol::net::TcpStream::connect(fixture.address).await.unwrap();
        assert_eq!(smol::io::AsyncReadExt::read(&mut silent, &mut [0]).await.unwrap(), 0);
        assert_eq!(fixture.metric("slow_heads"), 1);
        assert_eq!(call(&remote, "sum", "[1,2]").await.unwrap(), "3");
        assert_eq!(fixture.metric("accepted"), 2);
        fixture.end().await;
    });
}

/// A reply or a request that is too long fails only its own call, immediately.
#[test]
fn message_too_long_fails_no_other_call() {
    run(async |executor| {
        let far = Limits::default().message(1 << 20);
        let fixture = Fixture::start(&executor, far).await;
        let near = Limits::default().message(4096);
        let remote = Remote::builder(fixture.address.to_string()).executor(&executor).limits(near).connect();
        call(&remote, "sum", "[]").await.unwrap();
        let mut other = std::pin::pin!(call(&remote, "hold", "[7]"));
        assert!(futures_lite::future::poll_once(&mut other).await.is_none());
        let long = call(&remote, "big", "[200000]").await.unwrap_err();
        assert!(
            matches!(&long, error if error.fault().is_some_and(|fault| fault.code == code::REPLY_TOO_LARGE)),
            "{long}"
        );
        let long = call(&remote, "rpc.echo", &format!("[\"{}\"]", "x".repeat(4096))).await.unwrap_err();
        assert!(long.fault().is_some_and(|fault| fault.code == code::REQUEST_TOO_LARGE), "{long}");
        call(&remote, "release", "[]").await.unwrap();
        assert_eq!(other.await.unwrap(), "7");
        assert_eq!(fixture.metric("accepted"), 1, "the connection was not lost");
        fixture.end().await;
    });
}

#[test]
fn thousand_concurrent_calls() {
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        let remote = Arc::new(remote(&executor, fixture.address.to_string()));
        let calls: Vec<_> = (0..1000)
            .map(|number| {
                let remote = remote.clone();
                executor.spawn(async move {
                    let method = ["sum", "rpc.echo", "absent"][number % 3];
                    (method, call(&remote, method, &format!("[{number},1]")).await)
                })
            })
            .collect();
        for (number, task) in calls.into_iter().enumerate() {
            match task.await {
                ("sum", result) => assert_eq!(result.unwrap(), (number + 1).to_string()),
                ("rpc.echo", result) => assert_eq!(result.unwrap(), format!("[{number},1]")),
                (_, Err(error)) => assert_eq!(error.fault().unwrap().code, code::UNKNOWN_FUNCTION),
                (_, result) => panic!("{result:?}"),
            }
        }
        fixture.end().await;
    });
}

#[test]
fn replies_out_of_order_fragmented_and_duplicated() {
    const CALLS: usize = 60;
    let (address, peer) = peer(|listener| {
        let mut link = Link::accept(&listener);
        let requests: Vec<_> = (0..CALLS).map(|_| link.request()).collect();
        for (at, request) in requests.iter().enumerate().rev() {
            match at % 3 {
                0 => link.reply(request, &request["params"][0]),
                1 => {
                    let line = json!({"id": request["id"], "result": request["params"][0], "jsonrpc": "2.0"});
                    for byte in format!("{line}\r\n\n").bytes() {
                        link.write([byte]);
                    }
                }
                _ => {
                    link.reply(request, &request["params"][0]);
                    link.reply(request, &json!("again"));
                }
            }
        }
        assert_eq!(link.next(), None);
    });
    run(async |executor| {
        let remote = Arc::new(remote(&executor, &address));
        let calls: Vec<_> = (0..CALLS)
            .map(|number| {
                let remote = remote.clone();
                executor.spawn(async move { call(&remote, "f", &format!("[{number}]")).await })
            })
            .collect();
        for (number, task) in calls.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), number.to_string());
        }
    });
    peer.join().unwrap();
}

#[test]
fn requests_have_the_documented_form() {
    let (address, peer) = peer(|listener| {
        let mut link = Link::accept(&listener);
        let mut requests = Vec::new();
        while let Some(request) = link.next() {
            link.reply(&request, &Value::Null);
            requests.push(request);
        }
        requests
    });
    run(async |executor| {
        let remote = remote(&executor, &address);
        let deadline = Instant::now() + Duration::from_secs(100);
        for (params, hops) in [(None, 0), (Some(raw("[1,\n \"\\n\"\r\n]")), 3)] {
            let result = remote
                .call_raw("f \"\u{1}é", params.as_deref().map(RawJson::from))
                .deadline(deadline)
                .hops(hops)
                .await;
            assert_eq!(result.unwrap().get(), "null");
        }
        remote.go_raw("g", Some(RawJson::from(&*raw("{}")))).deadline(far()).hops(2).await.unwrap();
        remote.go_raw("g", None).deadline(far()).await.unwrap();
        call(&remote, "last", "[]").await.unwrap();
    });
    let requests = peer.join().unwrap();
    let [first, second, third, fourth, last] = &requests[..] else { panic!("{requests:?}") };
    for (request, hops) in [(first, 0), (second, 3)] {
        assert_eq!(request["method"], "f \"\u{1}é");
        assert_eq!(request["meta"]["hops"], hops);
        let left = request["meta"]["deadline_ms"].as_u64().unwrap();
        assert!(left > 0 && left <= 100_000, "{left}");
    }
    assert_eq!((first.get("params"), &second["params"]), (None, &json!([1, "\n"])));
    assert_eq!(*third, json!({"jsonrpc": "2.0", "method": "g", "params": {}, "meta": {"hops": 2}}));
    assert_eq!(*fourth, json!({"jsonrpc": "2.0", "method": "g"}));
    assert!(first["id"] != second["id"] && second["id"] != last["id"] && first["id"] != last["id"]);
}

#[test]
fn errors_arrive_complete() {
    let errors = [
        (
            json!({"code": -7, "message": "no \"luck\"\n", "data": {"a": [1]}}),
            -7,
            "no \"luck\"\n",
            Some(r#"{"a":[1]}"#),
        ),
        (json!({"code": 1, "message": ""}), 1, "", None),
        (json!({"code": 1, "message": "m", "data": null, "more": 1}), 1, "m", None),
    ];
    let broken = [json!(1), json!({}), json!({"code": "1", "message": "m"}), json!("text")];
    let all: Vec<_> = errors.iter().map(|(error, ..)| error.clone()).chain(broken.clone()).collect();
    let (address, peer) = peer(|listener| {
        let mut link = Link::accept(&listener);
        for error in all {
            let request = link.request();
            link.write(format!("{}\n", json!({"jsonrpc": "2.0", "error": error, "id": request["id"]})));
        }
        assert_eq!(link.next(), None);
    });
    run(async |executor| {
        let remote = remote(&executor, &address);
        let fault = async || match call(&remote, "f", "[]").await {
            Err(CallError::Failed(error)) => error.downcast_ref::<Fault>().unwrap().clone(),
            other => panic!("{other:?}"),
        };
        for (_, expected, text, more) in errors {
            let Fault { code, message, data } = fault().await;
            assert_eq!((code, &*message, data.as_deref().map(RawValue::get)), (expected, text, more));
        }
        for error in broken {
            assert_eq!(fault().await.code, code::INTERNAL, "{error}");
        }
    });
    peer.join().unwrap();
}

#[test]
fn connection_lost_during_a_call_is_reestablished() {
    const LOSSES: usize = 3;
    let (address, peer) = peer(|listener| {
        for _ in 0..LOSSES {
            let mut link = Link::accept(&listener);
            let requests = [link.request(), link.request(), link.request()];
            let answered = requests.iter().find(|request| request["params"][0] == 1).unwrap();
            link.reply(answered, &json!("yes"));
            // One more reply arrives half.
            link.write(r#"{"jsonrpc":"2.0","result":"#);
        }
        Link::accept(&listener).echo();
    });
    run(async |executor| {
        let remote = Arc::new(remote(&executor, &address));
        for _ in 0..LOSSES {
            assert_eq!(call_together(&executor, &remote).await, [Some("\"yes\"".to_owned()), None, None]);
        }
        // Lost calls are not sent again.
        assert_eq!(call_when_up(&remote, "f", "[7]").await.unwrap(), "[7]");
        assert_eq!(call(&remote, "f", "[8]").await.unwrap(), "[8]");
    });
    peer.join().unwrap();

    /// Makes three concurrent calls once connected. Returns `None` for a lost one.
    async fn call_together(executor: &Arc<Executor<'static>>, remote: &Arc<Remote>) -> [Option<String>; 3] {
        let calls = [1, 2, 3].map(|number| {
            let remote = remote.clone();
            executor.spawn(async move { call_when_up(&remote, "f", &format!("[{number}]")).await })
        });
        let mut results = [const { None }; 3];
        for (call, into) in calls.into_iter().zip(&mut results) {
            *into = match call.await {
                Ok(result) => Some(result),
                Err(CallError::Lost { address, reason }) => {
                    assert!(address == remote.address() && !reason.is_empty());
                    None
                }
                Err(error) => panic!("{error}"),
            };
        }
        results
    }
}

#[test]
fn every_stream_dialect_is_spoken() {
    let far = wires::Fixture::start("far", "name = \"far\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n");
    for dialect in ["lines", "headers", "msgpack"] {
        let to = format!("{dialect}://{}", far.address());
        let config = format!(
            "name = \"near\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n[[function]]\nname = \"far.*\"\nforward = \"{to}\"\n"
        );
        let near = wires::Fixture::start("n", &config);
        run(async |executor| {
            let direct = remote(&executor, &to);
            let forwarded = remote(&executor, near.address().to_string());
            for remote in [&direct, &forwarded] {
                let before: i64 = call_when_up(remote, "far.count", "[]").await.unwrap().parse().unwrap();
                assert_eq!(call(remote, "far.add", "[20,22]").await.unwrap(), "42", "{dialect}");
                assert_eq!(
                    call(remote, "far.echo", r#"[{"a":["é",null,1.5]}]"#).await.unwrap(),
                    r#"{"a":["é",null,1.5]}"#
                );
                let error = call(remote, "far.add", r#"["wrong"]"#).await.unwrap_err();
                assert_eq!(error.fault().unwrap().code, code::INVALID_PARAMS, "{dialect}");
                let error = call(remote, "far.unknown", "[]").await.unwrap_err();
                assert_eq!(error.fault().unwrap().code, code::UNKNOWN_FUNCTION, "{dialect}");
                remote.go_raw("far.note", Some(RawJson::from(&*raw("[5]")))).await.unwrap();
                // A forwarded notification uses another connection.
                while call(remote, "far.count", "[]").await.unwrap() != (before + 5).to_string() {
                    smol::future::yield_now().await;
                }
            }
        });
    }
}

/// A call that was never written is not reported as lost, because its caller may safely repeat it.
#[test]
fn only_sent_calls_are_reported_as_lost() {
    let (address, peer) = peer(|listener| {
        let mut link = Link::accept(&listener);
        assert_eq!(link.request()["params"], json!([0]));
    });
    run(async |executor| {
        let limits = Limits::default().in_flight(1000).output(1 << 30);
        let remote = Arc::new(Remote::builder(&address).executor(&executor).limits(limits).connect());
        remote.connected().await.unwrap();
        let large = format!("[\"{}\"]", "x".repeat(1_000_000));
        let calls: Vec<_> = std::iter::once("[0]".to_owned())
            .chain(std::iter::repeat_n(large, 60))
            .map(|params| {
                let remote = remote.clone();
                executor.spawn(async move { call(&remote, "f", &params).await })
            })
            .collect();
        let mut sent = Vec::new();
        for call in calls {
            sent.push(match call.await {
                Err(CallError::Lost { .. }) => true,
                Err(CallError::Unreachable { .. }) => false,
                other => panic!("{other:?}"),
            });
        }
        assert!(sent[0] && !sent[60], "{sent:?}");
        assert!(sent.is_sorted_by(|one, next| one >= next), "in their order: {sent:?}");
    });
    peer.join().unwrap();
}

/// Calls above the limit of one connection use another, and if that is lost, the next.
#[test]
fn lost_additional_connection_is_replaced() {
    let (address, peer) = peer(|listener| {
        let mut first = Link::accept(&listener);
        let request = first.request();
        first.reply(&request, &Value::Null);
        let held = first.request();
        for _ in 0..2 {
            let mut further = Link::accept(&listener);
            further.request();
        }
        let mut further = Link::accept(&listener);
        let request = further.request();
        further.reply(&request, &json!("yes"));
        first.reply(&held, &json!("held"));
        assert_eq!((first.next(), further.next()), (None, None));
    });
    run(async |executor| {
        let limits = Limits::default().in_flight(1);
        let remote = Remote::builder(&address).executor(&executor).limits(limits).connect();
        call(&remote, "first", "[]").await.unwrap();
        let mut held = Box::pin(call(&remote, "hold", "[]"));
        assert!(poll_once(&mut held).await.is_none());
        for _ in 0..2 {
            let lost = call(&remote, "f", "[]").await;
            assert!(matches!(lost, Err(CallError::Lost { .. })), "{lost:?}");
        }
        assert_eq!(call(&remote, "f", "[]").await.unwrap(), "\"yes\"");
        assert_eq!(held.await.unwrap(), "\"held\"");
    });
    peer.join().unwrap();
}

#[test]
fn unreachable_node_fails_immediately() {
    // Nobody listens on a port that was just closed.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    run(async |executor| {
        let remote = remote(&executor, address.to_string());
        // The deadline is far away, so it does not end these calls.
        for _ in 0..100 {
            match call(&remote, "f", "[]").await {
                Err(CallError::Unreachable { address: to, reason }) => {
                    assert!(to == address.to_string() && !reason.is_empty());
                }
                other => panic!("{other:?}"),
            }
            let gone = remote.go_raw("f", None).deadline(far()).await;
            assert!(matches!(gone, Err(CallError::Unreachable { .. })), "{gone:?}");
        }
        assert!(call(&remote, "f", "[]").await.unwrap_err().to_string().contains(&address.to_string()));
    });
}

#[test]
fn invalid_address_fails() {
    run(async |executor| {
        let remote = remote(&executor, "no address at all");
        let result = call(&remote, "f", "[]").await;
        assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
    });
}

#[test]
fn calls_to_a_stopping_node() {
    run(async |executor| {
        let fixture = Fixture::start(&executor, Limits::default()).await;
        let remote = Arc::new(remote(&executor, fixture.address.to_string()));
        assert_eq!(call(&remote, "sum", "[1,2]").await.unwrap(), "3");
        let held = executor.spawn({
            let remote = remote.clone();
            async move { call(&remote, "hold", "[1]").await }
        });
        // The calls of one connection start in order, so the first has started.
        assert_eq!(call(&remote, "sum", "[1,2]").await.unwrap(), "3");
        fixture.end().await;
        // Calls in flight are answered while the node drains.
        let held = held.await;
        assert!(matches!(&held, Err(CallError::Failed(_))), "{held:?}");
        let after = call(&remote, "sum", "[1,2]").await;
        assert!(matches!(after, Err(CallError::Unreachable { .. } | CallError::Lost { .. })), "{after:?}");
    });
}

#[test]
fn dropping_a_call_cancels_it() {
    let (seen, is_seen) = async_channel::bounded(1);
    let (address, peer) = peer(move |listener| {
        let mut link = Link::accept(&listener);
        let request = link.request();
        seen.send_blocking(()).unwrap();
        let cancel = link.request();
        assert_eq!(
            cancel,
            json!({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": request["id"]}})
        );
        // Too late: no caller must get this.
        link.reply(&request, &json!("late"));
        link.echo();
    });
    run(async |executor| {
        let remote = remote(&executor, &address);
        let dropped = async { Some(call(&remote, "f", "[1]").await) };
        let seen = async {
            is_seen.recv().await.unwrap();
            None
        };
        assert!(dropped.or(seen).await.is_none());
        // The peer answers everything that arrives now, so it would answer another cancel.
        assert_eq!(call(&remote, "f", "[2]").await.unwrap(), "[2]");
        assert_eq!(call(&remote, "f", "[3]").await.unwrap(), "[3]");
    });
    peer.join().unwrap();
}

#[test]
fn deadline_ends_a_call_on_both_sides() {
    let (address, peer) = peer(|listener| {
        let mut link = Link::accept(&listener);
        let first = link.request();
        link.reply(&first, &Value::Null);
        let mut requests = Vec::new();
        loop {
            let request = link.request();
            if request["method"] == "last" {
                link.reply(&request, &Value::Null);
                return requests;
            }
            // It may ask whether the peer that was late is alive.
            if request["method"] != "rpc.ping" {
                requests.push(request);
            }
        }
    });
    let wait = Duration::from_millis(20);
    run(async |executor| {
        let remote = remote(&executor, &address);
        call(&remote, "first", "[]").await.unwrap();
        for deadline in [Instant::now() + wait, Instant::now()] {
            let result = remote.call_raw("f", None).deadline(deadline).await;
            assert!(matches!(result, Err(CallError::Deadline)), "{result:?}");
            assert!(Instant::now() >= deadline);
        }
        // Other calls are unaffected.
        call(&remote, "last", "[]").await.unwrap();
    });
    let requests = peer.join().unwrap();
    // The call whose deadline has passed already is not sent, unless it was written before that was noticed.
    assert!(matches!(requests.len(), 2 | 4), "{requests:?}");
    for pair in requests.chunks(2) {
        assert!(pair[0]["meta"]["deadline_ms"].as_u64().unwrap() <= 20, "{pair:?}");
        assert_eq!(pair[1]["method"], "$/cancelRequest");
        assert_eq!(pair[1]["params"]["id"], pair[0]["id"]);
    }
}

#[test]
fn calls_above_the_limit_of_waiting_calls_fail() {
    let (address, peer) = peer(|listener| {
        let mut link = Link::accept(&listener);
        let first = link.request();
        link.reply(&first, &Value::Null);
        // From here on the peer reads but does not reply.
        while link.next().is_some() {}
    });
    run(async |executor| {
        let remote = remote(&executor, &address);
        call(&remote, "first", "[]").await.unwrap();
        let mut waiting = Vec::new();
        loop {
            let mut call = Box::pin(call(&remote, "f", "[]"));
            match poll_once(&mut call).await {
                None => waiting.push(call),
                Some(Err(CallError::Busy { address: busy })) => {
                    assert_eq!(busy, address);
                    break;
                }
                Some(other) => panic!("{other:?}"),
            }
            assert!(waiting.len() <= 100_000, "there is no bound");
            yield_now().await;
        }
        assert!(waiting.len() >= 64, "only {} calls may wait", waiting.len());
        // Dropping one makes room for another.
        drop(waiting.pop());
        assert!(poll_once(call(&remote, "f", "[]")).await.is_none());
    });
    peer.join().unwrap();
}

#[test]
fn bytes_above_the_limit_of_waiting_bytes_fail() {
    let (done, is_done) = mpsc::channel::<()>();
    let (address, peer) = peer(move |listener| {
        let mut link = Link::accept(&listener);
        let first = link.request();
        link.reply(&first, &Value::Null);
        // From here on the peer does not even read, and finally disconnects.
        is_done.recv().unwrap_err();
        drop(link);
        let mut link = Link::accept(&listener);
        let request = link.request();
        assert_eq!(request["method"], "next", "what was lost is sent again");
        link.reply(&request, &Value::Null);
    });
    run(async |executor| {
        let remote = remote(&executor, &address);
        call(&remote, "first", "[]").await.unwrap();
        let large = format!("[\"{}\"]", "x".repeat(500_000));
        let mut waiting = Vec::new();
        loop {
            let mut call = Box::pin(call(&remote, "f", &large));
            match poll_once(&mut call).await {
                None => waiting.push(call),
                Some(Err(CallError::Busy { .. })) => break,
                Some(other) => panic!("{other:?}"),
            }
            // The system's buffers are not bounded by the library.
            assert!(waiting.len() <= 200, "there is no bound");
            yield_now().await;
        }
        let gone = remote.go_raw("f", None).deadline(far()).await;
        assert!(matches!(gone, Err(CallError::Busy { .. })), "{gone:?}");

        drop(done);
        for call in waiting {
            let result = call.await;
            // Nothing of the last call was sent.
            let ended = matches!(result, Err(CallError::Lost { .. } | CallError::Unreachable { .. }));
            assert!(ended, "{result:?}");
        }
        assert_eq!(call_when_up(&remote, "next", "[]").await.unwrap(), "null");
    });
    peer.join().unwrap();
}

/// The lines below that are replies without the id of a call.
const ANSWERS: [usize; 5] = [9, 12, 13, 14, 15];

/// A line that is not a reply is skipped or ends the connection. Either way no call hangs, none gets another's reply,
/// and the next call works.
#[test]
fn lines_that_are_not_replies() {
    let too_long = "x".repeat(200_000);
    let deep = "[".repeat(500);
    let garbage: Vec<Vec<u8>> = [
        "nonsense",
        "",
        "\r",
        "7",
        "null",
        "{}",
        "[]",
        "[[]]",
        "{",
        r#"{"jsonrpc":"2.0","id":4711,"result":"another's"}"#,
        r#"{"jsonrpc":"2.0","id":"1","result":"another's"}"#,
        r#"{"jsonrpc":"2.0","id":1.0,"result":"another's"}"#,
        r#"{"jsonrpc":"2.0","id":null,"result":"another's"}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}"#,
        r#"{"jsonrpc":"2.0","result":"another's"}"#,
        r#"{"jsonrpc":"2.0","id":[1],"result":"another's"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}"#,
        r#"{"jsonrpc":"2.0","method":"rpc.ping"}"#,
        r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}"#,
        &too_long,
        &deep,
    ]
    .into_iter()
    .map(|line| line.as_bytes().to_vec())
    .chain([b"\xff\xfe\x00".to_vec()])
    .collect();
    let count = garbage.len();
    let (address, peer) = peer(move |listener| {
        let mut ended = 0;
        let mut left = garbage.iter();
        'connections: loop {
            let mut link = Link::accept(&listener);
            while let Some(request) = link.next() {
                if request.get("method").is_none() {
                    assert_eq!(request["result"], "pong");
                } else if request["method"] == "ask" {
                    link.reply(&request, &request["params"]);
                } else if let Some(garbage) = left.next() {
                    link.write(garbage);
                    link.write("\n");
                    link.reply(&request, &request["params"]);
                } else {
                    link.reply(&request, &json!("the end"));
                    break 'connections;
                }
            }
            ended += 1;
        }
        ended
    });
    run(async |executor| {
        let limits = Limits::default().message(1024);
        let remote = Remote::builder(&address).executor(&executor).limits(limits).connect();
        for number in 0..count {
            match call_when_up(&remote, "f", &format!("[{number}]")).await {
                Ok(result) => assert_eq!(result, format!("[{number}]")),
                Err(CallError::Lost { .. }) => {}
                // It was a reply that can only belong to this call.
                Err(error)
                    if ANSWERS.contains(&number)
                        && error
                            .fault()
                            .is_some_and(|fault| matches!(fault.code, code::INTERNAL | code::PARSE)) => {}
                Err(other) => panic!("garbage {number}: {other:?}"),
            }
            let next = loop {
                match call_when_up(&remote, "ask", "[\"next\"]").await {
                    Err(CallError::Lost { .. }) => {}
                    result => break result,
                }
            };
            assert_eq!(next.unwrap(), "[\"next\"]", "after garbage {number}");
        }
        assert_eq!(call(&remote, "f", "[]").await.unwrap(), "\"the end\"");
    });
    // Only input that cannot be parsed to its end closes the connection.
    assert_eq!(peer.join().unwrap(), 1);
}

#[test]
fn dropping_the_client_closes_the_connection() {
    let (address, peer) = peer(|listener| {
        let mut link = Link::accept(&listener);
        let request = link.request();
        link.reply(&request, &Value::Null);
        assert_eq!(link.next(), None);
        // It does not reconnect: the next connection is that of the next client.
        drop(link);
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    run(async |executor| {
        let remote = remote(&executor, &address);
        call(&remote, "f", "[]").await.unwrap();
        drop(remote);
        // Lets the finished task be dropped.
        for _ in 0..100 {
            yield_now().await;
        }
    });
    let address: SocketAddr = address.parse().unwrap();
    TcpStream::connect(address).unwrap().write_all(b"the next").unwrap();
    assert_eq!(peer.join().unwrap(), "the next");
}

/// A peer that never stops sending is read continuously, but other tasks get to run.
#[test]
fn flooding_peer_does_not_starve_the_executor() {
    let stop = Arc::new(AtomicBool::new(false));
    let (address, peer) = peer({
        let stop = stop.clone();
        move |listener| {
            let mut link = Link::accept(&listener);
            link.request();
            let flood = r#"{"jsonrpc":"2.0","method":"nobody's","params":[]}"#.to_owned() + "\n";
            let flood = flood.repeat(2000);
            while !stop.load(Ordering::SeqCst) && link.0.get_mut().write_all(flood.as_bytes()).is_ok() {}
        }
    });
    // The executor runs on its own thread, so this one can notice when it is blocked.
    let (done, is_done) = mpsc::channel();
    let held = thread::spawn(move || {
        let executor = Arc::new(Executor::new());
        smol::block_on(executor.run(async {
            let remote = remote(&executor, &address);
            let deadline = Instant::now() + Duration::from_millis(100);
            let result = remote.call_raw("f", None).deadline(deadline).await;
            let _ = done.send(matches!(result, Err(CallError::Deadline)));
        }));
    });
    let ended = is_done.recv_timeout(Duration::from_secs(10));
    stop.store(true, Ordering::SeqCst);
    held.join().unwrap();
    peer.join().unwrap();
    assert_eq!(ended, Ok(true), "nothing but the flood had a turn");
}
