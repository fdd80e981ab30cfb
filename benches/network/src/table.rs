//! Prints one table per load and one for memory.

use crate::loads::{self, Placement};
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
        let cells: String = cells.iter().map(|cell| format!(" {cell:>8} |")).collect();
        println!("| {name:<wide$} |{cells}");
    };
    let head = |columns: &[&str]| {
        row("server", &columns.iter().map(ToString::to_string).collect::<Vec<_>>());
        println!("| {} |{}", "-".repeat(wide), " -------: |".repeat(columns.len()));
    };
    let echo = entrants.iter().position(|entrant| entrant.name == ECHO);

    for (load, point) in loads::ALL.iter().enumerate() {
        println!("\n{} (connections × in flight): on one core, then apart\n", point.name);
        head(&[
            "CPU µs", "CPU/echo", "k/s", "p50 µs", "CPU µs", "k/s", "p50 µs", "p99 µs", "p50/echo",
            "slow/med",
        ]);
        for (entrant, results) in entrants.iter().zip(all) {
            let middle = |placement, figure: fn(&Sample) -> f64, digits: usize| {
                let value = median(results.of(load, placement).iter().map(figure));
                value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
            };
            let ratio = |placement, figure: fn(&Sample) -> f64| {
                let value = echo.and_then(|echo| {
                    ratio(results.of(load, placement), all[echo].of(load, placement), figure)
                });
                value.map_or("–".to_owned(), |value| format!("{value:.2}"))
            };
            let (together, apart) = (Placement::Together, Placement::Apart);
            row(
                entrant.name,
                &[
                    middle(together, |sample| sample.cpu, 3),
                    ratio(together, |sample| sample.cpu),
                    middle(together, |sample| sample.rate / 1e3, 0),
                    middle(together, |sample| sample.p50, 1),
                    middle(apart, |sample| sample.cpu, 3),
                    middle(apart, |sample| sample.rate / 1e3, 0),
                    middle(apart, |sample| sample.p50, 1),
                    middle(apart, |sample| sample.p99, 1),
                    ratio(apart, |sample| sample.p50),
                    middle(together, |sample| sample.fairness, 2),
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
