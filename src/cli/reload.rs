//! `chanrpc reload`.

use serde_json::Value;

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

fn run(mut arguments: Arguments) -> Result<Exit, String> {
    Connection::take(&mut arguments)?.with_remote(async |connected| {
        match connected.call(route::RELOAD, None).await {
            Ok(reloaded) => show(&serde_json::from_str(reloaded.get()).unwrap_or_default()),
            Err(RemoteError::Fault(fault)) => {
                let data = fault.data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok());
                let data: Value = data.unwrap_or_default();
                if data["mistakes"].is_null() {
                    return explain(&RemoteError::Fault(fault));
                }
                print_error(format_args!("{}", fault.message));
                texts(&data["mistakes"]).for_each(|mistake| print_error(format_args!("{mistake}")));
                Exit::Usage
            }
            Err(error) => explain(&error),
        }
    })
}

fn show(reloaded: &Value) -> Exit {
    texts(&reloaded["warnings"]).for_each(|warning| print_error(format_args!("warning: {warning}")));
    for setting in texts(&reloaded["needs_restart"]) {
        print_error(format_args!("warning: {setting} has changed, which needs a restart"));
    }
    let mut changes = texts(&reloaded["changes"]).peekable();
    if changes.peek().is_none() {
        print("nothing has changed");
    }
    changes.for_each(print);
    Exit::Success
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
