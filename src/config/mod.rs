//! The configuration file as validated plain data.
//!
//! A [`Config`] says what a TOML file says, with every default filled in and every rule checked; nothing here opens a
//! socket, starts a program or knows the rest of the crate. Each error names the file, the line, the key and what a
//! valid value looks like, and an unknown key is an error, so that a misspelt setting never passes in silence.

mod access;
mod descriptors;
mod leaf;
mod memory;
mod read;
mod table;
mod template;
mod tls;
mod units;
mod workers;

pub use units::about;

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use crate::address::Address;
use crate::encoding;
pub use leaf::{ByteOrder, Leaf};

/// Everything that a configuration file can say.
///
/// [`Config::default`] is what an empty file says.
///
/// ```
/// use chanrpc::config::{Config, Provider};
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
/// assert!(matches!(config.functions[0].provider, Provider::Exec(_)));
///
/// let error = Config::parse("nmae = 'board-a'", "board.toml").unwrap_err();
/// assert!(error.to_string().starts_with("board.toml:1: unknown key \"nmae\""));
/// # Ok::<(), chanrpc::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What the node calls itself in replies and logs; `chanrpc` by default.
    pub name: String,
    /// Where the node listens. Empty when the file names no address, which leaves the choice to the node.
    pub listen: Vec<Listen>,
    /// The functions that the node offers, in the order of the file; no two bear the same name.
    pub functions: Vec<Function>,
    /// The rules that say who may call what. A call is allowed if one of them allows it.
    pub access: Vec<Rule>,
    /// How many calls run at once; as many as come, where nothing is said.
    pub workers: NodeWorkers,
    /// The bounds that the node keeps.
    pub limits: Limits,
    /// Whether each call and each refusal is logged, under the target `chanrpc::access`; not by default.
    pub access_log: bool,
}

/// One address that the node listens on: a `[[listen]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Host and port as typed, such as `127.0.0.1:7300`, `[fe80::1%eth0]:7300` or `localhost:7300`, which stands for
    /// all addresses that it names; port 0 takes a free one, and without a port it is 7300.
    pub address: String,
    /// Names, beside the address's own, by which HTTP clients and pages may address it.
    pub hosts: Vec<String>,
    /// Pages that are not the node's own and may call it, such as `https://app.example`; in lower case.
    pub origins: Vec<String>,
    /// Whether the listener is for Leaf's clients alone, and how these talk.
    pub leaf: Option<Leaf>,
    /// What makes it speak TLS, and nothing else.
    pub tls: Option<ListenTls>,
}

/// How a listener speaks TLS: files in PEM, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTls {
    /// The certificate that it shows, and the chain that leads to its authority.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities of which callers must have a certificate; nobody needs one by default.
    pub client_ca: Option<PathBuf>,
}

/// How another node is spoken to by TLS: files in PEM, as typed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ForwardTls {
    /// The authorities of which the other node must have a certificate.
    pub ca: PathBuf,
    /// The certificate to show there, and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Listen {
    /// Listens at an address, with nothing else said.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), hosts: Vec::new(), origins: Vec::new(), leaf: None, tls: None }
    }

    /// Tells by what is typed whether only this machine can reach the address: a loopback one, or `localhost`.
    pub fn is_local(&self) -> bool {
        self.address.parse().is_ok_and(|address: Address| address.is_loopback())
    }

    /// Returns `true` if it listens there, however its own address is written.
    pub(crate) fn is_at(&self, address: &Address) -> bool {
        self.address.parse().as_ref() == Ok(address)
    }
}

/// Who may call what, and where: an `[[access]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// File and line, such as `board.toml:12`.
    pub place: String,
    /// The functions that may be called: names in which `*` stands for any text. Never empty.
    pub functions: Vec<String>,
    /// What people call the rule.
    pub name: Option<String>,
    /// The SHA-256 of the token that the caller has to present. Without one the rule is for everybody.
    pub token: Option<[u8; 32]>,
    /// The addresses that it holds at, as under [`Listen::address`]; at all, if empty.
    pub listen: Vec<String>,
    /// From when on it allows nothing more.
    pub expires: Option<SystemTime>,
}

impl Rule {
    /// Tells whether the rule holds at the listener with this address.
    pub fn holds_at(&self, address: &str) -> bool {
        self.listen.is_empty() || self.listen.iter().any(|listen| same_address(listen, address))
    }
}

/// Returns `true` if two addresses differ only in how they are written.
fn same_address(a: &str, b: &str) -> bool {
    match (a.parse::<Address>(), b.parse::<Address>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// One function that is not native to the node: a `[[function]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The name that callers use: 1 to 128 bytes of visible ASCII. A forwarded one may end in `.*`, for a family.
    pub name: String,
    /// What the function does, for people who list it.
    pub description: Option<String>,
    /// How many of its calls run at once; of a program, [`Exec::concurrency`] says it.
    pub workers: Option<Workers>,
    /// What answers the name.
    pub provider: Provider,
}

/// What answers a configured function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// A program, started once a call.
    Exec(Exec),
    /// Another node.
    Forward(Forward),
}

/// Another node that answers a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Host and port of the other node, as typed.
    pub to: String,
    /// The longest that a call may take; without one, the node's call deadline holds.
    pub timeout: Option<Duration>,
    /// The file that holds the token to present there, as typed.
    pub token_file: Option<PathBuf>,
    /// What makes it speak TLS there.
    pub tls: Option<ForwardTls>,
}

/// A program that answers a function. No shell is involved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The program, then its arguments. Never empty, and the program itself holds no placeholder.
    pub argv: Vec<Template>,
    /// The parameters that the function takes, in the order of the file, which is also their position.
    pub params: Vec<Param>,
    /// How the program's standard output becomes the result.
    pub output: Output,
    /// The longest that one run may take; without one, the node's call deadline holds.
    pub timeout: Option<Duration>,
    /// How many runs may be under way at once; 4 by default.
    pub concurrency: usize,
    /// How many more calls may wait for a turn; 16 by default, and 0 refuses whatever cannot run at once.
    pub queue: usize,
    /// What becomes of calls when so many wait.
    pub when_full: WhenFull,
    /// How many bytes a run may print; [`Limits::message`] by default.
    pub output_limit: usize,
    /// The program's working directory, as typed; the node's own by default.
    pub directory: Option<PathBuf>,
    /// Variables of its environment, beside the few that it gets from the node's.
    pub env: Vec<(String, String)>,
    /// Names of further variables that it gets from the node's environment; a `*` at the end stands for any text.
    pub inherit_env: Vec<String>,
}

/// One declared parameter of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// The parameter's name: a letter or `_`, then letters, digits, `_` and `-`.
    pub name: String,
    /// The type of JSON value that it takes.
    pub kind: ParamKind,
    /// Whether its value may begin an argument with a dash, as options do; false by default.
    pub leading_dash: bool,
}

/// The type of JSON value that a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// `"string"`: a text.
    String,
    /// `"integer"`: a whole number, in whatever form.
    Integer,
    /// `"number"`: any number.
    Number,
    /// `"boolean"`: true or false.
    Boolean,
}

/// How a program's standard output becomes the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// `"text"`, the default: the output is one JSON string.
    #[default]
    Text,
    /// `"json"`: the output is the JSON value itself.
    Json,
    /// `"base64"`: the output, which may be any bytes, is one JSON string in base64.
    Base64,
}

/// One element of a program's argument list, parsed: its pieces, put together, make exactly one argument.
///
/// In the file `{path}` stands for the parameter of that name, `{0}` for the first one declared, and `{{path}}` for the text
/// `{path}`; other braces stand for themselves, and so do all if no parameter is declared. An empty element has no pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

/// A part of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text that stands for itself.
    Literal(String),
    /// The caller's value for a parameter: an index into [`Exec::params`].
    Param(usize),
}

/// How many calls run at once, by what answers them: the `[workers]` tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeWorkers {
    /// `[workers]`: calls of all functions together.
    pub node: Option<Workers>,
    /// `[workers.exec]`: calls of all functions that are programs.
    pub exec: Option<Workers>,
    /// `[workers.forward]`: calls of all functions of other nodes.
    pub forward: Option<Workers>,
    /// `[workers.native]`: calls of all functions of this process.
    pub native: Option<Workers>,
}

/// How many calls run at once, how many more wait, and what becomes of the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers {
    /// How many calls run at once; at least one does.
    pub count: usize,
    /// How many more may wait, of all functions together. With [`WhenFull::Wait`] it bounds only notifications, for each
    /// function by itself.
    pub queue: usize,
    /// What becomes of calls when so many wait.
    pub when_full: WhenFull,
    /// How many of the workers a single function may hold. By default all but one, so that a slow function leaves one
    /// to the others; all, if there is but one worker or one function.
    pub share: Option<usize>,
}

impl Workers {
    /// So many workers, with a queue of 256 and else the defaults.
    pub fn new(count: usize) -> Self {
        Self { count, queue: 256, when_full: WhenFull::Refuse, share: None }
    }
}

/// What becomes of calls when as many wait as may. The function that has the most calls waiting bears it, so
/// that a flood of one function costs the others no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// `"refuse"`, the default: its newest call is answered that the node is busy.
    #[default]
    Refuse,
    /// `"shed"`: its oldest waiting call is.
    Shed,
    /// `"wait"`: none is; only the calls in flight that each connection may have bound those that wait.
    Wait,
}

/// The bounds that a node keeps: the `[limits]` table. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest request or reply; 1 MiB by default.
    pub message: usize,
    /// How deep JSON may nest; 128 by default.
    pub depth: usize,
    /// How many calls a batch may hold; 100 by default.
    pub batch: usize,
    /// How many connections may be open at once; 1024 by default.
    pub connections: usize,
    /// How many of them one host may have. By default three quarters, and as many as it likes for this machine, so that
    /// no stranger shuts all others out.
    pub per_host: Option<usize>,
    /// How many calls of one connection may be under way before its reader waits; 64 by default.
    pub in_flight: usize,
    /// How much output may wait for one connection before nothing more is read from it or answered; 1 MiB by
    /// default.
    pub output: usize,
    /// How long a new connection may take to send its first bytes or its HTTP head; 10 s by default.
    pub head_timeout: Duration,
    /// How long a connection may last that has to present a token before it may call anything; 10 s by default.
    pub auth_timeout: Duration,
    /// How long a peer may accept no byte of waiting output, or send nothing of a message that it has begun, before it is
    /// cut off; 10 s by default. A message may take as long, and a second for each KiB of it.
    pub stall_timeout: Duration,
    /// The deadline of a call that carries none, and the most that a caller may ask for unless the function's own timeout
    /// is longer; 30 s by default.
    pub deadline: Duration,
    /// How many nodes a call may pass through; 8 by default.
    pub hops: u32,
    /// How long a stopping node waits for the calls under way; 5 s by default, and 0 waits for none.
    pub drain: Duration,
    /// How many calls may wait for a native server; 1024 by default.
    pub queue: usize,
    /// How long connecting to another node may take; 5 s by default.
    pub connect_timeout: Duration,
    /// How long a peer may be silent until it is asked for a sign of life, and as long again until it is given up;
    /// 60 s by default, and 0 never asks.
    pub keepalive: Duration,
    /// How long a token waits at most until it is looked at, after many wrong ones of the same host: 0.1 s after the sixth,
    /// and twice as long with each further one; 5 s by default, and 0 lets none wait.
    pub token_delay: Duration,
}

impl Config {
    /// Reads the text of a configuration file; `file` is what errors call it.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for the first thing in the text that breaks TOML's rules or this module's.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        read::config(text, file)
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::Read`] when the file cannot be read or is in no encoding of Unicode, and those of [`Config::parse`].
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
            functions: Vec::new(),
            access: Vec::new(),
            workers: NodeWorkers::default(),
            limits: Limits::default(),
            access_log: false,
        }
    }
}

impl Limits {
    /// Returns how many connections a host may have.
    pub fn of_one_host(&self, host: IpAddr) -> usize {
        match self.per_host {
            Some(limit) => limit,
            None if host.is_loopback() => usize::MAX,
            None => self.connections - self.connections / 4,
        }
    }
}

/// Returns what counts as one host: an IPv4 address, also one that is written as IPv6, or the IPv6 addresses of one /64, all
/// of which a single machine commonly has.
pub fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(network).into()
        }
        address => address,
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 1 << 20,
            depth: 128,
            batch: 100,
            connections: 1024,
            per_host: None,
            in_flight: 64,
            output: 1 << 20,
            head_timeout: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            hops: 8,
            drain: Duration::from_secs(5),
            queue: 1024,
            connect_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(60),
            token_delay: Duration::from_secs(5),
        }
    }
}

/// Why there is no [`Config`].
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    Read {
        /// The file's path.
        file: String,
        /// What reading it met.
        source: io::Error,
    },
    /// The file says something that it may not say.
    Invalid {
        /// What the caller calls the file.
        file: String,
        /// The line of the offending key, value or table, counted from 1.
        line: usize,
        /// Key, fault, and what would be valid.
        message: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { file, source } => write!(f, "cannot read {file}: {source}"),
            Self::Invalid { file, line, message } => write!(f, "{file}:{line}: {message}"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Invalid { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_whole_network_of_ipv6() {
        for (one, other, same) in [
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "::2", false),
        ] {
            let host = |text: &str| host_of(text.parse().expect("an address"));
            assert_eq!(host(one) == host(other), same, "{one} and {other}");
        }
        let loopback = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert_eq!(Limits::default().of_one_host(host_of(loopback)), usize::MAX);
    }
}
