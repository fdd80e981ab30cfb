//! `chanrpc serve`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use argh::FromArgs;
use log::LevelFilter;
use smol::Executor;

use super::bind::{Binder, unguarded};
use super::{ADDRESS, Exit, check, complain, demo, print, ready, run_on, signals};
use crate::chan::{Server, Settings};
use crate::config::{Config, ConfigError, ListenerConfig, format_bytes};
use crate::node::{Listener, Node};
use crate::route::{Access, Registry, registry_from_config};
use crate::transport::tls::Acceptor;

/// Run a node. Without a configuration it listens on this machine only and offers functions to try.
///
/// SIGINT, SIGTERM and Ctrl-C stop it in an orderly way; a second one ends it at once. SIGHUP does nothing yet.
#[derive(FromArgs)]
#[argh(subcommand, name = "serve", help_triggers("-h", "--help"))]
pub(super) struct Serve {
    /// an address to listen on instead of the configured ones; may be given more than once (127.0.0.1:7300)
    #[argh(option, arg_name = "ADDR")]
    listen: Vec<String>,
    /// the configuration file
    #[argh(option, arg_name = "FILE")]
    config: Option<PathBuf>,
    /// only check the configuration
    #[argh(switch)]
    check: bool,
    /// a file to write the addresses to, one a line, once they are listened on
    #[argh(option, arg_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// threads that run connections and native functions (1)
    #[argh(option, default = "Threads(1)")]
    threads: Threads,
    /// error, warn, info, debug, trace or off (info); with ",access" a line for each call and refusal too
    #[argh(option, arg_name = "LEVEL", default = "Level(LevelFilter::Info, false)")]
    log: Level,
}

/// What stands against running a node.
type Failure = Box<dyn std::error::Error>;

impl Serve {
    /// Tells whether a node runs, and not only its configuration is checked.
    pub(super) fn stays(&self) -> bool {
        !self.check
    }

    pub(super) fn run(self) -> Exit {
        if let Err(exit) = self.listen.iter().try_for_each(|address| check("--listen", address)) {
            return exit;
        }
        if self.stays() {
            crate::route::set_inherited_cloexec();
            super::init::reap_orphans();
        }
        match self.try_run() {
            Ok(()) => Exit::Answered,
            Err(error) => {
                complain(format_args!("{error}"));
                Exit::Usage
            }
        }
    }

    fn try_run(self) -> Result<(), Failure> {
        let mut config = configuration(self.config.as_deref(), self.listen)?;
        config.access_log |= self.log.1;
        let access = Arc::new(Access::new(&config));
        // Before the first server, whose panic hook passes on to the log's.
        crate::log::init(self.log.0)?;
        if config.access_log {
            crate::log::show_access();
        }
        let executor = Arc::new(Executor::new());
        let registry = registry(&config, &executor, self.config.is_none())?;
        let tls = secured(&config.listen)?;
        if self.check {
            let open = |listen: &&ListenerConfig| !listen.is_local() && !access.has_rule_for(&listen.address);
            if let Some(listen) = config.listen.iter().find(open) {
                return Err(unguarded(&listen.address, self.config.as_deref()).into());
            }
            print("the configuration is valid");
            let most = format_bytes(config.worst_case_memory(self.threads.0));
            print(&format!(
                "at all its limits at once the node takes up to {most} of memory; less with lower connections, in_flight \
                 or message under [limits]"
            ));
            return Ok(());
        }
        fit_descriptors(&mut config);
        let shutdown = on_signals()?;
        for _ in 1..self.threads.0 {
            let executor = executor.clone();
            std::thread::Builder::new()
                .name("chanrpc".to_owned())
                .spawn(move || run_on(&executor, pin!(std::future::pending())))?;
        }
        let node = async {
            let mut binder = Binder::new(&config.listen, tls, &access, self.config.clone())?;
            let bound = binder.bind().await?;
            let node = Node::new(executor.clone(), registry, config.limits.clone());
            if binder.is_complete()
                && let Some(path) = &self.ready_file
            {
                ready::write(path, binder.bound()).await?;
            }
            announce(binder.bound());
            let most = format_bytes(config.worst_case_memory(self.threads.0));
            log::debug!("at all its limits at once the node takes up to {most} of memory");
            if self.config.is_none()
                && let Some(address) = binder.bound().next()
            {
                suggest(address);
            }
            let late = (!binder.is_complete()).then(|| {
                executor.spawn(listen_late(binder, node.clone(), executor.clone(), self.ready_file))
            });
            let stop = async {
                let _ = shutdown.recv().await;
                log::info!("stopping");
                if let Some(late) = late {
                    late.cancel().await;
                }
            };
            node.serve(bound.into_iter().map(|(listener, _)| listener).collect(), stop).await;
            Ok(())
        };
        let mut ended = Ok(());
        run_on(&executor, pin!(async { ended = node.await }));
        ended
    }
}

fn registry(
    config: &Config,
    executor: &Arc<Executor<'static>>,
    demo: bool,
) -> Result<Arc<Registry>, Failure> {
    let mut builder = registry_from_config(config, executor)?;
    if demo {
        let settings =
            Settings { name: Some("demo".into()), capacity: config.limits.queue, ..Settings::default() };
        let functions = demo::functions(executor)?;
        let server = Server::with_settings(demo::Demo::default(), functions.clone(), settings);
        builder.export(&functions, &server.client())?;
        executor.spawn(server.run()).detach();
    }
    Ok(builder.build())
}

/// Reads the configuration, with other addresses if `listen` names any.
pub(super) fn configuration(file: Option<&Path>, listen: Vec<String>) -> Result<Config, ConfigError> {
    let mut config = file.map_or_else(|| Ok(Config::default()), Config::load)?;
    if !listen.is_empty() {
        let configured = std::mem::take(&mut config.listen);
        let listen = listen.into_iter().map(|address| {
            let same =
                configured.iter().find(|listen| address.parse().is_ok_and(|address| listen.is_at(&address)));
            same.cloned().unwrap_or_else(|| ListenerConfig::new(address))
        });
        config.listen = listen.collect();
    }
    if config.listen.is_empty() {
        config.listen.push(ListenerConfig::new(ADDRESS));
    }
    Ok(config)
}

/// Reads the files of the listeners with TLS.
fn secured(addresses: &[ListenerConfig]) -> Result<Vec<Option<Acceptor>>, Failure> {
    let tls =
        |listen| Listener::tls(listen).map_err(|error| format!("tls of {}: {error}", listen.address).into());
    addresses.iter().map(tls).collect()
}

/// Goes on until everything is listened on, and accepts there.
async fn listen_late(
    mut binder: Binder,
    node: Node,
    executor: Arc<Executor<'static>>,
    ready_file: Option<PathBuf>,
) {
    let mut accepting = Vec::new();
    while !binder.is_complete() {
        for (listener, address) in binder.bind_late().await {
            announce([address]);
            let node = node.clone();
            accepting.push(executor.spawn(async move { node.accept(listener).await }));
        }
    }
    if let Some(path) = ready_file
        && let Err(error) = ready::write(&path, binder.bound()).await
    {
        log::error!("{error}");
    }
    // Who drops this future ends them.
    for task in accepting {
        task.await;
    }
}

fn announce(addresses: impl IntoIterator<Item = SocketAddr>) {
    for address in addresses {
        print(&format!("listening on {address}"));
        log::info!("listening on {address}");
    }
}

/// Tells a newcomer what to try.
fn suggest(address: SocketAddr) {
    let to = if address.to_string() == ADDRESS { String::new() } else { format!(" --to {address}") };
    for line in [
        format!("open http://{address}/ in a browser, or try, from another terminal:"),
        format!(
            "  curl http://{address}/ -d '{{\"jsonrpc\":\"2.0\",\"method\":\"demo.add\",\"params\":[2,3],\"id\":1}}'"
        ),
        format!("  chanrpc call{to} demo.add 2 3"),
        format!("  chanrpc go{to} demo.count 5     # fire and forget"),
        format!("  chanrpc list{to} -v             # what else there is"),
        format!("  curl http://{address}/metrics"),
        "programs and other nodes become functions in ten lines of --config FILE; see the README".to_owned(),
    ] {
        crate::log::note(&line);
    }
}

/// Sees that each connection can have a descriptor, and programs and other nodes theirs beside: by a higher limit of the
/// system's, as far as it lets us, and else by fewer connections.
fn fit_descriptors(config: &mut Config) {
    let connections = config.limits.connections;
    let (beside, all) =
        (config.worst_case_descriptors() as u64, (config.worst_case_descriptors() + connections) as u64);
    // Who may not change the limit may still be told it. Windows has none.
    let allowed = rlimit::increase_nofile_limit(all).or_else(|_| rlimit::increase_nofile_limit(0));
    let Ok(allowed) = allowed.map(|allowed| allowed.min(all)) else { return };
    if allowed < all {
        let fitting = allowed.saturating_sub(beside).max(allowed / 4).max(1);
        config.limits.connections = usize::try_from(fitting).unwrap_or(connections).min(connections);
        log::warn!(
            "the system allows {allowed} open files where up to {all} are needed: {} connections are taken instead of \
             {connections} (limits.connections); allow {all}, by ulimit -n, systemd's LimitNOFILE or OpenRC's rc_ulimit",
            config.limits.connections
        );
    }
}

/// The first signal arrives in the channel; a second one ends the process. SIGHUP, by which other programs are told to
/// read their configuration again, ends nothing.
fn on_signals() -> Result<async_channel::Receiver<()>, ctrlc::Error> {
    let (first, signals) = async_channel::bounded(1);
    let signalled = AtomicBool::new(false);
    let stop = move || {
        if signalled.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Interrupted as i32);
        }
        let _ = first.try_send(());
    };
    let hang_up = || log::warn!("SIGHUP: reload is not supported yet; restart to apply the configuration");
    signals::watch(stop, hang_up)?;
    Ok(signals)
}

/// A number of threads.
struct Threads(usize);

impl FromStr for Threads {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(threads @ 1..=1024) => Ok(Self(threads)),
            _ => Err("a number of threads from 1 to 1024"),
        }
    }
}

/// A log level, and whether there is an access log.
struct Level(LevelFilter, bool);

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (level, access) = match text.strip_suffix(",access") {
            Some(level) => (level, true),
            None => (text, false),
        };
        level
            .parse()
            .map(|level| Self(level, access))
            .map_err(|_: log::ParseLevelError| "one of error, warn, info, debug, trace, off, and perhaps ,access after it")
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("config", &self.config).finish_non_exhaustive()
    }
}
