//! Loads the configuration of a running node again.

use std::path::PathBuf;
use std::sync::Arc;

use async_channel::{Receiver, Sender};
use serde::Serialize;
use smol::future::FutureExt;
use smol::{Executor, Task, Timer};

use super::bind::Binder;
use super::setup::{announce, configuration, load_tls, lower_connections, open_address};
use super::{check, ready_file};
use crate::config::{Config, FunctionConfig, Limits};
use crate::message::{Fault, RawJson, code};
#[cfg(feature = "grpc")]
use crate::node::Services;
use crate::node::{Generation, Node, Parts};
use crate::route::{Access, Call, Provider, Responder};

/// The maximum number of requests that wait for a reload.
const QUEUE: usize = 64;
/// The interval at which providers that are no longer needed are checked.
const RETIRE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// What may reload a node: signals, and callers of `rpc.reload`.
#[derive(Clone)]
pub(super) struct Requests(Sender<Option<Responder>>);

impl Requests {
    pub(super) fn new() -> (Self, Receiver<Option<Responder>>) {
        let (sender, receiver) = async_channel::bounded(QUEUE);
        (Self(sender), receiver)
    }

    /// Requests a reload, whose outcome is only logged.
    pub(super) fn signal(&self) {
        // If `QUEUE` others wait, this one is served with them.
        let _ = self.0.try_send(None);
    }
}

impl Provider for Requests {
    fn call(&self, call: Call<'_>) {
        if self.0.is_closed() {
            return call.reply(Err(stopping()));
        }
        // Nobody else takes or closes what is sent.
        if self.0.is_full() {
            return call.reply(Err(Fault::new(code::BUSY, format!("{QUEUE} requests wait for a reload"))));
        }
        let _ = self.0.try_send(Some(call.defer()));
    }
}

/// Returns the fault for requests that come while the node stops.
pub(super) fn stopping() -> Fault {
    Fault::new(code::CLOSED, "the node is stopping").unsent()
}

/// What a reload has changed.
#[derive(Serialize)]
struct Outcome {
    changes: Vec<String>,
    needs_restart: Vec<String>,
    warnings: Vec<String>,
}

/// The command line of a node, as far as it concerns the configuration.
pub(super) struct CommandLine {
    pub(super) file: Option<PathBuf>,
    pub(super) listen: Vec<String>,
    pub(super) access_log: bool,
    pub(super) ready_file: Option<PathBuf>,
}

/// A node, and what it has of its configuration.
pub(super) struct Reloader {
    pub(super) node: Node,
    pub(super) executor: Arc<Executor<'static>>,
    pub(super) command_line: CommandLine,
    pub(super) access: Arc<Access>,
    pub(super) parts: Parts,
    pub(super) binder: Binder,
    /// Drops providers whose last calls have ended.
    pub(super) retiring: Option<Task<()>>,
}

impl Reloader {
    /// Listens on addresses that become available, and reloads the configuration on request, until it is dropped.
    pub(super) async fn run(mut self, requests: Receiver<Option<Responder>>) {
        loop {
            let request = async { requests.recv().await.ok() };
            let attempt = async {
                self.binder.next_attempt().await;
                None
            };
            match request.or(attempt).await {
                None => self.bind_pending().await,
                Some(first) => {
                    // Those that wait already are served by the same reload.
                    let mut responders = vec![first];
                    while let Ok(other) = requests.try_recv() {
                        responders.push(other);
                    }
                    let outcome = self.reload().await;
                    for responder in responders.into_iter().flatten() {
                        responder.send(outcome.clone());
                    }
                }
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

    async fn reload(&mut self) -> Result<RawJson<'static>, Fault> {
        if self.command_line.file.is_none() {
            let message = "the node was started without --config, so that there is no file to load again";
            log::warn!("not reloaded: {message}");
            return Err(Fault::new(code::UNKNOWN_FUNCTION, message));
        }
        log::info!("reloading the configuration");
        match self.try_reload().await {
            Ok(outcome) => {
                outcome.warnings.iter().for_each(|warning| log::warn!("{warning}"));
                for setting in &outcome.needs_restart {
                    log::warn!("{setting} has changed, which needs a restart");
                }
                outcome.changes.iter().for_each(|change| log::info!("{change}"));
                log::info!("reloaded the configuration: {} changes", outcome.changes.len());
                RawJson::of(&outcome).map_err(|error| Fault::new(code::INTERNAL, error.to_string()))
            }
            Err(mistakes) => {
                #[derive(Serialize)]
                struct Mistakes<'a> {
                    mistakes: Vec<&'a str>,
                }
                mistakes.lines().for_each(|mistake| log::error!("{mistake}"));
                let message = "the configuration was not loaded again, and nothing has changed";
                log::error!("{message}");
                let data = Mistakes { mistakes: mistakes.lines().collect() };
                Err(Fault::new(code::INTERNAL, message).with_data(&data))
            }
        }
    }

    /// Loads the configuration, and replaces what the node has of it. Changes nothing before all has been checked.
    ///
    /// # Errors
    /// The mistakes, one a line.
    async fn try_reload(&mut self) -> Result<Outcome, String> {
        let CommandLine { file, listen, access_log, .. } = &self.command_line;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut config = configuration(file.as_deref(), listen.clone()).map_err(|error| text(&error))?;
        config.access_log |= access_log;
        if let Some(missing) = open_address(&config, file.as_deref()) {
            return Err(missing);
        }
        let before = self.parts.config();
        let needs_restart = keep_fixed(&mut config, before);
        let mut warnings = check::warnings(&config);
        warnings.extend(lower_connections(&mut config));
        #[cfg(feature = "grpc")]
        let services = config.grpc.as_ref().map(Services::load).transpose().map_err(|error| text(&error))?;
        #[cfg(feature = "grpc")]
        warnings.extend(services.iter().flat_map(|services| check::grpc_warnings(&config, services)));
        let access = self.access.succeed(&config);
        let tls = load_tls(&config.listen).map_err(|error| text(&error))?;
        let mut binder = Binder::new(&config.listen, tls, &access, file.clone())?.following(&self.binder);
        let bound = binder.bind().await?;
        let registry = self.node.registry();
        let succeeded = self.parts.succeed(&config, &self.executor, registry);
        let (functions, parts) = succeeded.map_err(|error| text(&error))?;

        // Nothing fails from here on.
        let mut changes = changes(before, &config);
        if config.access_log {
            crate::log::enable_access_log();
        }
        let limits = config.limits.clone();
        self.node.replace(Generation { functions, access: access.clone(), limits }, &self.parts, &parts);
        #[cfg(feature = "grpc")]
        self.node.set_services(services.unwrap_or_default());
        (self.access, self.parts) = (access, parts);
        let closed = self.binder.replace(binder);
        changes.extend(closed.iter().map(|address| format!("no longer listening on {address}")));
        changes.extend(bound.iter().map(|(_, address)| format!("listening on {address}")));
        announce(bound.iter().map(|(_, address)| *address));
        self.binder.accept(bound, &self.node, &self.executor);
        self.write_ready_file().await;
        self.drop_retired();
        Ok(Outcome { changes, needs_restart, warnings })
    }

    /// Drops providers that are no longer needed when their last calls have ended.
    fn drop_retired(&mut self) {
        if self.node.registry().drop_retired() || self.retiring.as_ref().is_some_and(|it| !it.is_finished()) {
            return;
        }
        let registry = self.node.registry().clone();
        self.retiring = Some(self.executor.spawn(async move {
            while !registry.drop_retired() {
                Timer::after(RETIRE_INTERVAL).await;
            }
        }));
    }
}

/// Restores the settings that only a restart changes, and returns those that were to change.
fn keep_fixed(config: &mut Config, before: &Config) -> Vec<String> {
    let mut changed = Vec::new();
    let mut keep = |setting: &str, is_changed: bool| {
        if is_changed {
            changed.push(setting.to_owned());
        }
    };
    keep("name", config.name != before.name);
    config.name.clone_from(&before.name);
    keep("[[topic]]", config.topics != before.topics);
    config.topics.clone_from(&before.topics);
    keep("[[offer]]", config.offers != before.offers);
    config.offers.clone_from(&before.offers);
    let Limits { forward_functions, queue, .. } = before.limits;
    keep("limits.forward_functions", config.limits.forward_functions != forward_functions);
    keep("limits.queue", config.limits.queue != queue);
    (config.limits.forward_functions, config.limits.queue) = (forward_functions, queue);
    changed
}

/// Describes in what two configurations differ, apart from listeners.
fn changes(before: &Config, after: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    let find = |config: &Config, name: &str| -> Option<FunctionConfig> {
        config.functions.iter().find(|function| function.name == name).cloned()
    };
    for function in &after.functions {
        match find(before, &function.name) {
            None => changes.push(format!("function {} is new", function.name)),
            Some(earlier) if earlier != *function => {
                changes.push(format!("function {} has changed", function.name));
            }
            Some(_) => {}
        }
    }
    for function in &before.functions {
        if find(after, &function.name).is_none() {
            changes.push(format!("function {} is withdrawn", function.name));
        }
    }
    for process in &after.processes {
        if before.processes.iter().any(|other| other.name == process.name && other != process) {
            changes.push(format!("process {} has changed, and is started again", process.name));
        }
    }
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
