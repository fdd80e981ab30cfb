//! Loads the configuration of a running node again.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use rustc_hash::FxHashMap;
use serde::Serialize;
use smol::future::FutureExt;
use smol::{Executor, Timer};

use super::activation::Passed;
use super::bind::Binder;
use super::setup::{announce, configuration, load_tls, lower_connections, open_address};
use super::{check, notify, ready_file};
use crate::config::{Config, ConfigError, Limits, Places};
use crate::message::{Fault, Outcome, RawJson, code};
#[cfg(feature = "grpc")]
use crate::node::Services;
use crate::node::{Generation, Node, OtherNodes, Parts};
use crate::route::{Access, Call, Provider, Responder};
use crate::transport::tls::Acceptor;

/// The maximum number of requests that wait for a reload.
const QUEUE: usize = 64;
/// The interval at which providers that are no longer needed are checked.
const RETIRE_INTERVAL: Duration = Duration::from_secs(1);

/// How long reading the configuration and the files that it names may take.
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum length of a configuration file that a running node loads, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What may reload a node: signals, and callers of `rpc.reload`.
#[derive(Clone)]
pub(super) struct Requests {
    wake: Sender<()>,
    waiting: Arc<Mutex<Vec<Responder>>>,
}

impl Requests {
    pub(super) fn new() -> (Self, Receiver<()>) {
        let (wake, woken) = async_channel::bounded(1);
        (Self { wake, waiting: Arc::default() }, woken)
    }

    /// Requests a reload, whose outcome is only logged.
    pub(super) fn signal(&self) {
        // One that is requested already serves this request too.
        let _ = self.wake.try_send(());
    }

    /// Refuses all requests, since the node stops.
    pub(super) fn stop(&self) {
        self.wake.close();
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(|responder| responder.send(Err(stopping())));
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Responder>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider for Requests {
    fn call(&self, call: Call<'_>) {
        let mut waiting = self.waiting();
        let refused = match waiting.len() {
            _ if self.wake.is_closed() => stopping(),
            QUEUE => Fault::new(code::BUSY, format!("{QUEUE} requests wait for a reload")).unsent(),
            _ => {
                waiting.push(call.defer());
                return self.signal();
            }
        };
        drop(waiting);
        call.reply(Err(refused));
    }
}

/// Returns the fault for requests that come while the node stops.
fn stopping() -> Fault {
    Fault::new(code::CLOSED, "the node is stopping").unsent()
}

/// What a reload has changed: texts for people.
#[derive(Default, Serialize)]
struct Report {
    changes: Vec<String>,
    needs_restart: Vec<String>,
    warnings: Vec<String>,
}

/// Why a configuration is not loaded: a text for people for each mistake.
#[derive(Serialize)]
struct Refused {
    mistakes: Vec<String>,
}

impl From<String> for Refused {
    fn from(mistake: String) -> Self {
        Self { mistakes: vec![mistake] }
    }
}

impl From<ConfigError> for Refused {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Several(errors) => {
                Self { mistakes: errors.iter().map(ConfigError::to_string).collect() }
            }
            error => error.to_string().into(),
        }
    }
}

/// A configuration that has been checked, and what is read from the files that it names.
struct Loaded {
    config: Config,
    access: Arc<Access>,
    tls: Vec<Option<Acceptor>>,
    nodes: OtherNodes,
    #[cfg(feature = "grpc")]
    services: Option<Services>,
    report: Report,
}

/// The command line of a node, as far as it concerns the configuration.
pub(super) struct CommandLine {
    pub(super) file: Option<PathBuf>,
    pub(super) listen: Vec<String>,
    pub(super) access_log: bool,
    pub(super) ready_file: Option<PathBuf>,
    pub(super) passed: Arc<Passed>,
}

/// A node, and what it has of its configuration.
pub(super) struct Reloader {
    pub(super) node: Node,
    pub(super) executor: Arc<Executor<'static>>,
    pub(super) command_line: Arc<CommandLine>,
    pub(super) access: Arc<Access>,
    pub(super) parts: Arc<Parts>,
    pub(super) binder: Binder,
    pub(super) requests: Requests,
    /// There are providers that end with their last calls.
    pub(super) is_retiring: bool,
    /// Cloned while files are read.
    pub(super) reading: Arc<()>,
}

impl Reloader {
    /// Listens on addresses that become available, and reloads the configuration on request, until it is dropped.
    pub(super) async fn run(mut self, woken: Receiver<()>) {
        loop {
            let request = async { woken.recv().await.is_ok() };
            let retire = self.is_retiring.then_some(RETIRE_INTERVAL);
            let wait = [self.binder.back_off(), retire].into_iter().flatten().min();
            let due = async {
                wait.map_or_else(Timer::never, Timer::after).await;
                false
            };
            if request.or(due).await {
                // Those that come meanwhile are served by the next reload.
                let count = self.requests.waiting().len();
                let outcome = self.reload().await;
                let served: Vec<_> = self.requests.waiting().drain(..count).collect();
                served.into_iter().for_each(|responder| responder.send(outcome.clone()));
            } else {
                self.is_retiring &= !self.node.registry().drop_retired();
                self.bind_pending().await;
            }
        }
    }

    async fn bind_pending(&mut self) {
        let bound = self.binder.bind_pending().await;
        announce(bound.iter().map(|(_, address)| *address));
        let is_new = !bound.is_empty();
        self.binder.accept(bound, &self.node, &self.executor);
        if is_new {
            self.write_ready_file().await;
            notify::ready(&self.binder.status());
        }
    }

    /// Writes the addresses to the ready file, once all are listened on.
    async fn write_ready_file(&self) {
        if self.binder.is_complete()
            && let Some(path) = &self.command_line.ready_file
            && let Err(error) = ready_file::write(path, self.binder.bound()).await
        {
            log::error!("{error}");
        }
    }

    async fn reload(&mut self) -> Outcome {
        log::info!("reloading the configuration");
        notify::reloading();
        let reloaded = self.try_reload().await;
        match &reloaded {
            Ok(_) => {
                self.write_ready_file().await;
                notify::ready(&self.binder.status());
            }
            Err(Refused { mistakes }) => {
                let mistake = mistakes.first().map_or("", String::as_str);
                notify::ready(&format!("the last reload changed nothing: {mistake}"));
            }
        }
        told(reloaded)
    }

    async fn try_reload(&mut self) -> Result<Report, Refused> {
        let loaded = self.load().await?;
        let CommandLine { file, passed, .. } = &*self.command_line;
        let listen = &loaded.config.listen;
        let binder = Binder::new(listen, loaded.tls, &loaded.access, file.clone(), passed)?;
        let mut binder = binder.following(&self.binder);
        // Closed again, unless nothing fails.
        let bound = binder.bind().await?;
        let config = Arc::new(loaded.config);
        let succeeded = self.parts.succeed(&config, loaded.nodes, &self.executor, self.node.registry());
        let (functions, parts) = succeeded.map_err(|error| error.to_string())?;

        // From here on nothing fails.
        if config.access_log {
            crate::log::enable_access_log();
        }
        let (access, limits, mut report) = (loaded.access, config.limits.clone(), loaded.report);
        self.node.replace(Generation { functions, access: access.clone(), limits }, &self.parts, &parts);
        #[cfg(feature = "grpc")]
        self.node.set_services(loaded.services.unwrap_or_default());
        (self.access, self.parts) = (access, Arc::new(parts));
        report.changes.append(&mut self.binder.replace(binder));
        for (_, address) in &bound {
            report.changes.push(format!("listening on {address}"));
            announce([*address]);
        }
        self.binder.accept(bound, &self.node, &self.executor);
        self.is_retiring = !self.node.registry().drop_retired();
        Ok(report)
    }

    /// Loads and checks the configuration on a thread of its own, since a file may be on a device that does not respond.
    ///
    /// # Errors
    /// The mistakes of the file, or the first of what it refers to.
    async fn load(&self) -> Result<Loaded, Refused> {
        if Arc::strong_count(&self.reading) > 1 {
            return Err("an earlier reload still waits for a file that cannot be read".to_owned().into());
        }
        let (command_line, parts, access) =
            (self.command_line.clone(), self.parts.clone(), self.access.clone());
        let (executor, reading) = (self.executor.clone(), self.reading.clone());
        let mut loading = smol::unblock(move || {
            let loaded = load(&command_line, &parts, &access, &executor);
            drop(reading);
            loaded
        });
        let timeout = async {
            Timer::after(LOAD_TIMEOUT).await;
            None
        };
        let loaded = async { Some((&mut loading).await) }.or(timeout).await;
        loaded.unwrap_or_else(|| {
            loading.detach();
            Err(format!(
                "reading the configuration and the files that it names has taken more than {} s; one may be a pipe, or on \
                 a device that does not respond",
                LOAD_TIMEOUT.as_secs()
            )
            .into())
        })
    }
}

/// Loads and checks the configuration, and reads the files that it names. Changes nothing.
fn load(
    command_line: &CommandLine,
    parts: &Parts,
    access: &Arc<Access>,
    executor: &Arc<Executor<'static>>,
) -> Result<Loaded, Refused> {
    let CommandLine { file, listen, access_log, passed, .. } = command_line;
    let Some(path) = file else {
        let reason = "the node was started without --config, so that there is no file to load";
        return Err(reason.to_owned().into());
    };
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(format!("{}: not a regular file", path.display()).into());
        }
        Ok(metadata) if metadata.len() > MAX_FILE => {
            return Err(format!("{}: longer than {MAX_FILE} bytes", path.display()).into());
        }
        _ => {}
    }
    let mut config = configuration(file.as_deref(), listen.clone(), passed)?;
    config.access_log |= access_log;
    if let Some(missing) = open_address(&config, file.as_deref()) {
        return Err(missing.into());
    }
    let mut warnings = check::warnings(&config, &Places::new(Some(path)));
    warnings.extend(lower_connections(&mut config));
    warnings.extend(passed.unused(&config.listen));
    #[cfg(feature = "grpc")]
    let services = config.grpc.as_ref().map(Services::load).transpose().map_err(|error| error.to_string())?;
    #[cfg(feature = "grpc")]
    warnings.extend(services.iter().flat_map(|services| check::grpc_warnings(&config, services)));
    // Looks up the programs where that may take time; the log tells later what is missing.
    let _ = check::lacks_exec(&config, executor);
    let needs_restart = fixed(&config, parts.started());
    let report = Report { changes: changes(parts.config(), &config), needs_restart, warnings };
    Ok(Loaded {
        access: access.succeed(&config),
        tls: load_tls(&config.listen)?,
        nodes: parts.read_nodes(&config).map_err(|error| error.to_string())?,
        #[cfg(feature = "grpc")]
        services,
        report,
        config,
    })
}

/// Logs what has become of a reload, and returns it as the answer to those who requested it.
fn told(reloaded: Result<Report, Refused>) -> Outcome {
    match reloaded {
        Ok(report) => {
            report.warnings.iter().for_each(|warning| log::warn!("{warning}"));
            for setting in &report.needs_restart {
                log::warn!("{setting} has changed, which needs a restart");
            }
            report.changes.iter().for_each(|change| log::info!("{change}"));
            log::info!("reloaded the configuration: {} changes", report.changes.len());
            RawJson::of(&report).map_err(|error| Fault::new(code::INTERNAL, error.to_string()))
        }
        Err(refused) => {
            let message = "the configuration was not loaded again, and nothing has changed";
            refused.mistakes.iter().for_each(|mistake| log::error!("{mistake}"));
            log::error!("{message}");
            Err(Fault::new(code::INTERNAL, message).with_data(&refused))
        }
    }
}

/// Returns what a node of a configuration offers over NATS, and how.
#[cfg(feature = "nats")]
fn nats_offer(config: &Config) -> Option<&crate::config::NatsConfig> {
    config.nats.as_ref().filter(|nats| !nats.offer.is_empty())
}

/// Returns the settings that only a restart changes, and that are to change.
fn fixed(config: &Config, started: &Config) -> Vec<String> {
    let Limits { forward_functions, queue, .. } = started.limits;
    let settings = [
        ("name", config.name != started.name),
        ("[[topic]]", config.topics != started.topics),
        ("[[offer]]", config.offers != started.offers),
        #[cfg(feature = "nats")]
        ("nats.offer", nats_offer(config) != nats_offer(started)),
        ("limits.forward_functions", config.limits.forward_functions != forward_functions),
        ("limits.queue", config.limits.queue != queue),
    ];
    settings.into_iter().filter(|(_, is_other)| *is_other).map(|(setting, _)| setting.to_owned()).collect()
}

/// Describes which of the things with a name are new, changed or gone.
fn compare<T: PartialEq>(
    kind: &str,
    before: &[T],
    after: &[T],
    name: fn(&T) -> &str,
    changes: &mut Vec<String>,
) {
    let mut earlier: FxHashMap<_, _> = before.iter().map(|thing| (name(thing), thing)).collect();
    for thing in after {
        let what = match earlier.remove(name(thing)) {
            Some(same) if same == thing => continue,
            Some(_) => "has changed",
            None => "is new",
        };
        changes.push(format!("{kind} {} {what}", name(thing)));
    }
    for gone in before.iter().filter(|thing| earlier.contains_key(name(thing))) {
        changes.push(format!("{kind} {} is withdrawn", name(gone)));
    }
}

/// Describes in what two configurations differ, apart from listeners.
fn changes(before: &Config, after: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    compare("function", &before.functions, &after.functions, |function| &*function.name, &mut changes);
    compare("process", &before.processes, &after.processes, |process| &*process.name, &mut changes);
    for (setting, is_changed) in [
        ("[[access]]", before.access != after.access),
        ("[workers]", before.workers != after.workers),
        ("[limits]", before.limits != after.limits),
        ("[log]", before.access_log != after.access_log),
        #[cfg(feature = "grpc")]
        ("[grpc]", before.grpc != after.grpc),
    ] {
        if is_changed {
            changes.push(format!("{setting} has changed"));
        }
    }
    changes
}
