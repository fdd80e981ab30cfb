//! `chanrpc serve`.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use argh::FromArgs;
use log::LevelFilter;
use smol::Executor;
use smol::net::TcpListener;

use super::{ADDRESS, Exit, check, complain, demo, print, run_on, signals};
use crate::chan::Settings;
use crate::config::{Config, ConfigError, Listen, about};
use crate::node::{Listener, Node};
use crate::route::{Access, Registry, providers};
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
    /// error, warn, info, debug, trace or off (info)
    #[argh(option, arg_name = "LEVEL", default = "Level(LevelFilter::Info)")]
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
        match self.try_run() {
            Ok(()) => Exit::Answered,
            Err(error) => {
                complain(format_args!("{error}"));
                Exit::Usage
            }
        }
    }

    fn try_run(self) -> Result<(), Failure> {
        let config = configuration(self.config.as_deref(), self.listen)?;
        let access = Arc::new(Access::new(&config));
        // Before the first server, whose panic hook passes on to the log's.
        crate::log::init(self.log.0)?;
        let executor = Arc::new(Executor::new());
        let registry = registry(&config, &executor, self.config.is_none())?;
        let tls = secured(&config.listen)?;
        if self.check {
            let open = |listen: &&Listen| !listen.is_local() && !access.guards(&listen.address);
            if let Some(listen) = config.listen.iter().find(open) {
                return Err(unguarded(&listen.address, self.config.as_deref()));
            }
            print("the configuration is valid");
            let most = about(config.worst_case_memory(self.threads.0));
            print(&format!("at all its limits at once the node takes up to {most} of memory"));
            return Ok(());
        }
        let shutdown = on_signals()?;
        for _ in 1..self.threads.0 {
            let executor = executor.clone();
            std::thread::Builder::new()
                .name("chanrpc".to_owned())
                .spawn(move || run_on(&executor, pin!(std::future::pending())))?;
        }
        let node = async {
            let (listeners, addresses) = listen(&config.listen, tls, &access, self.config.as_deref()).await?;
            let node = Node::new(executor.clone(), registry, config.limits.clone());
            announce(&addresses, self.ready_file.as_deref())?;
            let most = about(config.worst_case_memory(self.threads.0));
            log::info!("at all its limits at once the node takes up to {most} of memory");
            if self.config.is_none() {
                suggest(addresses[0]);
            }
            let stop = async {
                let _ = shutdown.recv().await;
                log::info!("stopping");
            };
            node.serve(listeners, stop).await;
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
    let mut builder = providers(config, executor)?;
    if demo {
        let settings =
            Settings { name: Some("demo".into()), capacity: config.limits.queue, ..Settings::default() };
        let server = demo::functions(executor)?.into_server(demo::Demo::default(), settings, &mut builder)?;
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
            let same = configured.iter().find(|listen| listen.address == address);
            same.cloned().unwrap_or_else(|| Listen::at(address))
        });
        config.listen = listen.collect();
    }
    if config.listen.is_empty() {
        config.listen.push(Listen::at(ADDRESS));
    }
    Ok(config)
}

/// The error that nothing says who may call what at an address that others can reach.
fn unguarded(address: &str, file: Option<&Path>) -> Failure {
    let place = match file {
        Some(file) => format!("into {}", file.display()),
        None => "into a FILE, and name it by --config FILE".to_owned(),
    };
    format!(
        "{address} can be reached from other machines, and no rule says who may call what there.\n\
         To let everybody call everything, write these two lines {place}:\n\n\
         [[access]]\nfunctions = [\"*\"]\n\n\
         To let only those call who have a token, write there what `chanrpc token` prints."
    )
    .into()
}

/// Reads the files of the listeners with TLS.
fn secured(addresses: &[Listen]) -> Result<Vec<Option<Acceptor>>, Failure> {
    let tls =
        |listen| Listener::tls(listen).map_err(|error| format!("tls of {}: {error}", listen.address).into());
    addresses.iter().map(tls).collect()
}

async fn listen(
    addresses: &[Listen],
    tls: Vec<Option<Acceptor>>,
    access: &Arc<Access>,
    file: Option<&Path>,
) -> Result<(Vec<Listener>, Vec<SocketAddr>), Failure> {
    let (mut listeners, mut bound) = (Vec::new(), Vec::new());
    for (listen, tls) in addresses.iter().zip(tls) {
        let Listen { address: configured, .. } = listen;
        let socket = TcpListener::bind(configured.as_str()).await.map_err(|error| {
            format!(
                "cannot listen on {configured}: {error}; --listen ADDR takes another, with port 0 any free one"
            )
        })?;
        let address = socket.local_addr()?;
        // A name may stand for more than it says.
        let is_local = listen.is_local() && address.ip().to_canonical().is_loopback();
        if !is_local && !access.guards(configured) {
            return Err(unguarded(configured, file));
        }
        if !is_local && let Some(rule) = access.opens(configured) {
            let place = &rule.place;
            log::warn!(
                "{address} can be reached from other machines, and everybody may call everything ({place})"
            );
        }
        bound.push(address);
        listeners.push(Listener::new(socket, listen, access).with_tls(tls));
    }
    Ok((listeners, bound))
}

fn announce(addresses: &[SocketAddr], ready_file: Option<&Path>) -> Result<(), Failure> {
    if let Some(path) = ready_file {
        let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
        // Who waits for the file must never see half of it.
        let mut draft = path.as_os_str().to_owned();
        draft.push(".new");
        fs::write(&draft, lines)
            .and_then(|()| fs::rename(&draft, path))
            .map_err(|error| format!("cannot write --ready-file {}: {error}", path.display()))?;
    }
    for address in addresses {
        print(&format!("listening on {address}"));
        log::info!("listening on {address}");
    }
    Ok(())
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

/// A log level.
struct Level(LevelFilter);

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_: log::ParseLevelError| "one of error, warn, info, debug, trace, off")
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("config", &self.config).finish_non_exhaustive()
    }
}
