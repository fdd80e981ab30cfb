//! How many descriptors a configuration can come to need.

use std::collections::BTreeSet;

use super::{Config, Provider};

/// Of a program that runs: its pipes, each with what tells when it is ready, and what is open for a moment when it starts.
const PROGRAM: usize = 8;
/// Connections to one other node.
const LINKS: usize = 4;
/// Standard streams, what the event loop has, signals, and what is open for a moment: files, and what looks names up.
const REST: usize = 32;

impl Config {
    /// Returns how many descriptors a node can need beside those of its connections: for listeners, programs and other
    /// nodes.
    pub fn descriptors(&self) -> usize {
        let (mut programs, mut others) = (0_usize, BTreeSet::new());
        for function in &self.functions {
            match &function.provider {
                Provider::Exec(exec) => programs = programs.saturating_add(exec.concurrency),
                Provider::Forward(forward) => _ = others.insert(&forward.to),
            }
        }
        let workers = [&self.workers.node, &self.workers.exec];
        let programs =
            workers.into_iter().flatten().fold(programs, |least, workers| least.min(workers.count));
        // A name may stand for two addresses.
        REST + 2 * self.listen.len() + LINKS * others.len() + programs.saturating_mul(PROGRAM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_be_open_counts() {
        let needs = |text: &str| Config::parse(text, "test.toml").unwrap().descriptors();
        assert_eq!(needs(""), REST);
        assert_eq!(needs("[[listen]]\naddress = \"localhost:0\""), REST + 2);
        let program = "[[function]]\nname = \"a\"\nexec = [\"a\"]\nconcurrency = 8\n";
        assert_eq!(needs(program), REST + 8 * PROGRAM);
        assert_eq!(needs(&format!("[workers.exec]\ncount = 3\n{program}")), REST + 3 * PROGRAM);
        let forward = |name: &str| format!("[[function]]\nname = \"{name}\"\nforward = \"b:1\"\n");
        assert_eq!(needs(&(forward("b") + &forward("c"))), REST + LINKS);
    }
}
