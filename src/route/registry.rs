//! The table of providers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::builtin::{self, Builtin};
use super::call::Call;
use super::{Description, Provider};
use crate::message::{Fault, code};
use crate::metrics::{self, FunctionMetrics, FunctionStats, Metrics};

/// Which provider answers which name. Built once by a [`Builder`], then shared.
pub struct Registry {
    name: Arc<str>,
    exact: BTreeMap<String, Entry>,
    /// `family.` → what answers `family.*`.
    families: BTreeMap<String, Entry>,
    metrics: Arc<Metrics>,
    max_hops: u32,
}

struct Entry {
    provider: Box<dyn Provider>,
    metrics: Arc<FunctionMetrics>,
    description: Option<String>,
}

impl Registry {
    /// Starts a registry for the node `name`.
    pub fn builder(name: impl Into<Arc<str>>) -> Builder {
        Builder {
            registry: Self {
                name: name.into(),
                exact: BTreeMap::new(),
                families: BTreeMap::new(),
                metrics: Arc::default(),
                max_hops: 8,
            },
        }
    }

    /// Hands a call to the provider of its name, or answers why there is none.
    pub fn call(&self, mut call: Call<'_>) {
        if call.hops > self.max_hops {
            let message = format!("the call was passed on more than {} times (limits.hops)", self.max_hops);
            return call.reply.send(Err(Fault::new(code::HOP_LIMIT, message).through(&self.name)));
        }
        if let Some(entry) = self.find(call.method) {
            call.reply.meter(&entry.metrics);
            return entry.provider.call(call);
        }
        match Builtin::from_name(call.method) {
            Some(builtin) => builtin.call(self, call),
            None => {
                let message = format!("no function {:?}; rpc.list names those there are", call.method);
                call.reply.send(Err(Fault::new(code::UNKNOWN_FUNCTION, message)));
            }
        }
    }

    /// Returns the node's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns what the node counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Returns all names that the pattern covers, with what is told of them. `*` stands for any text.
    pub fn list<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = (String, Description)> + 'a {
        let own = self.entries().map(|(name, entry)| {
            let mut description = entry.provider.describe();
            description.description = entry.description.clone().or(description.description);
            (name, description)
        });
        own.chain(Builtin::ALL.iter().map(|builtin| (builtin.name().to_owned(), builtin.describe())))
            .filter(move |(name, _)| matches(pattern, name))
    }

    /// Returns the numbers of all functions: name, provider, numbers.
    pub fn stats(&self) -> impl Iterator<Item = (String, &'static str, FunctionStats)> {
        self.entries().map(|(name, entry)| (name, entry.provider.describe().provider, entry.metrics.stats()))
    }

    /// Returns how many calls are not answered yet, notifications included.
    pub fn in_flight(&self) -> u64 {
        self.entries().map(|(_, entry)| entry.metrics.stats().in_flight).sum()
    }

    /// Ends what providers still run.
    pub async fn stop(&self) {
        for (_, entry) in self.entries() {
            entry.provider.stop().await;
        }
    }

    /// Returns everything that is counted, in Prometheus's text format.
    pub fn prometheus(&self) -> String {
        let mut out = String::new();
        self.metrics.write_prometheus(&mut out);
        let stats: Vec<_> = self.stats().collect();
        let stats = stats.iter().map(|(name, provider, stats)| (name.as_str(), *provider, stats.clone()));
        metrics::write_functions(&mut out, &stats);
        out
    }

    fn entries(&self) -> impl Iterator<Item = (String, &Entry)> {
        let families = self.families.iter().map(|(prefix, entry)| (format!("{prefix}*"), entry));
        self.exact.iter().map(|(name, entry)| (name.clone(), entry)).chain(families)
    }

    /// The exact name if it is there, else its longest family.
    fn find(&self, name: &str) -> Option<&Entry> {
        self.exact.get(name).or_else(|| {
            let dots = name.rmatch_indices('.').map(|(at, _)| &name[..=at]);
            dots.into_iter().find_map(|prefix| self.families.get(prefix))
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.entries().map(|(name, _)| name).collect::<Vec<_>>();
        f.debug_struct("Registry")
            .field("name", &self.name)
            .field("functions", &names)
            .finish_non_exhaustive()
    }
}

/// Collects providers for a [`Registry`].
#[derive(Debug)]
pub struct Builder {
    registry: Registry,
}

impl Builder {
    /// Bounds how many nodes may pass a call on; 8 by default.
    #[must_use]
    pub fn max_hops(mut self, hops: u32) -> Self {
        self.registry.max_hops = hops;
        self
    }

    /// Has `provider` answer `name`, or every name of a family if `name` ends in `.*`.
    ///
    /// # Errors
    /// [`RegistryError`] if the name is taken, reserved (`rpc.`, `$/`) or unfit.
    pub fn provide(
        &mut self,
        name: &str,
        description: Option<String>,
        provider: impl Provider,
    ) -> Result<&mut Self, RegistryError> {
        if name.starts_with(builtin::PREFIX) || name.starts_with("$/") {
            return Err(RegistryError::Reserved(name.to_owned()));
        }
        let (table, key) = match name.strip_suffix('*') {
            Some(prefix) if prefix.len() > 1 && prefix.ends_with('.') => {
                (&mut self.registry.families, prefix)
            }
            Some(_) => return Err(RegistryError::Unfit(name.to_owned())),
            None => (&mut self.registry.exact, name),
        };
        if key.is_empty()
            || key.len() > 128
            || !key.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\*".contains(&byte))
        {
            return Err(RegistryError::Unfit(name.to_owned()));
        }
        if table.contains_key(key) {
            return Err(RegistryError::Duplicate(name.to_owned()));
        }
        let entry = Entry { provider: Box::new(provider), metrics: Arc::default(), description };
        table.insert(key.to_owned(), entry);
        Ok(self)
    }

    /// Ends the collection.
    pub fn build(self) -> Arc<Registry> {
        Arc::new(self.registry)
    }
}

/// Says why a name was not taken into a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryError {
    /// Something answers that name already.
    Duplicate(String),
    /// Names that begin with `rpc.` or `$/` are the protocol's.
    Reserved(String),
    /// A name has 1 to 128 visible ASCII characters, no quotes or backslashes, and `*` only in a final `.*`.
    Unfit(String),
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(name) => write!(f, "function {name:?} is there twice"),
            Self::Reserved(name) => {
                write!(f, "function {name:?}: names that begin with \"rpc.\" or \"$/\" are reserved")
            }
            Self::Unfit(name) => write!(
                f,
                "function {name:?}: a name has 1 to 128 visible ASCII characters without quotes and backslashes; \
                 \"*\" may only end a family, as in \"math.*\""
            ),
        }
    }
}

impl std::error::Error for RegistryError {}

/// Tells whether `name` is covered by `pattern`, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "disk.free", true),
            ("disk.free", "disk.free", true),
            ("disk", "disk.free", false),
            ("disk.*", "disk.free", true),
            ("*.free", "disk.free", true),
            ("d*k*e", "disk.free", true),
            ("d*z*e", "disk.free", false),
            ("disk.free*free", "disk.free", false),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
