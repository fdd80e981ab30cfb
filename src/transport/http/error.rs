//! Why a connection ended with an error.

use std::error::Error;
use std::fmt;
use std::io;

/// An error that ended a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The stream failed, or its bytes are not valid HTTP.
    Http(hyper::Error),
    /// The stream failed within a request head.
    Stream(io::Error),
    /// No complete request head was received within [`head_timeout`](super::RequestLimits::head_timeout).
    SlowHead,
}

impl ServeError {
    /// Returns `true` if the peer sent invalid HTTP. hyper has then sent an error response.
    pub(super) fn is_parse_error(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_parse())
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => error.fmt(f),
            Self::Stream(error) => error.fmt(f),
            Self::SlowHead => f.write_str("the request head was not received in time (limits.head_timeout)"),
        }
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Http(error) => error.source(),
            Self::Stream(error) => Some(error),
            Self::SlowHead => None,
        }
    }
}
