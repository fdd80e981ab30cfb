//! A drain reports whether all calls ran, however the server ends.

use super::*;

fn drained(closer: &Closer) -> bool {
    block_on(closer.drain(LIMIT))
}

fn with_ten_queued() -> (Server<Ledger>, Client, Closer) {
    let server = server(16);
    let (client, closer) = (server.client(), server.closer());
    for n in 0..10_u64 {
        client.go("write", n).unwrap();
    }
    (server, client, closer)
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn drain_is_false_if_the_servers_task_is_cancelled_with_calls_queued() {
    // The task is dropped before its first poll, alone or with its executor; or the server is dropped without a task.
    let (server, client, closer) = with_ten_queued();
    drop(server.run());
    assert!(!drained(&closer));
    assert_eq!(client.stats().executed, 0);

    let (server, _client, closer) = with_ten_queued();
    drop(server.run_pinned());
    assert!(!drained(&closer));

    let (server, _client, closer) = with_ten_queued();
    let executor = smol::Executor::new();
    executor.spawn(server.run()).detach();
    drop(executor);
    assert!(!drained(&closer));

    let (server, _client, closer) = with_ten_queued();
    drop(server);
    assert!(!drained(&closer));

    // A caller waiting for capacity is left too.
    let server = self::server(1);
    let (client, closer) = (server.client(), server.closer());
    let mut server = Box::pin(server.run());
    assert!(poll(&mut server).is_pending());
    client.go("write", 1_u64).unwrap();
    let mut waits = Box::pin(client.go_when_room("write", 2_u64));
    assert!(poll(&mut waits).is_pending());
    drop(server);
    assert!(!drained(&closer));
    assert!(matches!(poll(&mut waits), Poll::Ready(Err(CallError::Closed))));
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn drain_is_false_if_the_servers_task_is_cancelled_between_calls() {
    // Between two calls that it has taken, where an async function yields.
    let (server, values) = awaiting();
    let (client, closer) = (server.client(), server.closer());
    let mut run = asleep(server.run());
    client.go("take", ()).unwrap();
    client.go("take", ()).unwrap();
    turns(&mut run);
    values.try_send(1).unwrap();
    // The second call is taken, and under way.
    turns(&mut run);
    drop(run);
    assert!(!drained(&closer));

    // The only call is async.
    let (server, _values) = awaiting();
    let (client, closer) = (server.client(), server.closer());
    let mut run = asleep(server.run());
    client.go("take", ()).unwrap();
    turns(&mut run);
    drop(run);
    assert!(!drained(&closer));

    // It is closed while it awaits, and its task is dropped before it notices.
    let (server, _values) = awaiting();
    let (client, closer) = (server.client(), server.closer());
    let mut run = asleep(server.run());
    client.go("take", ()).unwrap();
    turns(&mut run);
    closer.close();
    end(&mut run);
    drop(run);
    assert!(!drained(&closer));
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn drain_is_true_if_a_dropped_exec_left_nothing_pending() {
    let (mut server, values) = awaiting();
    let (client, closer) = (server.client(), server.closer());
    let mut given_up = client.call0("take", ());
    assert!(poll(&mut given_up).is_pending());
    assert!(poll(&mut Box::pin(server.exec())).is_pending());
    assert!(matches!(poll(&mut given_up), Poll::Ready(Err(CallError::Unanswered))));
    client.go("take", ()).unwrap();
    values.try_send(1).unwrap();
    assert!(exec(&mut server));
    server.close();
    drop(server);
    assert!(drained(&closer));
    // During a drain, however, an aborted call has not run.
    let (mut server, _values) = awaiting();
    let (client, closer) = (server.client(), server.closer());
    client.go("take", ()).unwrap();
    let mut drain = Box::pin(closer.drain(LIMIT));
    assert!(poll(&mut drain).is_pending());
    assert!(poll(&mut Box::pin(server.exec())).is_pending());
    drop(server);
    assert!(!block_on(drain));
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn drain_waits_for_a_function_running_in_place() {
    let (drops, gate) = (Drops::default(), Gate::default());
    let server = placed(&drops, &gate);
    let (client, closer) = (server.client(), server.closer());
    let run = asleep(server.run());
    let (begins, begun) = mpsc::channel();
    let (open, opened) = mpsc::channel();
    *gate.lock().unwrap() = Some((begins, opened));
    let caller = thread::spawn(move || client.call0("block", 1_u64).wait());
    got(&begun);
    drop(run);
    let mut drain = Box::pin(closer.drain(LIMIT));
    assert!(poll(&mut drain).is_pending(), "the function has not ended");
    drop(open);
    assert!(block_on(drain));
    ended(caller).unwrap();
}
