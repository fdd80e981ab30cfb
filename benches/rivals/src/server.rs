//! The state and the functions of every contestant's server, so that all do the same work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use smol::future::yield_now;

/// The capacity of a server's queue, where it is configurable.
pub(crate) const CAPACITY: usize = 128;

/// The state of a server, with its functions.
#[derive(Default)]
pub(crate) struct State {
    last: u64,
    seen: Gauge,
}

impl State {
    pub(crate) fn watched_by(seen: &Gauge) -> Self {
        Self { last: 0, seen: seen.clone() }
    }

    pub(crate) fn nothing(&mut self, n: u64) {
        self.last = n;
    }

    pub(crate) fn echo(&mut self, n: u64) -> u64 {
        self.last = n;
        n
    }

    pub(crate) fn twice(&mut self, n: u64) -> (u64, u64) {
        self.last = n;
        (n, n)
    }

    /// The function called in go mode and by timers.
    pub(crate) fn note(&mut self, n: u64) {
        self.last = n;
        self.seen.rise();
    }
}

/// A counter of the calls of [`State::note`], visible to all threads.
#[derive(Clone, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Only one server at a time uses it.
    pub(crate) fn rise(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    /// Yields to other tasks until the gauge has risen to `level`.
    pub(crate) async fn reach(&self, level: u64) {
        while self.0.load(Relaxed) < level {
            yield_now().await;
        }
    }
}

/// The arguments of one function as a type, for frameworks that select a handler by the message's type.
pub(crate) trait Ask: Send + 'static {
    type Answer: Send + 'static;
    fn run(self, state: &mut State) -> Self::Answer;
}

/// Generates message types from functions.
macro_rules! asks {
    ($($ask:ident: $function:ident -> $answer:ty;)+) => {$(
        pub(crate) struct $ask(pub(crate) u64);

        impl Ask for $ask {
            type Answer = $answer;

            fn run(self, state: &mut State) -> $answer {
                state.$function(self.0)
            }
        }
    )+};
}

asks! {
    Nothing: nothing -> ();
    Echo: echo -> u64;
    Twice: twice -> (u64, u64);
    Note: note -> ();
}

/// A closure to run on the state.
pub(crate) struct Run<F>(pub(crate) F);

impl<F: FnOnce(&mut State) -> u64 + Send + 'static> Ask for Run<F> {
    type Answer = u64;

    fn run(self, state: &mut State) -> u64 {
        (self.0)(state)
    }
}

/// The sending half of a oneshot channel.
pub(crate) trait Port: 'static {
    type To<T: Send + 'static>: Send + 'static;
    fn send<T: Send + 'static>(to: Self::To<T>, answer: T);
}

/// The arguments of all functions as one type, for hand-written loops and frameworks that need it.
pub(crate) enum Message<P: Port> {
    Nothing(u64, P::To<()>),
    Echo(u64, P::To<u64>),
    Twice(u64, P::To<(u64, u64)>),
    Note(u64),
    Run(Box<dyn FnOnce(&mut State) + Send>),
}

impl<P: Port> Message<P> {
    pub(crate) fn run(self, state: &mut State) {
        match self {
            Self::Nothing(n, to) => {
                state.nothing(n);
                P::send(to, ());
            }
            Self::Echo(n, to) => P::send(to, state.echo(n)),
            Self::Twice(n, to) => P::send(to, state.twice(n)),
            Self::Note(n) => state.note(n),
            Self::Run(job) => job(state),
        }
    }

    /// Creates a message that runs `job` and replies with its result.
    pub(crate) fn job(job: impl FnOnce(&mut State) -> u64 + Send + 'static, to: P::To<u64>) -> Self {
        Self::Run(Box::new(move |state| P::send(to, job(state))))
    }
}
