//! What stands for TLS where the feature `tls` is off: it can be asked for, and says that it is not there.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::Path;

use super::Stream;

/// The side that shows a certificate. There is none.
#[derive(Clone, Debug)]
pub struct Acceptor(Infallible);

/// The side that asks for one. There is none.
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
    ///
    /// # Errors
    /// None.
    #[allow(clippy::unused_async)]
    pub async fn accept(&self, _: impl Stream) -> io::Result<Box<dyn Stream>> {
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
    pub async fn connect(&self, _: &str, _: impl Stream) -> io::Result<Box<dyn Stream>> {
        match self.0 {}
    }
}

/// TLS is not there.
#[derive(Debug)]
pub struct TlsError;

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "this build has no TLS; `cargo build --release --features tls` makes one that has it \
             (docs/operations.md)",
        )
    }
}

impl std::error::Error for TlsError {}
