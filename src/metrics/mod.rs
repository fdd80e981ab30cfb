//! Counters of a node and of its functions, and their Prometheus exposition.

mod histogram;

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::message::{Fault, code};
use histogram::{Durations, Histogram};

/// A number that only increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Increments the counter.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Returns the current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that increases and decreases.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Increments the gauge.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts `n`.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Returns the current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! node_metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $type:ident = $name:literal;)+) => {
        /// The counters of a node, over all its connections.
        #[derive(Debug)]
        pub struct Metrics {
            started: Instant,
            $($(#[doc = $help])+ pub $field: $type,)+
        }

        impl Default for Metrics {
            fn default() -> Self {
                Self { started: Instant::now(), $($field: $type::default(),)+ }
            }
        }

        impl Metrics {
            /// Returns the name and value of each counter.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field.get()),)+].into_iter()
            }

            /// Appends all counters in Prometheus's text format, version 0.0.4.
            pub fn write_prometheus(&self, out: &mut String) {
                family(out, "chanrpc_build_info", "gauge", "1, with the version as a label.");
                let version = env!("CARGO_PKG_VERSION");
                let _ = writeln!(out, "chanrpc_build_info{{version=\"{version}\"}} 1");
                family(out, "chanrpc_uptime_seconds", "gauge", "Time since the node started.");
                let _ = writeln!(out, "chanrpc_uptime_seconds {:.3}", self.uptime().as_secs_f64());
                const FAMILIES: &[(&str, &str, &str)] = &[$(($name, kind::$type, concat!($($help),+)),)+];
                for ((name, kind, help), (_, value)) in FAMILIES.iter().zip(self.values()) {
                    family(out, name, kind, help.trim());
                    let _ = writeln!(out, "{name} {value}");
                }
            }
        }
    };
}

#[allow(non_upper_case_globals)]
mod kind {
    pub(super) const Counter: &str = "counter";
    pub(super) const Gauge: &str = "gauge";
}

node_metrics! {
    /// Open connections.
    connections: Gauge = "chanrpc_connections";
    /// Connections accepted.
    accepted: Counter = "chanrpc_connections_accepted_total";
    /// Connections rejected because the maximum number was open.
    turned_away: Counter = "chanrpc_connections_turned_away_total";
    /// Failures to accept a connection, for example for lack of file descriptors.
    accept_errors: Counter = "chanrpc_accept_errors_total";
    /// Connections closed because the peer did not read its replies.
    slow_readers: Counter = "chanrpc_slow_readers_total";
    /// Connections closed because the first bytes or an HTTP head did not arrive in time.
    slow_heads: Counter = "chanrpc_slow_heads_total";
    /// Connections closed because the remainder of a message did not arrive in time.
    slow_messages: Counter = "chanrpc_slow_messages_total";
    /// Connections closed because no token arrived in time where one is required.
    unauthenticated: Counter = "chanrpc_connections_without_token_total";
    /// Connections closed because the peer spoke another protocol or sent invalid messages.
    foreign: Counter = "chanrpc_foreign_dialects_total";
    /// Connections over HTTP/2 closed because the peer flooded them: with cancelled requests, empty frames, PING or SETTINGS.
    floods: Counter = "chanrpc_http2_floods_total";
    /// Results and events of which a part is not in the gRPC message of a user.
    grpc_dropped: Counter = "chanrpc_grpc_results_cut_total";
    /// Failed TLS handshakes, including connections without one.
    tls_failed: Counter = "chanrpc_tls_handshakes_failed_total";
    /// Connections closed because the peer answered no ping.
    vanished: Counter = "chanrpc_connections_vanished_total";
    /// Calls in flight.
    in_flight: Gauge = "chanrpc_calls_in_flight";
    /// Valid requests and notifications.
    calls: Counter = "chanrpc_calls_total";
    /// Invalid messages.
    refused: Counter = "chanrpc_messages_refused_total";
    /// Messages over the size limit.
    too_large: Counter = "chanrpc_messages_too_large_total";
    /// Replies over the size limit, sent as an error instead.
    replies_too_large: Counter = "chanrpc_replies_too_large_total";
    /// Replies that the peer's dialect cannot express, such as an error in Leaf's.
    unsent: Counter = "chanrpc_answers_unsent_total";
    /// Calls cancelled by their caller.
    cancelled: Counter = "chanrpc_calls_cancelled_total";
    /// Calls that passed their deadline.
    deadlines: Counter = "chanrpc_calls_deadline_total";
    /// Calls that were not sent and have not run, because their provider was unreachable.
    not_sent: Counter = "chanrpc_calls_not_sent_total";
    /// Calls that may have run, because the connection to their provider was lost.
    lost: Counter = "chanrpc_calls_lost_total";
    /// Functions that connections offer.
    offers: Gauge = "chanrpc_offers";
    /// Offers that took over a function from an earlier connection of the same owner.
    offers_taken_over: Counter = "chanrpc_offers_taken_over_total";
    /// Offers refused: not allowed, taken by another owner, or beyond a limit.
    offers_refused: Counter = "chanrpc_offers_refused_total";
    /// Calls that were made again at another node, or at two nodes.
    forward_retries: Counter = "chanrpc_forward_retries_total";
    /// Calls for which a second node was asked because the first was slow.
    forward_hedges: Counter = "chanrpc_forward_hedges_total";
    /// Such calls that the second node answered.
    forward_hedges_won: Counter = "chanrpc_forward_hedges_won_total";
    /// Functions of other nodes that are not listed, because the node remembered the maximum number.
    forward_functions_omitted: Counter = "chanrpc_forward_functions_omitted_total";
    /// Calls that no access rule allowed.
    denied: Counter = "chanrpc_calls_denied_total";
    /// Tokens presented and refused.
    bad_tokens: Counter = "chanrpc_tokens_refused_total";
    /// Tokens whose check was delayed because the same host had presented wrong ones.
    tokens_delayed: Counter = "chanrpc_tokens_delayed_total";
    /// HTTP requests refused because of their Host or Origin.
    misdirected: Counter = "chanrpc_http_misdirected_total";
    /// Subscriptions to topics.
    subscriptions: Gauge = "chanrpc_subscriptions";
    /// Subscriptions refused because the connection had the maximum number.
    subscriptions_refused: Counter = "chanrpc_subscriptions_refused_total";
    /// Subscriptions ended because the subscriber was too slow.
    subscriptions_ended: Counter = "chanrpc_subscriptions_ended_total";
    /// Events received from other nodes, for topics that are forwarded.
    events_relayed: Counter = "chanrpc_events_relayed_total";
    /// Topics refused because the node had the maximum number.
    topics_refused: Counter = "chanrpc_topics_refused_total";
    /// Events sent to subscribers.
    events_sent: Counter = "chanrpc_events_sent_total";
    /// Events dropped because too many waited for a subscriber.
    events_dropped: Counter = "chanrpc_events_dropped_total";
}

impl Metrics {
    /// Returns the time since the node started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The maximum length of [`FunctionStats::last_error`], in characters, without its code.
const MAX_LAST_ERROR: usize = 200;

/// The counters of one function.
#[derive(Debug, Default)]
pub(crate) struct FunctionMetrics {
    /// Calls answered inline.
    inline: Histogram,
    /// Deferred calls, begun and answered.
    started: Counter,
    answered: Histogram,
    errors: Counter,
    busy: Counter,
    nanos: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// A snapshot of [`FunctionMetrics`]. The names are those of NATS's ADR-32.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub(crate) struct FunctionStats {
    /// Calls begun.
    pub num_requests: u64,
    /// Calls that ended with an error.
    pub num_errors: u64,
    /// Errors that were refusals because a limit was reached.
    pub num_busy: u64,
    /// Unanswered calls.
    pub in_flight: u64,
    /// The latest error.
    pub last_error: Option<String>,
    /// Total time from call to answer, in nanoseconds.
    pub processing_time: u64,
    /// Average time from call to answer, in nanoseconds.
    pub average_processing_time: u64,
    #[serde(skip)]
    durations: Durations,
}

impl FunctionMetrics {
    /// Records the start of a deferred call.
    pub(crate) fn record_start(&self) {
        self.started.inc();
    }

    /// Records the end of a deferred call after `time`, with a fault or without.
    pub(crate) fn record_end(&self, time: Duration, fault: Option<&Fault>) {
        self.record(&self.answered, time, fault);
    }

    fn record(&self, durations: &Histogram, time: Duration, fault: Option<&Fault>) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        durations.record(nanos);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(fault) = fault {
            self.errors.inc();
            if fault.code == code::BUSY {
                self.busy.inc();
            }
            // The message may quote data of the caller, of any length.
            let mut text: String = fault.message.chars().take(MAX_LAST_ERROR).collect();
            let _ = write!(text, " (code {})", fault.code);
            *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        }
    }

    /// Records a call answered inline after `time`, with a fault or without.
    pub(crate) fn record_inline(&self, time: Duration, fault: Option<&Fault>) {
        self.record(&self.inline, time, fault);
    }

    /// Returns the number of unanswered calls.
    pub(crate) fn in_flight(&self) -> u64 {
        self.started.get().saturating_sub(self.answered.count())
    }

    /// Returns a snapshot.
    pub(crate) fn stats(&self) -> FunctionStats {
        let mut durations = Durations::default();
        self.inline.add_to(&mut durations);
        let num_requests = durations.count() + self.started.get();
        self.answered.add_to(&mut durations);
        let processing_time = self.nanos.load(Ordering::Relaxed);
        FunctionStats {
            num_requests,
            num_errors: self.errors.get(),
            num_busy: self.busy.get(),
            in_flight: self.in_flight(),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            processing_time,
            average_processing_time: processing_time.checked_div(durations.count()).unwrap_or(0),
            durations,
        }
    }
}

/// Appends the counters of functions in Prometheus's text format.
pub(crate) fn write_functions<'a>(
    out: &mut String,
    functions: &(impl Iterator<Item = (&'a str, &'a str, FunctionStats)> + Clone),
) {
    type Value = fn(&FunctionStats) -> f64;
    #[allow(clippy::cast_precision_loss)]
    let families: [(&str, &str, &str, Value); 5] = [
        ("chanrpc_function_calls_total", "counter", "Calls begun.", |stats| stats.num_requests as f64),
        ("chanrpc_function_errors_total", "counter", "Calls that ended with an error.", |stats| {
            stats.num_errors as f64
        }),
        ("chanrpc_function_busy_total", "counter", "Calls refused because a limit was reached.", |stats| {
            stats.num_busy as f64
        }),
        ("chanrpc_function_in_flight", "gauge", "Unanswered calls.", |stats| stats.in_flight as f64),
        ("chanrpc_function_seconds_total", "counter", "Total time from call to answer.", |stats| {
            stats.processing_time as f64 / 1e9
        }),
    ];
    for (name, kind, help, value) in families {
        family(out, name, kind, help);
        for (function, provider, stats) in functions.clone() {
            let _ =
                writeln!(out, "{name}{{function=\"{function}\",provider=\"{provider}\"}} {}", value(&stats));
        }
    }
    let name = "chanrpc_function_duration_seconds";
    family(out, name, "histogram", "Time from call to answer, of functions that have answered.");
    for (function, provider, stats) in functions.clone().filter(|(.., stats)| stats.durations.count() > 0) {
        let labels = format!("function=\"{function}\",provider=\"{provider}\"");
        stats.durations.write_prometheus(out, name, &labels, stats.processing_time);
    }
}

/// Appends how many events were published to each topic in Prometheus's text format.
pub(crate) fn write_topics(out: &mut String, topics: &[(String, u64)]) {
    let name = "chanrpc_events_published_total";
    family(out, name, "counter", "Events published, by configured topic; to others under an empty name.");
    for (topic, events) in topics {
        let _ = writeln!(out, "{name}{{topic=\"{topic}\"}} {events}");
    }
}

/// Writes when the certificates of listeners expire.
pub(crate) fn write_certificates(out: &mut String, certificates: &[(String, SystemTime)]) {
    if certificates.is_empty() {
        return;
    }
    let name = "chanrpc_certificate_expiry_timestamp_seconds";
    family(out, name, "gauge", "When the certificate of a listener expires, in seconds since 1970.");
    for (at, (listen, expires)) in certificates.iter().enumerate() {
        // A name may have several addresses.
        if certificates[..at].iter().any(|(other, _)| other == listen) {
            continue;
        }
        let seconds = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let _ = writeln!(out, "{name}{{listen=\"{listen}\"}} {seconds}");
    }
}

/// The state of the workers of one function, of those shared by all functions with one kind of provider, or of the
/// node's.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub(crate) struct WorkerStats {
    /// The level: `node`, `provider` or `function`.
    pub level: &'static str,
    /// The function or family, at the level `function`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The kind of provider, unless the level is `node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<&'static str>,
    /// The number of workers.
    pub workers: u64,
    /// Workers that run a call.
    pub busy: u64,
    /// Queued calls that need one of these workers, whether or not they wait for it.
    pub waiting: u64,
    /// Calls refused because the queue was full.
    pub refused: u64,
    /// Calls refused after waiting, in favour of newer ones.
    pub shed: u64,
}

/// Appends the state of workers in Prometheus's text format.
pub(crate) fn write_workers(out: &mut String, workers: &[WorkerStats]) {
    type Value = fn(&WorkerStats) -> u64;
    let families: [(&str, &str, &str, Value); 5] = [
        ("chanrpc_workers", "gauge", "Maximum number of concurrent calls.", |stats| stats.workers),
        ("chanrpc_workers_busy", "gauge", "Running calls.", |stats| stats.busy),
        ("chanrpc_workers_waiting", "gauge", "Calls waiting for a worker.", |stats| stats.waiting),
        ("chanrpc_workers_refused_total", "counter", "Calls refused because the queue was full.", |stats| {
            stats.refused
        }),
        (
            "chanrpc_workers_shed_total",
            "counter",
            "Waiting calls refused in favour of newer ones.",
            |stats| stats.shed,
        ),
    ];
    for (name, kind, help, value) in families {
        family(out, name, kind, help);
        for stats in workers {
            let _ = write!(out, "{name}{{level=\"{}\"", stats.level);
            for (label, text) in [("function", stats.function.as_deref()), ("provider", stats.provider)] {
                if let Some(text) = text {
                    let _ = write!(out, ",{label}=\"{text}\"");
                }
            }
            let _ = writeln!(out, "}} {}", value(stats));
        }
    }
}

/// How a process ended, in the order of its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    /// It exited, or closed its stdout.
    Exited,
    /// A signal killed it.
    Signalled,
    /// The node killed it: it was silent, not ready in time, or broke the protocol.
    Killed,
    /// The node ended it, since it was idle or the node stops.
    Stopped,
    /// It could not be started.
    NotStarted,
}

/// The values of the label `how`.
const ENDS: [&str; 5] = ["exited", "signalled", "killed", "stopped", "not_started"];

/// The counters of one process, over all its instances.
#[derive(Debug, Default)]
pub(crate) struct ProcessMetrics {
    /// Its name.
    pub(crate) name: String,
    /// The functions that it provides. It is reported to callers that may call one of them.
    pub(crate) functions: Mutex<Vec<String>>,
    /// Instances that take calls: the process ID, and since when.
    pub(crate) up: Mutex<Vec<(u32, Instant)>>,
    /// Calls that it has not answered.
    pub(crate) in_flight: Gauge,
    /// Calls that wait for an instance, or for a place in one.
    pub(crate) waiting: Gauge,
    /// Attempts to start an instance.
    pub(crate) starts: Counter,
    pub(crate) ends: [Counter; ENDS.len()],
    /// Output that was no message, and replies without a call.
    pub(crate) stray: Counter,
    /// Calls refused because the queue was full.
    pub(crate) refused: Counter,
    /// How long the last start took until the instance was ready, in microseconds.
    pub(crate) ready_micros: AtomicU64,
}

/// A snapshot of [`ProcessMetrics`].
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ProcessStats<'a> {
    name: &'a str,
    /// The process IDs of the instances that take calls.
    pids: Vec<u32>,
    /// For how long each of them has taken calls.
    up_seconds: Vec<u64>,
    in_flight: u64,
    waiting: u64,
    starts: u64,
    stray_lines: u64,
}

impl ProcessMetrics {
    /// Records the end of an instance.
    pub(crate) fn record_end(&self, end: ProcessEnd) {
        self.ends[end as usize].inc();
    }

    /// Returns the instances that take calls.
    pub(crate) fn up(&self) -> std::sync::MutexGuard<'_, Vec<(u32, Instant)>> {
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if it provides a function of which `is_visible` returns `true`.
    pub(crate) fn provides(&self, is_visible: impl Fn(&str) -> bool) -> bool {
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        functions.iter().any(|name| is_visible(name))
    }

    /// Returns a snapshot.
    pub(crate) fn stats(&self) -> ProcessStats<'_> {
        let up = self.up();
        ProcessStats {
            name: &self.name,
            pids: up.iter().map(|(pid, _)| *pid).collect(),
            up_seconds: up.iter().map(|(_, since)| since.elapsed().as_secs()).collect(),
            in_flight: self.in_flight.get(),
            waiting: self.waiting.get(),
            starts: self.starts.get(),
            stray_lines: self.stray.get(),
        }
    }
}

/// Appends the counters of processes in Prometheus's text format.
pub(crate) fn write_processes(out: &mut String, processes: &[Arc<ProcessMetrics>]) {
    if processes.is_empty() {
        return;
    }
    type Value = fn(&ProcessMetrics) -> f64;
    #[allow(clippy::cast_precision_loss)]
    let families: [(&str, &str, &str, Value); 7] = [
        ("chanrpc_process_up", "gauge", "Instances that take calls.", |process| process.up().len() as f64),
        ("chanrpc_process_in_flight", "gauge", "Unanswered calls.", |process| process.in_flight.get() as f64),
        ("chanrpc_process_waiting", "gauge", "Calls that wait for an instance.", |process| {
            process.waiting.get() as f64
        }),
        ("chanrpc_process_starts_total", "counter", "Attempts to start an instance.", |process| {
            process.starts.get() as f64
        }),
        ("chanrpc_process_stray_lines_total", "counter", "Output that was no message.", |process| {
            process.stray.get() as f64
        }),
        (
            "chanrpc_process_refused_total",
            "counter",
            "Calls refused because the queue was full.",
            |process| process.refused.get() as f64,
        ),
        ("chanrpc_process_ready_seconds", "gauge", "Duration of the last start.", |process| {
            process.ready_micros.load(Ordering::Relaxed) as f64 / 1e6
        }),
    ];
    for (name, kind, help, value) in families {
        family(out, name, kind, help);
        for process in processes {
            let _ = writeln!(out, "{name}{{process=\"{}\"}} {}", process.name, value(process));
        }
    }
    family(out, "chanrpc_process_exits_total", "counter", "Instances that have ended.");
    for process in processes {
        for (how, count) in ENDS.iter().zip(&process.ends) {
            let name = &process.name;
            let count = count.get();
            let _ = writeln!(out, "chanrpc_process_exits_total{{process=\"{name}\",how=\"{how}\"}} {count}");
        }
    }
}

/// A node that calls are forwarded to.
#[derive(Debug, serde::Serialize)]
pub(crate) struct TargetStats {
    pub(crate) to: String,
    pub(crate) state: TargetState,
    /// How long it has been in that state.
    pub(crate) seconds: u64,
    /// Calls that it has not answered.
    pub(crate) in_flight: u64,
    /// Why it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// Whether a node takes calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TargetState {
    Up,
    /// There is no connection, and attempts are made.
    #[default]
    Connecting,
    /// It was silent while it had calls to answer. It is up again when it sends something.
    Silent,
    /// It is connected, and passed over for a while since it has refused calls of this function.
    Refused,
    /// It is stopping, and answers the calls that it has.
    Closing,
}

/// Appends the states of the nodes that each function is forwarded to in Prometheus's text format.
pub(crate) fn write_forwards(out: &mut String, forwards: &[(String, Vec<TargetStats>)]) {
    if forwards.is_empty() {
        return;
    }
    type Value = fn(&TargetStats) -> u64;
    let families: [(&str, &str, Value); 2] = [
        ("chanrpc_forward_up", "1 if the other node takes calls.", |target| {
            u64::from(target.state == TargetState::Up)
        }),
        ("chanrpc_forward_in_flight", "Calls that the other node has not answered.", |target| {
            target.in_flight
        }),
    ];
    for (name, help, value) in families {
        family(out, name, "gauge", help);
        for (function, targets) in forwards {
            for target in targets {
                let _ =
                    writeln!(out, "{name}{{function=\"{function}\",to=\"{}\"}} {}", target.to, value(target));
            }
        }
    }
}
