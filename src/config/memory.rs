//! How much memory a configuration can come to take.

use std::collections::BTreeSet;

use super::{Config, Limits, Provider};

const KIB: u64 = 1024;
/// What a node takes before anybody connects, with its code.
const NODE: u64 = 8 * KIB * KIB;
/// What is read from a stream at once, per thread and, behind a message, per connection.
const READ: u64 = 64 * KIB;
/// A connection's tasks, timers and tables.
const CONNECTION: u64 = 16 * KIB;
/// What a program may write to standard error that is kept, and its two pipes.
const PROGRAM: u64 = 64 * KIB;
/// Connections to one other node.
const LINKS: u64 = 4;
/// A buffer that grows has at most so many times the room that it needs.
const GROWTH: u64 = 2;
/// A JSON value in memory takes at most so many times its text; one such tree a thread, for as long as the
/// parameters of a program are looked at.
const TREE: u64 = 40;

impl Config {
    /// The most memory in bytes that a node takes when every limit is reached at once: all connections, each with its
    /// largest message half read, as many calls in flight as may be, their largest answers waiting, and output that
    /// nobody takes; all programs, with as much output as is kept; all connections to other nodes. What native
    /// functions keep of their own is theirs.
    ///
    /// ```
    /// use chanrpc::config::Config;
    ///
    /// let text = "[limits]\nconnections = 64\nin_flight = 4\nmessage = \"16 KiB\"\noutput = \"16 KiB\"";
    /// let small = Config::parse(text, "router.toml")?;
    /// assert!(small.worst_case_memory(1) < 44 << 20);
    /// # Ok::<(), chanrpc::config::ConfigError>(())
    /// ```
    pub fn worst_case_memory(&self, threads: usize) -> u64 {
        let limits = &self.limits;
        let connections = of(limits.connections).saturating_mul(connection(limits));
        let mut others = BTreeSet::new();
        let mut programs = 0_u64;
        for function in &self.functions {
            match &function.provider {
                Provider::Exec(exec) => {
                    let one = PROGRAM + GROWTH * of(exec.output_limit) + GROWTH * of(limits.message);
                    programs = programs.saturating_add(of(exec.concurrency).saturating_mul(one));
                }
                Provider::Forward(forward) => _ = others.insert(&forward.to),
            }
        }
        let link = GROWTH * (of(limits.output) + 2 * of(limits.message) + 2 * READ);
        let links = (others.len() as u64 * LINKS).saturating_mul(link);
        let threads = of(threads).saturating_mul(READ + TREE * of(limits.message));
        [NODE, connections, programs, links, threads].into_iter().fold(0, u64::saturating_add)
    }
}

/// What one connection takes at most.
fn connection(limits: &Limits) -> u64 {
    let (message, output, in_flight) = (of(limits.message), of(limits.output), of(limits.in_flight));
    // A message in the transport, one in the input, and one that waits for a place in flight.
    let input = GROWTH * (2 * message + READ) + message + READ;
    // What is read on until the requests in flight hold as much as one message.
    let requests = 2 * message;
    let answers = in_flight.saturating_mul(GROWTH * message);
    // Output that had just not reached its limit takes one more answer, and so does the transport.
    let output = GROWTH * (output + 2 * message);
    CONNECTION + input + requests + answers.saturating_add(output)
}

fn of(number: usize) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> u64 {
        Config::parse(text, "test.toml").unwrap().worst_case_memory(1)
    }

    #[test]
    fn every_limit_counts() {
        let base = "[limits]\nconnections = 10\nin_flight = 2\nmessage = \"64 KiB\"\noutput = \"64 KiB\"\n";
        let before = with(base);
        for (from, to) in [
            ("connections = 10", "connections = 11"),
            ("in_flight = 2", "in_flight = 3"),
            ("message = \"64 KiB\"", "message = \"65 KiB\""),
            ("output = \"64 KiB\"", "output = \"65 KiB\""),
        ] {
            assert!(with(&base.replace(from, to)) > before, "{to}");
        }
        let program = "[[function]]\nname = \"a\"\nexec = [\"a\"]\n";
        let with_program = with(&format!("{base}{program}"));
        assert!(with_program > before);
        assert!(with(&format!("{base}{program}concurrency = 5\n")) > with_program);
        let other = |name, to| format!("[[function]]\nname = \"{name}\"\nforward = \"{to}\"\n");
        let one = with(&format!("{base}{}{}", other("a", "h:1"), other("b", "h:1")));
        assert!(one > before);
        assert!(with(&format!("{base}{}{}", other("a", "h:1"), other("b", "h:2"))) > one);
        assert!(Config::default().worst_case_memory(2) > Config::default().worst_case_memory(1));
    }

    #[test]
    fn the_largest_limits_are_no_overflow() {
        let most =
            "[limits]\nconnections = 1_000_000\nin_flight = 65_536\nmessage = \"1 GiB\"\noutput = \"1 GiB\"";
        assert!(with(most) > 1 << 60);
    }
}
