//! The task of one instance: starts the program, talks to it, and starts it again when it ends.

use std::future::pending;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::future::or;

use super::machine::{Action, Reason};
use super::pool::{End, Pool};
use crate::codec::Dialect;
use crate::config::{Limits, ProcessConfig, Speech};
use crate::driver::drive;
use crate::message::{Fault, RawJson, code};
use crate::metrics::ProcessEnd;
use crate::provider::exec::failure;
use crate::provider::program::{Environment, Launch, LogLines, Resident, Stdio, signal};
use crate::route::{Peer, PeerError, Registry};
use crate::session::{Dialled, ProgramPeer, Session, SessionError};
use crate::transport::StreamPipe;

/// How long a program that has closed its stdout may take to exit.
const GRACE: Duration = Duration::from_millis(100);
/// The target of the log for the stderr of programs.
const STDERR: &str = "chanrpc::process";

/// What the instances of a process are started with.
pub(super) struct Spec {
    pub(super) environment: Arc<Environment>,
    pub(super) limits: Arc<Limits>,
    /// What the program may call: nothing.
    pub(super) registry: Arc<Registry>,
    pub(super) peer: ProgramPeer,
}

/// Why an instance ends.
enum Cause {
    /// It closed its stdout, and has most likely exited.
    Disconnected,
    /// It has exited, or closed its stdin.
    Gone,
    /// It closed its stdout after its stdin was closed.
    Stopped,
    Killed(Reason),
    /// It broke the protocol or refused the handshake, for this reason, and is killed.
    Broken(String),
}

/// Runs an instance until the process is closed.
pub(super) async fn supervise(pool: Arc<Pool>, spec: Arc<Spec>, index: usize) {
    let lives = async {
        loop {
            match pool.next_action(index, None).await {
                Action::Start => {
                    let end = run(&pool, &spec, index).await;
                    match pool.ended(index, &end) {
                        Some(wait) => log::warn!("{}; it is started again in {wait:.1?}", end.message),
                        None => log::info!("{}", end.message),
                    }
                }
                Action::Close => return,
                // There is no program to do it to.
                Action::Ping | Action::Check | Action::Stop | Action::Kill(_) => {}
            }
        }
    };
    // One task for all timeouts.
    if index == 0 {
        or(lives, pool.expire()).await;
    } else {
        lives.await;
    }
}

/// Runs the program once.
async fn run(pool: &Arc<Pool>, spec: &Spec, index: usize) -> End {
    let config = &pool.config;
    let name = &config.name;
    let began = Instant::now();
    pool.metrics.starts.inc();
    let launch = Launch {
        argv: config.run.clone(),
        directory: config.directory.clone(),
        environment: spec.environment.clone(),
        of_call: Vec::new(),
    };
    let started = async { Ok(Resident::start(launch).await) };
    let killed = async {
        loop {
            if let Action::Kill(reason) = pool.next_action(index, None).await {
                return Err(reason);
            }
        }
    };
    let (mut program, stdio) = match or(started, killed).await {
        Ok(Ok(started)) => started,
        Ok(Err(error)) => {
            let message = format!("{name}: {error}");
            let fault = Fault::not_sent(message.clone());
            return End { how: ProcessEnd::NotStarted, message, fault, last_words: String::new() };
        }
        Err(reason) => return end(config, &Cause::Killed(reason), None, false, &LogLines::default()),
    };
    let pid = program.id();
    let mut log = |line: &str| log::info!(target: STDERR, "{name}[{pid}]: {line}");
    let cause = talk(pool, spec, index, &mut program, stdio, began, &mut log).await;
    pool.down(index, pid);
    if let Cause::Killed(_) | Cause::Broken(_) = cause {
        program.kill();
    }
    let limit = if let Cause::Stopped = cause { config.stop } else { GRACE };
    let (status, exited, lines) = program.end(limit, &mut log).await;
    end(config, &cause, status, exited, &lines)
}

/// Passes calls to the program and its answers back, until it ends or has to.
async fn talk(
    pool: &Arc<Pool>,
    spec: &Spec,
    index: usize,
    program: &mut Resident,
    stdio: Stdio,
    began: Instant,
    log: &mut (dyn FnMut(&str) + Send),
) -> Cause {
    let activity = stdio.activity().clone();
    let dialect = match pool.config.speaks {
        Speech::Lines => Dialect::JsonLines,
        Speech::Headers => Dialect::JsonContentLength,
        Speech::MessagePack => Dialect::MessagePack,
    };
    let dialled =
        Dialled { address: pool.config.name.clone(), program: Some(spec.peer.clone()), ..Dialled::default() };
    let (registry, limits) = (spec.registry.clone(), spec.limits.clone());
    let mut session = Session::dialled(registry, limits, dialect, dialled, Instant::now());
    let (peer, pid) = (session.peer(), program.id());
    let connection = async {
        match drive(session, Box::new(StreamPipe::new(stdio)), None, None).await {
            Ok(()) => Cause::Stopped,
            Err(error) => match error.downcast::<SessionError>() {
                Ok(error) => Cause::Broken(error.to_string()),
                Err(_) => Cause::Disconnected,
            },
        }
    };
    let handshake = async {
        if let Err(reason) = greet(&pool.config, &peer).await {
            return Cause::Broken(reason);
        }
        pool.ready(index, pid, peer.clone(), began);
        pending().await
    };
    let attend = async {
        loop {
            let stderr = async {
                program.read_stderr(log).await;
                pending().await
            };
            match or(pool.next_action(index, Some(&activity)), stderr).await {
                Action::Kill(reason) => return Cause::Killed(reason),
                Action::Check if program.has_exited() || activity.is_deaf() => return Cause::Gone,
                Action::Stop => peer.close(),
                Action::Ping => {
                    if let Some(method) = pool.config.ping.clone() {
                        peer.call(peer.reserve(), method.into(), None, None, 0, false, |_| {});
                    }
                }
                Action::Check | Action::Start | Action::Close => {}
            }
        }
    };
    or(or(connection, handshake), attend).await
}

/// Greets the program, if that is configured.
///
/// # Errors
/// Why the program does not accept it.
async fn greet(config: &ProcessConfig, peer: &Peer) -> Result<(), String> {
    let Some((method, params)) = &config.hello else { return Ok(()) };
    let params = params.as_ref().and_then(|params| RawJson::written(params.clone().into_bytes()).ok());
    let (answer, answered) = async_channel::bounded(1);
    let answer = move |result: Result<RawJson<'static>, PeerError>| drop(answer.try_send(result.map(drop)));
    peer.call(peer.reserve(), method.clone().into(), params, None, 0, false, answer);
    match answered.recv().await {
        Ok(Ok(())) => {}
        Ok(Err(PeerError::Fault(fault))) => return Err(format!("it answered {method} with: {fault}")),
        // The connection is lost, which ends the instance.
        Ok(Err(_)) | Err(_) => return pending().await,
    }
    if let Some(method) = config.then.clone() {
        peer.call(peer.reserve(), method.into(), None, None, 0, true, |_| {});
    }
    Ok(())
}

/// Describes the end of a program. It has `exited` by itself, or was killed.
fn end(
    config: &ProcessConfig,
    cause: &Cause,
    status: Option<ExitStatus>,
    exited: bool,
    lines: &LogLines,
) -> End {
    let (exit, signal) = (status.and_then(|status| status.code()), status.and_then(signal));
    let ProcessConfig { name, ready, stall, stop, .. } = config;
    let message = match cause {
        Cause::Killed(Reason::NotReady) => {
            format!("{name} was killed, since it was not ready within {ready:?}")
        }
        Cause::Killed(Reason::Stalled) => {
            format!(
                "{name} was killed, since it had calls and wrote nothing for {stall:?} (stall); does it flush its output?"
            )
        }
        Cause::Killed(Reason::Stopped) => {
            format!("{name} was killed, since it did not exit within {stop:?} after its stdin was closed")
        }
        Cause::Broken(reason) => format!("{name} was killed: {reason}"),
        Cause::Disconnected | Cause::Gone | Cause::Stopped => match (exited, exit, signal) {
            (true, Some(exit), _) => format!("{name} exited with code {exit}"),
            (true, None, Some(signal)) => format!("{name} was killed by signal {signal}"),
            (true, None, None) => format!("{name} ended with an unknown status"),
            (false, ..) if matches!(cause, Cause::Gone) => format!("{name} closed its stdin and was killed"),
            (false, ..) => format!("{name} closed its stdout and was killed"),
        },
    };
    let how = match cause {
        Cause::Stopped | Cause::Killed(Reason::Stopped) => ProcessEnd::Stopped,
        Cause::Killed(_) | Cause::Broken(_) => ProcessEnd::Killed,
        _ if !exited => ProcessEnd::Killed,
        _ if exit.is_none() => ProcessEnd::Signalled,
        _ => ProcessEnd::Exited,
    };
    let data = failure(exit, signal, lines.tail());
    let last_words = data.stderr.lines().last().unwrap_or_default().to_owned();
    let fault = Fault::new(code::PROGRAM_FAILED, message.clone()).with_data(&data);
    End { how, message, fault, last_words }
}
