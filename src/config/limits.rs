//! The resource limits of a node: `[limits]`.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::table::{DAY, GIB, HOUR, MIN_DURATION, Table};
use crate::setters::setters;

/// The resource limits of a node: the `[limits]` table. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The maximum size of a request or reply; 1 MiB by default.
    pub message: usize,
    /// The maximum nesting depth of JSON; 128 by default.
    pub depth: usize,
    /// The maximum number of calls in a batch; 100 by default.
    pub batch: usize,
    /// The maximum number of open connections; 1024 by default.
    pub connections: usize,
    /// The maximum number of connections from one host. By default three quarters of `connections`, so that no host can
    /// lock out all others; unlimited for this machine.
    pub per_host: Option<usize>,
    /// The maximum number of calls in flight on one connection, beyond which its reader waits; 64 by default.
    pub in_flight: usize,
    /// The maximum amount of pending output of one connection, beyond which nothing more is read from it or answered;
    /// 1 MiB by default.
    pub output: usize,
    /// The maximum number of HTTP/2 frames in ten seconds that belong to no request or response, such as PING and SETTINGS,
    /// unless one that does comes between them; 1000 by default, and at least two for each request of a connection.
    pub control_frames: usize,
    /// How long a new connection may take to send its first bytes or its HTTP head; 10 s by default.
    pub head_timeout: Duration,
    /// The time within which a connection that may call nothing without a token must present one; 10 s by default.
    pub auth_timeout: Duration,
    /// How long a peer may accept no byte of pending output, or send nothing of a message that it has begun, before it is
    /// disconnected; 10 s by default. A whole message may take this long plus one second for each KiB.
    pub stall_timeout: Duration,
    /// The deadline of a call that carries none, and the longest that a caller may ask for unless the function's own
    /// timeout is longer; 30 s by default.
    pub deadline: Duration,
    /// The maximum number of nodes that forward one call; 8 by default.
    pub hops: u32,
    /// How long a stopping node waits for the calls in flight; 5 s by default, and 0 waits for none.
    pub drain: Duration,
    /// The maximum number of calls that wait for a native server; 1024 by default.
    pub queue: usize,
    /// The timeout of connecting to another node; 5 s by default.
    pub connect_timeout: Duration,
    /// How long a peer may be silent before it is probed, and after that before it is given up; 60 s by default, and 0
    /// never probes.
    pub keepalive: Duration,
    /// How long a connection that offers functions may be silent before its peer is asked for a sign of life, which it
    /// must give within a third of that; 15 s by default, and 0 never asks.
    pub offer_keepalive: Duration,
    /// While another node has calls of this one to answer, it is asked for a sign of life after this much silence, which it
    /// must give within a fifth of that; 5 s by default, and 0 never asks.
    pub forward_silence: Duration,
    /// The maximum number of functions that one connection offers; 64 by default.
    pub offers: usize,
    /// The maximum number of functions that all connections offer; 1024 by default.
    pub offered: usize,
    /// The maximum number of functions of other nodes that are listed, over all forwards; 1024 by default.
    pub forward_functions: usize,
    /// The maximum number of programs that stay, over all `[[process]]` tables; 32 by default.
    pub processes: usize,
    /// The maximum delay of a token after many wrong ones from the same host: 0.1 s after the sixth, doubled by each
    /// further one; 5 s by default, and 0 disables the delay.
    pub token_delay: Duration,
    /// The maximum number of topics that have subscribers or kept events; 1024 by default.
    pub topics: usize,
    /// The maximum number of subscriptions of one connection; 64 by default.
    pub subscriptions: usize,
    /// The maximum number of events that wait for one connection; 256 by default. Their size is limited by `output`.
    pub events: usize,
}

setters!(Limits {
    message: usize,
    depth: usize,
    batch: usize,
    connections: usize,
    in_flight: usize,
    output: usize,
    control_frames: usize,
    head_timeout: Duration,
    auth_timeout: Duration,
    stall_timeout: Duration,
    deadline: Duration,
    hops: u32,
    drain: Duration,
    queue: usize,
    connect_timeout: Duration,
    keepalive: Duration,
    offer_keepalive: Duration,
    forward_silence: Duration,
    offers: usize,
    offered: usize,
    forward_functions: usize,
    processes: usize,
    token_delay: Duration,
    topics: usize,
    subscriptions: usize,
    events: usize
});

impl Limits {
    /// Sets [`per_host`](Self#structfield.per_host).
    #[must_use]
    pub fn per_host(mut self, per_host: usize) -> Self {
        self.per_host = Some(per_host);
        self
    }
}

impl Limits {
    /// Returns `true` if other limits are the same for connections to other nodes.
    pub(crate) fn is_same_for_remotes(&self, other: &Self) -> bool {
        let of_this_node = Self {
            connections: self.connections,
            per_host: self.per_host,
            head_timeout: self.head_timeout,
            auth_timeout: self.auth_timeout,
            hops: self.hops,
            drain: self.drain,
            queue: self.queue,
            offered: self.offered,
            forward_functions: self.forward_functions,
            processes: self.processes,
            token_delay: self.token_delay,
            topics: self.topics,
            ..other.clone()
        };
        *self == of_this_node
    }

    /// Reads the keys of `[limits]`.
    pub(super) fn parse(&mut self, table: &Table<'_>) {
        table.allow(&[
            "message",
            "depth",
            "batch",
            "connections",
            "per_host",
            "in_flight",
            "output",
            "control_frames",
            "head_timeout",
            "auth_timeout",
            "stall_timeout",
            "deadline",
            "hops",
            "drain",
            "queue",
            "connect_timeout",
            "keepalive",
            "offer_keepalive",
            "forward_silence",
            "offers",
            "offered",
            "forward_functions",
            "processes",
            "token_delay",
            "topics",
            "subscriptions",
            "events",
        ]);
        table.size("message", 64..=GIB, &mut self.message);
        table.count("depth", 1..=1024, &mut self.depth);
        table.count("batch", 1..=65_536, &mut self.batch);
        table.count("connections", 1..=1_000_000, &mut self.connections);
        if table.get("per_host").is_some() {
            table.count("per_host", 1..=1_000_000, self.per_host.insert(1));
        }
        table.count("in_flight", 1..=65_536, &mut self.in_flight);
        table.size("output", 64..=GIB, &mut self.output);
        table.count("control_frames", 1..=1_000_000, &mut self.control_frames);
        table.duration("head_timeout", MIN_DURATION..=HOUR, &mut self.head_timeout);
        table.duration("auth_timeout", MIN_DURATION..=HOUR, &mut self.auth_timeout);
        table.duration("stall_timeout", MIN_DURATION..=HOUR, &mut self.stall_timeout);
        table.duration("deadline", MIN_DURATION..=DAY, &mut self.deadline);
        table.count("hops", 1..=255, &mut self.hops);
        table.duration("drain", Duration::ZERO..=HOUR, &mut self.drain);
        table.count("queue", 1..=1_000_000, &mut self.queue);
        table.duration("connect_timeout", MIN_DURATION..=HOUR, &mut self.connect_timeout);
        table.duration("keepalive", Duration::ZERO..=HOUR, &mut self.keepalive);
        table.duration("offer_keepalive", Duration::ZERO..=HOUR, &mut self.offer_keepalive);
        table.duration("forward_silence", Duration::ZERO..=HOUR, &mut self.forward_silence);
        table.count("offers", 0..=65_536, &mut self.offers);
        table.count("offered", 0..=65_536, &mut self.offered);
        table.count("forward_functions", 0..=65_536, &mut self.forward_functions);
        table.count("processes", 1..=1024, &mut self.processes);
        table.duration("token_delay", Duration::ZERO..=HOUR, &mut self.token_delay);
        table.count("topics", 1..=1_000_000, &mut self.topics);
        table.count("subscriptions", 1..=65_536, &mut self.subscriptions);
        table.count("events", 1..=65_536, &mut self.events);
    }

    /// Returns the maximum number of connections from `host`.
    pub fn per_host_limit(&self, host: IpAddr) -> usize {
        match self.per_host {
            Some(limit) => limit,
            None if host.is_loopback() => usize::MAX,
            None => self.connections - self.connections / 4,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 1 << 20,
            depth: 128,
            batch: 100,
            connections: 1024,
            per_host: None,
            in_flight: 64,
            output: 1 << 20,
            control_frames: 1000,
            head_timeout: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            hops: 8,
            drain: Duration::from_secs(5),
            queue: 1024,
            connect_timeout: Duration::from_secs(5),
            keepalive: Duration::from_secs(60),
            offer_keepalive: Duration::from_secs(15),
            forward_silence: Duration::from_secs(5),
            offers: 64,
            offered: 1024,
            forward_functions: 1024,
            processes: 32,
            token_delay: Duration::from_secs(5),
            topics: 1024,
            subscriptions: 64,
            events: 256,
        }
    }
}

/// Returns the address by which limits identify a host: an IPv4 address (also if mapped to IPv6), or the /64 network of
/// an IPv6 address, all of which a single machine commonly owns.
pub(crate) fn host_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(network).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_network_of_64_bits_is_one_host() {
        for (one, other, same) in [
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "::2", false),
        ] {
            let host = |text: &str| host_key(text.parse().expect("an address"));
            assert_eq!(host(one) == host(other), same, "{one} and {other}");
        }
        let loopback = IpAddr::from(Ipv6Addr::LOCALHOST);
        assert_eq!(Limits::default().per_host_limit(host_key(loopback)), usize::MAX);
    }
}
