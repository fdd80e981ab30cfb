//! Providers as the configuration names them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use smol::Executor;

use super::registry::{Builder, RegistryError};
use super::{Exec, Forward, Registry};
use crate::config::{Config, ForwardTls, NodeWorkers, Provider};
use crate::encoding;
use crate::remote::Remote;
use crate::transport::tls::{Connector, TlsError};

/// Where to, and with which token and which TLS.
type Way<'a> = (&'a str, Option<&'a Path>, Option<&'a ForwardTls>);

/// Starts a registry with the functions of a configuration. Functions that are forwarded to the same node
/// with the same token and TLS share one connection.
///
/// # Errors
/// [`ProvidersError`].
pub fn providers(config: &Config, executor: &Arc<Executor<'static>>) -> Result<Builder, ProvidersError> {
    let name: Arc<str> = config.name.as_str().into();
    let hops = config.limits.hops;
    let mut builder = Registry::builder(name.clone()).max_hops(hops);
    let NodeWorkers { node, exec, forward, native } = &config.workers;
    if let Some(workers) = node {
        builder.node_workers(workers.clone());
    }
    for (kind, workers) in [("exec", exec), ("forward", forward), ("native", native)] {
        if let Some(workers) = workers {
            builder.provider_workers(kind, workers.clone());
        }
    }
    let mut remotes: HashMap<Way<'_>, Arc<Remote>> = HashMap::new();
    for function in &config.functions {
        let description = function.description.clone();
        match &function.provider {
            Provider::Exec(exec) => {
                let exec = Exec::new(executor.clone(), exec.clone());
                if let Some(what) = exec.missing() {
                    log::warn!("function {:?} cannot run: {what}", function.name);
                }
                builder.provide(&function.name, description, exec)?;
            }
            Provider::Forward(forward) => {
                let to = (forward.to.as_str(), forward.token_file.as_deref(), forward.tls.as_ref());
                let remote = match remotes.get(&to) {
                    Some(remote) => remote.clone(),
                    None => {
                        let token = to.1.map(token).transpose()?;
                        let tls = to.2.map(|tls| connector(to.0, tls)).transpose()?;
                        let remote = Remote::over_tls(executor, to.0, config.limits.clone(), token, tls);
                        remotes.entry(to).or_insert(Arc::new(remote)).clone()
                    }
                };
                let forward = Forward::new(executor.clone(), remote, name.clone(), hops, forward.timeout);
                builder.provide(&function.name, description, forward)?;
            }
        }
        if let Some(workers) = &function.workers {
            builder.function_workers(&function.name, workers.clone())?;
        }
    }
    Ok(builder)
}

fn token(path: &Path) -> Result<String, ProvidersError> {
    let fail = |source| ProvidersError::TokenFile { path: path.to_owned(), source };
    let text = encoding::read(path).map_err(fail)?;
    match text.trim() {
        "" => Err(fail(io::Error::new(io::ErrorKind::InvalidData, "it holds no token"))),
        token => Ok(token.to_owned()),
    }
}

fn connector(to: &str, tls: &ForwardTls) -> Result<Connector, ProvidersError> {
    let identity = tls.identity.as_ref().map(|(certificate, key)| (&**certificate, &**key));
    Connector::load(&tls.ca, identity).map_err(|source| ProvidersError::Tls { to: to.to_owned(), source })
}

/// Says why the providers of a configuration are not there.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProvidersError {
    /// A name was not taken.
    Registry(RegistryError),
    /// A function's `token_file` cannot be read.
    TokenFile {
        /// As configured.
        path: PathBuf,
        /// What reading it met.
        source: io::Error,
    },
    /// A function's `tls` is not what it should be.
    Tls {
        /// The other node, as configured.
        to: String,
        /// What is wrong.
        source: TlsError,
    },
}

impl From<RegistryError> for ProvidersError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl fmt::Display for ProvidersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(error) => error.fmt(f),
            Self::TokenFile { path, source } => {
                write!(f, "cannot read token_file {}: {source}", path.display())
            }
            Self::Tls { to, source } => write!(f, "tls of forward = {to:?}: {source}"),
        }
    }
}

impl std::error::Error for ProvidersError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Registry(error) => error.source(),
            Self::TokenFile { source, .. } => Some(source),
            Self::Tls { source, .. } => Some(source),
        }
    }
}
