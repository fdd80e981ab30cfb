//! Waits that cannot end, and waits that only appear so.

use std::time::Instant;

use super::*;

/// A chain of servers that wait for each other, nested on one thread.
fn nested(servers: usize) -> Vec<(Client, Server<Option<Client>>)> {
    let mut functions = Functions::new();
    functions
        .register1("pass on", |next: &mut Option<Client>, (): ()| -> Result<u64, CallError> {
            match next {
                Some(next) => next.call1::<_, Result<u64, CallError>>("pass on", ()).wait()?.map(|n| n + 1),
                None => Ok(1),
            }
        })
        .unwrap();
    let functions = Arc::new(functions);
    let mut next = None;
    let mut made = Vec::new();
    for _ in 0..servers {
        let server = Server::new(next.take(), functions.clone());
        next = Some(server.client());
        made.push((server.client(), server));
    }
    made.reverse();
    made
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn nested_calls_in_place_do_not_overflow_the_stack() {
    // All loops are polled here and nowhere else.
    let (clients, mut loops): (Vec<_>, Vec<_>) =
        nested(3000).into_iter().map(|(client, server)| (client, asleep(server.run()))).unzip();
    let result = clients[0].call1::<_, Result<u64, CallError>>("pass on", ()).wait().unwrap();
    assert!(matches!(result, Err(CallError::WouldDeadlock { .. })), "{result:?}");
    // Cancelled calls never start, and all servers still work.
    for run in &mut loops {
        assert!(poll(run).is_pending());
    }
    let last = clients[2990].call1::<_, Result<u64, CallError>>("pass on", ()).wait().unwrap();
    assert_eq!(last.unwrap(), 10);
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn long_chain_of_calls_runs_with_enough_threads() {
    let executor = smol::Executor::new();
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    let mut clients = Vec::new();
    for (client, server) in nested(200) {
        clients.push(client);
        executor.spawn(server.run()).detach();
    }
    // A loop that has not started lends no state, so a call of its server would block a thread, and there are eight.
    while executor.try_tick() {}
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| block_on(executor.run(stopped.recv())));
        }
        let result = clients[0].call1::<_, Result<u64, CallError>>("pass on", ()).wait().unwrap();
        assert_eq!(result.unwrap(), 200);
        drop(stop);
    });
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn pinned_servers_of_one_thread_blocking_on_each_other_fail() {
    let owner = thread::spawn(|| {
        let executor = smol::LocalExecutor::new();
        let mut made = nested(2);
        let (inner, second) = made.pop().unwrap();
        let (outer, first) = made.pop().unwrap();
        let _first = executor.spawn(first.run_pinned());
        let _second = executor.spawn(second.run_pinned());
        block_on(executor.run(async {
            // Both have been polled.
            assert_eq!(inner.call1::<_, Result<u64, CallError>>("pass on", ()).await.unwrap().unwrap(), 1);
            outer.call1::<_, Result<u64, CallError>>("pass on", ()).await.unwrap()
        }))
    });
    let result = ended(owner);
    assert!(matches!(result, Err(CallError::WouldDeadlock { .. })), "{result:?}");
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn pinned_servers_blocking_each_others_threads_fail() {
    // Each thread has a function that waits, and one that the other thread waits for.
    let meet = Arc::new(Barrier::new(2));
    let mut functions = Functions::new();
    functions
        .register1("wait", {
            let meet = meet.clone();
            move |_: &mut (), other: Client| {
                meet.wait();
                other.call1::<_, u64>("one", 0).wait()
            }
        })
        .unwrap()
        .register1("one", |(), _: i32| 1_u64)
        .unwrap();
    let functions = Arc::new(functions);
    let (clients, threads): (Vec<_>, Vec<_>) = (0..2)
        .map(|_| {
            let (waits, answers) = (Server::new((), functions.clone()), Server::new((), functions.clone()));
            let clients = (waits.client(), answers.client());
            let thread = thread::spawn(move || {
                block_on(smol::future::zip(waits.run_pinned(), answers.run_pinned()));
            });
            (clients, thread)
        })
        .unzip();
    for (waits, answers) in &clients {
        for client in [waits, answers] {
            assert_eq!(client.call1::<_, u64>("one", 0).wait().unwrap(), 1);
        }
    }
    let (first, second) = (&clients[0], &clients[1]);
    let mut calls = [
        first.0.call1::<_, Result<u64, CallError>>("wait", second.1.clone()),
        second.0.call1::<_, Result<u64, CallError>>("wait", first.1.clone()),
    ];
    assert!(calls.iter_mut().all(|call| poll(call).is_pending()));
    let results = calls.map(|call| call.wait().unwrap());
    // One fails, which unblocks the other; both may fail.
    assert!(
        results.iter().any(|result| matches!(result, Err(CallError::WouldDeadlock { .. }))),
        "{results:?}"
    );
    assert_eq!(first.1.call1::<_, u64>("one", 0).wait().unwrap(), 1);
    drop(clients);
    threads.into_iter().for_each(ended);
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn tasks_on_an_executor_driven_by_a_function_are_separate_waiters() {
    let executor = Arc::new(smol::Executor::new());
    let mut functions = Functions::new();
    functions
        .register0("drive", {
            let executor = executor.clone();
            move |_: &mut (), goes_on: smol::channel::Receiver<()>| {
                let _ = block_on(executor.run(goes_on.recv()));
            }
        })
        .unwrap()
        .register1("one", |(), ()| 1_u64)
        .unwrap();
    let functions = Arc::new(functions);
    let server = Server::new((), functions);
    let client = server.client();
    let owner = thread::spawn(move || block_on(server.run_pinned()));
    let (go_on, goes_on) = smol::channel::bounded::<()>(1);
    let mut drive = client.call0("drive", goes_on);
    assert!(poll(&mut drive).is_pending());
    // The function polls the task, whose call is answered after the function ends.
    let (polled, is_polled) = mpsc::channel::<()>();
    let unrelated = executor.spawn({
        let client = client.clone();
        async move {
            let mut call = client.call1::<_, u64>("one", ());
            let early = poll(&mut call);
            polled.send(()).unwrap();
            match early {
                Poll::Ready(result) => result,
                Poll::Pending => call.await,
            }
        }
    });
    got(&is_polled);
    drop(go_on);
    drive.wait().unwrap();
    let result = block_on(executor.run(unrelated));
    assert!(matches!(result, Ok(1)), "{result:?}");
    drop(client);
    ended(owner);
}

#[test]
#[cfg_attr(miri, ignore = "a timer needs the reactor")]
fn plain_function_awaiting_its_own_server_fails() {
    let mut functions = Functions::new();
    functions
        .register1("self", |me: &mut Option<Client>, (): ()| {
            let me = me.take().unwrap();
            // Not with `wait`, so it is only likely that the function itself waits.
            smol::block_on(async { me.call1::<_, u64>("one", ()).await })
        })
        .unwrap()
        .register1("one", |_, ()| 1_u64)
        .unwrap();
    let mut server = Server::new(None, functions);
    *server.state_mut() = Some(server.client());
    let client = server.client();
    let owner = thread::spawn(move || drop(block_on(server.run())));
    let result = client.call1::<_, Result<u64, CallError>>("self", ()).wait().unwrap();
    let Err(CallError::WouldDeadlock { chain }) = result else { panic!("{result:?}") };
    assert_eq!(chain.len(), 2);
    drop(client);
    ended(owner);
}

/// A server whose function waits for the given servers until it is dropped.
fn waiting() -> (Client, thread::JoinHandle<()>) {
    let mut functions = Functions::new();
    functions
        .register_async(
            Id0::new("wait for"),
            |_: &mut (), (others, begun): (Vec<Client>, mpsc::Sender<()>)| {
                Box::pin(async move {
                    let mut calls: Vec<_> = others.iter().map(|other| other.call0("nothing", ())).collect();
                    std::future::poll_fn(|cx| {
                        for call in &mut calls {
                            let _ = pin!(call).poll(cx);
                        }
                        let _ = begun.send(());
                        Poll::<()>::Pending
                    })
                    .await;
                })
            },
        )
        .unwrap()
        .register0("nothing", |(), ()| ())
        .unwrap();
    let server = Server::new((), functions);
    let client = server.client();
    (client, thread::spawn(move || block_on(server.run())))
}

#[test]
#[cfg_attr(miri, ignore = "too many servers")]
fn long_wait_chain_and_hub_do_not_slow_down_others() {
    let mut functions = Functions::new();
    functions.register0("nothing", |_: &mut (), ()| ()).unwrap();
    let functions = Arc::new(functions);
    let servers: Vec<_> = (0..scale(20_000)).map(|_| Server::new((), functions.clone())).collect();
    let others: Vec<_> = servers.iter().map(Server::client).collect();
    let (hub, hub_owner) = waiting();
    let (begins, begun) = mpsc::channel::<()>();
    let closer = hub.clone();
    closer.go("wait for", (others, begins)).unwrap();
    got(&begun);
    // Another function waits for the hub; its waits need not be searched.
    let (one, one_owner) = waiting();
    let (begins, begun) = mpsc::channel::<()>();
    let start = Instant::now();
    one.go("wait for", (vec![hub.clone(); 1000], begins)).unwrap();
    got(&begun);
    assert!(start.elapsed() < LIMIT / 4, "{:?}", start.elapsed());
    // The ends of those loops.
    drop(servers);
    drop((hub, closer, one));
    std::mem::drop((hub_owner, one_owner));
}
