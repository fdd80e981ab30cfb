//! The configuration file as validated plain data.
//!
//! A [`Config`] holds the contents of a TOML file, with every default filled in and every rule checked. This module opens
//! no socket and starts no program. Each error names the file, the line, the key and what a valid value looks like. An
//! unknown key is an error, so that a misspelt setting is never ignored silently.

pub(crate) mod access;
mod descriptors;
mod error;
pub(crate) mod exec;
pub(crate) mod forward;
pub(crate) mod function;
#[cfg(feature = "grpc")]
pub(crate) mod grpc;
pub(crate) mod leaf;
pub(crate) mod limits;
pub(crate) mod listener;
mod memory;
#[cfg(feature = "nats")]
pub(crate) mod nats;
pub(crate) mod offer;
pub(crate) mod param;
mod parse;
#[cfg(feature = "cli")]
mod places;
pub(crate) mod process;
mod table;
pub(crate) mod template;
pub(crate) mod topic;
pub(crate) mod units;
pub(crate) mod workers;

pub use error::ConfigError;
pub use forward::Balance;
pub use limits::Limits;
pub use listener::ListenerConfig;
pub use workers::{WhenFull, Workers};

pub(crate) use access::Rule;
pub(crate) use exec::{ExecConfig, OutputFormat};
pub(crate) use forward::{ForwardConfig, ForwardTarget, ForwardTlsConfig};
pub(crate) use function::{FunctionConfig, ProviderConfig};
#[cfg(feature = "grpc")]
pub(crate) use grpc::{GrpcConfig, MethodTarget};
#[cfg(feature = "grpc")]
pub(crate) use leaf::LeafProtobuf;
pub(crate) use leaf::{ByteOrder, LeafConfig};
pub(crate) use limits::host_key;
pub(crate) use listener::ListenerTlsConfig;
#[cfg(feature = "nats")]
pub(crate) use nats::{LISTENER as NATS_LISTENER, NatsConfig, NatsFunctionConfig, NatsServer, is_of_name};
pub(crate) use offer::OfferConfig;
pub(crate) use param::{ParamConfig, ParamKind};
#[cfg(feature = "cli")]
pub(crate) use places::{Places, Which};
pub(crate) use process::{ProcessConfig, ProcessFunctionConfig, Speech};
pub(crate) use template::{ArgTemplate, Piece};
pub(crate) use topic::{OVERFLOWS, Overflow, TopicConfig};
#[cfg(feature = "cli")]
pub(crate) use units::{format_bytes, parse_duration};
pub(crate) use workers::NodeWorkers;

use std::path::Path;

use crate::encoding;

/// The contents of a configuration file.
///
/// [`Config::default`] is the configuration of an empty file.
///
/// ```
/// use chanrpc::config::Config;
///
/// let text = r#"
///     name = "board-a"
///     [[function]]
///     name = "disk.free"
///     exec = ["df", "-k", "{path}"]
///     params = { path = "string" }
/// "#;
/// let config = Config::parse(text, "board.toml")?;
/// assert_eq!(config.name, "board-a");
///
/// let error = Config::parse("nmae = 'board-a'", "board.toml").unwrap_err();
/// assert!(error.to_string().starts_with("board.toml:1: unknown key \"nmae\""));
/// # Ok::<(), chanrpc::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node's name in replies and logs; `chanrpc` by default.
    pub name: String,
    /// The addresses to listen on. Empty if the file names none, which leaves the choice to the node.
    pub listen: Vec<ListenerConfig>,
    /// The programs that stay and provide functions; their names are unique.
    pub(crate) processes: Vec<ProcessConfig>,
    /// The functions of the node, in the order of the file; their names are unique.
    pub(crate) functions: Vec<FunctionConfig>,
    /// The topics that are configured; their names are unique.
    pub(crate) topics: Vec<TopicConfig>,
    /// The access rules. A call is allowed if any of them allows it.
    pub(crate) access: Vec<Rule>,
    /// What the node offers at other nodes.
    pub(crate) offers: Vec<OfferConfig>,
    /// The gRPC services besides those that every node has.
    #[cfg(feature = "grpc")]
    pub(crate) grpc: Option<GrpcConfig>,
    /// The servers of NATS.
    #[cfg(feature = "nats")]
    pub(crate) nats: Option<NatsConfig>,
    /// The limits on concurrent calls; unlimited by default.
    pub(crate) workers: NodeWorkers,
    /// The resource limits of the node.
    pub limits: Limits,
    /// Whether each call and each rejection is logged, under the target `chanrpc::access`; `false` by default.
    pub access_log: bool,
}

impl Config {
    /// Parses the text of a configuration file; errors refer to it as `file`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for a violation of TOML's rules or of this module's, [`ConfigError::Several`] for more.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        parse::config(text, file)
    }

    /// Loads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if the file cannot be read or is in no Unicode encoding, and as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        match encoding::read(path) {
            Ok(text) => Self::parse(&text, &file),
            Err(source) => Err(ConfigError::Read { file, source }),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "chanrpc".to_owned(),
            listen: Vec::new(),
            processes: Vec::new(),
            functions: Vec::new(),
            topics: Vec::new(),
            access: Vec::new(),
            offers: Vec::new(),
            #[cfg(feature = "grpc")]
            grpc: None,
            #[cfg(feature = "nats")]
            nats: None,
            workers: NodeWorkers::default(),
            limits: Limits::default(),
            access_log: false,
        }
    }
}

#[cfg(test)]
mod tests;
