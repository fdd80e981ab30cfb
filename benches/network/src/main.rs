//! Measures the cost of calls over the network in chanrpc, bare echo servers and rivals, side by side.
//!
//! `cargo run --profile bench -p network [--features rivals] [-- OPTION…]`; see [`options`] for the options. Each
//! server is a separate process: this program again, or the binary under test.

mod budgets;
mod child;
mod loads;
mod measure;
mod measured;
mod options;
mod servers;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    let options = match options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let servers = servers::all(options.binary.as_deref());
    if let Some(name) = &options.serve {
        servers::serve(&servers, name);
    }
    if !servers.iter().any(|server| options.names(server.name)) {
        eprintln!("no server has a matching name; servers are:");
        for server in servers {
            eprintln!("  {}", server.name);
        }
        return ExitCode::from(2);
    }
    let is_chosen = |server: &servers::Entrant| options.names(server.name) || server.name == servers::ECHO;
    let chosen: Vec<_> = servers.into_iter().filter(is_chosen).collect();
    let cores = match child::Cores::choose() {
        Ok(cores) => cores,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let contest = measure::contest(&chosen, &options, cores);
    table::print(&chosen, &contest);
    budgets::print(&chosen, &contest);
    ExitCode::SUCCESS
}
