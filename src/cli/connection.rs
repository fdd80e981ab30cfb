//! The options of all commands that connect to a node, and the connection.

use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::Executor;
use smol::future::FutureExt;

use super::arguments::{Arguments, Opt};
use super::{DEFAULT_ADDRESS, Exit, FLUSH_TIMEOUT, MAX_MESSAGE, check_address, interrupts, run_on, token};
use crate::address::NodeAddress;
use crate::config::Limits;
use crate::message::RawJson;
use crate::remote::{Connector, Mode, Remote, RemoteError};
#[cfg(feature = "nats")]
use crate::remote::{NatsAddress, NatsCredentials};
use crate::route::Registry;

const TO: Opt = Opt::with_value("--to", "ADDR", "the node's address (CHANRPC_TO, or else 127.0.0.1:7300)");
const TIMEOUT: Opt =
    Opt::with_value("--timeout", "TIME", "how long to wait for the node, such as 2s, 500ms or 2.5 (30s)");
const CA: Opt =
    Opt::with_value("--ca", "FILE", "use TLS; trust the certificate authorities in this PEM file");

#[cfg(feature = "nats")]
const CREDS: Opt = Opt::with_value(
    "--creds",
    "FILE",
    "for nats:// addresses: a .creds file, the seed of an NKey, user:password or a token",
);

/// The options that select a node.
#[cfg(not(feature = "nats"))]
pub(super) const CONNECTION: &[Opt] = &[TO, TIMEOUT, token::TOKEN_OPTION, token::TOKEN_FILE, CA];
#[cfg(feature = "nats")]
pub(super) const CONNECTION: &[Opt] = &[TO, TIMEOUT, token::TOKEN_OPTION, token::TOKEN_FILE, CA, CREDS];

/// The environment variable with the address of the node.
const VARIABLE: &str = "CHANRPC_TO";

/// The values of these options.
pub(super) struct Connection {
    pub(super) address: String,
    pub(super) timeout: Duration,
    pub(super) token: Option<String>,
    pub(super) tls: Option<Connector>,
    #[cfg(feature = "nats")]
    pub(super) credentials: Option<NatsCredentials>,
    /// What the node may call.
    pub(super) registry: Option<Arc<Registry>>,
}

impl Connection {
    pub(super) fn take(arguments: &mut Arguments) -> Result<Self, String> {
        let from_env = || std::env::var(VARIABLE).ok().filter(|address| !address.is_empty());
        let (option, address) = match (arguments.take(&TO), from_env()) {
            (Some(address), _) => (TO.name, address),
            (None, Some(address)) => (VARIABLE, address),
            (None, None) => (TO.name, DEFAULT_ADDRESS.to_owned()),
        };
        let timeout = arguments.duration(&TIMEOUT, Duration::from_secs(30))?;
        let token = token::from_options(arguments)?;
        let tls = arguments.take(&CA).map(|ca| Connector::load(Path::new(&ca), None)).transpose();
        let tls = tls.map_err(|error| format!("--ca: {error}"))?;
        #[cfg(feature = "nats")]
        let credentials = arguments.take(&CREDS).map(|file| credentials(&file)).transpose()?;
        #[cfg(feature = "nats")]
        if NatsAddress::is_meant(&address) {
            if NatsAddress::parse(&address).is_none() {
                // It may contain a password.
                let shown = address.rsplit_once('@').map_or(address.clone(), |(_, host)| format!("…@{host}"));
                return Err(format!(
                    "{option} {shown}: an address of NATS is nats://HOST:PORT, nats://HOST:PORT/PREFIX or \
                     tls://HOST:PORT; --creds FILE has who calls"
                ));
            }
            return Ok(Self { address, timeout, token, tls, credentials, registry: None });
        }
        #[cfg(feature = "nats")]
        if credentials.is_some() {
            return Err(format!("--creds is for nats:// addresses; {option} is {address}"));
        }
        check_address::<NodeAddress>(option, &address)?;
        Ok(Self {
            address,
            timeout,
            token,
            tls,
            #[cfg(feature = "nats")]
            credentials: None,
            registry: None,
        })
    }

    /// Connects to the node, and runs `exchange` until it ends or the user interrupts it.
    pub(super) fn with_remote(self, exchange: impl AsyncFnOnce(&Connected) -> Exit) -> Result<Exit, String> {
        let connected = self.connect()?;
        Ok(connected.run(Box::pin(exchange(&connected))))
    }

    fn connect(self) -> Result<Connected, String> {
        let Self { address, timeout, token, tls, registry, .. } = self;
        let deadline = Instant::now().checked_add(timeout);
        let deadline = deadline.ok_or_else(|| format!("--timeout: {timeout:?} is too long"))?;
        let interrupts = interrupts();
        let executor = Arc::new(Executor::new());
        // The node decides how large requests and replies may be.
        let limits = Limits { message: MAX_MESSAGE, output: MAX_MESSAGE, ..Limits::default() };
        let mut remote = Remote::builder(&*address).limits(limits).executor(&executor);
        #[cfg(feature = "nats")]
        if let Some(credentials) = self.credentials {
            remote = remote.credentials(credentials);
        }
        if let Some(token) = token {
            remote = remote.token(token);
        }
        if let Some(tls) = tls {
            remote = remote.tls(tls);
        }
        if let Some(registry) = registry {
            remote = remote.registry(registry);
        }
        Ok(Connected { remote: remote.connect(), executor, interrupts, address, timeout, deadline })
    }
}

/// Reads a file that shows who calls.
#[cfg(feature = "nats")]
fn credentials(file: &str) -> Result<NatsCredentials, String> {
    let text = crate::encoding::read(Path::new(file)).map_err(|error| format!("--creds {file}: {error}"))?;
    NatsCredentials::any(text.trim()).map_err(|error| format!("--creds {file}: {error}"))
}

/// A connection to a node.
pub(super) struct Connected {
    pub(super) remote: Remote,
    pub(super) executor: Arc<Executor<'static>>,
    interrupts: async_channel::Receiver<()>,
    pub(super) address: String,
    pub(super) timeout: Duration,
    /// When the timeout has passed since the start.
    pub(super) deadline: Instant,
}

impl Connected {
    /// Calls a function until the deadline.
    pub(super) async fn call(
        &self,
        function: &str,
        params: Option<RawJson<'static>>,
    ) -> Result<RawJson<'static>, RemoteError> {
        self.remote.send(function.to_owned().into(), params, self.deadline, 0, Mode::Call).await
    }

    fn run(&self, exchange: Pin<Box<dyn Future<Output = Exit> + '_>>) -> Exit {
        let interrupted = async {
            let _ = self.interrupts.recv().await;
            Exit::Interrupted
        };
        let mut exit = Exit::Interrupted;
        run_on(
            &self.executor,
            pin!(async {
                exit = exchange.or(interrupted).await;
                // Let the node know that a pending call is cancelled, since its future is dropped.
                self.remote.close(FLUSH_TIMEOUT).await;
            }),
        );
        exit
    }
}
