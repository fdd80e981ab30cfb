//! Measures the cost of calls in chanrpc and in its rivals, side by side.
//!
//! `cargo run --profile bench -p rivals [-- PART-OF-A-WORKLOAD'S-NAME]`; with `CHANRPC_BENCH_QUICK=1` it only checks
//! that everything runs.

mod alloc;
mod compare;
mod contest;
mod measure;
mod ours;
mod platform;
mod rivals;
mod server;
mod table;
mod workloads;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() -> ExitCode {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let (chosen, others): (Vec<_>, Vec<_>) =
        workloads::all().into_iter().partition(|workload| workload.name.contains(&filter));
    if chosen.is_empty() {
        eprintln!("no workload's name contains {filter:?}; workloads are:");
        for workload in others {
            eprintln!("  {}", workload.name);
        }
        return ExitCode::from(2);
    }
    let quick = std::env::var_os("CHANRPC_BENCH_QUICK").is_some();
    let table = table::Table::for_rows_of(&chosen);
    for workload in &chosen {
        for (entrant, result) in workload.entrants.iter().zip(compare::compare(workload, quick)) {
            table.row(workload.name, &entrant.name, &result);
        }
    }
    ExitCode::SUCCESS
}
