//! Starts queued calls, one after the other, on the thread that has released their workers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Instant;

use super::state::{QueuedCall, expired};
use crate::route::call::{Call, CallContext, CallHead};

thread_local! {
    /// The calls that this thread starts after the current one; `None` while it starts none.
    static NEXT: RefCell<Option<VecDeque<QueuedCall>>> = const { RefCell::new(None) };
}

impl QueuedCall {
    /// Starts the call, which holds its workers. If this thread is in the middle of starting another one, whose answer
    /// released the workers, the call is started after it: calls that are answered immediately form a loop (a
    /// trampoline), not a recursion.
    pub(super) fn run(self) {
        if NEXT.try_with(|_| ()).is_err() {
            // The thread is exiting.
            return self.start();
        }
        let mut current = NEXT.with_borrow_mut(|next| match next {
            Some(next) => {
                next.push_back(self);
                None
            }
            None => {
                *next = Some(VecDeque::new());
                Some(self)
            }
        });
        while let Some(call) = current {
            call.start();
            current = NEXT.with_borrow_mut(|next| {
                let call = next.as_mut().and_then(VecDeque::pop_front);
                if call.is_none() {
                    *next = None;
                }
                call
            });
        }
    }

    fn start(self) {
        if self.is_expired(Instant::now()) {
            return self.responder.send(Err(expired()));
        }
        let Self { provider, method, params, deadline, hops, caller, responder, .. } = self;
        let head = CallHead { method: &method, deadline, hops };
        let context = CallContext { head: &head, caller: &caller };
        provider.call(Call::with_responder(&context, params, responder));
    }
}
