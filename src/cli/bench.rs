//! `chanrpc bench`.

use std::fmt::{self, Display, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::arguments::{Arguments, Command, Count, Operand, Opt};
use super::connection::{CONNECTION, Connection};
use super::params::{ARG, PARAMS, params};
use super::{Exit, check_address, interrupts, print, print_error};
use crate::address::Address;
use crate::load::{Dialect, Load, LoadError, Report, Secure};
use crate::message::{Fault, code};
use crate::remote::RemoteError;

/// The latency quantiles to print.
const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

const DIALECT: Opt =
    Opt::with_value("--dialect", "NAME", "lines, headers, msgpack, http or websocket (lines)");
const CONNECTIONS: Opt = Opt::with_value("--connections", "N", "connections (16)");
const IN_FLIGHT: Opt =
    Opt::with_value("--in-flight", "N", "calls in flight on each connection (4; with --rate at most 64)");
const RATE: Opt =
    Opt::with_value("--rate", "N", "calls a second over all connections, however fast the node replies");
const DURATION: Opt = Opt::with_value("--duration", "TIME", "how long to measure (5s)");
const WARMUP: Opt = Opt::with_value("--warmup", "TIME", "how long to generate load before (500ms)");
const THREADS: Opt = Opt::with_value("--threads", "N", "threads that generate load (1)");
const JSON: Opt = Opt::switch("--json", "print the results as one line of JSON");

pub(super) const BENCH: Command = Command {
    name: "bench",
    about: "Measure the throughput and the latencies of a function.",
    operands: &[
        Operand { name: "FUNCTION", about: "the function's name (rpc.ping)", count: Count::Optional },
        ARG,
    ],
    options: &[&[DIALECT, CONNECTIONS, IN_FLIGHT, RATE, DURATION, WARMUP, THREADS, PARAMS, JSON], CONNECTION],
    notes: "Without --rate, each reply triggers the next call.\n\n\
            Exit codes: 0 answered, 1 every reply was an error, 2 usage, 3 node or function not found, 4 no reply,\n\
            5 denied, 130 interrupted.",
    run,
};

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    let Connection { address, timeout, token, tls, .. } = Connection::take(&mut arguments)?;
    check_address::<Address>("--to", &address)?;
    let whole = arguments.take(&PARAMS);
    let mut operands = std::mem::take(&mut arguments.operands).into_iter();
    let function = operands.next().unwrap_or_else(|| "rpc.ping".to_owned());
    let params = params(whole, operands.collect())?;
    let rate = arguments.parsed(&RATE)?;
    let secure = tls.map(|tls| {
        let host = address.clone();
        Secure(Arc::new(move |stream| {
            let (tls, host) = (tls.clone(), host.clone());
            Box::pin(async move { Ok(Box::new(tls.connect(&host, stream, false).await?) as _) })
        }))
    });
    let load = Load {
        dialect: arguments.parsed(&DIALECT)?.unwrap_or(Dialect::Lines),
        function,
        params,
        token,
        connections: arguments.parsed(&CONNECTIONS)?.unwrap_or(16),
        in_flight: arguments.parsed(&IN_FLIGHT)?.unwrap_or(if rate.is_some() { 64 } else { 4 }),
        rate,
        duration: arguments.duration(&DURATION, Duration::from_secs(5))?,
        warm_up: arguments.duration(&WARMUP, Duration::from_millis(500))?,
        threads: arguments.parsed(&THREADS)?.unwrap_or(1),
        spin: false,
        timeout,
        secure,
    };
    let as_json = arguments.has(&JSON);
    match load.run(&address, &interrupts()) {
        Ok(report) => {
            print(&if as_json { json(&address, &load, &report) } else { text(&address, &load, &report) });
            Ok(conclude(&report))
        }
        Err(error @ LoadError::Invalid(_)) => Err(error.to_string()),
        Err(error) => {
            print_error(format_args!("{error}"));
            if let LoadError::Unreachable { .. } = error {
                print_error(format_args!(
                    "is a node running there? `chanrpc serve` starts one; --to ADDR selects another"
                ));
            }
            Ok(if let LoadError::Denied { .. } = error { Exit::Denied } else { Exit::Unavailable })
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

fn text(address: &str, load: &Load, report: &Report) -> String {
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

fn json(address: &str, load: &Load, report: &Report) -> String {
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
