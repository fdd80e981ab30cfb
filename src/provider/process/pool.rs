//! The calls of a process: those that wait, and those that its instances have.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use event_listener::Event;
use rustc_hash::FxHashMap;
use smol::Timer;
use smol::future::or;

use super::machine::{Action, Machine, Timing};
use crate::config::ProcessConfig;
use crate::message::{Fault, RawJson, code};
use crate::metrics::{ProcessEnd, ProcessMetrics};
use crate::provider::program::Activity;
use crate::route::{CallId, Peer, PeerError, Responder};

/// Identifies a call within one process.
type Ticket = u64;

/// One process: its instances, and its calls.
pub(super) struct Pool {
    pub(super) config: ProcessConfig,
    pub(super) metrics: Arc<ProcessMetrics>,
    state: Mutex<State>,
    /// Notified when something may be due earlier than the task that waits for it knows.
    changed: Event,
}

struct State {
    instances: Vec<Instance>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    running: FxHashMap<Ticket, Running>,
    /// The calls whose function has a timeout that passes before their deadline.
    timeouts: BTreeSet<(Instant, Ticket)>,
    /// When timeouts are checked next.
    timeout_alarm: Option<Instant>,
    last_ticket: Ticket,
    /// A thread sends waiting calls. `has_more` if it should look again.
    is_sending: bool,
    has_more: bool,
    /// Why it takes no more calls.
    closed: Option<&'static str>,
}

/// One program, or the place for one.
struct Instance {
    machine: Machine,
    /// `None` unless it takes calls.
    peer: Option<Peer>,
    calls: usize,
    /// Calls that it had when it ended. They are answered when its exit code is known.
    lost: Vec<Responder>,
    /// How it ended last.
    last_end: String,
    /// When its task looks at the machine next.
    alarm: Option<Instant>,
}

/// A call of a function of the process.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) params: Option<RawJson<'static>>,
    pub(super) deadline: Instant,
    pub(super) hops: u32,
    /// When the function's own timeout passes, if that is before the deadline.
    pub(super) timeout: Option<Instant>,
}

struct Waiting {
    ticket: Ticket,
    request: Request,
    responder: Responder,
}

struct Running {
    instance: usize,
    peer: Peer,
    id: CallId,
    timeout: Option<Instant>,
    is_notification: bool,
    /// The program has been told that the call is cancelled.
    is_told: bool,
    /// `None` once the caller has its answer. The program has the call until it answers.
    responder: Option<Responder>,
}

/// How an instance ended.
pub(super) struct End {
    pub(super) how: ProcessEnd,
    /// A sentence about it without its end, such as "tools exited with code 3".
    pub(super) message: String,
    /// The fault for the calls that it had.
    pub(super) fault: Fault,
    /// The last line of its stderr.
    pub(super) last_words: String,
}

impl Pool {
    pub(super) fn new(config: ProcessConfig, metrics: Arc<ProcessMetrics>) -> Arc<Self> {
        let timing = Timing {
            is_on_demand: config.is_on_demand,
            idle: config.idle,
            ready: config.ready,
            stall: config.stall,
            has_ping: config.ping.is_some(),
            stop: config.stop,
        };
        let instances = if config.is_per_connection { 1 } else { config.instances };
        let now = Instant::now();
        let instance = || Instance {
            machine: Machine::new(timing, now),
            peer: None,
            calls: 0,
            lost: Vec::new(),
            last_end: String::new(),
            alarm: None,
        };
        let state = State {
            instances: (0..instances).map(|_| instance()).collect(),
            waiting: VecDeque::new(),
            running: FxHashMap::default(),
            timeouts: BTreeSet::new(),
            timeout_alarm: None,
            last_ticket: 0,
            is_sending: false,
            has_more: false,
            closed: None,
        };
        Arc::new(Self { config, metrics, state: Mutex::new(state), changed: Event::new() })
    }

    /// Returns the number of instances.
    pub(super) fn instances(&self) -> usize {
        self.lock().instances.len()
    }

    /// Returns `true` if nobody waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && state.running.values().all(|running| running.is_told)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.notify(usize::MAX);
    }

    /// Sends a call to an instance, or queues it, or answers why neither is possible.
    pub(super) fn call(self: &Arc<Self>, request: Request, responder: Responder) {
        let mut state = self.lock();
        let refused = state.refusal(&self.config, Instant::now());
        if let Some(fault) = refused {
            if fault.code == code::BUSY {
                self.metrics.refused.inc();
            }
            drop(state);
            return responder.send(Err(fault));
        }
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        if responder.expects_reply() && !responder.on_cancel(&self.canceller(ticket)) {
            drop(state);
            return responder.send(Err(cancelled()));
        }
        if let Some(timeout) = request.timeout {
            state.timeouts.insert((timeout, ticket));
            if state.timeout_alarm.is_none_or(|alarm| timeout < alarm) {
                self.notify();
            }
        }
        state.waiting.push_back(Waiting { ticket, request, responder });
        self.metrics.waiting.inc();
        drop(state);
        self.send_waiting();
    }

    /// Sends waiting calls while there are places. One thread at a time does, so that calls keep their order; answers that
    /// come at once make it a loop, not a recursion.
    fn send_waiting(self: &Arc<Self>) {
        let mut state = self.lock();
        state.has_more = true;
        if mem::replace(&mut state.is_sending, true) {
            return;
        }
        while mem::take(&mut state.has_more) {
            while let Some((ticket, request)) = self.assign(&mut state) {
                let Some(running) = state.running.get(&ticket) else { continue };
                let Running { id, is_notification, .. } = *running;
                let peer = running.peer.clone();
                drop(state);
                let pool = self.clone();
                let answer = move |result| pool.answered(ticket, result);
                let Request { method, params, deadline, hops, .. } = request;
                peer.call(id, method.into(), params, Some(deadline), hops, is_notification, answer);
                state = self.lock();
            }
        }
        state.is_sending = false;
    }

    /// Assigns the first waiting call to an instance.
    fn assign(&self, state: &mut State) -> Option<(Ticket, Request)> {
        let is_notification = !state.waiting.front()?.responder.expects_reply();
        let Some(index) = state.free_instance(&self.config, is_notification) else {
            if state.want() {
                self.notify();
            }
            return None;
        };
        let instance = &mut state.instances[index];
        let peer = instance.peer.clone()?;
        let Waiting { ticket, request, responder } = state.waiting.pop_front()?;
        self.metrics.waiting.sub(1);
        if !is_notification {
            self.metrics.in_flight.inc();
            self.set_calls(instance, instance.calls + 1);
        }
        let (id, timeout) = (peer.reserve(), request.timeout);
        let running = Running {
            instance: index,
            peer,
            id,
            timeout,
            is_notification,
            is_told: false,
            responder: Some(responder),
        };
        state.running.insert(ticket, running);
        Some((ticket, request))
    }

    fn set_calls(&self, instance: &mut Instance, calls: usize) {
        instance.calls = calls;
        instance.machine.set_calls(calls, Instant::now());
        let next = instance.machine.next();
        if next.is_some_and(|next| instance.alarm.is_none_or(|alarm| next < alarm)) {
            self.notify();
        }
    }

    /// Answers a call, which its instance no longer has.
    fn answered(self: &Arc<Self>, ticket: Ticket, result: Result<RawJson<'static>, PeerError>) {
        let mut state = self.lock();
        let Some(running) = state.running.remove(&ticket) else { return };
        if let Some(timeout) = running.timeout {
            state.timeouts.remove(&(timeout, ticket));
        }
        let mut responder = running.responder;
        let instance = &mut state.instances[running.instance];
        match &result {
            Err(PeerError::Lost(_)) => {
                instance.peer = None;
                instance.lost.extend(responder.take());
            }
            Err(PeerError::Unsent(_)) => instance.peer = None,
            _ => {}
        }
        if !running.is_notification {
            self.metrics.in_flight.sub(1);
            self.set_calls(instance, instance.calls.saturating_sub(1));
        }
        drop(state);
        if let Some(responder) = responder {
            responder.send(result.map_err(|error| self.fault(error)));
        }
        self.send_waiting();
    }

    fn fault(&self, error: PeerError) -> Fault {
        let name = &self.config.name;
        match error {
            PeerError::Fault(fault) => fault,
            PeerError::Unsent(_) => Fault::not_sent(format!("{name} ended before the call was sent")),
            PeerError::Lost(_) => Fault::lost(format!("{name} ended")),
            PeerError::Deadline => Fault::new(code::DEADLINE, "the call's deadline passed"),
            PeerError::Busy => {
                Fault::new(code::BUSY, format!("{name} does not read its calls fast enough (limits.output)"))
                    .unsent()
            }
        }
    }

    /// Returns a waker that cancels a call.
    fn canceller(self: &Arc<Self>, ticket: Ticket) -> Waker {
        // Wakers are dropped under the lock of a mailbox, so this one owns nothing whose drop runs other code.
        struct Canceller(Weak<Pool>, Ticket);
        impl Wake for Canceller {
            fn wake(self: Arc<Self>) {
                if let Some(pool) = self.0.upgrade() {
                    pool.withdraw(self.1, cancelled());
                }
            }
        }
        Arc::new(Canceller(Arc::downgrade(self), ticket)).into()
    }

    /// Ends a call whose caller does not wait for it. If an instance has it, the program is told, and has the call until
    /// it answers.
    fn withdraw(&self, ticket: Ticket, fault: Fault) {
        let mut state = self.lock();
        if let Some(at) = state.waiting.iter().position(|waiting| waiting.ticket == ticket) {
            let Some(Waiting { request, responder, .. }) = state.waiting.remove(at) else { return };
            if let Some(timeout) = request.timeout {
                state.timeouts.remove(&(timeout, ticket));
            }
            self.metrics.waiting.sub(1);
            drop(state);
            return responder.send(Err(fault));
        }
        let Some(running) = state.running.get_mut(&ticket) else { return };
        // A cancelled call has its answer, and keeps the workers of its function until the program answers.
        let responder = if fault.code == code::CANCELLED { None } else { running.responder.take() };
        let is_told = mem::replace(&mut running.is_told, true) || running.is_notification;
        let (peer, id) = (running.peer.clone(), running.id);
        drop(state);
        if let Some(responder) = responder {
            responder.send(Err(fault));
        }
        if let Some(method) = self.config.cancel.as_ref().filter(|_| !is_told) {
            // As the Model Context Protocol and the Language Server Protocol name it.
            let member = if method.starts_with("notifications/") { "requestId" } else { "id" };
            let params = RawJson::of(&std::collections::BTreeMap::from([(member, id)])).ok();
            peer.call(peer.reserve(), method.clone().into(), params, None, 0, true, |_| {});
        }
    }

    /// Answers the calls whose function's timeout has passed, for ever.
    pub(super) async fn expire(&self) {
        loop {
            let changed = self.changed.listen();
            match self.pop_expired() {
                Ok(ticket) => {
                    let message = "the program did not answer in time (timeout of this function)";
                    self.withdraw(ticket, Fault::new(code::DEADLINE, message));
                }
                Err(next) => wait(next, changed).await,
            }
        }
    }

    /// Returns a call whose function's timeout has passed, or else when the next one passes.
    fn pop_expired(&self) -> Result<Ticket, Option<Instant>> {
        let mut state = self.lock();
        let first = state.timeouts.first().copied();
        state.timeout_alarm = first.map(|(at, _)| at);
        let (at, ticket) = first.ok_or(None)?;
        if at > Instant::now() {
            return Err(Some(at));
        }
        state.timeouts.pop_first();
        Ok(ticket)
    }

    /// Waits for what an instance's task has to do.
    pub(super) async fn next_action(&self, index: usize, activity: Option<&Activity>) -> Action {
        loop {
            let changed = self.changed.listen();
            match self.poll_action(index, activity) {
                Ok(action) => return action,
                Err(next) => wait(next, changed).await,
            }
        }
    }

    /// Returns what an instance's task has to do, or else when it should look again.
    fn poll_action(&self, index: usize, activity: Option<&Activity>) -> Result<Action, Option<Instant>> {
        let mut state = self.lock();
        let Instance { machine, alarm, .. } = &mut state.instances[index];
        if let Some(activity) = activity {
            machine.heard(activity.last_output());
        }
        let action = machine.poll(Instant::now());
        *alarm = machine.next();
        action.ok_or(*alarm)
    }

    /// Notes that an instance, which began to start a while ago, takes calls.
    pub(super) fn ready(self: &Arc<Self>, index: usize, pid: u32, peer: Peer, began: Instant) {
        let now = Instant::now();
        let mut state = self.lock();
        let instance = &mut state.instances[index];
        instance.machine.ready(now);
        if instance.machine.is_up() {
            instance.peer = Some(peer);
            let micros = u64::try_from((now - began).as_micros()).unwrap_or(u64::MAX);
            self.metrics.ready_micros.store(micros, Ordering::Relaxed);
            self.metrics.up().push((pid, now));
        }
        drop(state);
        self.send_waiting();
    }

    /// Notes that an instance takes no more calls.
    pub(super) fn down(&self, index: usize, pid: u32) {
        self.lock().instances[index].peer = None;
        self.metrics.up().retain(|(other, _)| *other != pid);
    }

    /// Notes how an instance ended, and answers the calls that it had. Returns how long it will not be started again;
    /// `None` if it has ended as it was told to.
    pub(super) fn ended(&self, index: usize, end: &End) -> Option<Duration> {
        self.metrics.record_end(end.how);
        let mut state = self.lock();
        let instance = &mut state.instances[index];
        let was_up = instance.machine.was_up();
        let wait = instance.machine.ended(Instant::now(), fastrand::f64());
        instance.last_end.clone_from(&end.message);
        if !end.last_words.is_empty() {
            instance.last_end += ", after its last words ";
            instance.last_end += &end.last_words;
        }
        let lost = mem::take(&mut instance.lost);
        // Calls wait for the program to be started again after a crash, but not if it cannot be started.
        let refused = if was_up { None } else { state.unavailable(Instant::now()) };
        let waiting = if refused.is_some() { mem::take(&mut state.waiting) } else { VecDeque::new() };
        for Waiting { ticket, request, .. } in &waiting {
            if let Some(timeout) = request.timeout {
                state.timeouts.remove(&(timeout, *ticket));
            }
        }
        if !state.waiting.is_empty() {
            state.want();
        }
        drop(state);
        self.metrics.waiting.sub(waiting.len() as u64);
        lost.into_iter().for_each(|responder| responder.send(Err(end.fault.clone())));
        for (waiting, fault) in waiting.into_iter().zip(refused.into_iter().cycle()) {
            waiting.responder.send(Err(fault));
        }
        wait
    }

    /// Answers all calls, and ends all instances, for this reason.
    pub(super) fn close(&self, reason: &'static str) {
        let mut state = self.lock();
        state.closed = Some(reason);
        let waiting = mem::take(&mut state.waiting);
        self.metrics.waiting.sub(waiting.len() as u64);
        let mut responders: Vec<_> = waiting.into_iter().map(|waiting| waiting.responder).collect();
        responders.extend(state.running.values_mut().filter_map(|running| running.responder.take()));
        state.timeouts.clear();
        state.instances.iter_mut().for_each(|instance| instance.machine.close());
        drop(state);
        self.notify();
        responders.into_iter().for_each(|responder| responder.send(Err(Fault::new(code::CLOSED, reason))));
    }
}

impl State {
    /// Returns why a call can neither be sent nor wait.
    fn refusal(&self, config: &ProcessConfig, now: Instant) -> Option<Fault> {
        if let Some(reason) = self.closed {
            return Some(Fault::new(code::CLOSED, reason));
        }
        if let Some(fault) = self.unavailable(now) {
            return Some(fault);
        }
        let waiting = self.waiting.len();
        if waiting >= config.queue {
            let ProcessConfig { name, .. } = config;
            let message =
                format!("{waiting} calls wait for {name} (instances, in_flight and queue of [[process]])");
            return Some(Fault::new(code::BUSY, message).unsent());
        }
        None
    }

    /// Returns the fault for calls while all instances have failed and are not started again yet.
    fn unavailable(&self, now: Instant) -> Option<Fault> {
        let instances = self.instances.iter();
        let backs_off: Option<Vec<_>> =
            instances.map(|instance| Some((instance.machine.backs_off(now)?, &instance.last_end))).collect();
        let (wait, last_end) = backs_off?.into_iter().min()?;
        Some(Fault::not_sent(format!("{last_end}; it is started again in {wait:.1?}")))
    }

    /// Returns the instance with the fewest calls that takes another one.
    fn free_instance(&self, config: &ProcessConfig, is_notification: bool) -> Option<usize> {
        let has_place = |instance: &Instance| {
            instance.peer.is_some()
                && instance.machine.is_up()
                && (is_notification || instance.calls < config.in_flight)
        };
        let free = self.instances.iter().enumerate().filter(|(_, instance)| has_place(instance));
        free.min_by_key(|(_, instance)| instance.calls).map(|(index, _)| index)
    }

    /// Has an instance started, since calls wait, unless one is on its way. Returns `true` if its task must know.
    fn want(&mut self) -> bool {
        if self.instances.iter().any(|instance| instance.machine.is_starting()) {
            return false;
        }
        let down = self.instances.iter_mut().find(|instance| instance.machine.is_down());
        down.map(|instance| instance.machine.want()).is_some()
    }
}

/// Waits until a time, or for a notification.
async fn wait(until: Option<Instant>, changed: event_listener::EventListener) {
    match until {
        Some(at) => {
            let timer = async {
                Timer::at(at).await;
            };
            or(timer, changed).await;
        }
        None => changed.await,
    }
}

fn cancelled() -> Fault {
    Fault::new(code::CANCELLED, "cancelled by the caller")
}
