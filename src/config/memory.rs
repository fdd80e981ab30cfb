//! The memory that a configuration may require.

#[cfg(feature = "grpc")]
use super::FunctionConfig;
use super::{Config, Limits, ProviderConfig, TopicConfig};

const KIB: u64 = 1024;
/// Memory of a node without connections, including its code.
const BASE: u64 = 8 * KIB * KIB;
/// Bytes read from a stream at once: a buffer for each thread and, after a message, for each connection.
const READ: u64 = 64 * KIB;
/// What a peer over HTTP/2 may send of each request before it is read, and the requests that it may always have open.
#[cfg(feature = "grpc")]
const HTTP2_WINDOW: (u64, u64) = ((64 + 16) * KIB, 100);
/// The maximum ratio of a gRPC message that is converted to JSON, or from it, to its size; and how many large ones are
/// converted at once.
#[cfg(feature = "grpc")]
const TRANSCODING: (u64, u64) = (128, 2);
/// Tasks, timers and tables of a connection.
const CONNECTION: u64 = 16 * KIB;
/// The end of a program's standard error, and its two pipes.
const PROGRAM: u64 = 64 * KIB;
/// An offered function with its name and queue, without its description.
const OFFER: u64 = 2 * KIB;
/// A function of another node with its name, without its description.
const FORWARD_FUNCTION: u64 = KIB;
/// The maximum number of connections to one other node.
const PER_NODE: u64 = 4;
/// The maximum ratio of a growing buffer's capacity to its length.
const GROWTH: u64 = 2;
/// The maximum ratio of a call's parameters to their text while a thread converts them: to other JSON, then to the
/// arguments and the input of a program. Each thread converts one call's at a time.
const CONVERSION: u64 = 8;
/// The maximum ratio of an event in memory, encoded for all dialects, to its size.
const EVENT_FORMS: u64 = 2;
/// A place in the queue of events.
const EVENT: u64 = 64;
/// A topic without its events and subscribers.
const TOPIC: u64 = 1024;
/// A subscription, and its places in a topic.
const SUBSCRIPTION: u64 = 512;
/// What a subscription to a topic of another node has besides: its name, and the epochs on its way, in three tables.
const FOLLOWED: u64 = 2 * KIB;
/// The positions of 4096 topics of another node, with their names.
const POSITIONS: u64 = 4096 * 256;

impl Config {
    /// Returns the memory in bytes that the node uses when every limit is reached at once: all connections, each with a
    /// partially read message of maximum size, the maximum number of calls in flight, their largest replies waiting, full
    /// output, and as many events waiting; all topics, with all events that they keep; all programs, with full output; all
    /// processes; and all connections to other nodes. Excludes the memory of native
    /// functions.
    ///
    /// ```
    /// use chanrpc::config::Config;
    ///
    /// let text = "[limits]\nconnections = 64\nin_flight = 4\nmessage = \"16 KiB\"\noutput = \"16 KiB\"\n\
    ///             events = 16\nsubscriptions = 8\ntopics = 64\noffered = 64";
    /// let small = Config::parse(text, "router.toml")?;
    /// assert!(small.worst_case_memory(1) < 45 << 20);
    /// # Ok::<(), chanrpc::config::ConfigError>(())
    /// ```
    pub fn worst_case_memory(&self, threads: usize) -> u64 {
        let limits = &self.limits;
        let connections = u64_from(limits.connections).saturating_mul(connection(limits));
        let mut programs = 0_u64;
        let mut forwarded = 0;
        for function in &self.functions {
            match &function.provider {
                ProviderConfig::Exec(exec) => {
                    let one =
                        PROGRAM + GROWTH * u64_from(exec.output_limit) + GROWTH * u64_from(limits.message);
                    programs = programs.saturating_add(u64_from(exec.concurrency).saturating_mul(one));
                }
                ProviderConfig::Forward(_) => {
                    let one = if function.name.ends_with('*') { limits.forward_functions } else { 1 };
                    forwarded = limits.forward_functions.min(forwarded + one);
                }
                ProviderConfig::Process(_) => {}
                #[cfg(feature = "nats")]
                ProviderConfig::Nats(_) => {}
            }
        }
        for process in &self.processes {
            let one = PROGRAM + 2 * GROWTH * (u64_from(limits.output) + u64_from(limits.message));
            programs = programs.saturating_add(u64_from(process.instances).saturating_mul(one));
        }
        let per_connection = GROWTH * (u64_from(limits.output) + 2 * u64_from(limits.message) + 2 * READ);
        let nodes = u64_from(self.other_nodes()) * PER_NODE + u64_from(self.event_nodes());
        let forwards = nodes.saturating_mul(per_connection);
        // The other node calls over it, as over an accepted one.
        let forwards =
            forwards.saturating_add(u64_from(self.offers.len()).saturating_mul(connection(limits)));
        // As one to a node, with the results of all calls.
        let of_nats = |in_flight: usize| {
            let results = u64_from(in_flight).saturating_mul(GROWTH * u64_from(limits.message));
            per_connection.saturating_add(results)
        };
        let forwards = self.nats_connections().into_iter().map(of_nats).fold(forwards, u64::saturating_add);
        let offers = limits.offers.saturating_mul(limits.connections).min(limits.offered);
        // The descriptions of all are a quarter of a message: as given, and as `rpc.list` reports them.
        let descriptions = if offers > 0 { GROWTH * u64_from(limits.message) / 2 } else { 0 };
        let offers = u64_from(offers) * OFFER + descriptions;
        // The descriptions of all are a quarter of a message, too.
        let descriptions = if forwarded > 0 { CONVERSION * u64_from(limits.message) / 4 } else { 0 };
        let forwards = forwards.saturating_add(u64_from(forwarded) * FORWARD_FUNCTION + descriptions);
        let threads = u64_from(threads).saturating_mul(READ + CONVERSION * u64_from(limits.message));
        #[cfg(feature = "grpc")]
        let threads = threads.saturating_add(self.transcoding());
        let topics = self.topic_memory();
        let followed = match u64_from(self.event_nodes()) {
            0 => 0,
            nodes => {
                let subscriptions =
                    u64_from(limits.connections).saturating_mul(u64_from(limits.subscriptions));
                subscriptions.saturating_mul(FOLLOWED).saturating_add(nodes * POSITIONS)
            }
        };
        [BASE, connections, programs, forwards, offers, threads, topics, followed]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Returns the maximum memory of messages that are converted.
    #[cfg(feature = "grpc")]
    fn transcoding(&self) -> u64 {
        let is_server = |function: &FunctionConfig| matches!(&function.provider, ProviderConfig::Forward(to) if to.method.is_some());
        if self.grpc.is_none() && !self.functions.iter().any(is_server) {
            return 0;
        }
        u64_from(self.limits.message).saturating_mul(TRANSCODING.0 * TRANSCODING.1)
    }

    /// Returns the maximum memory of all topics and their kept events.
    fn topic_memory(&self) -> u64 {
        let kept =
            |topic: &TopicConfig| EVENT_FORMS * u64_from(if topic.keep > 0 { topic.keep_bytes } else { 0 });
        let (families, exact): (Vec<_>, Vec<_>) =
            self.topics.iter().partition(|topic| topic.name.ends_with('*'));
        let in_families = families.into_iter().map(kept).max().unwrap_or_default();
        let topics = u64_from(self.limits.topics).saturating_mul(TOPIC + in_families);
        exact.into_iter().map(kept).fold(topics, u64::saturating_add)
    }
}

/// Returns the maximum memory of one connection.
fn connection(limits: &Limits) -> u64 {
    let (message, output, in_flight) =
        (u64_from(limits.message), u64_from(limits.output), u64_from(limits.in_flight));
    // One message in the transport, one in the input buffer, and one that waits because of the limit in flight.
    let input = GROWTH * (2 * message + READ) + message + READ;
    // Reading continues until the requests in flight are as large as one message.
    let requests = 2 * message;
    let replies = in_flight.saturating_mul(GROWTH * message);
    // Output just below its limit accepts one more reply, and so does the transport.
    let output = GROWTH * (output + 2 * message);
    let events = EVENT_FORMS * u64_from(limits.output) + GROWTH * EVENT * u64_from(limits.events);
    let subscriptions = SUBSCRIPTION * u64_from(limits.subscriptions);
    // Over HTTP/2 the bodies of all requests together are read within three messages, which the above includes.
    #[cfg(feature = "grpc")]
    let input = input + HTTP2_WINDOW.0 * in_flight.max(HTTP2_WINDOW.1);
    CONNECTION + input + requests + replies.saturating_add(output) + events + subscriptions
}

fn u64_from(number: usize) -> u64 {
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
            ("in_flight = 2", "in_flight = 2\noffered = 2048\noffers = 300"),
            ("message = \"64 KiB\"", "message = \"65 KiB\""),
            ("output = \"64 KiB\"", "output = \"65 KiB\""),
            ("[limits]", "[limits]\ntopics = 1025"),
            ("[limits]", "[limits]\nsubscriptions = 65"),
            ("[limits]", "[limits]\nevents = 257"),
        ] {
            assert!(with(&base.replace(from, to)) > before, "{to}");
        }
        let topic = |name, keep| format!("{base}[[topic]]\nname = \"{name}\"\nkeep = {keep}\n");
        assert_eq!(with(&topic("a", 0)), before);
        assert!(with(&topic("a", 1)) > before);
        assert!(with(&topic("a.*", 1)) > with(&topic("a", 1)));
        let program = "[[function]]\nname = \"a\"\nexec = [\"a\"]\n";
        let with_program = with(&format!("{base}{program}"));
        assert!(with_program > before);
        assert!(with(&format!("{base}{program}concurrency = 5\n")) > with_program);
        let process = "[[process]]\nname = \"a\"\nrun = [\"a\"]\n";
        let with_process = with(&format!("{base}{process}"));
        assert!(with_process > before);
        assert!(with(&format!("{base}{process}instances = 2\n")) > with_process);
        let other = |name, to| format!("[[function]]\nname = \"{name}\"\nforward = \"{to}\"\n");
        let one = with(&format!("{base}{}{}", other("a", "h:1"), other("b", "h:1")));
        assert!(one > before);
        assert!(with(&format!("{base}{}{}", other("a", "h:1"), other("b", "h:2"))) > one);
        #[cfg(feature = "grpc")]
        for more in [other("a", "grpc://h:1\"\nmethod = \"p.S/M"), "[grpc]\ndescriptors = ['a']\n".to_owned()]
        {
            assert!(with(&format!("{base}{more}")) > one);
        }
        let topic = |to| format!("{base}[[topic]]\nname = \"a\"\nforward = \"{to}\"\n");
        let more =
            |text: String| with(&text.replace("[limits]", "[limits]\nsubscriptions = 65")) - with(&text);
        assert!(more(topic("h:1")) > more(base.to_owned()), "names and ways");
        assert!(with(&topic("h:1")) > one, "its events have a connection of their own");
        assert!(
            with(&format!("{}[[topic]]\nname = \"b\"\nforward = \"h:2\"\n", topic("h:1")))
                > with(&topic("h:1"))
        );
        let family = format!("{base}{}", other("a.*", "h:1"));
        assert!(with(&family) > one);
        assert!(with(&family) > with(&family.replace("[limits]", "[limits]\nforward_functions = 3")));
        assert!(Config::default().worst_case_memory(2) > Config::default().worst_case_memory(1));
    }

    #[test]
    fn largest_limits_do_not_overflow() {
        let most =
            "[limits]\nconnections = 1_000_000\nin_flight = 65_536\nmessage = \"1 GiB\"\noutput = \"1 GiB\"";
        assert!(with(most) > 1 << 60);
    }
}
