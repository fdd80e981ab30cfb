//! The command line: what each command accepts, as one table for parsing, help and completion.
//!
//! Options may come anywhere, as `--option value` or `--option=value`. An argument that begins with a dash and a digit
//! is a number and no option. All arguments after `--` are operands.

use std::ffi::OsString;
use std::fmt::{Display, Write};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use argh::{CommandInfo, DynamicSubCommand, EarlyExit, FromArgs};

use super::{COMMANDS, Exit};
use crate::config::parse_duration;
use crate::features::FEATURES;
use crate::nearest::nearest;

/// A command.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// A sentence.
    pub(super) about: &'static str,
    pub(super) operands: &'static [Operand],
    /// The options, in groups that commands share.
    pub(super) options: &'static [&'static [Opt]],
    /// Further sentences of the help.
    pub(super) notes: &'static str,
    /// Runs the command. An error is one of usage.
    pub(super) run: fn(Arguments) -> Result<Exit, String>,
}

/// A positional argument.
pub(super) struct Operand {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) count: Count,
}

/// How often an operand occurs.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Count {
    One,
    Optional,
    Any,
}

/// An option of a command.
#[derive(Clone, Copy)]
pub(super) struct Opt {
    pub(super) name: &'static str,
    /// One dash and a letter, or empty.
    pub(super) short: &'static str,
    /// What the option's value is; empty for a switch.
    pub(super) value: &'static str,
    pub(super) about: &'static str,
    repeats: bool,
}

impl Opt {
    pub(super) const fn switch(name: &'static str, about: &'static str) -> Self {
        Self { name, short: "", value: "", about, repeats: false }
    }

    pub(super) const fn with_value(name: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { value, ..Self::switch(name, about) }
    }

    pub(super) const fn short(self, short: &'static str) -> Self {
        Self { short, ..self }
    }

    /// The option may be given several times.
    pub(super) const fn repeated(self) -> Self {
        Self { repeats: true, ..self }
    }

    fn is(&self, name: &str) -> bool {
        self.name == name || !self.short.is_empty() && self.short == name
    }

    /// Returns how it is written in help.
    fn label(&self) -> String {
        let Self { name, short, value, .. } = self;
        let comma = if short.is_empty() { "" } else { ", " };
        let space = if value.is_empty() { "" } else { " " };
        format!("{short}{comma}{name}{space}{value}")
    }
}

const HELP: Opt = Opt::switch("--help", "show help").short("-h");
const VERSION: Opt = Opt::switch("--version", "print the version").short("-V");
/// The options of the program itself, also accepted by commands.
const GLOBAL: &[Opt] = &[HELP, VERSION];

impl Command {
    pub(super) fn all_options(&self) -> impl Iterator<Item = &'static Opt> {
        self.options.iter().copied().flatten()
    }

    /// Returns the text of `chanrpc help COMMAND`.
    fn help(&self) -> String {
        let mut text = format!("{}\n\nusage: chanrpc {} [OPTIONS]", self.about, self.name);
        for Operand { name, count, .. } in self.operands {
            let (open, close) = match count {
                Count::One => ("", ""),
                Count::Optional => ("[", "]"),
                Count::Any => ("[", "]..."),
            };
            let _ = write!(text, " {open}{name}{close}");
        }
        text.push_str("\n\n");
        let operands = self.operands.iter().map(|operand| (operand.name.to_owned(), operand.about));
        rows(&mut text, &operands.collect::<Vec<_>>());
        text.push_str("Options:\n");
        option_rows(&mut text, &mut self.all_options());
        text.push_str(self.notes);
        text.truncate(text.trim_end().len());
        text
    }
}

/// Returns the text of `chanrpc help`.
fn help() -> String {
    let mut text =
        "Serve functions over one port, and call them.\n\nusage: chanrpc COMMAND [OPTIONS]\n\nCommands:\n"
            .to_owned();
    let mut commands: Vec<_> =
        COMMANDS.iter().map(|command| (command.name.to_owned(), command.about)).collect();
    commands.push(("help [COMMAND]".to_owned(), "Show this help, or the options of a command."));
    rows(&mut text, &commands);
    text.push_str("Options:\n");
    option_rows(&mut text, &mut GLOBAL.iter());
    text.truncate(text.trim_end().len());
    text
}

fn option_rows(text: &mut String, options: &mut dyn Iterator<Item = &'static Opt>) {
    rows(text, &options.map(|option| (option.label(), option.about)).collect::<Vec<_>>());
}

/// Appends two columns and a blank line, if any.
fn rows(text: &mut String, rows: &[(String, &str)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, about) in rows {
        let _ = writeln!(text, "  {name:width$}  {about}");
    }
    if !rows.is_empty() {
        text.push('\n');
    }
}

/// An unfinished command line, for completion.
pub(super) struct Words {
    pub(super) command: Option<&'static Command>,
    /// The options that may follow, or the commands.
    pub(super) options: Vec<String>,
    /// The number of operands.
    pub(super) operand: usize,
    /// An option's value comes next.
    pub(super) is_value: bool,
}

impl Words {
    pub(super) fn of(words: &[String]) -> Self {
        let (mut command, mut operand, mut is_value) = (None, 0, false);
        let mut is_unknown = false;
        for word in words {
            if is_value {
                is_value = false;
            } else if is_option(word) {
                is_value = takes_value(word);
            } else if command.is_none() {
                command = find(word);
                is_unknown = command.is_none() && word != "help";
            } else {
                operand += 1;
            }
        }
        let mut options: Vec<_> = GLOBAL.iter().map(|option| option.name.to_owned()).collect();
        match command {
            Some(command) => {
                options.pop();
                options.extend(command.all_options().map(|option| option.name.to_owned()));
            }
            None if is_unknown => options.clear(),
            None => {
                options.extend(COMMANDS.iter().map(|command| command.name.to_owned()));
                options.push("help".to_owned());
            }
        }
        Self { command, options, operand, is_value }
    }
}

/// Why no command runs.
#[derive(Debug)]
pub(super) enum Stop {
    /// A text was asked for.
    Shown(String),
    /// The command line is wrong.
    Wrong(Wrong),
}

/// What is wrong with a command line, and for which command.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) command: Option<&'static str>,
}

/// The arguments of a command.
pub(super) struct Arguments {
    pub(super) command: &'static Command,
    options: Vec<(&'static str, String)>,
    pub(super) operands: Vec<String>,
}

/// The command line, as argh reads it: the program's own options, and a command, which reads the remainder by its table.
#[derive(FromArgs)]
#[argh(description = "Serve functions over one port, and call them.", help_triggers("-h", "--help"))]
struct Line {
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
    #[argh(subcommand)]
    command: Option<Chosen>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Chosen {
    #[argh(dynamic)]
    OfTable(Arguments),
}

impl DynamicSubCommand for Arguments {
    fn commands() -> &'static [&'static CommandInfo] {
        static INFOS: LazyLock<Vec<&'static CommandInfo>> = LazyLock::new(|| {
            let info = |command: &&'static Command| CommandInfo {
                name: command.name,
                short: &'\0',
                description: command.about,
            };
            COMMANDS.iter().map(|command| &*Box::leak(Box::new(info(command)))).collect()
        });
        &INFOS
    }

    fn try_redact_arg_values(_: &[&str], _: &[&str]) -> Option<Result<Vec<String>, EarlyExit>> {
        None
    }

    fn try_from_args(names: &[&str], arguments: &[&str]) -> Option<Result<Self, EarlyExit>> {
        let command = find(names.last()?)?;
        Some(command.parse(arguments))
    }
}

fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().copied().find(|command| command.name == name)
}

/// Parses a command line without the program's name.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, Stop> {
    let line = command_first(&mut arguments.into_iter())
        .map_err(|message| Stop::Wrong(Wrong { message, command: None }))?;
    let words: Vec<&str> = line.iter().map(String::as_str).collect();
    let command = words.first().and_then(|name| find(name));
    let wrong = |message| Err(Stop::Wrong(Wrong { message, command: command.map(|command| command.name) }));
    match words.first() {
        Some(option) if is_option(option) && !GLOBAL.iter().any(|known| known.is(option)) => {
            return wrong(unknown("option", option, &mut GLOBAL.iter().map(|option| option.name)));
        }
        // argh has no command of this name.
        Some(&"help") => {
            return match words.get(1).map(|name| (name, find(name))) {
                None => Err(Stop::Shown(help())),
                Some((_, Some(command))) => Err(Stop::Shown(command.help())),
                Some((name, None)) => wrong(no_command(name)),
            };
        }
        Some(name) if command.is_none() && !is_option(name) => return wrong(no_command(name)),
        _ => {}
    }
    match Line::from_args(&["chanrpc"], &words) {
        Ok(Line { version: true, .. }) => {
            let mut version = concat!("chanrpc ", env!("CARGO_PKG_VERSION")).to_owned();
            if !FEATURES.is_empty() {
                version += &format!(" ({})", FEATURES.join(", "));
            }
            Err(Stop::Shown(version))
        }
        Ok(Line { command: Some(Chosen::OfTable(arguments)), .. }) => Ok(arguments),
        Ok(Line { command: None, .. }) => {
            let names: Vec<_> = COMMANDS.iter().map(|command| command.name).collect();
            wrong(format!("a command is missing: {} or help", names.join(", ")))
        }
        Err(EarlyExit { output, status: Ok(()) }) => {
            Err(Stop::Shown(if command.is_some() { output } else { help() }))
        }
        Err(EarlyExit { output, status: Err(()) }) => wrong(output.trim_end().to_owned()),
    }
}

/// Moves the name of the command to the front, since options may come before it.
fn command_first(arguments: &mut dyn Iterator<Item = OsString>) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for argument in arguments {
        words.push(argument.into_string().map_err(|argument| format!("argument {argument:?} is not UTF-8"))?);
    }
    let mut is_value = false;
    let is_name = |word: &String| {
        let is_operand = !is_value && !is_option(word);
        is_value = !is_value && is_option(word) && takes_value(word);
        is_operand
    };
    if let Some(at) = words.iter().position(is_name) {
        words[..=at].rotate_right(1);
    }
    Ok(words)
}

/// Returns `true` if the next argument is the value of this option.
fn takes_value(option: &str) -> bool {
    let mut every = COMMANDS.iter().flat_map(|command| command.all_options());
    every.any(|known| known.is(option) && !known.value.is_empty())
}

fn no_command(name: &str) -> String {
    let names = COMMANDS.iter().map(|command| command.name);
    unknown("command", name, &mut names.chain(["help", "--version"]))
}

impl Command {
    /// Parses the arguments behind the command's name.
    fn parse(&'static self, given: &[&str]) -> Result<Arguments, EarlyExit> {
        let (mut options, mut operands) = (Vec::new(), Vec::new());
        let mut rest = given.iter().copied();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                operands.extend(rest.by_ref().map(str::to_owned));
            } else if !is_option(argument) {
                operands.push(argument.to_owned());
            } else if let Some((option, value)) = argument.split_once('=') {
                options.push((option, Some(value)));
            } else if takes_value(argument) {
                let value = rest.next().ok_or_else(|| format!("{argument} needs a value"))?;
                options.push((argument, Some(value)));
            } else {
                options.push((argument, None));
            }
        }
        if options.iter().any(|(option, _)| HELP.is(option)) {
            return Err(EarlyExit { output: self.help(), status: Ok(()) });
        }
        let mut values: Vec<(&str, String)> = Vec::new();
        for (option, value) in options {
            let Some(known) = self.all_options().find(|known| known.is(option)) else {
                let mut names = self.all_options().map(|option| option.name);
                let mut message = unknown("option", option, &mut names);
                if !operands.is_empty() && !message.contains("did you mean") {
                    message.push_str("; after \"--\", all arguments are parameters");
                }
                return Err(message.into());
            };
            if known.value.is_empty() && value.is_some() {
                return Err(format!("{} takes no value", known.name).into());
            }
            if !known.repeats && values.iter().any(|(name, _)| *name == known.name) {
                return Err(format!("{} is given twice", known.name).into());
            }
            values.push((known.name, value.unwrap_or_default().to_owned()));
        }
        let missing = self
            .operands
            .iter()
            .enumerate()
            .find(|(at, operand)| operand.count == Count::One && operands.len() <= *at);
        if let Some((_, Operand { name, about, .. })) = missing {
            return Err(format!("{name} is missing: {about}").into());
        }
        if let Some(extra) = operands.get(self.operands.len())
            && self.operands.last().is_none_or(|operand| operand.count != Count::Any)
        {
            return Err(format!("unexpected argument {extra:?}").into());
        }
        Ok(Arguments { command: self, options: values, operands })
    }
}

fn is_option(argument: &str) -> bool {
    let is_number = || argument[1..].starts_with(|c: char| c.is_ascii_digit());
    argument.len() > 1 && argument.starts_with('-') && !is_number()
}

fn unknown(what: &str, name: &str, names: &mut dyn Iterator<Item = &'static str>) -> String {
    let mut message = format!("no such {what}: {name}");
    if let Some(near) = nearest(name, names) {
        let _ = write!(message, "; did you mean {near}?");
    }
    message
}

impl Arguments {
    /// Returns `true` if a switch is given.
    pub(super) fn has(&self, switch: &Opt) -> bool {
        self.options.iter().any(|(name, _)| *name == switch.name)
    }

    /// Takes the value of an option.
    pub(super) fn take(&mut self, option: &Opt) -> Option<String> {
        let at = self.options.iter().position(|(name, _)| *name == option.name)?;
        Some(self.options.remove(at).1)
    }

    /// Takes all values of an option that may be repeated.
    pub(super) fn take_all(&mut self, option: &Opt) -> Vec<String> {
        std::iter::from_fn(|| self.take(option)).collect()
    }

    /// Takes an option's value, parsed.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, option: &Opt) -> Result<Option<T>, String> {
        let parse = |text: String| text.parse().map_err(|error| format!("{} {text}: {error}", option.name));
        self.take(option).map(parse).transpose()
    }

    /// Takes an option's duration, or the default.
    pub(super) fn duration(&mut self, option: &Opt, default: Duration) -> Result<Duration, String> {
        let Some(text) = self.take(option) else { return Ok(default) };
        let seconds = || text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let given = parse_duration(&text).or_else(seconds);
        given.ok_or_else(|| {
            format!("{} {text}: a duration, such as 2s, 500ms or 2.5 for seconds", option.name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(given: &str) -> Result<String, String> {
        match parse(given.split_whitespace().map(Into::into)) {
            Ok(Arguments { command, options, operands }) => {
                let options: Vec<_> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
                Ok([command.name.to_owned(), options.join(" "), operands.join(" ")].join(" | "))
            }
            Err(Stop::Shown(text)) => Err(text),
            Err(Stop::Wrong(Wrong { message, .. })) => Err(message),
        }
    }

    #[test]
    fn options_may_come_anywhere() {
        for (given, expected) in [
            ("call --to=h:1 f 1 2", "call | --to=h:1 | f 1 2"),
            ("call f -5 --to h:1 3", "call | --to=h:1 | f -5 3"),
            ("call f --pretty -- --to x", "call | --pretty= | f --to x"),
            ("call --params - f", "call | --params=- | f"),
            ("call --params={\"a\":\"b=c\"} f", "call | --params={\"a\":\"b=c\"} | f"),
            ("call help", "call |  | help"),
            ("--to h:1 call f", "call | --to=h:1 | f"),
            ("list -v", "list | --verbose= | "),
            ("serve --listen a --listen=b", "serve | --listen=a --listen=b | "),
        ] {
            assert_eq!(parsed(given).as_deref(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn errors_name_what_was_meant() {
        for (given, expected) in [
            ("", "a command is missing: serve, "),
            ("call f --to", "--to needs a value"),
            ("cal f", "no such command: cal; did you mean call?"),
            ("dance", "no such command: dance"),
            ("version", "no such command: version; did you mean --version?"),
            ("help cal", "no such command: cal; did you mean call?"),
            ("--verison", "no such option: --verison; did you mean --version?"),
            ("call --tiemout 3 f", "no such option: --tiemout; did you mean --timeout?"),
            ("list --rate 3", "no such option: --rate"),
            ("call f -x", "no such option: -x; after \"--\", all arguments are parameters"),
            ("call --pretty=yes f", "--pretty takes no value"),
            ("call --to a --to b f", "--to is given twice"),
            ("call", "FUNCTION is missing: the function's name"),
            ("list a b", "unexpected argument \"b\""),
            ("-h", "Serve functions over one port"),
            ("help", "Serve functions over one port"),
            ("call f --help", "Call a function"),
            ("help call", "Call a function"),
            ("-V", "chanrpc "),
        ] {
            let error = parsed(given).unwrap_err();
            assert!(error.starts_with(expected), "{given}: {error}");
        }
    }
}
