//! `chanrpc reload`.

use serde::Deserialize;

use super::arguments::{Arguments, Command};
use super::connection::{CONNECTION, Connection};
use super::result::explain;
use super::{Exit, print, print_error};
use crate::remote::RemoteError;
use crate::route;

pub(super) const RELOAD: Command = Command {
    name: "reload",
    about: "Have a node load its configuration again; print what has changed.",
    operands: &[],
    options: &[CONNECTION],
    notes: "Connections and calls in flight stay. If the configuration is invalid, nothing changes, and the exit\n\
            code is 2. The node needs a rule that allows rpc.reload by its name.",
    run,
};

/// What a node answers.
#[derive(Deserialize)]
struct Reloaded {
    changes: Vec<String>,
    needs_restart: Vec<String>,
    warnings: Vec<String>,
}

/// What the error of a node tells.
#[derive(Deserialize)]
struct Mistakes {
    mistakes: Vec<String>,
}

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    Connection::take(&mut arguments)?.with_remote(async |connected| {
        match connected.call(route::RELOAD, None).await {
            Ok(reloaded) => show(reloaded.get()),
            Err(RemoteError::Fault(fault)) => {
                let data = fault.data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok());
                let Some(Mistakes { mistakes }) = data else { return explain(&RemoteError::Fault(fault)) };
                print_error(format_args!("{}", fault.message));
                mistakes.iter().for_each(|mistake| print_error(format_args!("{mistake}")));
                Exit::Usage
            }
            Err(error) => explain(&error),
        }
    })
}

fn show(reloaded: &str) -> Exit {
    let Ok(Reloaded { changes, needs_restart, warnings }) = serde_json::from_str(reloaded) else {
        print(reloaded);
        return Exit::Success;
    };
    for warning in warnings {
        print_error(format_args!("warning: {warning}"));
    }
    for setting in needs_restart {
        print_error(format_args!("warning: {setting} has changed, which needs a restart"));
    }
    if changes.is_empty() {
        print("nothing has changed");
    }
    changes.iter().for_each(|change| print(change));
    Exit::Success
}
