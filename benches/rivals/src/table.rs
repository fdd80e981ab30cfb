//! Prints the results row by row as they arrive.

use crate::compare::Figures;
use crate::workloads::Workload;

/// A table with fixed widths of the name columns.
pub(crate) struct Table {
    workload: usize,
    entrant: usize,
}

impl Table {
    /// Prints the header.
    pub(crate) fn for_rows_of(workloads: &[Workload]) -> Self {
        let entrants = workloads.iter().flat_map(|workload| &workload.entrants);
        let entrant = entrants.map(|entrant| entrant.name.len()).max().unwrap_or_default();
        let workload = workloads.iter().map(|workload| workload.name.len()).max().unwrap_or_default();
        let table = Self { workload: workload.max(8), entrant: entrant.max(10) };
        table.line("workload", "contestant", ["ns/call", "allocs/call", "bytes/call", "ratio to tokio"]);
        let (workload, entrant) = ("-".repeat(table.workload), "-".repeat(table.entrant));
        table.line(&workload, &entrant, ["------:", "----------:", "---------:", "-------------:"]);
        table
    }

    pub(crate) fn row(&self, workload: &str, entrant: &str, figures: &Figures) {
        let Figures { ns, allocations, bytes, ratio } = figures;
        let numbers =
            [format!("{ns:.0}"), format!("{allocations:.2}"), format!("{bytes:.0}"), format!("{ratio:.2}")];
        self.line(workload, entrant, numbers.each_ref().map(String::as_str));
    }

    fn line(&self, workload: &str, entrant: &str, [ns, allocations, bytes, ratio]: [&str; 4]) {
        let (wide, wider) = (self.workload, self.entrant);
        println!(
            "| {workload:<wide$} | {entrant:<wider$} | {ns:>7} | {allocations:>11} | {bytes:>10} | {ratio:>14} |"
        );
    }
}
