//! Programs as functions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::value::RawValue;
use smol::Executor;
use smol::future::{Boxed, FutureExt};

use super::arguments::{literal, prepare, type_name};
use super::call::{Call, Reply, remaining};
use super::program::{self, Cause, Finished, Program, ProgramError, Surroundings};
use super::stop::Stopper;
use super::{Description, Provider};
use crate::config::{self, Output, Piece, Workers};
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
    surroundings: Arc<Surroundings>,
    /// Calls that run.
    present: AtomicUsize,
    stopper: Stopper,
}

impl Exec {
    /// Runs what `config` says, on threads beside `executor`.
    pub fn new(executor: Arc<Executor<'static>>, config: config::Exec) -> Self {
        let (present, stopper) = (AtomicUsize::new(0), Stopper::new());
        let (set, inherit) = (config.env.clone(), config.inherit_env.clone());
        let surroundings = Arc::new(Surroundings { set, inherit });
        Self { shared: Arc::new(Shared { executor, config, surroundings, present, stopper }) }
    }
}

impl Exec {
    /// Says what keeps the program from running, as far as it shows without running it.
    pub(super) fn missing(&self) -> Option<String> {
        let Shared { config, surroundings, .. } = &*self.shared;
        let name = config.argv.first().map(literal)?;
        program::missing(&name, config.directory.as_deref(), surroundings)
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

    fn timeout(&self) -> Option<Duration> {
        self.shared.config.timeout
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
        let surroundings = shared.surroundings.clone();
        let program = Program { argv, directory, surroundings, stdin, timeout, output_limit };
        match program::run(program).await {
            Ok(finished) => outcome(&name, finished, config.output),
            Err(error) => Err(fault(&name, &error, timeout, config)),
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

fn fault(name: &str, error: &ProgramError, timeout: Duration, config: &config::Exec) -> Fault {
    match error {
        ProgramError::NotStarted(reason) => {
            let message = format!("{name}: {error}");
            let takes_params =
                || config.argv.iter().flat_map(|word| &word.0).any(|piece| matches!(piece, Piece::Param(_)));
            match reason.cause {
                Cause::Busy => Fault::new(code::BUSY, message),
                // What no parameter reaches is as long for every caller.
                Cause::TooLong if takes_params() => Fault::invalid_params(message),
                Cause::TooLong | Cause::Absent => Fault::not_sent(message),
            }
        }
        ProgramError::TimedOut { stderr } => {
            let message = format!("{name} did not end within {timeout:?} and was killed");
            Fault::new(code::DEADLINE, message).with_data(&failure(None, None, stderr))
        }
        ProgramError::TooMuchOutput { .. } => Fault::new(code::REPLY_TOO_LARGE, format!("{name}: {error}")),
        ProgramError::Lost(_) => Fault::lost(format!("{name}: {error}")),
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
    if output == Output::Base64 {
        let text = BASE64.encode(&stdout);
        return RawJson::of(&text).or_else(|error| fail(format!("gave no text: {error}")));
    }
    let text = match str::from_utf8(&stdout) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            return fail(format!(
                "printed what is not UTF-8 (at byte {at}); output = \"base64\" passes any bytes on"
            ));
        }
    };
    match output {
        Output::Text | Output::Base64 => RawJson::of(text.trim_end_matches(['\n', '\r']))
            .or_else(|error| fail(format!("gave no text: {error}"))),
        // Programs of Windows like to begin with a byte order mark.
        Output::Json => match serde_json::from_str::<Box<RawValue>>(text.trim_start_matches('\u{feff}')) {
            Ok(json) => Ok(json.into()),
            Err(error) => fail(format!("did not print JSON (output = \"json\"): {error}")),
        },
    }
}
