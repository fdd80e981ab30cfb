//! A large number of random calls of all kinds, each of which must be accounted for.
//!
//! Eight threads make 1,000,000 calls each, divided by `CHANRPC_TEST_SCALE`, which defaults to 10 so that a debug build
//! takes a few seconds. In full:
//!
//! ```sh
//! CHANRPC_TEST_SCALE=1 cargo test --profile checked --package stress
//! ```
//!
//! `CHANRPC_TEST_SEED`, which a failure prints, determines the calls, but not how the threads interleave.

use std::env;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use chanrpc::chan::{
    Call, CallError, Callbacks, Client, Closer, Functions, Id1, Responder, Server, ServerSettings, Stats,
};

const CALLERS: usize = 8;
const CALLS: usize = 1_000_000;
/// The number of rounds, each with new servers, one of which is closed midway.
const ROUNDS: usize = 12;
/// The maximum number of pending async calls of a caller.
const PENDING: usize = 5;
/// If nothing happens for this long, the test hangs.
const HANG: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(3600);

const ECHO: Id1<Argument, Receipt> = Id1::new("echo");
const SLOW: Id1<Argument, Receipt> = Id1::new("slow");
const PANIC: Id1<Argument, Receipt> = Id1::new("panic");
const LATER: Id1<Argument, Receipt> = Id1::new("later");
const NEVER: Id1<Argument, Receipt> = Id1::new("never");

/// How a server is driven.
#[derive(Clone, Copy, Debug)]
enum Driver {
    Run,
    Pinned,
    Exec,
}

const DRIVERS: [Driver; 3] = [Driver::Run, Driver::Pinned, Driver::Exec];

/// How a server is closed during calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// After the calls.
    Late,
    Close,
    Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Echo,
    Slow,
    Panic,
    Later,
    Never,
}

impl Does {
    fn id(self) -> Id1<Argument, Receipt> {
        match self {
            Self::Echo => ECHO,
            Self::Slow => SLOW,
            Self::Panic => PANIC,
            Self::Later => LATER,
            Self::Never => NEVER,
        }
    }
}

/// The outcome of a call, as seen by its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Panicked,
    Unanswered,
    Deadline,
    Full,
    Closed,
    /// The caller dropped it.
    Dropped,
    /// A go call that was queued.
    Queued,
    /// The maximum number of async calls was pending.
    TooMany,
    /// The caller dropped all of its async calls.
    Unheard,
}

/// A call and its outcome, for the final comparison.
#[derive(Clone, Copy, Debug)]
struct Made {
    server: usize,
    does: Does,
    outcome: Option<Outcome>,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// The number of values created and dropped.
#[derive(Debug, Default)]
struct Lives {
    made: AtomicUsize,
    dropped: AtomicUsize,
}

impl Lives {
    fn assert_over(&self, what: &str) {
        let (made, dropped) = (self.made.load(Ordering::SeqCst), self.dropped.load(Ordering::SeqCst));
        assert_eq!(made, dropped, "{what} made and dropped");
    }
}

/// State shared by all threads of a round.
struct Round {
    arguments: Lives,
    receipts: Lives,
    callbacks: Lives,
    /// By caller and call: whether the function has run.
    ran: Vec<Vec<AtomicBool>>,
    /// By caller: the index of its current call, to diagnose a hang.
    at: [AtomicU64; CALLERS],
    faults: AtomicUsize,
}

impl Round {
    /// Faults found by functions, which cannot panic, because that would only be their callers' error.
    fn fault(&self, text: &str) {
        self.faults.fetch_add(1, Ordering::SeqCst);
        eprintln!("{text}");
    }
}

/// A value that knows its call.
struct Tag {
    caller: usize,
    serial: usize,
    round: Arc<Round>,
    lives: fn(&Round) -> &Lives,
}

impl Tag {
    fn new(round: &Arc<Round>, caller: usize, serial: usize, lives: fn(&Round) -> &Lives) -> Self {
        lives(round).made.fetch_add(1, Ordering::Relaxed);
        Self { caller, serial, round: round.clone(), lives }
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        (self.lives)(&self.round).dropped.fetch_add(1, Ordering::Relaxed);
    }
}

struct Argument(Tag);
struct Receipt(Tag);

/// A sync call that is not awaited yet.
type Pending<'c> = Pin<Box<Call<'c, Argument, Receipt>>>;

/// A server's state.
struct Book {
    round: Arc<Round>,
    /// By caller: the latest call.
    latest: [Option<usize>; CALLERS],
    ran: u64,
    answers: mpsc::Sender<(Responder<Receipt>, Argument)>,
    /// Calls that are never answered.
    kept: Vec<(Responder<Receipt>, Argument)>,
}

impl Book {
    fn enter(&mut self, argument: &Argument) {
        let Tag { caller, serial, .. } = argument.0;
        self.ran += 1;
        if self.round.ran[caller][serial].swap(true, Ordering::SeqCst) {
            self.round.fault(&format!("call {serial} of caller {caller} ran twice"));
        }
        if let Some(latest) = self.latest[caller].replace(serial).filter(|latest| *latest >= serial) {
            self.round.fault(&format!("call {serial} of caller {caller} ran after its call {latest}"));
        }
    }
}

fn receipt(argument: &Argument) -> Receipt {
    let Tag { caller, serial, ref round, .. } = argument.0;
    Receipt(Tag::new(round, caller, serial, |round| &round.receipts))
}

fn functions() -> Functions<Book> {
    let mut functions = Functions::new();
    functions
        .register(ECHO, |book: &mut Book, argument| {
            book.enter(&argument);
            receipt(&argument)
        })
        .unwrap()
        .register_async(SLOW, |book, argument| {
            Box::pin(async move {
                book.enter(&argument);
                smol::future::yield_now().await;
                receipt(&argument)
            })
        })
        .unwrap()
        .register(PANIC, |book, argument| -> Receipt {
            book.enter(&argument);
            panic!("as it was told");
        })
        .unwrap()
        .register_deferred(LATER, |book, argument, responder| {
            book.enter(&argument);
            book.answers.send((responder, argument)).unwrap();
        })
        .unwrap()
        .register_deferred(NEVER, |book, argument, responder| {
            book.enter(&argument);
            book.kept.push((responder, argument));
            if book.kept.len() > 16 {
                book.kept.remove(0);
            }
        })
        .unwrap();
    functions
}

/// Replies to some calls and leaves others unanswered.
fn answer(calls: &mpsc::Receiver<(Responder<Receipt>, Argument)>, mut random: Random) {
    for (responder, argument) in calls {
        match random.below(8) {
            0 => drop(responder),
            1 if responder.is_abandoned() => {}
            _ => responder.reply(receipt(&argument)),
        }
    }
}

/// Drives the server until it is closed, and returns its state.
fn serve(driver: Driver, mut server: Server<Book>) -> Book {
    match driver {
        Driver::Run => smol::block_on(server.run()),
        Driver::Pinned => smol::block_on(server.run_pinned()),
        Driver::Exec => smol::block_on(async {
            while server.ready().await {
                server.exec().await;
            }
            let book = server.state_mut();
            let (answers, _) = mpsc::channel();
            let empty = Book {
                round: book.round.clone(),
                latest: [None; CALLERS],
                ran: 0,
                answers,
                kept: Vec::new(),
            };
            std::mem::replace(book, empty)
        }),
    }
}

/// Polls once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The state of a caller's callbacks.
struct Log {
    caller: usize,
    made: Vec<Made>,
}

impl Log {
    /// Records the outcome of a call.
    fn end(&mut self, serial: usize, result: Result<Receipt, CallError>) {
        let outcome = match result {
            Ok(Receipt(tag)) => {
                assert_eq!((tag.caller, tag.serial), (self.caller, serial), "another call's answer");
                Outcome::Answered
            }
            Err(CallError::Panicked(_)) => Outcome::Panicked,
            Err(CallError::Unanswered) => Outcome::Unanswered,
            Err(CallError::Deadline) => Outcome::Deadline,
            Err(CallError::Full) => Outcome::Full,
            Err(CallError::Closed) => Outcome::Closed,
            Err(error) => panic!("call {serial} of caller {}: {error}", self.caller),
        };
        self.set(serial, outcome);
    }

    fn set(&mut self, serial: usize, outcome: Outcome) {
        let before = self.made[serial].outcome.replace(outcome);
        assert!(
            before.is_none(),
            "call {serial} of caller {} ended twice: {before:?}, {outcome:?}",
            self.caller
        );
    }
}

/// The parameters of a caller.
struct Task {
    round: Arc<Round>,
    caller: usize,
    clients: Vec<Client>,
    random: Random,
    /// The call at which it closes a server, and which server, if it is the one that does.
    closes: Option<(usize, Closer, End)>,
}

/// Makes the calls of one caller.
fn call(task: Task) -> Vec<Made> {
    let Task { round, caller, clients, mut random, closes } = task;
    let mut log = Log { caller, made: Vec::new() };
    let mut callbacks: Callbacks<Log> = Callbacks::new(PENDING);
    let mut open: Vec<(usize, Pending<'_>)> = Vec::new();
    for serial in 0..round.ran[caller].len() {
        round.at[caller].store(serial as u64, Ordering::Relaxed);
        if let Some((at, closer, end)) = &closes
            && *at == serial
        {
            match end {
                End::Drain => assert!(smol::block_on(closer.drain(LONG))),
                End::Close | End::Late => closer.close(),
            }
        }
        let server = random.below(clients.len());
        let client = &clients[server];
        let (does, patient) = match random.below(400) {
            0..300 => (Does::Echo, true),
            300..350 => (Does::Later, true),
            350..390 => (Does::Slow, true),
            390..398 => (Does::Panic, true),
            _ => (Does::Never, false),
        };
        log.made.push(Made { server, does, outcome: None });
        let argument = Argument(Tag::new(&round, caller, serial, |round| &round.arguments));
        let time = match random.below(40) {
            0..30 => LONG,
            30..38 => Duration::ZERO,
            n => Duration::from_micros(n as u64),
        };
        // A call that is never answered always has a timeout.
        let time = if patient { time } else { time.min(Duration::from_micros(50)) };
        let callback = {
            let held = Tag::new(&round, caller, serial, |round| &round.callbacks);
            move |log: &mut Log, result| {
                let held = held;
                log.end(held.serial, result);
            }
        };
        let fresh = |argument| client.call(does.id(), argument);
        match random.below(100) {
            0..20 if patient => log.end(serial, fresh(argument).wait()),
            20..30 if patient => log.end(serial, smol::block_on(async { fresh(argument).await })),
            30..35 if patient => log.end(serial, fresh(argument).unless_full().wait()),
            0..40 => log.end(serial, fresh(argument).timeout(time).wait()),
            40..55 => {
                let mut call = Box::pin(fresh(argument));
                // The first poll may only yield.
                let first = poll(call.as_mut());
                match if first.is_pending() { poll(call.as_mut()) } else { first } {
                    Poll::Ready(result) => log.end(serial, result),
                    Poll::Pending => open.push((serial, call)),
                }
            }
            55..70 => match client.go(does.id(), argument) {
                Ok(()) => log.set(serial, Outcome::Queued),
                Err(refused) => {
                    let error = refused.error().clone();
                    assert_eq!(refused.into_inner().0.serial, serial, "the arguments of another call");
                    log.end(serial, Err(error));
                }
            },
            70..75 => match client.go_when_room(does.id(), argument).timeout(time).wait() {
                Ok(()) => log.set(serial, Outcome::Queued),
                Err(error) => log.end(serial, Err(error)),
            },
            way => {
                let mut call = callbacks.call(client, does.id(), argument);
                if way >= 80 || !patient {
                    call = call.timeout(time);
                }
                if let Err(refused) = call.then(callback) {
                    assert_eq!(refused.into_inner().0.serial, serial, "the arguments of another call");
                    log.set(serial, Outcome::TooMany);
                    smol::block_on(callbacks.next()).run(&mut log);
                }
            }
        }
        if random.below(4) == 0 {
            while let Some(callback) = callbacks.try_next() {
                callback.run(&mut log);
            }
        }
        if !open.is_empty() && (random.below(4) == 0 || open.len() > 8) {
            let (serial, mut call) = open.swap_remove(random.below(open.len()));
            match poll(call.as_mut()) {
                Poll::Ready(result) => log.end(serial, result),
                Poll::Pending if random.below(2) == 0 || log.made[serial].does == Does::Never => {
                    drop(call);
                    log.set(serial, Outcome::Dropped);
                }
                Poll::Pending => log.end(serial, smol::block_on(call)),
            }
        }
    }
    for (serial, call) in open {
        drop(call);
        log.set(serial, Outcome::Dropped);
    }
    if random.below(2) == 0 {
        while callbacks.pending() > 0 {
            smol::block_on(callbacks.next()).run(&mut log);
        }
    } else {
        drop(callbacks);
        for made in &mut log.made {
            made.outcome.get_or_insert(Outcome::Unheard);
        }
    }
    log.made
}

/// Compares the callers' outcomes with the server's records, and returns a summary of both.
fn reckon(server: usize, end: End, made: &[Vec<Made>], round: &Round, book: &Book, stats: Stats) -> String {
    let mut counts = [0_u64; 10];
    let [mut ran_in_all, mut panics, mut given_up] = [0_u64; 3];
    for (caller, made) in made.iter().enumerate() {
        for (serial, call) in made.iter().enumerate().filter(|(_, call)| call.server == server) {
            let ran = round.ran[caller][serial].load(Ordering::SeqCst);
            let outcome =
                call.outcome.unwrap_or_else(|| panic!("call {serial} of caller {caller} never ended"));
            counts[outcome as usize] += 1;
            ran_in_all += u64::from(ran);
            panics += u64::from(ran && call.does == Does::Panic);
            let fits = match outcome {
                Outcome::Answered => ran && !matches!(call.does, Does::Panic | Does::Never),
                Outcome::Panicked => ran && call.does == Does::Panic,
                Outcome::Unanswered => match call.does {
                    Does::Later | Does::Never => ran,
                    // Closing ends an async function at its await.
                    Does::Slow => ran && end == End::Close,
                    _ => false,
                },
                Outcome::Full | Outcome::TooMany => !ran,
                Outcome::Closed => !ran && end != End::Late,
                Outcome::Queued => ran || end == End::Close,
                Outcome::Deadline | Outcome::Dropped | Outcome::Unheard => {
                    given_up += u64::from(!ran);
                    true
                }
            };
            assert!(fits, "call {serial} of caller {caller}: {call:?}, ran: {ran}, {end:?}");
        }
    }
    let of = |outcome: Outcome| counts[outcome as usize];
    assert_eq!(stats.executed, ran_in_all, "{stats:?}");
    assert_eq!(stats.executed, book.ran, "{stats:?}");
    assert_eq!(stats.panicked, panics, "{stats:?}");
    // Callbacks that did not run may have been due to a full queue or a deadline.
    let refused = stats.refused.checked_sub(of(Outcome::Full)).unwrap_or(u64::MAX);
    let late = stats.timed_out.checked_sub(of(Outcome::Deadline)).unwrap_or(u64::MAX);
    assert!(refused.saturating_add(late) <= of(Outcome::Unheard), "{counts:?} {stats:?}");
    assert!(stats.cancelled <= given_up, "{given_up} were given up: {stats:?}");
    assert_eq!((stats.queued, stats.waiting), (0, 0), "{stats:?}");
    assert!(stats.high_water <= stats.capacity, "{stats:?}");
    format!("{counts:?} {stats:?}")
}

fn round(seed: u64, number: usize, calls: usize) {
    let mut random = Random(seed ^ (number as u64) << 32);
    let round = Arc::new(Round {
        arguments: Lives::default(),
        receipts: Lives::default(),
        callbacks: Lives::default(),
        ran: (0..CALLERS).map(|_| (0..calls).map(|_| AtomicBool::new(false)).collect()).collect(),
        at: Default::default(),
        faults: AtomicUsize::new(0),
    });
    let (answers, to_answer) = mpsc::channel();
    let answerer = thread::spawn({
        let random = Random(random.next());
        move || answer(&to_answer, random)
    });

    let target = number % DRIVERS.len();
    let end = if (number / DRIVERS.len()).is_multiple_of(2) { End::Close } else { End::Drain };
    let functions = Arc::new(functions());
    let (mut clients, mut closers, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for driver in DRIVERS {
        let book = Book {
            round: round.clone(),
            latest: [None; CALLERS],
            ran: 0,
            answers: answers.clone(),
            kept: Vec::new(),
        };
        let name = format!("{driver:?}");
        let settings = ServerSettings::default().name(name).capacity(1 + random.below(24)).backtrace_limit(0);
        let server = Server::with_settings(book, functions.clone(), settings);
        clients.push(server.client());
        closers.push(server.closer());
        owners.push(thread::spawn(move || serve(driver, server)));
    }
    drop(answers);

    let (done, results) = mpsc::channel();
    let closing = calls / 2 + random.below(calls / 2);
    for caller in 0..CALLERS {
        let closes = (caller == 0).then(|| (closing, closers[target].clone(), end));
        let (round, clients, random) = (round.clone(), clients.clone(), Random(random.next()));
        let task = Task { round, caller, clients, random, closes };
        let done = done.clone();
        thread::spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| call(task)));
            // It is not joined if another thread has failed.
            let _ = done.send((caller, result));
        });
    }

    let mut made = vec![Vec::new(); CALLERS];
    let mut before = Vec::new();
    let mut left = CALLERS;
    while left > 0 {
        match results.recv_timeout(HANG) {
            Ok((caller, result)) => {
                made[caller] = result.unwrap_or_else(|_| panic!("caller {caller} failed; see above"));
                left -= 1;
            }
            Err(_) => {
                let at: Vec<_> = round.at.iter().map(|at| at.load(Ordering::Relaxed)).collect();
                assert_ne!(
                    at, before,
                    "nothing goes on; {left} callers are left, at these calls; {clients:#?}"
                );
                before = at;
            }
        }
    }
    for (server, closer) in closers.iter().enumerate() {
        // A closed server has not run all calls.
        let closed = server == target && matches!(end, End::Close);
        assert!(smol::block_on(closer.drain(HANG)) || closed, "an owner does not end: {clients:#?}");
    }
    let books: Vec<_> = owners.into_iter().map(|owner| owner.join().unwrap()).collect();
    for (server, book) in books.iter().enumerate() {
        let end = if server == target { end } else { End::Late };
        let stats = clients[server].stats();
        let sums = reckon(server, end, &made, &round, book, stats);
        println!("round {number}: {:?}, {end:?}: {sums}", DRIVERS[server]);
        let lends = matches!(DRIVERS[server], Driver::Run);
        assert!(lends || stats.in_place == 0, "its loop never lends the state: {stats:?}");
    }
    drop(books);
    answerer.join().unwrap();
    drop((clients, closers));
    round.arguments.assert_over("arguments");
    round.receipts.assert_over("results");
    round.callbacks.assert_over("callbacks");
    assert_eq!(round.faults.load(Ordering::SeqCst), 0, "see above");
    assert_eq!(Arc::strong_count(&round), 1, "something is left of the round");
}

fn variable(name: &str, default: u64) -> u64 {
    env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

#[test]
fn millions_of_calls_are_all_accounted_for() {
    struct Seed(u64);
    impl Drop for Seed {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("to see it again, perhaps: CHANRPC_TEST_SEED={}", self.0);
            }
        }
    }
    let seed = Seed(variable("CHANRPC_TEST_SEED", 20_240_229));
    let scale = usize::try_from(variable("CHANRPC_TEST_SCALE", 10).max(1)).unwrap();
    let calls = (CALLS / scale).div_ceil(ROUNDS).max(2);
    for number in 0..ROUNDS {
        round(seed.0, number, calls);
    }
}
