//! Why a connection over HTTP/2 ended with an error.

use std::error::Error;
use std::fmt;
use std::io;

use h2::Reason;

/// An error that ended a connection.
#[derive(Debug)]
pub enum Http2Error {
    /// The peer sent what costs this node more than it costs the peer.
    Flood,
    /// The peer did not complete the preface, a frame or the head of a request in time.
    SlowHead,
    /// The peer may do nothing without a token, and has presented none in time.
    NoToken,
    /// The peer broke the protocol, or ended the connection with an error.
    Protocol(h2::Error),
    /// The stream failed, or the peer is gone.
    Stream(io::Error),
}

impl From<h2::Error> for Http2Error {
    fn from(error: h2::Error) -> Self {
        if error.is_io() {
            return Self::Stream(error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()));
        }
        match error.reason() {
            Some(Reason::ENHANCE_YOUR_CALM) if !error.is_remote() => Self::Flood,
            _ => Self::Protocol(error),
        }
    }
}

impl fmt::Display for Http2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flood => f.write_str(
                "the peer floods the connection with requests that it cancels, with empty frames, or with frames that \
                 belong to no request (limits.control_frames)",
            ),
            Self::SlowHead => f.write_str("a request head was not received in time (limits.head_timeout)"),
            Self::NoToken => f.write_str(
                "no token arrived in time, and nothing may be called without one (limits.auth_timeout)",
            ),
            Self::Protocol(error) => error.fmt(f),
            Self::Stream(error) => error.fmt(f),
        }
    }
}

impl Error for Http2Error {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Stream(error) => Some(error),
            _ => None,
        }
    }
}
