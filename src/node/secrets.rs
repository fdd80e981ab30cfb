//! The files of a configuration with secrets and certificates, and what may be wrong with a configuration.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::config::ForwardTlsConfig;
use crate::encoding;
use crate::route::RegistryError;
use crate::transport::tls::{Connector, TlsError};

/// Loads the TLS files for connections to another node.
pub(super) fn connector(to: &str, tls: &ForwardTlsConfig) -> Result<Connector, ProviderConfigError> {
    let identity = tls.identity.as_ref().map(|(certificate, key)| (&**certificate, &**key));
    Connector::load(&tls.ca, identity)
        .map_err(|source| ProviderConfigError::Tls { to: to.to_owned(), source })
}

/// Reads a file with a token or password.
pub(super) fn read_secret(path: &Path) -> Result<String, ProviderConfigError> {
    let fail = |source| ProviderConfigError::TokenFile { path: path.to_owned(), source };
    let text = encoding::read(path).map_err(fail)?;
    match text.trim() {
        "" => Err(fail(invalid("the file is empty; write the secret into it".to_owned()))),
        token => Ok(token.to_owned()),
    }
}

/// Reads a file with a token, which is one line.
pub(super) fn read_token(path: &Path) -> Result<String, ProviderConfigError> {
    let token = read_secret(path)?;
    let lines = token.lines().count();
    if lines == 1 {
        return Ok(token);
    }
    let source = invalid(format!("the file has {lines} lines; it must hold the token alone, on one line"));
    Err(ProviderConfigError::TokenFile { path: path.to_owned(), source })
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Returns a hash of the contents of files.
pub(super) fn hash_of<'a>(files: impl Iterator<Item = &'a PathBuf>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        encoding::read_bytes(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// Why the registry of a configuration could not be created.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProviderConfigError {
    /// The registry did not accept a function.
    Registry(RegistryError),
    /// A `token_file`, or another file with a secret, cannot be used.
    TokenFile {
        /// The path, as configured.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A function's `descriptors` cannot be used.
    #[cfg(feature = "grpc")]
    Descriptors {
        /// The path, as configured.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The files under a function's `tls` cannot be used.
    Tls {
        /// The other node, as configured.
        to: String,
        /// The cause.
        source: TlsError,
    },
}

impl ProviderConfigError {
    /// Returns the key of the configuration that names what cannot be used.
    #[cfg(feature = "cli")]
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Registry(_) => "name",
            Self::TokenFile { .. } => "token_file",
            #[cfg(feature = "grpc")]
            Self::Descriptors { .. } => "descriptors",
            Self::Tls { .. } => "tls",
        }
    }
}

impl From<RegistryError> for ProviderConfigError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl fmt::Display for ProviderConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(error) => error.fmt(f),
            Self::TokenFile { path, source } => {
                write!(f, "cannot use {}: {source}", path.display())
            }
            #[cfg(feature = "grpc")]
            Self::Descriptors { path, source } => write!(f, "descriptors {}: {source}", path.display()),
            Self::Tls { to, source } => write!(f, "tls of {to:?}: {source}"),
        }
    }
}

impl std::error::Error for ProviderConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Registry(error) => error.source(),
            Self::TokenFile { source, .. } => Some(source),
            #[cfg(feature = "grpc")]
            Self::Descriptors { source, .. } => Some(&**source),
            Self::Tls { source, .. } => Some(source),
        }
    }
}
