//! Programs as functions.

use std::fmt;
use std::io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use smol::Executor;
use smol::future::{Boxed, FutureExt};

use super::call::{Call, Reply, remaining};
use super::program::{self, Finished, Program, ProgramError};
use super::stop::Stopper;
use super::{Description, Provider};
use crate::config::{self, Output, Param, ParamKind, Piece, Template, Workers};
use crate::message::{Fault, Outcome, RawJson, code};

/// Runs a program for each call: a few at a time, some more wait, the rest is refused. It is the registry that
/// counts them.
#[derive(Clone)]
pub struct Exec {
    shared: Arc<Shared>,
}

struct Shared {
    executor: Arc<Executor<'static>>,
    config: config::Exec,
    /// Calls that run.
    present: AtomicUsize,
    stopper: Stopper,
}

impl Exec {
    /// Runs what `config` says, on threads beside `executor`.
    pub fn new(executor: Arc<Executor<'static>>, config: config::Exec) -> Self {
        let (present, stopper) = (AtomicUsize::new(0), Stopper::new());
        Self { shared: Arc::new(Shared { executor, config, present, stopper }) }
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Provider for Exec {
    fn call(&self, call: Call<'_>) {
        let Call { params, deadline, reply, .. } = call;
        let (argv, stdin) = match prepare(&self.shared.config, params.as_ref()) {
            Ok(prepared) => prepared,
            Err(fault) => return reply.send(Err(fault)),
        };
        let task = run(Present::new(&self.shared), argv, stdin, deadline, reply);
        self.shared.executor.spawn(task).detach();
    }

    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        prepare(&self.shared.config, params).map(|_| ())
    }

    fn workers(&self) -> Option<Workers> {
        let &config::Exec { concurrency, queue, when_full, .. } = &self.shared.config;
        Some(Workers { queue, when_full, ..Workers::new(concurrency) })
    }

    fn describe(&self) -> Description {
        let config = &self.shared.config;
        Description {
            provider: "exec",
            kind: Some("1"),
            params: config.params.iter().map(|param| (param.name.clone(), type_name(param.kind))).collect(),
            target: config.argv.first().map(literal),
            description: None,
        }
    }

    fn stop(&self) -> Boxed<()> {
        let shared = self.shared.clone();
        Box::pin(async move {
            shared.stopper.stop();
            while shared.present.load(Ordering::Relaxed) > 0 {
                shared.stopper.next_end().await;
            }
        })
    }
}

/// One of the calls that run.
struct Present(Arc<Shared>);

impl Present {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.present.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
        self.0.stopper.one_ended();
    }
}

async fn run(present: Present, argv: Vec<String>, stdin: Vec<u8>, deadline: Instant, reply: Reply) {
    let shared = &*present.0;
    let answer = async {
        let config = &shared.config;
        let Some(time_left) = remaining(deadline) else {
            return Err(Fault::new(code::DEADLINE, "the deadline passed before the program could start"));
        };
        let timeout = config.timeout.map_or(time_left, |timeout| timeout.min(time_left));
        let name = argv.first().cloned().unwrap_or_default();
        let directory = config.directory.clone();
        let output_limit = config.output_limit;
        let program = Program { argv, directory, stdin, timeout, output_limit };
        match program::run(program).await {
            Ok(finished) => outcome(&name, finished, config.output),
            Err(error) => Err(fault(&name, &error, timeout)),
        }
    };
    let given_up = async {
        reply.cancelled().await;
        Err(Fault::new(code::CANCELLED, "cancelled by the caller"))
    };
    let stopped = async {
        shared.stopper.signal().await;
        Err(Fault::new(code::CLOSED, "the node is stopping"))
    };
    let outcome = answer.or(given_up).or(stopped).await;
    drop(present);
    reply.send(outcome);
}

fn fault(name: &str, error: &ProgramError, timeout: Duration) -> Fault {
    match error {
        ProgramError::NotStarted(cause) => {
            let absent = matches!(cause.kind(), NotFound | NotADirectory | PermissionDenied | InvalidInput);
            // Otherwise there was no room for one more process.
            let code = if absent { code::NO_PROVIDER } else { code::BUSY };
            Fault::new(code, format!("{name}: {error}"))
        }
        ProgramError::TimedOut { stderr } => {
            let message = format!("{name} did not end within {timeout:?} and was killed");
            Fault::new(code::DEADLINE, message).with_data(&failure(None, None, stderr))
        }
        ProgramError::TooMuchOutput { .. } => Fault::new(code::REPLY_TOO_LARGE, format!("{name}: {error}")),
        ProgramError::Io(_) => Fault::new(code::PROGRAM_FAILED, format!("{name}: {error}")),
    }
}

#[derive(serde::Serialize)]
struct Failure {
    exit: Option<i32>,
    signal: Option<i32>,
    stderr: String,
}

fn failure(exit: Option<i32>, signal: Option<i32>, stderr: &[u8]) -> Failure {
    Failure { exit, signal, stderr: String::from_utf8_lossy(stderr).trim_end().to_owned() }
}

fn outcome(name: &str, finished: Finished, output: Output) -> Outcome {
    let Finished { exit, signal, stdout, stderr } = finished;
    let fail = |what: String| {
        Err(Fault::new(code::PROGRAM_FAILED, format!("{name} {what}"))
            .with_data(&failure(exit, signal, &stderr)))
    };
    match (exit, signal) {
        (Some(0), _) => {}
        (Some(exit), _) => return fail(format!("ended with exit code {exit}")),
        (None, Some(signal)) => return fail(format!("was ended by signal {signal}")),
        (None, None) => return fail("ended in an unknown way".into()),
    }
    match output {
        Output::Text => {
            let text = String::from_utf8_lossy(&stdout);
            RawJson::of(text.trim_end_matches(['\n', '\r']))
                .or_else(|error| fail(format!("gave no text: {error}")))
        }
        Output::Json => match serde_json::from_slice::<Box<RawValue>>(&stdout) {
            Ok(json) => Ok(json.into()),
            Err(error) => fail(format!("did not print JSON (output = \"json\"): {error}")),
        },
    }
}

/// What a program is started with: its arguments and its input.
fn prepare(config: &config::Exec, params: Option<&RawJson<'_>>) -> Result<(Vec<String>, Vec<u8>), Fault> {
    let values = arguments(&config.params, params)?;
    Ok((command(&config.argv, &config.params, &values)?, stdin(&config.params, &values, params)))
}

/// The declared parameters' values, in the order of their declaration.
fn arguments(declared: &[Param], params: Option<&RawJson<'_>>) -> Result<Vec<Value>, Fault> {
    if declared.is_empty() {
        return Ok(Vec::new());
    }
    let values = match params.map(|raw| serde_json::from_str(raw.get())) {
        None => Value::Array(Vec::new()),
        Some(Ok(values)) => values,
        Some(Err(error)) => return Err(Fault::invalid_params(error.to_string())),
    };
    let values = match values {
        Value::Array(values) => values,
        Value::Object(mut named) => {
            let mut values = Vec::new();
            for param in declared {
                let missing = || Fault::invalid_params(format!("parameter {:?} is missing", param.name));
                values.push(named.remove(&param.name).ok_or_else(missing)?);
            }
            if let Some(name) = named.keys().next() {
                return Err(Fault::invalid_params(format!(
                    "parameter {name:?} is unknown; {}",
                    expected(declared)
                )));
            }
            values
        }
        _ => return Err(Fault::invalid_params(expected(declared))),
    };
    if values.len() != declared.len() {
        return Err(Fault::invalid_params(format!(
            "{} parameters were given; {}",
            values.len(),
            expected(declared)
        )));
    }
    for (param, value) in declared.iter().zip(&values) {
        let fits = match param.kind {
            ParamKind::String => value.is_string(),
            ParamKind::Integer => value.is_i64() || value.is_u64(),
            ParamKind::Number => value.is_number(),
            ParamKind::Boolean => value.is_boolean(),
        };
        if !fits {
            let kind = type_name(param.kind);
            return Err(Fault::invalid_params(format!("parameter {:?} must be of type {kind}", param.name)));
        }
    }
    Ok(values)
}

fn expected(declared: &[Param]) -> String {
    let params: Vec<_> =
        declared.iter().map(|param| format!("{}: {}", param.name, type_name(param.kind))).collect();
    format!("the function takes ({})", params.join(", "))
}

/// The text of a template that has no placeholders, as the program's name has none.
fn literal(template: &Template) -> String {
    template
        .0
        .iter()
        .filter_map(|piece| if let Piece::Literal(text) = piece { Some(&**text) } else { None })
        .collect()
}

fn type_name(kind: ParamKind) -> &'static str {
    match kind {
        ParamKind::String => "string",
        ParamKind::Integer => "integer",
        ParamKind::Number => "number",
        ParamKind::Boolean => "boolean",
    }
}

fn command(argv: &[Template], declared: &[Param], values: &[Value]) -> Result<Vec<String>, Fault> {
    // After "--" programs take nothing as an option, by custom.
    let mut options_end = false;
    let mut command = Vec::with_capacity(argv.len());
    for template in argv {
        let mut argument = String::new();
        let mut text_begins = None;
        for piece in &template.0 {
            match piece {
                Piece::Literal(text) => argument.push_str(text),
                Piece::Param(index) => {
                    let (param, value) = (&declared[*index], &values[*index]);
                    if let Value::String(text) = value {
                        if text.contains('\0') {
                            return Err(Fault::invalid_params(format!(
                                "parameter {:?} holds a NUL",
                                param.name
                            )));
                        }
                        if argument.is_empty() {
                            text_begins = Some(&param.name);
                        }
                        argument.push_str(text);
                    } else {
                        argument.push_str(&value.to_string());
                    }
                }
            }
        }
        if let (Some(name), false, true) = (text_begins, options_end, argument.starts_with('-')) {
            let message = format!(
                "parameter {name:?} must not begin with \"-\", which the program would take for an option \
                 (to allow it, write \"--\" before it in the function's exec)"
            );
            return Err(Fault::invalid_params(message));
        }
        options_end |= argument == "--";
        command.push(argument);
    }
    Ok(command)
}

fn stdin(declared: &[Param], values: &[Value], params: Option<&RawJson<'_>>) -> Vec<u8> {
    if declared.is_empty() {
        // Without a declaration nothing reaches argv, and all parameters the program's input.
        return params.map_or("null", RawJson::get).as_bytes().to_vec();
    }
    let named: Map<_, _> =
        declared.iter().map(|param| param.name.clone()).zip(values.iter().cloned()).collect();
    Value::Object(named).to_string().into_bytes()
}
