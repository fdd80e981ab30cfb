//! The functions of all services, by which they tell of themselves
//! (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md>).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smol::Timer;
use smol::future::FutureExt;

use super::{NatsClient, control};
use crate::codec::nats::inquiry;
use crate::message::RawJson;
use crate::remote::RemoteError;
use crate::route::{Peer, matches};

/// Where services are asked for all that they tell.
const INFO: &str = "$SRV.INFO";
/// How long after an answer the next one may come.
const QUIET: Duration = Duration::from_millis(300);
/// How long answers are waited for at most.
const MAX_TIME: Duration = Duration::from_secs(2);
/// The maximum number of functions that are listed.
const MAX_FUNCTIONS: usize = 100_000;
/// Services that are named for a function.
const MAX_NAMES: usize = 4;

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
#[derive(Default, Deserialize)]
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

/// A function, with the services that have it and the number of each.
#[derive(Default)]
struct Found {
    metadata: Metadata,
    services: BTreeMap<String, usize>,
}

impl NatsClient {
    /// Returns what `rpc.list` with these parameters would.
    pub(in crate::remote) async fn list(
        &self,
        peer: &Peer,
        params: Option<&RawJson<'_>>,
        deadline: Instant,
    ) -> Result<RawJson<'static>, RemoteError> {
        let (pattern, is_verbose) = options(params);
        let until = deadline.min(Instant::now() + MAX_TIME);
        let mut found = BTreeMap::<String, Found>::new();
        let inquiry = Inquiry::new(self, peer);
        control(peer, &inquiry.lines());
        loop {
            let timeout = async {
                Timer::at(until.min(Instant::now() + QUIET)).await;
                None
            };
            let told = async { inquiry.told.recv().await.ok() };
            let Some(told) = told.or(timeout).await else { break };
            if found.len() >= MAX_FUNCTIONS {
                break;
            }
            if let Ok(service) = serde_json::from_str::<Service>(told.get()) {
                self.note(service, &pattern, &mut found);
            }
        }
        drop(inquiry);
        let json = match is_verbose {
            true => RawJson::of(&found.iter().map(|(name, found)| found.listed(name)).collect::<Vec<_>>()),
            false => RawJson::of(&found.keys().collect::<Vec<_>>()),
        };
        Ok(json.unwrap_or(RawJson::NULL))
    }

    /// Notes the functions of a service, by their names here.
    fn note(
        &self,
        Service { name: service, endpoints }: Service,
        pattern: &str,
        found: &mut BTreeMap<String, Found>,
    ) {
        for Endpoint { subject, metadata } in endpoints {
            let prefix = &*self.settings.prefix;
            let name = match prefix {
                "" => Some(&*subject),
                prefix => subject.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')),
            };
            let Some(name) = name else { continue };
            let name = name.strip_suffix('>').map_or_else(|| name.to_owned(), |family| format!("{family}*"));
            if !matches(pattern, &name) {
                continue;
            }
            let one = found.entry(name).or_default();
            *one.services.entry(service.clone()).or_default() += 1;
            if let Some(metadata) = metadata {
                one.metadata = metadata;
            }
        }
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

/// A subscription to what services answer, until this is dropped.
struct Inquiry<'a> {
    client: &'a NatsClient,
    peer: &'a Peer,
    subject: String,
    told: async_channel::Receiver<RawJson<'static>>,
}

impl<'a> Inquiry<'a> {
    fn new(client: &'a NatsClient, peer: &'a Peer) -> Self {
        let subject = format!("{}.{:016x}", client.settings.inbox, fastrand::u64(..));
        let (tell, told) = async_channel::unbounded();
        client.inquiries().insert(subject.clone(), tell);
        Self { client, peer, subject, told }
    }

    fn lines(&self) -> [String; 2] {
        let Self { subject, .. } = self;
        [format!("SUB {subject} i{subject}"), inquiry(INFO, subject)]
    }
}

impl Drop for Inquiry<'_> {
    fn drop(&mut self) {
        let Self { client, peer, subject, .. } = self;
        client.inquiries().remove(&*subject);
        control(peer, &[format!("UNSUB i{subject}")]);
    }
}
