//! `chanrpc token`, and the token options of other commands.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::{env, fs};

use super::arguments::{Arguments, Command, Count, Operand, Opt};
use super::{Exit, print, print_error};
use crate::config::Config;
use crate::encoding;
use crate::route::token_hash;

/// Presents a token.
pub(super) const TOKEN_OPTION: Opt = Opt::with_value(
    "--token",
    "TOKEN",
    "the token to present (CHANRPC_TOKEN); other users of this machine can see it",
);
/// Presents the token in a file.
pub(super) const TOKEN_FILE: Opt =
    Opt::with_value("--token-file", "FILE", "a file with the token to present");

const NAME: Opt =
    Opt::with_value("--name", "NAME", "the holder's name, for logs and the output of `chanrpc why`");
const HASH: Opt =
    Opt::switch("--hash", "read a token from standard input and print its access rule to stdout");
const JSON: Opt = Opt::switch("--json", "print the token and its access rule as one line of JSON");

pub(super) const TOKEN: Command = Command {
    name: "token",
    about: "Create a token that allows calling functions.",
    operands: &[Operand {
        name: "FUNCTION",
        about: "a function that it allows: a name in which * matches any text (*)",
        count: Count::Any,
    }],
    options: &[&[NAME, HASH, JSON]],
    notes: "Prints the token to stdout and the access rule for the configuration to stderr, so that\n  \
            chanrpc token 'demo.*' >token.txt 2>>node.toml\n\
            stores both. The configuration holds only the token's hash.",
    run,
};

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

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    let (hash, as_json) = (arguments.has(&HASH), arguments.has(&JSON));
    let name = arguments.take(&NAME);
    let token = match if hash { read() } else { generate() } {
        Ok(token) => token,
        Err(message) if hash => return Err(message),
        Err(message) => {
            print_error(format_args!("{message}"));
            return Ok(Exit::Failed);
        }
    };
    let rule = rule(name.as_deref(), &arguments.operands, &token);
    // The rule must be valid in the file that it is pasted into.
    Config::parse(&rule, "the rule").map_err(|error| {
        let mistakes = error.to_string();
        // The line and the table are those of the rule, which the user has not seen.
        mistakes.split_once(" in [[access]]: ").map_or(mistakes.clone(), |(key, what)| {
            format!("{}: {what}", if key.ends_with("name") { NAME.name } else { "FUNCTION" })
        })
    })?;
    if as_json {
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let token = if hash { String::new() } else { format!("\"token\":{},", quoted(&token)) };
        print(&format!("{{{token}\"rule\":{}}}", quoted(&rule)));
    } else if hash {
        print(&rule);
    } else {
        print(&token);
        if writeln!(std::io::stderr(), "{rule}").is_err() {
            return Ok(Exit::Failed);
        }
    }
    Ok(Exit::Success)
}

fn rule(name: Option<&str>, functions: &[String], token: &str) -> String {
    let mut rule = "\n[[access]]\n".to_owned();
    if let Some(name) = name {
        let _ = writeln!(rule, "name = {name:?}");
    }
    let everything = ["*".to_owned()];
    let functions: &[String] = if functions.is_empty() { &everything } else { functions };
    let _ = writeln!(rule, "functions = {functions:?}");
    rule.push_str("token = \"sha256:");
    for byte in token_hash(token) {
        let _ = write!(rule, "{byte:02x}");
    }
    rule.push('"');
    rule
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

/// Returns the token given by a command's options, or else by the environment.
pub(super) fn from_options(arguments: &mut Arguments) -> Result<Option<String>, String> {
    match (arguments.take(&TOKEN_OPTION), arguments.take(&TOKEN_FILE)) {
        (Some(_), Some(_)) => Err("--token and --token-file cannot be combined".to_owned()),
        (Some(token), None) => validate(&token).map(Some).map_err(|message| format!("--token: {message}")),
        (None, Some(file)) => {
            let fail = |message: String| format!("--token-file {file}: {message}");
            let mut bytes = Vec::new();
            let read = fs::File::open(&file).and_then(|file| file.take(MAX_INPUT).read_to_end(&mut bytes));
            read.map_err(|error| fail(error.to_string()))?;
            let text = encoding::decode(&bytes).map_err(|error| fail(error.to_string()))?;
            validate(&text).map(Some).map_err(fail)
        }
        (None, None) => {
            Ok(env::var(VARIABLE).ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()))
        }
    }
}
