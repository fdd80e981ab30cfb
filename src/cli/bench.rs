//! `chanrpc bench`.

use std::fmt::{self, Display, Write};
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;
use serde::Deserialize;

use super::{DEFAULT_ADDRESS, Exit, call, check_address, interrupts, print, print_error, token, usage};
use crate::address::Address;
use crate::load::{Dialect, Load, LoadError, Report};
use crate::message::{Fault, code};
use crate::remote::RemoteError;

/// The latency quantiles to print.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// Benchmark a function in a closed loop or at a fixed rate, and print throughput and latencies.
///
/// Exit codes: 0 answered, 1 every reply was an error, 2 usage, 3 node or function not found, 4 no reply, 5 denied, 130
/// interrupted.
#[derive(FromArgs)]
#[argh(subcommand, name = "bench", help_triggers("-h", "--help"))]
pub(super) struct Bench {
    /// the node's address (127.0.0.1:7300)
    #[argh(option, default = "DEFAULT_ADDRESS.to_owned()")]
    to: String,
    /// lines, headers, msgpack, http or websocket (lines)
    #[argh(option, default = "Dialect::Lines")]
    dialect: Dialect,
    /// connections (16)
    #[argh(option, default = "16")]
    connections: usize,
    /// calls in flight on each connection (4; with --rate at most 64)
    #[argh(option)]
    in_flight: Option<usize>,
    /// calls per second over all connections, however fast the node replies; without it, each reply triggers the next
    /// call
    #[argh(option)]
    rate: Option<f64>,
    /// seconds to measure (5)
    #[argh(option, default = "5.0")]
    duration: f64,
    /// seconds of load before measuring (0.5)
    #[argh(option, default = "0.5")]
    warmup: f64,
    /// threads that generate load (1)
    #[argh(option, default = "1")]
    threads: usize,
    /// all parameters as one JSON array or object; - reads it from standard input
    #[argh(option)]
    params: Option<String>,
    /// the token to present, visible to other users of this machine; CHANRPC_TOKEN sets one too
    #[argh(option)]
    token: Option<String>,
    /// a file with the token to present
    #[argh(option, arg_name = "FILE")]
    token_file: Option<PathBuf>,
    /// print the results as one line of JSON
    #[argh(switch)]
    json: bool,
    /// the function's name (rpc.ping) and its parameters: each is JSON if it parses as JSON, else a string
    #[argh(positional, arg_name = "FUNCTION-AND-ARGS")]
    call: Vec<String>,
}

impl Bench {
    pub(super) fn run(self) -> Exit {
        if let Err(exit) = check_address::<Address>("--to", &self.to) {
            return exit;
        }
        let mut arguments = self.call.into_iter();
        let function = arguments.next().unwrap_or_else(|| "rpc.ping".to_owned());
        let params = match call::params(self.params, arguments.collect()) {
            Ok(params) => params,
            Err(message) => return usage(&message),
        };
        let seconds = |option: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|_| usage(&format!("{option} {seconds}: a number of seconds, such as 2.5")))
        };
        let (duration, warm_up) =
            match (seconds("--duration", self.duration), seconds("--warmup", self.warmup)) {
                (Ok(duration), Ok(warm_up)) => (duration, warm_up),
                (Err(exit), _) | (_, Err(exit)) => return exit,
            };
        let token = match token::from_options(self.token, self.token_file) {
            Ok(given) => given.or_else(token::from_env),
            Err(message) => return usage(&message),
        };
        let load = Load {
            dialect: self.dialect,
            function,
            params,
            token,
            connections: self.connections,
            in_flight: self.in_flight.unwrap_or(if self.rate.is_some() { 64 } else { 4 }),
            rate: self.rate,
            duration,
            warm_up,
            threads: self.threads,
            spin: false,
        };
        match load.run(&self.to, &interrupts()) {
            Ok(report) => {
                print(&if self.json {
                    as_json(&self.to, &load, &report)
                } else {
                    as_text(&self.to, &load, &report)
                });
                conclude(&report)
            }
            Err(error @ LoadError::Invalid(_)) => usage(&error.to_string()),
            Err(error) => {
                print_error(format_args!("{error}"));
                if let LoadError::Unreachable { .. } = error {
                    print_error(format_args!(
                        "is a node running there? `chanrpc serve` starts one; --to ADDR selects another"
                    ));
                }
                if let LoadError::Denied { .. } = error { Exit::Denied } else { Exit::Unavailable }
            }
        }
    }
}

/// Prints what went wrong and returns the exit code.
fn conclude(report: &Report) -> Exit {
    if let Some(error) = report.first_error() {
        print_error(format_args!("first error: {}", String::from_utf8_lossy(error).trim_end()));
    }
    if let Some(reason) = report.first_loss() {
        let (lost, all) = (report.lost_connections(), report.connections());
        print_error(format_args!("{lost} of {all} connections ended early; the first: {reason}"));
    }
    if let Some(schedule) = report.schedule().filter(|schedule| !schedule.is_kept()) {
        print_error(format_args!(
            "the schedule could not be kept: {} calls were not sent, others were up to {} late; more connections or more \
             calls in flight may help if the server has capacity left",
            grouped(schedule.unsent),
            time(schedule.max_delay)
        ));
    }
    if report.is_interrupted() {
        Exit::Interrupted
    } else if report.lost_connections() == report.connections() {
        Exit::Unavailable
    } else if report.calls() > 0 {
        Exit::Success
    } else if report.errors() > 0 {
        (&RemoteError::Fault(Fault::new(first_code(report), ""))).into()
    } else {
        Exit::Deadline
    }
}

/// Returns the error code of the first error reply.
fn first_code(report: &Report) -> i64 {
    let text = report.first_error().unwrap_or_default();
    if [&b"HTTP/1.1 401"[..], b"HTTP/1.1 403"].iter().any(|denied| text.starts_with(denied)) {
        return code::DENIED;
    }
    serde_json::from_slice(text).map_or(code::INTERNAL, |Reply { error: Error { code } }| code)
}

/// An error reply.
#[derive(Deserialize)]
struct Reply {
    error: Error,
}

#[derive(Deserialize)]
struct Error {
    code: i64,
}

fn as_text(address: &str, load: &Load, report: &Report) -> String {
    let (dialect, function) = (load.dialect.name(), &load.function);
    let bounds = format!("{} × {} in flight", load.connections, load.in_flight);
    let mode = match load.rate {
        None => bounds,
        Some(rate) => format!("{rate} calls/s due, at most {bounds}"),
    };
    let mut text =
        format!("{function} at {address}, {dialect}, {mode}, {:.2} s\n\n", report.elapsed().as_secs_f64());
    let mut row = |name: &str, value: &str| _ = writeln!(text, "{name:<26}{value:>14}");
    row("calls/s", &grouped(report.rate() as u64));
    row("calls", &grouped(report.calls()));
    row("errors", &grouped(report.errors()));
    for (name, count) in [("unanswered", report.unanswered()), ("unexpected replies", report.unexpected())] {
        if count > 0 {
            row(name, &grouped(count));
        }
    }
    for (name, share) in QUANTILES {
        let latency = report.quantile(share).map_or("–".to_owned(), time);
        row(&format!("latency {name}"), &latency);
    }
    if let Some(fairness) = report.fairness().filter(|_| load.connections > 1) {
        row("slowest / median connection", &format!("{fairness:.2}"));
    }
    text.truncate(text.trim_end().len());
    text
}

fn as_json(address: &str, load: &Load, report: &Report) -> String {
    let micros = |time: Duration| Number(Some(time.as_nanos() as f64 / 1e3));
    let latencies = QUANTILES.map(|(_, share)| report.quantile(share).map_or(Number(None), micros));
    let latency: Vec<(&str, &dyn Display)> =
        QUANTILES.iter().zip(&latencies).map(|((name, _), number)| (*name, number as _)).collect();
    let schedule = report.schedule().map_or("null".to_owned(), |schedule| {
        object(&[
            ("rate", &Number(Some(schedule.rate))),
            ("kept", &schedule.is_kept()),
            ("unsent", &schedule.unsent),
            ("latest_us", &micros(schedule.max_delay)),
        ])
    });
    let first_error = report.first_error().map(String::from_utf8_lossy);
    object(&[
        ("address", &Text(Some(address))),
        ("dialect", &Text(Some(load.dialect.name()))),
        ("function", &Text(Some(&load.function))),
        ("connections", &load.connections),
        ("in_flight", &load.in_flight),
        ("seconds", &Number(Some(report.elapsed().as_secs_f64()))),
        ("interrupted", &report.is_interrupted()),
        ("calls", &report.calls()),
        ("rate", &Number(Some(report.rate()))),
        ("errors", &report.errors()),
        ("first_error", &Text(first_error.as_deref())),
        ("unanswered", &report.unanswered()),
        ("strays", &report.unexpected()),
        ("lost_connections", &report.lost_connections()),
        ("first_loss", &Text(report.first_loss())),
        ("latency_us", &object(&latency)),
        ("slowest_to_median", &Number(report.fairness())),
        ("schedule", &schedule),
    ])
}

/// Returns a JSON object of values that display as JSON.
fn object(members: &[(&str, &dyn Display)]) -> String {
    let mut json = String::new();
    for (name, value) in members {
        let _ = write!(json, "{}\"{name}\":{value}", if json.is_empty() { '{' } else { ',' });
    }
    json.push('}');
    json
}

/// A text, displayed as JSON.
struct Text<'a>(Option<&'a str>);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).unwrap_or_default())
    }
}

/// A number, displayed as JSON.
struct Number(Option<f64>);

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).unwrap_or_default())
    }
}

/// Formats a number with thousands separators.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a duration in a readable unit.
fn time(time: Duration) -> String {
    let micros = time.as_nanos() as f64 / 1e3;
    match micros {
        ..1e3 => format!("{micros:.1} µs"),
        1e3..1e6 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_numbers_and_durations_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        for (nanos, text) in
            [(300, "0.3 µs"), (12_345, "12.3 µs"), (1_234_567, "1.23 ms"), (2_500_000_000, "2.50 s")]
        {
            assert_eq!(time(Duration::from_nanos(nanos)), text);
        }
    }
}
