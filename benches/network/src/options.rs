//! The command line.

use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "options:
  --quick         a short run to check that everything works
  --only NAME     only servers whose names contain NAME, and the bare echo for comparison
  --rounds N      the number of rounds (5)
  --binary PATH   also measure this chanrpc binary";

/// The parsed options.
#[derive(Debug)]
pub(crate) struct Options {
    /// Run as this server instead.
    pub(crate) serve: Option<String>,
    only: Option<String>,
    pub(crate) rounds: usize,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    /// The number of idle connections for the memory measurement.
    pub(crate) idle: usize,
    /// The time in which each of these connections makes one call.
    pub(crate) wait: Duration,
}

impl Options {
    /// Returns `true` if the server is selected.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}

pub(crate) fn read(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        serve: None,
        only: None,
        rounds: 5,
        binary: None,
        warm_up: Duration::from_millis(100),
        duration: Duration::from_millis(400),
        idle: 1000,
        wait: Duration::from_secs(2),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n\n{USAGE}"));
        match argument.as_str() {
            "--quick" => {
                options.rounds = 1;
                options.warm_up = Duration::from_millis(10);
                options.duration = Duration::from_millis(100);
                options.idle = 100;
                options.wait = Duration::from_millis(100);
            }
            "--serve" => options.serve = Some(value()?),
            "--only" => options.only = Some(value()?),
            "--binary" => options.binary = Some(value()?.into()),
            "--rounds" => {
                let rounds = value()?;
                let valid = rounds.parse().ok().filter(|rounds| *rounds > 0);
                options.rounds = valid.ok_or_else(|| format!("--rounds {rounds}: a number from 1"))?;
            }
            _ => return Err(format!("{argument}: no such option\n\n{USAGE}")),
        }
    }
    Ok(options)
}
