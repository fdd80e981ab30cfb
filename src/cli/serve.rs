//! `chanrpc serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use log::LevelFilter;
use smol::Executor;

use super::activation::Passed;
use super::arguments::{Arguments, Command, Opt};
use super::bind::Binder;
use super::check;
use super::reloader::{CommandLine, Reloader, Requests};
use super::setup::{announce, configuration, load_tls, lower_connections, open_address};
use super::{
    DEFAULT_ADDRESS, Exit, check_address, demo, notify, print, print_error, ready_file, run_on, signals,
};
use crate::address::Address;
use crate::chan::{Server, ServerSettings};
use crate::config::{Config, Places, format_bytes};
#[cfg(feature = "grpc")]
use crate::node::Services;
use crate::node::{Listener, Node, Parts, offers_from_config, registry_from_config};
use crate::route::{Access, Registry, TopicHub};
use crate::threads;

/// The configuration file.
pub(super) const CONFIG: Opt = Opt::with_value("--config", "FILE", "the configuration file");
/// Addresses.
pub(super) const LISTEN: Opt = Opt::with_value(
    "--listen",
    "ADDR",
    "an address instead of the configured ones, or 127.0.0.1:7300; may be repeated",
)
.repeated();
const CHECK: Opt = Opt::switch("--check", "check the configuration and exit");
const STRICT: Opt = Opt::switch("--strict", "take warnings about the configuration for errors");
const READY_FILE: Opt = Opt::with_value(
    "--ready-file",
    "FILE",
    "a file to write the addresses to, once the node listens on them",
);
const THREADS: Opt =
    Opt::with_value("--threads", "N", "threads that run connections and native functions (1)");
const LOG: Opt = Opt::with_value(
    "--log",
    "LEVEL",
    "error, warn, info, debug, trace or off (info); \",access\" after it logs each call",
);

pub(super) const SERVE: Command = Command {
    name: "serve",
    about: "Run a node. Without a configuration it serves this machine only, with demo functions.",
    operands: &[],
    options: &[&[LISTEN, CONFIG, CHECK, STRICT, READY_FILE, THREADS, LOG]],
    notes: "SIGINT, SIGTERM and Ctrl-C stop it gracefully; a second one ends it immediately.\nSIGHUP has it \
            load its configuration again.",
    run,
};

/// The values of the options.
struct Serve {
    listen: Vec<String>,
    config: Option<PathBuf>,
    check: bool,
    strict: bool,
    ready_file: Option<PathBuf>,
    threads: Threads,
    log: Level,
    passed: Arc<Passed>,
}

/// Why a node cannot start.
type BoxError = Box<dyn std::error::Error>;

/// Returns `true` if the command runs a node, rather than only checking its configuration.
pub(super) fn runs_node(arguments: &Arguments) -> bool {
    arguments.command.name == SERVE.name && !arguments.has(&CHECK)
}

/// Takes the addresses to listen on.
pub(super) fn addresses(arguments: &mut Arguments) -> Result<Vec<String>, String> {
    let listen = arguments.take_all(&LISTEN);
    listen.iter().try_for_each(|address| check_address::<Address>(LISTEN.name, address))?;
    Ok(listen)
}

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    let settings = Serve {
        listen: addresses(&mut arguments)?,
        config: arguments.take(&CONFIG).map(PathBuf::from),
        check: arguments.has(&CHECK),
        strict: arguments.has(&STRICT),
        ready_file: arguments.take(&READY_FILE).map(PathBuf::from),
        threads: arguments.parsed(&THREADS)?.unwrap_or(Threads(1)),
        log: arguments.parsed(&LOG)?.unwrap_or(Level(LevelFilter::Info, false)),
        passed: Arc::new(Passed::take()?),
    };
    if !settings.check {
        crate::provider::set_inherited_cloexec();
        // A child would not get the sockets.
        if settings.passed.addresses().next().is_none() {
            super::init::run_under_init();
        }
    }
    match try_run(settings) {
        Ok(()) => Ok(Exit::Success),
        Err(error) => {
            print_error(format_args!("{error}"));
            Ok(Exit::Usage)
        }
    }
}

fn try_run(settings: Serve) -> Result<(), BoxError> {
    let mut config = configuration(settings.config.as_deref(), settings.listen.clone(), &settings.passed)?;
    config.access_log |= settings.log.1;
    let access = Arc::new(Access::new(&config));
    // Before the first server is created: its panic hook calls the log's.
    // A check tells of programs itself.
    crate::log::init(if settings.check { settings.log.0.min(LevelFilter::Error) } else { settings.log.0 })?;
    if config.access_log {
        crate::log::enable_access_log();
    }
    let lowered = lower_connections(&mut config);
    let config = Arc::new(config);
    let executor = Arc::new(Executor::new());
    let places = Places::new(settings.config.as_deref());
    let read = || -> Result<_, BoxError> {
        let (registry, parts) = registry(&config, &executor, settings.config.is_none())?;
        Ok((registry, parts, offers_from_config(&config)?, load_tls(&config.listen)?))
    };
    let read = read().and_then(|read| match open_address(&config, settings.config.as_deref()) {
        Some(missing) if settings.check => Err(missing.into()),
        _ => Ok(read),
    });
    let (registry, parts, offers, tls) = match read {
        Ok(read) => read,
        Err(first) => {
            if settings.check {
                let mut warnings = check::warnings(&config, &places);
                warnings.extend(check::missing_programs(&config, &places, &executor));
                warnings.extend(check::network_warnings(&config, &places));
                warnings.iter().for_each(|warning| print_error(format_args!("warning: {warning}")));
            }
            let mistakes = check::mistakes(&config, &places, settings.config.as_deref());
            return Err(if mistakes.is_empty() { first } else { mistakes.join("\n").into() });
        }
    };
    #[cfg(feature = "grpc")]
    let services = config.grpc.as_ref().map(Services::load).transpose()?;
    if let Some(unused) = settings.passed.unused(&config.listen) {
        return Err(unused.into());
    }
    let mut warnings = check::warnings(&config, &places);
    warnings.extend(lowered);
    #[cfg(feature = "grpc")]
    warnings.extend(services.iter().flat_map(|services| check::grpc_warnings(&config, services)));
    if settings.check {
        warnings.extend(check::missing_programs(&config, &places, &executor));
        warnings.extend(check::network_warnings(&config, &places));
    }
    for warning in &warnings {
        if settings.check {
            print_error(format_args!("warning: {warning}"));
        } else {
            log::warn!("{warning}");
        }
    }
    if settings.strict
        && (!warnings.is_empty() || !check::missing_programs(&config, &places, &executor).is_empty())
    {
        return Err("the configuration has warnings, which --strict takes for errors".into());
    }
    if settings.check {
        print("the configuration is valid");
        let memory = format_bytes(config.worst_case_memory(settings.threads.0));
        print(&format!(
            "with all limits reached at once, the node uses up to {memory} of memory; lower connections, in_flight \
             or message under [limits] to reduce it"
        ));
        return Ok(());
    }
    drop(places);
    let (requests, woken) = Requests::new();
    let _ = registry.table().reloader.set(Arc::new(requests.clone()));
    let shutdown = shutdown_signal(requests.clone())?;
    for _ in 1..settings.threads.0 {
        let executor = executor.clone();
        threads::spawn("chanrpc", Box::new(move || run_on(&executor, pin!(std::future::pending()))))?;
    }
    let node = async {
        let mut binder =
            Binder::new(&config.listen, tls, &access, settings.config.clone(), &settings.passed)?;
        let bound = binder.bind().await?;
        let node = Node::new(executor.clone(), registry, config.limits.clone());
        #[cfg(feature = "grpc")]
        node.set_services(services.unwrap_or_default());
        node.offer(offers);
        if binder.is_complete()
            && let Some(path) = &settings.ready_file
        {
            ready_file::write(path, binder.bound()).await?;
        }
        announce(binder.bound());
        let memory = format_bytes(config.worst_case_memory(settings.threads.0));
        log::debug!("with all limits reached at once, the node uses up to {memory} of memory");
        if settings.config.is_none()
            && let Some(address) = binder.bound().next()
        {
            print_examples(address);
        }
        binder.accept(bound, &node, &executor);
        notify::ready(&binder.status());
        notify::watch(&executor);
        let Serve { config: file, listen, log: Level(_, access_log), ready_file, passed, .. } = settings;
        let reloader = Reloader {
            node: node.clone(),
            executor: executor.clone(),
            command_line: Arc::new(CommandLine { file, listen, access_log, ready_file, passed }),
            access,
            parts: Arc::new(parts),
            binder,
            requests: requests.clone(),
            is_retiring: false,
            reading: Arc::default(),
        };
        let reloader = executor.spawn(reloader.run(woken));
        let stop = async {
            let _ = shutdown.recv().await;
            log::info!("stopping");
            notify::notify("STOPPING=1\nSTATUS=stopping");
            reloader.cancel().await;
            requests.stop();
        };
        node.serve(Vec::<Listener>::new(), stop).await;
        Ok(())
    };
    let mut ended = Ok(());
    run_on(&executor, pin!(async { ended = node.await }));
    ended
}

fn registry(
    config: &Arc<Config>,
    executor: &Arc<Executor<'static>>,
    demo: bool,
) -> Result<(Arc<Registry>, Parts), BoxError> {
    let topics = Arc::new(TopicHub::new(Arc::default()));
    let (mut builder, parts) = registry_from_config(config, executor, &topics)?;
    if demo {
        let settings = ServerSettings {
            name: Some("demo".into()),
            capacity: config.limits.queue,
            ..ServerSettings::default()
        };
        let functions = demo::functions(executor)?;
        let server = Server::with_settings(demo::Demo::default(), functions.clone(), settings);
        builder.export(&functions, &server.client())?;
        executor.spawn(server.run()).detach();
    }
    Ok((builder.build(), parts))
}

/// Prints commands to try.
fn print_examples(address: SocketAddr) {
    let to = if address.to_string() == DEFAULT_ADDRESS { String::new() } else { format!(" --to {address}") };
    for line in [
        format!("open http://{address}/ in a browser, or try, from another terminal:"),
        format!(
            "  curl http://{address}/ -d '{{\"jsonrpc\":\"2.0\",\"method\":\"demo.add\",\"params\":[2,3],\"id\":1}}'"
        ),
        format!("  chanrpc call{to} demo.add 2 3"),
        format!("  chanrpc go{to} demo.count 5     # fire and forget"),
        format!("  chanrpc list{to} -v             # all functions"),
        format!("  curl http://{address}/metrics"),
        "ten lines of --config FILE turn programs and other nodes into functions; see the README".to_owned(),
    ] {
        crate::log::print_line(&line);
    }
}

/// Returns a channel that receives the first signal to stop; a second one exits the process. SIGHUP requests a reload.
fn shutdown_signal(requests: Requests) -> Result<async_channel::Receiver<()>, ctrlc::Error> {
    let (first, signals) = async_channel::bounded(1);
    let signalled = AtomicBool::new(false);
    let stop = move || {
        if signalled.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Interrupted as i32);
        }
        let _ = first.try_send(());
    };
    signals::watch(Arc::new(stop), Arc::new(move || requests.signal()))?;
    Ok(signals)
}

/// A number of threads, from 1 to 1024.
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

/// A log level, and whether the access log is on.
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
            .map_err(|_: log::ParseLevelError| "one of error, warn, info, debug, trace, off, optionally followed by ,access")
    }
}
