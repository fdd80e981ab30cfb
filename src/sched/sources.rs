//! Which sources of a loop have something, so that the others need not be asked.
//!
//! Whatever brings something for the loop first puts it in its place, then notes its source, which wakes the loop. The
//! loop takes what was ready_set, and only then looks into the places; so it misses nothing.

use crate::chan::sync::{AtomicU8, Mutex, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// The sources of events, which have their turns in this order.
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

/// Events that one source may have before it is the next one's budget.
const SHARE: usize = if cfg!(chanrpc_loom) { 1 } else { 16 };

/// The loop's view of its sources.
pub(super) struct Sources {
    ready_set: Arc<ReadySet>,
    wakers: [Waker; Source::ALL.len()],
    /// Those that may have something, one bit each.
    ready: u8,
    /// Those of them that were noted again meanwhile.
    again: u8,
    /// Whose turn it is, and how many events of its share are left.
    turn: usize,
    left: usize,
}

/// What was noted for the loop.
#[derive(Default)]
pub(super) struct ReadySet {
    /// A bit for each source that may have something, and [`ASLEEP`].
    bits: AtomicU8,
    sleeper: Mutex<Option<Waker>>,
}

/// The loop has gone to sleep, so the first who notes something wakes it.
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
    /// Has the loop look at everything again.
    pub(super) fn mark_all(&self) {
        self.mark_bits(Source::ALL.into_iter().fold(0, |bits, source| bits | source.bit()));
    }

    /// Has the loop look at this source.
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

    /// Takes what was ready_set. If that is nothing, has the loop woken by the next note, and completions `None`.
    fn take(&self, cx: &Context<'_>) -> Option<u8> {
        let ready = self.bits.swap(0, Ordering::AcqRel) & !ASLEEP;
        if ready != 0 {
            return Some(ready);
        }
        let old = self.sleeper.lock().replace(cx.waker().clone());
        drop(old);
        // From here on a note wakes the loop. If one has come before, there is no need to.
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

    /// Asks sources with `poll` until one has something, and says whether it may have more. Each has its share before
    /// it is the next one's budget. When none has, the loop is woken as soon as that changes.
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

    /// Ends the share of the source whose turn it is.
    pub(super) fn end_share(&mut self) {
        self.left = 0;
    }

    /// Takes over what was ready_set, and sleeps if no source may have something.
    fn poll_ready_set(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.ready != 0 {
            // Not to be woken while there is something to do.
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
