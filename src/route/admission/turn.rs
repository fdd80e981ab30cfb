//! Beginning calls that have waited, one after the other on the thread that has freed their workers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::state::{Waiting, late};
use crate::route::Provider;
use crate::route::call::Call;

/// A call that has waited and now has its workers.
pub(super) struct Turn {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) waiting: Waiting,
}

thread_local! {
    /// What this thread begins after what it is beginning now; `None` while it begins nothing.
    static NEXT: RefCell<Option<VecDeque<Turn>>> = const { RefCell::new(None) };
}

impl Turn {
    /// Begins the call; or, if it was freed by one that is being begun on this thread, has it begun after that. So calls
    /// that are answered while they begin make a loop, and no recursion.
    pub(super) fn take(self) {
        if NEXT.try_with(|_| ()).is_err() {
            // The thread is ending.
            return self.begin();
        }
        let mut turn = NEXT.with_borrow_mut(|next| match next {
            Some(next) => {
                next.push_back(self);
                None
            }
            None => {
                *next = Some(VecDeque::new());
                Some(self)
            }
        });
        while let Some(this) = turn {
            this.begin();
            turn = NEXT.with_borrow_mut(|next| {
                let turn = next.as_mut().and_then(VecDeque::pop_front);
                if turn.is_none() {
                    *next = None;
                }
                turn
            });
        }
    }

    fn begin(self) {
        let Self { provider, waiting } = self;
        if waiting.is_late(Instant::now()) {
            return waiting.reply.send(Err(late()));
        }
        let Waiting { method, params, deadline, hops, reply, .. } = waiting;
        let call = Call { method: &method, params, deadline, hops, reply };
        // This thread only happened to free the workers: a provider's panic is none of its business. The call is
        // answered when the panic drops it.
        let _ = catch_unwind(AssertUnwindSafe(|| provider.call(call)));
    }
}
