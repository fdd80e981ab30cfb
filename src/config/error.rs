//! The error of a configuration that cannot be used.

use std::{fmt, io};

/// Why a configuration could not be loaded.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    Read {
        /// The file's path.
        file: String,
        /// The cause.
        source: io::Error,
    },
    /// The contents of the file are invalid.
    Invalid {
        /// The file, as the caller named it.
        file: String,
        /// The line of the offending key, value or table, counted from 1.
        line: usize,
        /// The key, what is wrong with it, and what a valid value looks like.
        message: String,
    },
    /// Several errors, in the order of the file.
    Several(Vec<ConfigError>),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, source } => write!(f, "cannot read {file}: {source}"),
            Self::Invalid { file, line, message } => write!(f, "{file}:{line}: {message}"),
            Self::Several(errors) => {
                for (index, error) in errors.iter().enumerate() {
                    write!(f, "{}{error}", if index > 0 { "\n" } else { "" })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Invalid { .. } | Self::Several(_) => None,
        }
    }
}
