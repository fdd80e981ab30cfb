//! `chanrpc token`, and the token options of other commands.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::{env, fs};

use argh::FromArgs;

use super::{Exit, print, print_error, usage};
use crate::config::Config;
use crate::encoding;
use crate::route::token_hash;

/// The environment variable that holds a token.
const VARIABLE: &str = "CHANRPC_TOKEN";
/// Random bytes in a token: 192 bits cannot be guessed.
const RANDOM_BYTES: usize = 24;
/// The URL-safe Base64 alphabet of RFC 4648, section 5.
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The minimum length of a user-supplied token, in characters. A shorter one could be recovered from its hash.
const MIN_LEN: usize = 20;
/// The maximum number of bytes read as a token.
const MAX_INPUT: u64 = 64 * 1024;

/// Create a token that allows calling functions.
///
/// Prints the token to stdout and the access rule for the configuration to stderr, so that
/// chanrpc token 'demo.*' >token.txt 2>>node.toml
/// stores both. The configuration holds only the token's hash.
#[derive(FromArgs)]
#[argh(subcommand, name = "token", help_triggers("-h", "--help"))]
pub(super) struct Token {
    /// the holder's name, for logs and the output of `chanrpc why`
    #[argh(option)]
    name: Option<String>,
    /// read a token from standard input and print its access rule to stdout
    #[argh(switch)]
    hash: bool,
    /// the functions that it allows: names in which * matches any text (*)
    #[argh(positional, arg_name = "FUNCTION")]
    functions: Vec<String>,
}

impl Token {
    pub(super) fn run(self) -> Exit {
        let token = match if self.hash { read() } else { generate() } {
            Ok(token) => token,
            Err(message) if self.hash => return usage(&message),
            Err(message) => {
                print_error(format_args!("{message}"));
                return Exit::Failed;
            }
        };
        let rule = self.rule(&token);
        // The rule must be valid in the file that it is pasted into.
        if let Err(error) = Config::parse(&rule, "the rule") {
            return usage(&error.to_string());
        }
        if self.hash {
            print(&rule);
        } else {
            print(&token);
            if writeln!(std::io::stderr(), "{rule}").is_err() {
                return Exit::Failed;
            }
        }
        Exit::Success
    }

    fn rule(&self, token: &str) -> String {
        let mut rule = "\n[[access]]\n".to_owned();
        if let Some(name) = &self.name {
            let _ = writeln!(rule, "name = {name:?}");
        }
        let everything = ["*".to_owned()];
        let functions: &[String] = if self.functions.is_empty() { &everything } else { &self.functions };
        let _ = writeln!(rule, "functions = {functions:?}");
        rule.push_str("token = \"sha256:");
        for byte in token_hash(token) {
            let _ = write!(rule, "{byte:02x}");
        }
        rule.push('"');
        rule
    }
}

fn generate() -> Result<String, String> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(|error| format!("the system gives no random bytes: {error}"))?;
    let mut token = "chanrpc_".to_owned();
    for three in random.chunks(3) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        token.extend([18, 12, 6, 0].map(|shift| char::from(BASE64_URL[bits >> shift & 63])));
    }
    Ok(token)
}

fn read() -> Result<String, String> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_INPUT)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("reading standard input failed: {error}"))?;
    let text = encoding::decode(&bytes).map_err(|error| format!("standard input: {error}"))?;
    let token = validate(&text)?;
    if token.len() < MIN_LEN {
        return Err(format!(
            "a token needs {MIN_LEN} or more random characters; `chanrpc token` creates one"
        ));
    }
    Ok(token)
}

/// Trims and validates a token, which must fit into an HTTP header.
fn validate(text: &str) -> Result<String, String> {
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token is one word of visible ASCII characters".to_owned());
    }
    Ok(token.to_owned())
}

/// Returns the token given by a command's options.
pub(super) fn from_options(token: Option<String>, file: Option<PathBuf>) -> Result<Option<String>, String> {
    match (token, file) {
        (Some(_), Some(_)) => Err("--token and --token-file cannot be combined".to_owned()),
        (Some(token), None) => validate(&token).map(Some).map_err(|message| format!("--token: {message}")),
        (None, Some(file)) => {
            let fail = |message: String| format!("--token-file {}: {message}", file.display());
            let mut bytes = Vec::new();
            let read = fs::File::open(&file).and_then(|file| file.take(MAX_INPUT).read_to_end(&mut bytes));
            read.map_err(|error| fail(error.to_string()))?;
            let text = encoding::decode(&bytes).map_err(|error| fail(error.to_string()))?;
            validate(&text).map(Some).map_err(fail)
        }
        (None, None) => Ok(None),
    }
}

/// Returns the token given by the environment.
pub(super) fn from_env() -> Option<String> {
    env::var(VARIABLE).ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
}
