//! The exec provider: runs a program for each call.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::value::RawValue;
use smol::Executor;
use smol::future::{Boxed, FutureExt};

use super::arguments::{literal, prepare, signature};
use super::program::{self, Environment, Launch, Program, ProgramError, ProgramOutput, StartErrorKind};
use crate::config::{ExecConfig, OutputFormat, Piece, Workers};
use crate::message::{Fault, Outcome, RawJson, Signature, code, shortened};
use crate::route::{Call, Caller, Description, Provider, ProviderKind, Responder, Shutdown, remaining};

/// Runs a program for each call. The registry enforces the workers of its [description](Self::describe): how many run
/// at once and how many others are queued.
#[derive(Clone)]
pub struct Exec {
    shared: Arc<Shared>,
}

struct Shared {
    executor: Arc<Executor<'static>>,
    config: ExecConfig,
    signature: Signature,
    environment: Arc<Environment>,
    /// The node's name.
    node: Arc<str>,
    /// The number of running calls.
    running: AtomicUsize,
    shutdown: Shutdown,
}

impl Exec {
    /// Creates a provider of the node `node` that runs the program of `config` in tasks on `executor`.
    pub fn new(executor: Arc<Executor<'static>>, node: Arc<str>, config: ExecConfig) -> Self {
        let (set, inherit) = (config.env.clone(), config.inherit_env.clone());
        let environment = Arc::new(Environment { set, inherit });
        let (running, shutdown) = (AtomicUsize::new(0), Shutdown::new());
        let signature = signature(&config);
        let shared = Shared { executor, config, signature, environment, node, running, shutdown };
        Self { shared: Arc::new(shared) }
    }

    /// Describes the function, with its limits.
    pub fn describe(&self) -> Description {
        let config = &self.shared.config;
        let &ExecConfig { concurrency, queue, when_full, timeout, .. } = config;
        Description {
            provider: ProviderKind::Exec,
            signature: self.shared.signature.clone(),
            target: config.argv.first().map(literal),
            workers: Some(Workers { queue, when_full, ..Workers::new(concurrency) }),
            timeout,
            ..Description::default()
        }
    }

    /// Returns why the program cannot run, as far as that can be determined without running it.
    pub(crate) fn preflight(&self) -> Option<String> {
        let Shared { config, environment, .. } = &*self.shared;
        let name = config.argv.first().map(literal)?;
        program::preflight(&name, config.directory.as_deref(), environment)
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Provider for Exec {
    fn call(&self, call: Call<'_>) {
        match prepare(&self.shared.config, &self.shared.signature, call.params()) {
            Err(fault) => call.reply(Err(fault)),
            Ok((argv, stdin)) => {
                let (run_guard, deadline) = (RunGuard::new(&self.shared), call.deadline());
                let about = About { function: call.method().to_owned(), caller: call.caller().clone() };
                let task = run(run_guard, argv, stdin, about, deadline, call.defer());
                self.shared.executor.spawn(task).detach();
            }
        }
    }

    fn check(&self, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
        prepare(&self.shared.config, &self.shared.signature, params).map(|_| ())
    }

    fn retire(&self) -> bool {
        self.shared.running.load(Ordering::Relaxed) == 0
    }

    fn stop(&self) -> Boxed<()> {
        let shared = self.shared.clone();
        Box::pin(async move {
            shared.shutdown.begin();
            while shared.running.load(Ordering::Relaxed) > 0 {
                shared.shutdown.wait_ended().await;
            }
        })
    }
}

/// Counts a running call.
struct RunGuard(Arc<Shared>);

impl RunGuard {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.running.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.shutdown.notify_ended();
    }
}

/// What a program learns of its call besides the parameters.
struct About {
    function: String,
    caller: Caller,
}

impl About {
    /// Returns the values of the variables that tell of a call, in the order of `program/environment.rs`.
    fn variables(&self, node: &str, timeout: Duration) -> Vec<String> {
        let Self { function, caller } = self;
        let address = caller.address().map_or(String::new(), |address| address.to_string());
        let numbers = [caller.connection().to_string(), timeout.as_millis().to_string()];
        let [connection, deadline] = numbers;
        let texts = [function.as_str(), node, caller.dialect()].map(str::to_owned);
        let [function, node, dialect] = texts;
        vec![function, node, connection, address, dialect, caller.rules().join(","), deadline]
    }
}

async fn run(
    guard: RunGuard,
    argv: Vec<String>,
    stdin: Vec<u8>,
    about: About,
    deadline: Instant,
    responder: Responder,
) {
    let shared = &*guard.0;
    let answer = async {
        let config = &shared.config;
        let Some(time_left) = remaining(deadline) else {
            return Err(Fault::new(code::DEADLINE, "the deadline passed before the program could start"));
        };
        let timeout = config.timeout.map_or(time_left, |timeout| timeout.min(time_left));
        let name = argv.first().cloned().unwrap_or_default();
        let directory = config.directory.clone();
        let output_limit = config.output_limit;
        let environment = shared.environment.clone();
        let of_call = about.variables(&shared.node, timeout);
        let launch = Launch { argv, directory, environment, of_call };
        let program = Program { launch, stdin, timeout, output_limit };
        match program::run(program).await {
            Ok(output) => outcome(&name, output, config.output),
            Err(error) => Err(fault(&name, &error, timeout, config)),
        }
    };
    let cancelled = async {
        responder.cancelled().await;
        Err(Fault::new(code::CANCELLED, "cancelled by the caller"))
    };
    let stopped = async {
        shared.shutdown.signal().await;
        Err(Fault::new(code::CLOSED, "the node is stopping"))
    };
    let outcome = answer.or(cancelled).or(stopped).await;
    drop(guard);
    responder.send(outcome);
}

fn fault(name: &str, error: &ProgramError, timeout: Duration, config: &ExecConfig) -> Fault {
    match error {
        ProgramError::NotStarted(start_error) => {
            let message = format!("{name}: {error}");
            let takes_params =
                || config.argv.iter().flat_map(|word| &word.0).any(|piece| matches!(piece, Piece::Param(_)));
            match start_error.kind {
                StartErrorKind::Busy => Fault::new(code::BUSY, message).unsent(),
                // Arguments without parameters have the same length for every caller.
                StartErrorKind::TooLong if takes_params() => Fault::invalid_params(message),
                StartErrorKind::TooLong | StartErrorKind::Absent => Fault::not_sent(message),
            }
        }
        ProgramError::TimedOut { stderr } => {
            let message = format!("{name} did not exit within {timeout:?} and was killed");
            Fault::new(code::DEADLINE, message).with_data(&failure(None, None, stderr))
        }
        ProgramError::OutputLimit { .. } => Fault::new(code::REPLY_TOO_LARGE, format!("{name}: {error}")),
        ProgramError::Lost(_) => Fault::lost(format!("{name}: {error}")),
    }
}

#[derive(serde::Serialize)]
pub(super) struct Failure {
    exit: Option<i32>,
    signal: Option<i32>,
    pub(super) stderr: String,
}

pub(super) fn failure(exit: Option<i32>, signal: Option<i32>, stderr: &[u8]) -> Failure {
    Failure { exit, signal, stderr: String::from_utf8_lossy(stderr).trim_end().to_owned() }
}

fn outcome(name: &str, output: ProgramOutput, format: OutputFormat) -> Outcome {
    let ProgramOutput { exit, signal, stdout, stderr } = output;
    let fail = |what: String| {
        Err(Fault::new(code::PROGRAM_FAILED, format!("{name} {what}"))
            .with_data(&failure(exit, signal, &stderr)))
    };
    match (exit, signal) {
        (Some(0), _) => {}
        (Some(exit), _) => return fail(format!("exited with code {exit}")),
        (None, Some(signal)) => return fail(format!("was killed by signal {signal}")),
        (None, None) => return fail("ended with an unknown status".into()),
    }
    if format == OutputFormat::Base64 {
        let text = BASE64.encode(&stdout);
        return RawJson::of(&text)
            .or_else(|error| fail(format!("printed text that has no JSON form: {error}")));
    }
    let text = match str::from_utf8(&stdout) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            return fail(format!(
                "printed invalid UTF-8 (at byte {at}); output = \"base64\" accepts any bytes"
            ));
        }
    };
    match format {
        OutputFormat::Text | OutputFormat::Base64 => RawJson::of(text.trim_end_matches(['\n', '\r']))
            .or_else(|error| fail(format!("printed text that has no JSON form: {error}"))),
        // Windows programs often print a byte order mark first.
        OutputFormat::Json => {
            match serde_json::from_str::<Box<RawValue>>(text.trim_start_matches('\u{feff}')) {
                Ok(json) => Ok(json.into()),
                Err(_) if text.trim().is_empty() => {
                    fail("printed nothing where output = \"json\" expects a JSON text".to_owned())
                }
                Err(_) => fail(format!(
                    "did not print JSON (output = \"json\"), but {:?}; output = \"text\" accepts any text",
                    shortened(text.trim())
                )),
            }
        }
    }
}
