//! Which sources of a loop have something, so that the others need not be asked.
//!
//! Each source is polled with a waker of its own, which notes the source and then wakes the loop.

use crate::chan::sync::Mutex;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// The sources of events, which have their turns in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Calls,
    Posts,
    Callbacks,
    Returns,
    Timers,
}

impl Source {
    const ALL: [Self; 5] = [Self::Calls, Self::Posts, Self::Callbacks, Self::Returns, Self::Timers];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Events that one source may have before it is the next one's turn.
const SHARE: usize = 16;

/// The loop's view of its sources.
pub(super) struct Sources {
    noted: Arc<Noted>,
    wakers: [Waker; Source::ALL.len()],
    /// Those that may have something, one bit each.
    ready: u8,
    /// Whose turn it is, and how many events of its share are left.
    turn: usize,
    left: usize,
}

/// What wakers have noted for the loop.
#[derive(Default)]
pub(super) struct Noted(Mutex<State>);

#[derive(Default)]
struct State {
    ready: u8,
    sleeper: Option<Waker>,
}

struct Note {
    noted: Arc<Noted>,
    source: Source,
}

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.noted.note(self.source.bit());
    }
}

impl Noted {
    /// Has the loop look at everything again.
    pub(super) fn all(&self) {
        self.note(Source::ALL.into_iter().fold(0, |bits, source| bits | source.bit()));
    }

    fn note(&self, bits: u8) {
        let mut state = self.0.lock();
        state.ready |= bits;
        let sleeper = state.sleeper.take();
        drop(state);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

impl Sources {
    pub(super) fn new(noted: &Arc<Noted>) -> Self {
        let wakers = Source::ALL.map(|source| Waker::from(Arc::new(Note { noted: noted.clone(), source })));
        noted.all();
        Self { noted: noted.clone(), wakers, ready: 0, turn: 0, left: SHARE }
    }

    /// Asks sources with `poll` until one has something. Each has its share before it is the next one's turn.
    /// When none has, the loop is woken as soon as that changes.
    pub(super) fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        mut poll: impl FnMut(Source, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        loop {
            if self.ready == 0 || self.left == 0 {
                std::task::ready!(self.poll_noted(cx));
            }
            let source = Source::ALL[self.turn];
            if self.left > 0 && self.ready & source.bit() != 0 {
                match poll(source, &mut Context::from_waker(&self.wakers[self.turn])) {
                    Poll::Ready(event) => {
                        self.left -= 1;
                        return Poll::Ready(event);
                    }
                    Poll::Pending => self.ready &= !source.bit(),
                }
            }
            self.turn = (self.turn + 1) % Source::ALL.len();
            self.left = SHARE;
        }
    }

    /// Takes over what was noted, and sleeps if no source may have something.
    fn poll_noted(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut noted = self.noted.0.lock();
        self.ready |= std::mem::take(&mut noted.ready);
        if self.ready != 0 {
            return Poll::Ready(());
        }
        let old = match &noted.sleeper {
            Some(sleeper) if sleeper.will_wake(cx.waker()) => None,
            _ => noted.sleeper.replace(cx.waker().clone()),
        };
        drop(noted);
        drop(old);
        Poll::Pending
    }
}
