//! TLS around a stream. Without the feature `tls` the same types exist, and loading a certificate is an error.

#[cfg(not(feature = "tls"))]
mod disabled;
#[cfg(feature = "tls")]
mod enabled;
#[cfg(feature = "tls")]
mod validity;

#[cfg(not(feature = "tls"))]
pub use disabled::{Acceptor, Connector, TlsError, is_certificate_rejection};
#[cfg(feature = "tls")]
pub use enabled::{Acceptor, Connector, TlsError, is_certificate_rejection};
