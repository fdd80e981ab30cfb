//! The topics of a node: `[[topic]]`.

use super::forward::{self, ForwardTarget};
use super::table::{Field, Result, Table};
use super::{Config, Limits};

/// A topic, or a family of topics: a `[[topic]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicConfig {
    /// The name of the topic; that of a family ends in `.*`.
    pub name: String,
    /// The number of latest events that are kept for later subscribers; 0 by default.
    pub keep: usize,
    /// The maximum size of all kept events, in bytes; 64 KiB by default.
    pub keep_bytes: usize,
    /// What happens to a subscriber with too many waiting events.
    pub when_full: Overflow,
    /// The node where its events are published, if that is another one.
    pub forward: Option<ForwardTarget>,
    /// Set if its events come from NATS: the subject, if it is not the name behind the prefix.
    #[cfg(feature = "nats")]
    pub nats: Option<Option<String>>,
}

/// What happens when too many events wait for a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Overflow {
    /// `"oldest"`, the default: the topic's oldest waiting event is dropped.
    #[default]
    Oldest,
    /// `"latest"`: all waiting events of the topic are dropped but the newest.
    Latest,
    /// `"end"`: the subscription ends.
    End,
}

/// The names of [`Overflow`].
pub(crate) const OVERFLOWS: &str = "\"oldest\", \"latest\" or \"end\"";

impl TopicConfig {
    /// Creates the configuration of a topic, with defaults for everything but its name.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            keep: 0,
            keep_bytes: 64 * 1024,
            when_full: Overflow::default(),
            forward: None,
            #[cfg(feature = "nats")]
            nats: None,
        }
    }

    /// Returns `true` if its events come from elsewhere.
    pub(crate) fn is_forwarded(&self) -> bool {
        #[cfg(feature = "nats")]
        if self.nats.is_some() {
            return true;
        }
        self.forward.is_some()
    }
}

impl Overflow {
    /// Returns what is called so.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "oldest" => Some(Self::Oldest),
            "latest" => Some(Self::Latest),
            "end" => Some(Self::End),
            _ => None,
        }
    }
}

/// Parses a `[[topic]]` table; `config` has the tables before it.
pub(super) fn parse(table: &Table<'_>, config: &Config) -> TopicConfig {
    table.allow(&[
        "name",
        "keep",
        "keep_bytes",
        "when_full",
        "forward",
        "token_file",
        "tls",
        #[cfg(feature = "nats")]
        "subject",
    ]);
    let name = table.read_required("name", "\"chat.lobby\"", |field| {
        let name = field.function_or_family("chat.*")?;
        if config.topics.iter().any(|other| other.name == name) {
            return Err(field.fail(&format!("there is another topic {name:?}; each name may appear once")));
        }
        Ok(name)
    });
    let name = name.unwrap_or_default();
    let mut topic = TopicConfig::new(name);
    let Limits { events, output, .. } = config.limits;
    table.count("keep", 0..=events, &mut topic.keep);
    topic.keep_bytes = topic.keep_bytes.min(output);
    table.size("keep_bytes", 64..=output, &mut topic.keep_bytes);
    let overflows = ["oldest", "latest", "end"].map(|name| (name, Overflow::named(name).unwrap_or_default()));
    table.choice("when_full", &overflows, &mut topic.when_full);
    let token_file = table.read("token_file", Field::path);
    let tls = table.read("tls", forward::tls);
    #[cfg(feature = "nats")]
    if table.get("forward").is_some_and(|to| super::nats::is_target(to, config)) {
        topic.nats = table.source.note(super::nats::subject_of(table, name.ends_with('*')));
        return topic;
    }
    topic.forward = table.read("forward", |to| forward::target(to, to, &token_file, &tls, false));
    if table.get("forward").is_none() && ["token_file", "tls"].iter().any(|key| table.get(key).is_some()) {
        table.note(table.fail("token_file and tls are for a topic of another node; it has no forward"));
    }
    topic
}

impl<'a> Field<'a> {
    /// Returns a name that is not reserved, of one thing or, if it ends in `.*`, of a family.
    pub(super) fn function_or_family(self, example: &str) -> Result<&'a str> {
        let name = self.visible_name(example)?;
        if let Some(reserved) = ["rpc.", "$/"].iter().find(|reserved| name.starts_with(**reserved)) {
            return Err(self.fail(&format!(
                "names that begin with {reserved} are reserved; choose another, not {name:?}"
            )));
        }
        let base = name.strip_suffix(".*").unwrap_or(name);
        if base.is_empty() || base.ends_with('.') || base.contains(['*', '"', '\\']) {
            let wanted = "without *, \" and \\, and does not end with a dot; a family ends in .*";
            return Err(self.fail(&format!("{name:?} is no name, which is {wanted}, as in {example:?}")));
        }
        Ok(name)
    }
}
