//! `chanrpc token`, and the tokens that other commands present.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::{env, fs};

use argh::FromArgs;

use super::{Exit, complain, print, usage};
use crate::config::Config;
use crate::encoding;
use crate::route::token_hash;

/// The variable that holds a token.
const VARIABLE: &str = "CHANRPC_TOKEN";
/// Random bytes in a token: 192 bits, which nobody guesses.
const RANDOM: usize = 24;
/// The characters of URLs without a meaning there, as in RFC 4648, section 5.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Characters of a token that somebody else made. A shorter one could be found from its hash.
const SHORTEST: usize = 20;
/// Bytes that are read to find a token.
const LONGEST: u64 = 64 * 1024;

/// Make a token that allows to call functions.
///
/// The token is printed to stdout, and what the configuration has to say about it to stderr, so that
/// chanrpc token 'demo.*' >token.txt 2>>node.toml
/// stores both where they belong. The configuration holds only its hash.
#[derive(FromArgs)]
#[argh(subcommand, name = "token", help_triggers("-h", "--help"))]
pub(super) struct Token {
    /// what to call its holder, in logs and in answers to `chanrpc why`
    #[argh(option)]
    name: Option<String>,
    /// read a token from standard input, and print to stdout what the configuration has to say about it
    #[argh(switch)]
    hash: bool,
    /// the functions that it allows: names in which * stands for any text (*)
    #[argh(positional, arg_name = "FUNCTION")]
    functions: Vec<String>,
}

impl Token {
    pub(super) fn run(self) -> Exit {
        let token = match if self.hash { read() } else { make() } {
            Ok(token) => token,
            Err(message) if self.hash => return usage(&message),
            Err(message) => {
                complain(format_args!("{message}"));
                return Exit::Failed;
            }
        };
        let rule = self.rule(&token);
        // What is to be pasted must be valid where it is pasted.
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
        Exit::Answered
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

fn make() -> Result<String, String> {
    let mut random = [0; RANDOM];
    getrandom::fill(&mut random).map_err(|error| format!("the system gives no random bytes: {error}"))?;
    let mut token = "chanrpc_".to_owned();
    for three in random.chunks(3) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        token.extend([18, 12, 6, 0].map(|shift| char::from(DIGITS[bits >> shift & 63])));
    }
    Ok(token)
}

fn read() -> Result<String, String> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(LONGEST)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("reading standard input failed: {error}"))?;
    let text = encoding::decode(&bytes).map_err(|error| format!("standard input: {error}"))?;
    let token = checked(&text)?;
    if token.len() < SHORTEST {
        return Err(format!("a token of {SHORTEST} random characters or more; `chanrpc token` makes one"));
    }
    Ok(token)
}

/// A token without the white space around it. It has to fit into a header.
fn checked(text: &str) -> Result<String, String> {
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token is one word of visible ASCII characters".to_owned());
    }
    Ok(token.to_owned())
}

/// The token that a command's options give.
pub(super) fn given(token: Option<String>, file: Option<PathBuf>) -> Result<Option<String>, String> {
    match (token, file) {
        (Some(_), Some(_)) => Err("--token and --token-file name two tokens; one is presented".to_owned()),
        (Some(token), None) => checked(&token).map(Some).map_err(|message| format!("--token: {message}")),
        (None, Some(file)) => {
            let fail = |message: String| format!("--token-file {}: {message}", file.display());
            let mut bytes = Vec::new();
            let read = fs::File::open(&file).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
            read.map_err(|error| fail(error.to_string()))?;
            let text = encoding::decode(&bytes).map_err(|error| fail(error.to_string()))?;
            checked(&text).map(Some).map_err(fail)
        }
        (None, None) => Ok(None),
    }
}

/// The token that the environment gives.
pub(super) fn of_the_environment() -> Option<String> {
    env::var(VARIABLE).ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
}
