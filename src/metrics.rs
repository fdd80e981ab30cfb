//! What a node counts.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::message::{Fault, code};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number of things that are there now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Counts one thing more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `n` things less.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Returns the number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! node_metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $type:ident = $name:literal;)+) => {
        /// What a node counts over all its connections.
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
            /// Returns name and value of each.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field.get()),)+].into_iter()
            }

            /// Appends all in Prometheus's text format, version 0.0.4.
            pub fn write_prometheus(&self, out: &mut String) {
                family(out, "chanrpc_uptime_seconds", "gauge", "Time since the node started.");
                let _ = writeln!(out, "chanrpc_uptime_seconds {:.3}", self.uptime().as_secs_f64());
                $(
                    family(out, $name, kind::$type, concat!($($help),+).trim());
                    let _ = writeln!(out, concat!($name, " {}"), self.$field.get());
                )+
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
    /// Connections open now.
    connections: Gauge = "chanrpc_connections";
    /// Connections accepted.
    accepted: Counter = "chanrpc_connections_accepted_total";
    /// Connections turned away because as many as allowed were open.
    turned_away: Counter = "chanrpc_connections_turned_away_total";
    /// Times that accepting a connection failed, for want of file descriptors say.
    accept_errors: Counter = "chanrpc_accept_errors_total";
    /// Connections cut off because the peer did not read what was waiting for it.
    slow_readers: Counter = "chanrpc_slow_readers_total";
    /// Connections closed because first bytes or an HTTP head did not come in time.
    slow_heads: Counter = "chanrpc_slow_heads_total";
    /// Connections closed because a message that had begun did not come in time.
    slow_messages: Counter = "chanrpc_slow_messages_total";
    /// Connections closed because no token came in time where nothing may be called without.
    unauthenticated: Counter = "chanrpc_connections_without_token_total";
    /// Connections closed because the peer spoke nothing that is spoken here, or made no sense.
    foreign: Counter = "chanrpc_foreign_dialects_total";
    /// TLS handshakes that failed, also for want of one.
    tls_failed: Counter = "chanrpc_tls_handshakes_failed_total";
    /// WebSocket connections given up because the peer answered no ping.
    vanished: Counter = "chanrpc_connections_vanished_total";
    /// Calls in flight now.
    in_flight: Gauge = "chanrpc_calls_in_flight";
    /// Requests and notifications that were understood.
    calls: Counter = "chanrpc_calls_total";
    /// Messages that could not be understood.
    refused: Counter = "chanrpc_messages_refused_total";
    /// Messages over the size limit.
    too_large: Counter = "chanrpc_messages_too_large_total";
    /// Replies over the size limit, sent as an error instead.
    replies_too_large: Counter = "chanrpc_replies_too_large_total";
    /// Answers for which the peer's dialect has no form, such as an error in Leaf's.
    unsent: Counter = "chanrpc_answers_unsent_total";
    /// Calls that were cancelled by their caller.
    cancelled: Counter = "chanrpc_calls_cancelled_total";
    /// Calls that passed their deadline.
    deadlines: Counter = "chanrpc_calls_deadline_total";
    /// Calls whose provider was not there, so that they were not sent and have not run.
    not_sent: Counter = "chanrpc_calls_not_sent_total";
    /// Calls whose provider was lost while it had them, so that they may have run.
    lost: Counter = "chanrpc_calls_lost_total";
    /// Calls that no access rule allowed.
    denied: Counter = "chanrpc_calls_denied_total";
    /// Tokens that were presented and refused.
    bad_tokens: Counter = "chanrpc_tokens_refused_total";
    /// Tokens that had to wait because others of the same host were wrong.
    tokens_delayed: Counter = "chanrpc_tokens_delayed_total";
    /// HTTP requests refused because of their Host or Origin.
    misdirected: Counter = "chanrpc_http_misdirected_total";
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

/// Characters of an error that are kept.
const LONGEST_ERROR: usize = 200;

/// What is counted of one function.
#[derive(Debug, Default)]
pub struct FunctionMetrics {
    /// Calls that were answered at once.
    prompt: Counter,
    /// The others.
    requests: Counter,
    answered: Counter,
    errors: Counter,
    busy: Counter,
    nanos: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// The state of a [`FunctionMetrics`]; the names are those of NATS's ADR-32.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct FunctionStats {
    /// Calls begun.
    pub num_requests: u64,
    /// Calls that ended with an error.
    pub num_errors: u64,
    /// Of these, calls refused because a bound was reached.
    pub num_busy: u64,
    /// Calls not answered yet.
    pub in_flight: u64,
    /// The latest error.
    pub last_error: Option<String>,
    /// From calls to answers, all together, in nanoseconds.
    pub processing_time: u64,
    /// The same a call.
    pub average_processing_time: u64,
}

impl FunctionMetrics {
    /// Counts a call that begins.
    pub fn begin(&self) {
        self.requests.add();
    }

    /// Counts a call that ended after `time`, with a fault or without.
    pub fn end(&self, time: Duration, fault: Option<&Fault>) {
        self.answered.add();
        self.took(time, fault);
    }

    fn took(&self, time: Duration, fault: Option<&Fault>) {
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(fault) = fault {
            self.errors.add();
            if fault.code == code::BUSY {
                self.busy.add();
            }
            // What a caller sent may be quoted in it.
            let mut text: String = fault.message.chars().take(LONGEST_ERROR).collect();
            let _ = write!(text, " (code {})", fault.code);
            *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
        }
    }

    /// Counts a call that was answered at once.
    pub fn prompt(&self, time: Duration, fault: Option<&Fault>) {
        self.prompt.add();
        self.took(time, fault);
    }

    /// Returns how many calls are not answered yet.
    pub fn in_flight(&self) -> u64 {
        self.requests.get().saturating_sub(self.answered.get())
    }

    /// Returns the numbers.
    pub fn stats(&self) -> FunctionStats {
        let prompt = self.prompt.get();
        let (num_requests, answered) = (prompt + self.requests.get(), prompt + self.answered.get());
        let processing_time = self.nanos.load(Ordering::Relaxed);
        FunctionStats {
            num_requests,
            num_errors: self.errors.get(),
            num_busy: self.busy.get(),
            in_flight: self.in_flight(),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            processing_time,
            average_processing_time: processing_time.checked_div(answered).unwrap_or(0),
        }
    }
}

/// Appends the numbers of functions in Prometheus's text format.
pub fn write_functions<'a>(
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
        ("chanrpc_function_busy_total", "counter", "Calls refused because a bound was reached.", |stats| {
            stats.num_busy as f64
        }),
        ("chanrpc_function_in_flight", "gauge", "Calls not answered yet.", |stats| stats.in_flight as f64),
        ("chanrpc_function_seconds_total", "counter", "Time from calls to answers.", |stats| {
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
}

/// The state of workers: of a function's, of those that functions with one sort of provider share, or of the node's.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Whose they are: `node`, `provider` or `function`.
    pub level: &'static str,
    /// The function or family, if they are one's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The sort of provider, unless they are the node's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<&'static str>,
    /// How many there are.
    pub workers: u64,
    /// How many run a call.
    pub busy: u64,
    /// Calls that wait to pass here, whatever for.
    pub waiting: u64,
    /// Calls refused because as many as may were waiting here.
    pub refused: u64,
    /// Calls that had waited and were refused then, to make room for newer ones.
    pub shed: u64,
}

/// Appends the numbers of workers in Prometheus's text format.
pub fn write_workers(out: &mut String, workers: &[WorkerStats]) {
    type Value = fn(&WorkerStats) -> u64;
    let families: [(&str, &str, &str, Value); 5] = [
        ("chanrpc_workers", "gauge", "Calls that may run at once.", |stats| stats.workers),
        ("chanrpc_workers_busy", "gauge", "Calls that run.", |stats| stats.busy),
        ("chanrpc_workers_waiting", "gauge", "Calls that wait for a worker.", |stats| stats.waiting),
        ("chanrpc_workers_refused_total", "counter", "Calls refused because too many waited.", |stats| {
            stats.refused
        }),
        ("chanrpc_workers_shed_total", "counter", "Waiting calls refused for newer ones.", |stats| {
            stats.shed
        }),
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
