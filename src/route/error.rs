//! Why a registry does not accept a function.

use std::fmt;

use super::name::quoted;
use crate::message::{Fault, code};

/// Why a registry did not accept a function.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// No provider is registered for that name.
    Unknown(String),
    /// A provider is already registered for that name.
    Duplicate(String),
    /// Names that begin with `rpc.` or `$/` are reserved by the protocol.
    Reserved(String),
    /// A name has 1 to 128 visible ASCII characters, no quotes or backslashes, no dot at its end, and `*` only in
    /// a final `.*`.
    InvalidName(String),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unknown(name) | Self::Duplicate(name) | Self::Reserved(name) | Self::InvalidName(name)) =
            self;
        let wrong = match self {
            Self::Unknown(_) => " is not registered; register it before setting its workers",
            Self::Duplicate(_) => " is already registered",
            Self::Reserved(_) => ": names that begin with \"rpc.\" or \"$/\" are reserved",
            Self::InvalidName(_) => {
                ": a name has 1 to 128 visible ASCII characters without quotes and backslashes; \"*\" may only end a \
                 family, as in \"math.*\""
            }
        };
        write!(f, "function {}{wrong}", quoted(name))
    }
}

impl std::error::Error for RegistryError {}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        let code = match error {
            RegistryError::Duplicate(_) => code::TAKEN,
            _ => code::INVALID_PARAMS,
        };
        Self::new(code, error.to_string())
    }
}
