//! Prints one table per load and one for memory.

use crate::loads;
use crate::measure::{Results, Sample};
use crate::servers::{ECHO, Entrant};

pub(crate) fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

/// Returns the median of the ratios within each round.
pub(crate) fn ratio(of: &[Sample], to: &[Sample], figure: fn(&Sample) -> f64) -> Option<f64> {
    median(of.iter().zip(to).map(|(of, to)| figure(of) / figure(to)).filter(|ratio| ratio.is_finite()))
}

pub(crate) fn print(entrants: &[Entrant], all: &[Results]) {
    let wide = entrants.iter().map(|entrant| entrant.name.chars().count()).max().unwrap_or_default();
    let row = |name: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>9} |")).collect();
        println!("| {name:<wide$} |{cells}");
    };
    let line = |columns: usize| row(&"-".repeat(wide), &vec!["--------:".to_owned(); columns]);
    let head = |columns: &[&str]| {
        row("server", &columns.iter().map(ToString::to_string).collect::<Vec<_>>());
        line(columns.len());
    };
    let echo = entrants.iter().position(|entrant| entrant.name == ECHO);

    for (at, point) in loads::ALL.iter().enumerate() {
        println!("\n{} (connections × in flight)\n", point.name);
        head(&["calls/s", "p50 µs", "p99 µs", "CPU µs", "slow/med", "rate/echo", "p50/echo", "CPU/echo"]);
        for (entrant, results) in entrants.iter().zip(all) {
            let samples = &results.loads[at];
            let middle = |figure: fn(&Sample) -> f64, digits: usize| {
                median(samples.iter().map(figure))
                    .map_or("–".to_owned(), |value| format!("{value:.digits$}"))
            };
            let ratio = |figure: fn(&Sample) -> f64| {
                let value = echo.and_then(|echo| ratio(samples, &all[echo].loads[at], figure));
                value.map_or("–".to_owned(), |value| format!("{value:.2}"))
            };
            row(
                entrant.name,
                &[
                    middle(|sample| sample.rate, 0),
                    middle(|sample| sample.p50, 1),
                    middle(|sample| sample.p99, 1),
                    middle(|sample| sample.cpu, 2),
                    middle(|sample| sample.fairness, 2),
                    ratio(|sample| sample.rate),
                    ratio(|sample| sample.p50),
                    ratio(|sample| sample.cpu),
                ],
            );
        }
    }

    println!("\nMemory\n");
    head(&["idle MB", "conn KB"]);
    for (entrant, results) in entrants.iter().zip(all) {
        let memory = results.memory;
        row(entrant.name, &[format!("{:.1}", memory.idle / 1e6), format!("{:.1}", memory.connection / 1e3)]);
    }
}
