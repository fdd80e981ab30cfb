//! The command line.

use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "options:
  --quick         only show that everything runs
  --only NAME     only servers with this in their names, and the bare echo to compare them with
  --rounds N      how often each server has its turn (5)
  --binary PATH   also measure this chanrpc, as it was built";

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Be this server instead.
    pub(crate) serve: Option<String>,
    only: Option<String>,
    pub(crate) rounds: usize,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    /// Idle connections whose memory is looked at.
    pub(crate) idle: usize,
    /// How long all of them together take for a call each.
    pub(crate) wait: Duration,
}

impl Options {
    /// Tells whether a server was asked for.
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
        warm_up: Duration::from_millis(300),
        duration: Duration::from_secs(1),
        idle: 1000,
        wait: Duration::from_secs(2),
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value\n\n{USAGE}"));
        match argument.as_str() {
            "--quick" => {
                options.rounds = 1;
                options.warm_up = Duration::from_millis(10);
                options.duration = Duration::from_millis(50);
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
