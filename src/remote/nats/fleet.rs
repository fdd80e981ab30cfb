//! The functions of all services, by which they tell of themselves
//! (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md>).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smol::Timer;

use super::NatsClient;
use super::inquiry::{Answer, INFO, Inquiry};
use crate::message::{Fault, RawJson, code};
use crate::remote::RemoteError;
use crate::route::{Peer, matches};

/// How long after an answer the next one may come, at least. In a fleet that is far away, or slow, it is twice the time of
/// the first answer.
const QUIET: Duration = Duration::from_millis(500);
/// Services that are named for a function.
const MAX_NAMES: usize = 4;
/// What a function takes besides its texts, in bytes.
const OVERHEAD: usize = 64;

/// What services have told of their functions.
pub(crate) struct Survey {
    /// What `rpc.list` would return.
    pub(crate) functions: RawJson<'static>,
    /// The number of services that have answered.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for people only"))]
    pub(crate) services: usize,
    /// The number of their functions below the prefix.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for people only"))]
    pub(crate) below_prefix: usize,
    /// Why functions may be missing.
    pub(crate) lacks: Option<&'static str>,
}

/// What a service answers, as far as it is of use.
#[derive(Deserialize)]
struct Service {
    name: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    subject: String,
    #[serde(default)]
    metadata: Option<Metadata>,
}

/// What a node tells of a function. Others may tell anything.
#[derive(Default, Deserialize, PartialEq)]
#[serde(default)]
struct Metadata {
    kind: Option<String>,
    params: Option<String>,
    description: Option<String>,
}

/// A function, as in `rpc.list`.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    target: String,
}

/// The functions so far.
#[derive(Default)]
struct Findings {
    functions: BTreeMap<String, Found>,
    services: usize,
    below_prefix: usize,
    /// What they take, in bytes.
    bytes: usize,
    max_bytes: usize,
    is_full: bool,
}

/// A function, with the services that have it and the number of each.
#[derive(Default)]
struct Found {
    metadata: Metadata,
    services: BTreeMap<String, usize>,
}

impl NatsClient {
    /// Asks all services for their functions, until their answers cease or the deadline. The parameters are those of
    /// `rpc.list`; about `max_bytes` of what is told are kept.
    ///
    /// # Errors
    /// If no answer has come by the deadline, or the server does not let this client ask.
    pub(in crate::remote) async fn survey(
        &self,
        peer: &Peer,
        params: Option<&RawJson<'_>>,
        max_bytes: usize,
        deadline: Instant,
    ) -> Result<Survey, RemoteError> {
        let (pattern, is_verbose) = options(params);
        let mut findings = Findings { max_bytes, ..Findings::default() };
        let began = Instant::now();
        let inquiry = Inquiry::start(self, peer, max_bytes);
        let (mut quiet, mut until) = (None, deadline);
        while let Some(answer) = inquiry.next(Timer::at(until)).await {
            let quiet = *quiet.get_or_insert_with(|| QUIET.max(2 * began.elapsed()));
            until = deadline.min(Instant::now() + quiet);
            match answer {
                Answer::Service(json) => {
                    if let Ok(service) = serde_json::from_str(json.get()) {
                        findings.note(service, &self.settings.prefix, &pattern);
                    }
                }
                // Another server may know somebody.
                Answer::Nobody => {}
                Answer::Refused => {
                    let message = format!(
                        "the NATS server does not let this user publish to {INFO}, where services tell \
                         of their functions; allow it, or call a function by its name"
                    );
                    return Err(RemoteError::Fault(Fault::new(code::DENIED, message)));
                }
            }
        }
        if quiet.is_none() {
            let message = format!(
                "no service has answered at {INFO} before the deadline; a slow fleet needs a later one, \
                 such as --timeout 1m"
            );
            return Err(RemoteError::Fault(Fault::new(code::DEADLINE, message)));
        }
        let lacks = match () {
            () if findings.is_full || inquiry.is_cut() => {
                Some("services have told more than fits: ask for fewer functions, such as \"disk.*\"")
            }
            () if until == deadline => {
                Some("services still answered at the deadline: a later one may find more")
            }
            () => None,
        };
        let Findings { functions: found, services, below_prefix, .. } = &findings;
        let json = match is_verbose {
            true => RawJson::of(&found.iter().map(|(name, found)| found.listed(name)).collect::<Vec<_>>()),
            false => RawJson::of(&found.keys().collect::<Vec<_>>()),
        };
        let (services, below_prefix) = (*services, *below_prefix);
        Ok(Survey { functions: json.unwrap_or(RawJson::NULL), services, below_prefix, lacks })
    }
}

impl Findings {
    /// Notes the functions of a service, by their names here.
    fn note(&mut self, Service { name: service, endpoints }: Service, prefix: &str, pattern: &str) {
        self.services += 1;
        for Endpoint { subject, metadata } in endpoints {
            let name = match prefix {
                "" => Some(&*subject),
                prefix => subject.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')),
            };
            let Some(name) = name else { continue };
            self.below_prefix += 1;
            let name = name.strip_suffix('>').map_or_else(|| name.to_owned(), |family| format!("{family}*"));
            if !matches(pattern, &name) {
                continue;
            }
            let known = self.functions.get(&name);
            let is_described = known.is_some_and(|found| found.metadata != Metadata::default());
            let metadata = metadata.filter(|_| !is_described);
            let mut bytes = metadata.as_ref().map_or(0, Metadata::length);
            if known.is_none() {
                bytes += name.len() + OVERHEAD;
            }
            if !known.is_some_and(|found| found.services.contains_key(&service)) {
                bytes += service.len() + OVERHEAD;
            }
            if self.bytes + bytes > self.max_bytes {
                self.is_full = true;
                continue;
            }
            self.bytes += bytes;
            let found = self.functions.entry(name).or_default();
            *found.services.entry(service.clone()).or_default() += 1;
            if let Some(metadata) = metadata {
                found.metadata = metadata;
            }
        }
    }
}

impl Metadata {
    fn length(&self) -> usize {
        let Self { kind, params, description } = self;
        [kind, params, description].into_iter().flatten().map(String::len).sum()
    }
}

impl Found {
    fn listed<'a>(&'a self, name: &'a str) -> Listed<'a> {
        let Metadata { kind, params, description } = &self.metadata;
        let shown = self.services.iter().take(MAX_NAMES);
        let mut shown: Vec<_> = shown
            .map(|(name, count)| match count {
                1 => name.clone(),
                count => format!("{name} x{count}"),
            })
            .collect();
        if self.services.len() > MAX_NAMES {
            shown.push(format!("and {} more", self.services.len() - MAX_NAMES));
        }
        Listed {
            name,
            provider: "nats",
            kind: kind.as_deref(),
            params: params.as_deref().and_then(|params| serde_json::from_str(params).ok()),
            description: description.as_deref(),
            target: shown.join(", "),
        }
    }
}

/// Returns the pattern, and whether all is to be told.
fn options(params: Option<&RawJson<'_>>) -> (String, bool) {
    let params = params.and_then(|params| serde_json::from_str::<serde_json::Value>(params.get()).ok());
    let params = params.unwrap_or_default();
    let get = |name: &str, position: usize| params.get(name).or_else(|| params.get(position));
    let pattern = get("pattern", 0).and_then(|pattern| pattern.as_str()).unwrap_or("*");
    (pattern.to_owned(), get("verbose", 1).and_then(serde_json::Value::as_bool).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_services_is_bounded() {
        let service = |name: String| Service {
            name,
            endpoints: vec![Endpoint { subject: "p.far".to_owned(), metadata: None }],
        };
        let mut findings = Findings { max_bytes: 1000, ..Findings::default() };
        for number in 0..100 {
            findings.note(service(format!("a-{number}")), "p", "*");
        }
        let kept = findings.functions["far"].services.len();
        assert_eq!((findings.services, findings.is_full), (100, true));
        assert!((5..20).contains(&kept), "{kept}");
        // Those that are known are still counted.
        findings.note(service("a-0".to_owned()), "p", "*");
        assert_eq!(findings.functions["far"].services["a-0"], 2);
        findings.note(service("a-0".to_owned()), "q", "*");
        assert_eq!((findings.services, findings.below_prefix), (102, 101));
    }
}
