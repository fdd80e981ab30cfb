//! Replacement for builds without TLS: every attempt to configure it is an error.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::transport::pipe::Stream;

/// The server side of TLS; cannot be constructed.
#[derive(Clone, Debug)]
pub struct Acceptor(Infallible);

/// The client side of TLS; cannot be constructed.
#[derive(Clone, Debug)]
pub struct Connector(Infallible);

impl Acceptor {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: &Path, _: &Path, _: Option<&Path>) -> Result<Self, TlsError> {
        Err(TlsError)
    }

    /// Cannot be called.
    pub(crate) fn is_like(&self, _: &Self) -> bool {
        match self.0 {}
    }

    /// Cannot be called.
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    #[allow(clippy::unused_async)]
    pub(crate) async fn accept(&self, _: impl Stream) -> io::Result<Box<dyn Stream>> {
        match self.0 {}
    }
}

impl Connector {
    /// Fails.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: &Path, _: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        Err(TlsError)
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    #[allow(clippy::unused_async)]
    pub(crate) async fn connect(&self, _: &str, _: impl Stream, _: bool) -> io::Result<Box<dyn Stream>> {
        match self.0 {}
    }
}

/// Returns `false`: there is no TLS connection.
pub fn is_certificate_rejection(_: &io::Error) -> bool {
    false
}

/// This build has no TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError;

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this build has no TLS; build with `cargo build --release --features cli,tls` to enable it \
             (docs/operations.md)",
        )
    }
}

impl std::error::Error for TlsError {}
