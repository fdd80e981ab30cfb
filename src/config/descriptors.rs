//! The file descriptors that a configuration may require.

use super::{Config, ForwardTarget, FunctionConfig, ProviderConfig};

/// Descriptors of a running program: its pipes, each with a duplicate for readiness events, and those open briefly while
/// it starts.
const PER_PROGRAM: usize = 8;
/// The maximum number of connections to one other node.
const PER_NODE: usize = 4;
/// Standard streams, the event loop, signals, and those open briefly: files and name lookups.
const BASE: usize = 32;

impl Config {
    /// Returns the maximum number of file descriptors that the node uses besides those of accepted connections: for
    /// listeners, programs and other nodes.
    pub fn worst_case_descriptors(&self) -> usize {
        let mut programs = 0_usize;
        for function in &self.functions {
            if let ProviderConfig::Exec(exec) = &function.provider {
                programs = programs.saturating_add(exec.concurrency);
            }
        }
        let workers = [&self.workers.node, &self.workers.exec];
        let programs =
            workers.into_iter().flatten().fold(programs, |programs, workers| programs.min(workers.count));
        let processes = self.processes.iter().map(|process| process.instances);
        let programs = processes.fold(programs, usize::saturating_add);
        // A host name may resolve to two addresses.
        let connections = PER_NODE * self.other_nodes() + self.event_nodes() + self.offers.len();
        let connections = connections + self.nats_connections().len();
        BASE + 2 * self.listen.len() + connections + programs.saturating_mul(PER_PROGRAM)
    }

    /// Returns how many calls of others each connection to NATS may bring at a time.
    pub(super) fn nats_connections(&self) -> Vec<usize> {
        #[cfg(feature = "nats")]
        if let Some(nats) = &self.nats {
            let offered = (!nats.offer.is_empty()).then_some(nats.in_flight);
            return [0].into_iter().chain(offered).collect();
        }
        Vec::new()
    }

    /// Returns the number of connections over which the events of other nodes come.
    pub(super) fn event_nodes(&self) -> usize {
        let mut targets = Vec::new();
        for target in self.topics.iter().filter_map(|topic| topic.forward.as_ref()) {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        targets.len()
    }

    /// Returns the number of other nodes to which functions are forwarded, or where topics are published.
    pub(super) fn other_nodes(&self) -> usize {
        let topics = self.topics.iter().filter_map(|topic| topic.forward.as_ref());
        let mut nodes: Vec<&str> = Vec::new();
        for target in self.functions.iter().flat_map(forward_targets).chain(topics) {
            if !nodes.contains(&&*target.to) {
                nodes.push(&target.to);
            }
        }
        nodes.len()
    }
}

fn forward_targets(function: &FunctionConfig) -> &[ForwardTarget] {
    match &function.provider {
        ProviderConfig::Forward(forward) => &forward.to,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_programs_and_nodes_count() {
        let needs = |text: &str| Config::parse(text, "test.toml").unwrap().worst_case_descriptors();
        assert_eq!(needs(""), BASE);
        assert_eq!(needs("[[listen]]\naddress = \"localhost:0\""), BASE + 2);
        let program = "[[function]]\nname = \"a\"\nexec = [\"a\"]\nconcurrency = 8\n";
        assert_eq!(needs(program), BASE + 8 * PER_PROGRAM);
        assert_eq!(needs(&format!("[workers.exec]\ncount = 3\n{program}")), BASE + 3 * PER_PROGRAM);
        let process = "[[process]]\nname = \"a\"\nrun = [\"a\"]\ninstances = 2\n";
        assert_eq!(needs(process), BASE + 2 * PER_PROGRAM);
        let forward = |name: &str| format!("[[function]]\nname = \"{name}\"\nforward = \"b:1\"\n");
        assert_eq!(needs(&(forward("b") + &forward("c"))), BASE + PER_NODE);
        assert_eq!(needs("[[offer]]\nto = \"b:1\"\nfunctions = [\"*\"]"), BASE + 1);
    }
}
