//! `chanrpc call --each`: one call for each line of standard input.

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::time::Instant;

use async_channel::Receiver;
use serde_json::value::RawValue;
use smol::future::FutureExt;
use smol::{Task, Timer};

use super::connection::Connected;
use super::params::{params_from_json, positional};
use super::result::{Layout, explain};
use super::{Exit, MAX_MESSAGE, print_error};
use crate::message::{Fault, RawJson, code};
use crate::remote::{Mode, RemoteError};
use crate::threads;

/// The parameters of a line.
type Line = Result<Box<RawValue>, String>;
type Outcome = Result<RawJson<'static>, RemoteError>;

/// Calls a function for each line of standard input, at most `in_flight` at a time, and prints one line for each, in
/// the same order: the result, or `{"error":…}`. A line is all parameters or the only one, or the one after `first`, which
/// is JSON. Ends early if the node cannot be reached or a line is invalid.
pub(super) async fn call_each(
    connected: &Connected,
    function: &str,
    first: Option<String>,
    in_flight: usize,
    layout: Layout,
) -> Exit {
    let lines = match read_lines(first) {
        Ok(lines) => lines,
        Err(error) => {
            print_error(format_args!("cannot read standard input: {error}"));
            return Exit::Failed;
        }
    };
    // Calls that wait for the connection are sent in any order. If there is none, each tells why.
    let late = async {
        Timer::at(connected.deadline).await;
        Ok(())
    };
    let _ = connected.remote.connected().or(late).await;
    let mut calls: VecDeque<Task<Outcome>> = VecDeque::new();
    let mut exit = Exit::Success;
    let mut at_end = false;
    while !at_end || !calls.is_empty() {
        let has_room = !at_end && calls.len() < in_flight;
        let next = async {
            if has_room { Event::Line(lines.recv().await.ok()) } else { std::future::pending().await }
        };
        let event = match calls.front_mut() {
            Some(call) => async { Event::Answered(call.await) }.or(next).await,
            None => next.await,
        };
        match event {
            Event::Line(Some(Ok(params))) => {
                let (remote, function) = (connected.remote.clone(), function.to_owned());
                let deadline = Instant::now() + connected.timeout;
                let call = async move {
                    remote.send(function.into(), Some(params.into()), deadline, 0, Mode::Call).await
                };
                calls.push_back(connected.executor.spawn(call));
            }
            Event::Line(Some(Err(error))) => {
                print_error(format_args!("{error}"));
                (at_end, exit) = (true, Exit::Usage);
            }
            Event::Line(None) => at_end = true,
            Event::Answered(outcome) => {
                calls.pop_front();
                match &outcome {
                    Ok(result) => layout.print(result.get()),
                    Err(error) => {
                        layout.print(&as_json(error));
                        let first = explain(error);
                        if exit == Exit::Success {
                            exit = first;
                        }
                        at_end |= !matches!(error, RemoteError::Fault(_) | RemoteError::Deadline);
                    }
                }
            }
        }
    }
    exit
}

enum Event {
    Line(Option<Line>),
    Answered(Outcome),
}

/// Writes an error as it is in a reply of JSON-RPC.
fn as_json(error: &RemoteError) -> String {
    let (code, message, data) = match error {
        RemoteError::Fault(Fault { code, message, data }) => (*code, message.to_string(), data.as_deref()),
        RemoteError::Unreachable { .. } => (code::NO_PROVIDER, error.to_string(), None),
        RemoteError::Lost { .. } => (code::LOST, error.to_string(), None),
        RemoteError::Busy { .. } => (code::BUSY, error.to_string(), None),
        RemoteError::Deadline => (code::DEADLINE, error.to_string(), None),
    };
    let message = serde_json::to_string(&message).unwrap_or_default();
    let data = data.map_or(String::new(), |data| format!(",\"data\":{}", data.get()));
    format!("{{\"error\":{{\"code\":{code},\"message\":{message}{data}}}}}")
}

/// Reads lines on a thread of its own, because a read of standard input cannot be interrupted.
fn read_lines(first: Option<String>) -> std::io::Result<Receiver<Line>> {
    let (sender, lines) = async_channel::bounded(1);
    let read = move || {
        let mut stdin = std::io::stdin().lock();
        for number in 1_u64.. {
            let mut line = Vec::new();
            let read = (&mut stdin).take(MAX_MESSAGE as u64 + 1).read_until(b'\n', &mut line);
            let params = match read {
                Ok(0) => return,
                Ok(_) if line.len() > MAX_MESSAGE => Err(format!("more than {MAX_MESSAGE} bytes")),
                Ok(_) => parse_line(line, first.as_deref()),
                Err(error) => Err(error.to_string()),
            };
            let params = params.map_err(|error| format!("line {number} of standard input: {error}"));
            // The program ends.
            if params.transpose().is_some_and(|params| sender.send_blocking(params).is_err()) {
                return;
            }
        }
    };
    threads::spawn("stdin", Box::new(read))?;
    Ok(lines)
}

/// Returns the parameters of a line; `None` if it is empty.
fn parse_line(line: Vec<u8>, first: Option<&str>) -> Result<Option<Box<RawValue>>, String> {
    let line = String::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?;
    let line = line.trim_start_matches('\u{feff}').trim();
    if line.is_empty() {
        return Ok(None);
    }
    if let Some(first) = first {
        return Ok(Some(positional(vec![first.to_owned(), line.to_owned()])));
    }
    if line.starts_with(['[', '{']) {
        return params_from_json(line.to_owned()).map(Some);
    }
    Ok(Some(positional(vec![line.to_owned()])))
}
