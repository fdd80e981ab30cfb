//! The sources of a loop's events, of which only the ready ones are polled.
//!
//! A producer first stores its item, then marks its source as ready, which wakes the loop. The loop first takes the set
//! of ready sources, then polls them; so it misses no item.

use crate::chan::sync::{AtomicU8, Mutex, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// The sources of events, in the order in which they are polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Calls,
    Posts,
    Callbacks,
    Completions,
    Timers,
}

impl Source {
    const ALL: [Self; 5] = [Self::Calls, Self::Posts, Self::Callbacks, Self::Completions, Self::Timers];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The maximum number of consecutive events of one source.
const SHARE: usize = if cfg!(chanrpc_loom) { 1 } else { 16 };

/// The loop's view of its sources.
pub(super) struct Sources {
    ready_set: Arc<ReadySet>,
    wakers: [Waker; Source::ALL.len()],
    /// The sources that may have an event, one bit each.
    ready: u8,
    /// The ready sources that were marked again meanwhile.
    again: u8,
    /// The current source, and the rest of its share of events.
    turn: usize,
    left: usize,
}

/// The set of sources that may have an event.
#[derive(Default)]
pub(super) struct ReadySet {
    /// A bit for each ready source, and [`ASLEEP`].
    bits: AtomicU8,
    sleeper: Mutex<Option<Waker>>,
}

/// The loop sleeps, so the first mark wakes it.
const ASLEEP: u8 = 1 << 7;

struct SourceWaker {
    ready_set: Arc<ReadySet>,
    source: Source,
}

impl Wake for SourceWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready_set.mark(self.source);
    }
}

impl ReadySet {
    /// Marks all sources as ready.
    pub(super) fn mark_all(&self) {
        self.mark_bits(Source::ALL.into_iter().fold(0, |bits, source| bits | source.bit()));
    }

    /// Marks a source as ready.
    pub(super) fn mark(&self, source: Source) {
        self.mark_bits(source.bit());
    }

    fn mark_bits(&self, bits: u8) {
        if self.bits.fetch_or(bits, Ordering::AcqRel) == ASLEEP {
            let sleeper = self.sleeper.lock().take();
            if let Some(sleeper) = sleeper {
                sleeper.wake();
            }
        }
    }

    /// Takes the ready sources. If there are none, registers the loop for the next mark and returns `None`.
    fn take(&self, cx: &Context<'_>) -> Option<u8> {
        let ready = self.bits.swap(0, Ordering::AcqRel) & !ASLEEP;
        if ready != 0 {
            return Some(ready);
        }
        let old = self.sleeper.lock().replace(cx.waker().clone());
        drop(old);
        // From here on a mark wakes the loop. An earlier mark is taken instead.
        match self.bits.compare_exchange(0, ASLEEP, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => None,
            Err(_) => Some(self.bits.swap(0, Ordering::AcqRel)),
        }
    }
}

impl Sources {
    pub(super) fn new(ready_set: &Arc<ReadySet>) -> Self {
        let wakers = Source::ALL
            .map(|source| Waker::from(Arc::new(SourceWaker { ready_set: ready_set.clone(), source })));
        ready_set.mark_all();
        Self { ready_set: ready_set.clone(), wakers, ready: 0, again: 0, turn: 0, left: SHARE }
    }

    /// Polls ready sources until one has an event. `poll` also returns whether the source may have more. Each source
    /// gets its share before the next one. If none has an event, the loop is woken by the next mark.
    pub(super) fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        mut poll: impl FnMut(Source, &mut Context<'_>) -> Poll<(T, bool)>,
    ) -> Poll<T> {
        loop {
            if self.ready == 0 || self.left == 0 {
                std::task::ready!(self.poll_ready_set(cx));
            }
            let source = Source::ALL[self.turn];
            if self.left > 0 && self.ready & source.bit() != 0 {
                match poll(source, &mut Context::from_waker(&self.wakers[self.turn])) {
                    Poll::Ready((event, more)) => {
                        self.left -= 1;
                        if !more {
                            self.ready &= !source.bit() | self.again;
                            self.again &= !source.bit();
                        }
                        return Poll::Ready(event);
                    }
                    Poll::Pending => {
                        self.ready &= !source.bit();
                        self.again &= !source.bit();
                    }
                }
            }
            self.turn = (self.turn + 1) % Source::ALL.len();
            self.left = SHARE;
        }
    }

    /// Ends the share of the current source.
    pub(super) fn end_share(&mut self) {
        self.left = 0;
    }

    /// Takes over the ready sources, and sleeps if there are none.
    fn poll_ready_set(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.ready != 0 {
            // A busy loop need not be woken.
            let ready = self.ready_set.bits.swap(0, Ordering::AcqRel);
            self.again |= self.ready & ready;
            self.ready |= ready;
            return Poll::Ready(());
        }
        match self.ready_set.take(cx) {
            Some(ready) => {
                self.ready = ready;
                Poll::Ready(())
            }
            None => Poll::Pending,
        }
    }
}
