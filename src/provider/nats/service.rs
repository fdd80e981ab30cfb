//! The node as a service of NATS (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md>).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;

use crate::codec::nats::subject_of;
use crate::config::NatsConfig;
use crate::message::{Fault, RawJson, Signature, code};
use crate::metrics::FunctionStats;
use crate::remote::{NatsRole, control};
use crate::route::{
    Call, CallHead, Description, Grants, Peer, ProviderKind, Registry, ShutdownSignal, matches,
};

/// The first part of the subjects by which services are found.
const DISCOVERY: &str = "$SRV";
const VERBS: [&str; 3] = ["PING", "INFO", "STATS"];
/// The number of subscriptions of all services: each verb for all, for those of a name, and for one.
const DISCOVERIES: u64 = 9;

/// What the service of a node needs.
pub(crate) struct ServiceSettings {
    pub(crate) nats: NatsConfig,
    /// What others may call.
    pub(crate) grants: Mutex<Grants>,
    /// Functions that are not offered, since they are those of others.
    pub(crate) excluded: Vec<String>,
    pub(crate) stop: ShutdownSignal,
    pub(crate) force_stop: ShutdownSignal,
}

/// Answers calls over NATS with the functions of a node.
pub(crate) struct NatsService {
    registry: Weak<Registry>,
    settings: ServiceSettings,
    id: String,
    started: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    peer: Option<Peer>,
    /// The subjects of functions, each with the number of its subscription.
    subscribed: FxHashMap<String, u64>,
    last: u64,
}

/// A function, as others find it.
struct Endpoint {
    name: String,
    subject: String,
    description: Description,
}

impl NatsService {
    pub(crate) fn new(registry: &Arc<Registry>, settings: ServiceSettings) -> Arc<Self> {
        let (id, started) = (format!("{:016x}", fastrand::u64(..)), rfc3339(SystemTime::now()));
        let state = Mutex::new(State { last: DISCOVERIES, ..State::default() });
        Arc::new(Self { registry: Arc::downgrade(registry), settings, id, started, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_offered(&self, name: &str) -> bool {
        let ServiceSettings { nats, excluded, .. } = &self.settings;
        nats.offer.iter().any(|pattern| matches(pattern, name))
            && !excluded
                .iter()
                .any(|own| own == name || own.strip_suffix('*').is_some_and(|own| name.starts_with(own)))
    }

    /// Returns what is offered and exists. What belongs to a family that is offered as a whole has no place of its own.
    fn endpoints(&self, registry: &Registry) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        registry.table().each_described(&mut |name, description| {
            let is_own = description.provider != ProviderKind::Builtin
                && !description.told.is_some_and(|told| told.is_member);
            if is_own
                && self.is_offered(name)
                && let Some(subject) = subject_of(&self.settings.nats.prefix, name)
            {
                endpoints.push(Endpoint { name: name.to_owned(), subject, description: description.clone() });
            }
        });
        let families: Vec<_> =
            endpoints.iter().filter_map(|one| one.subject.strip_suffix('>')).map(str::to_owned).collect();
        endpoints.retain(|one| {
            one.subject.ends_with('>') || !families.iter().any(|family| one.subject.starts_with(family))
        });
        endpoints
    }

    /// Subscribes to the functions that exist now, and to no others.
    pub(crate) fn refresh(&self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let wanted = self.endpoints(&registry).into_iter().map(|endpoint| endpoint.subject);
        let wanted: FxHashSet<String> = wanted.collect();
        let mut guard = self.state();
        let State { peer, subscribed, last } = &mut *guard;
        let Some(peer) = peer else { return };
        let ended = subscribed.extract_if(|subject, _| !wanted.contains(subject));
        let mut lines: Vec<_> = ended.map(|(_, number)| format!("UNSUB f{number}")).collect();
        for subject in wanted {
            subscribed.entry(subject).or_insert_with_key(|subject| {
                *last += 1;
                lines.push(format!("SUB {subject} {} f{last}", self.settings.nats.queue));
                *last
            });
        }
        control(peer, &lines);
    }

    /// Answers what others ask of services; `None` if it is something else.
    fn describe(&self, subject: &str, registry: &Registry) -> Option<RawJson<'static>> {
        let verb = subject.strip_prefix(DISCOVERY)?.strip_prefix('.')?.split('.').next()?;
        let nats = &self.settings.nats;
        let answer = Answer {
            r#type: match verb {
                "PING" => "io.nats.micro.v1.ping_response",
                "INFO" => "io.nats.micro.v1.info_response",
                _ => "io.nats.micro.v1.stats_response",
            },
            name: &nats.service,
            id: &self.id,
            version: env!("CARGO_PKG_VERSION"),
            metadata: Metadata::default(),
            description: (verb == "INFO").then(|| &**registry.name()),
            started: (verb == "STATS").then_some(&self.started),
            endpoints: (verb != "PING").then(|| self.describe_endpoints(registry, verb == "STATS")),
        };
        RawJson::of(&answer).ok()
    }

    fn describe_endpoints(&self, registry: &Registry, with_stats: bool) -> Vec<DescribedEndpoint> {
        let grants = Grants::all();
        let stats = if with_stats { registry.table().stats(&grants.visibility()) } else { Vec::new() };
        let describe = |endpoint: Endpoint| {
            let own = stats.iter().find(|(name, ..)| *name == endpoint.name);
            let signature = &endpoint.description.signature;
            let params = signature.params.as_ref().and_then(|params| RawJson::of(params).ok());
            DescribedEndpoint {
                name: endpoint
                    .name
                    .chars()
                    .map(|c| if crate::config::is_of_name(c) { c } else { '_' })
                    .collect(),
                subject: endpoint.subject,
                queue_group: self.settings.nats.queue.clone(),
                metadata: (!with_stats).then(|| Metadata {
                    function: Some(endpoint.name),
                    kind: signature.kind.map(Signature::kind_name),
                    params: params.map(|params| params.get().to_owned()),
                    description: signature.description.clone(),
                }),
                stats: own.map(|(.., stats)| stats.clone()),
            }
        };
        self.endpoints(registry).into_iter().map(describe).collect()
    }
}

impl NatsRole for NatsService {
    fn subscribe(&self, peer: &Peer) {
        let (service, mut lines) = (&self.settings.nats.service, Vec::new());
        for verb in VERBS {
            for place in [String::new(), format!(".{service}"), format!(".{service}.{}", self.id)] {
                lines.push(format!("SUB {DISCOVERY}.{verb}{place} f{}", lines.len() + 1));
            }
        }
        let mut state = self.state();
        state.peer = Some(peer.clone());
        // They have the same numbers on each connection.
        let queue = &self.settings.nats.queue;
        lines.extend(
            state.subscribed.iter().map(|(subject, number)| format!("SUB {subject} {queue} f{number}")),
        );
        control(peer, &lines);
        drop(state);
        self.refresh();
    }

    fn unsubscribe(&self, peer: &Peer) {
        let state = self.state();
        let numbers = state.subscribed.values().copied().chain(1..=DISCOVERIES);
        control(peer, &numbers.map(|number| format!("UNSUB f{number}")).collect::<Vec<_>>());
    }

    fn may_overlap(&self) -> bool {
        true
    }

    fn lost(&self) {
        self.state().peer = None;
    }

    fn message(&self, mut call: Call<'_>) {
        let subject = call.method();
        let Some(registry) = self.registry.upgrade() else {
            return call.reply(Err(Fault::new(code::CLOSED, "the node is stopping")));
        };
        if let Some(answer) = self.describe(subject, &registry) {
            return call.reply(Ok(answer));
        }
        let nats = &self.settings.nats;
        let name = subject.strip_prefix(&*nats.prefix).and_then(|rest| rest.strip_prefix('.'));
        let Some(name) = name.filter(|name| self.is_offered(name)) else {
            let message = format!("{subject:?} is not offered over NATS (nats.offer)");
            return call.reply(Err(Fault::new(code::UNKNOWN_FUNCTION, message)));
        };
        let (caller, grants) = {
            let mut grants = self.settings.grants.lock().unwrap_or_else(PoisonError::into_inner);
            registry.table().refresh(&mut grants);
            let caller = grants.check(name).map(|_| grants.caller().clone());
            (caller, grants.is_logged().then(|| grants.clone()))
        };
        let Ok(caller) = caller else {
            registry.metrics().denied.inc();
            let message = format!("no [[access]] rule with listen = [\"nats\"] allows {name}");
            let fault = Fault::new(code::DENIED, message);
            if let Some(grants) = grants {
                grants.log_call(name, Some(&fault), Duration::ZERO);
            }
            return call.reply(Err(fault));
        };
        let params = call.take_params().and_then(|params| match params.get().as_bytes() {
            b"null" => None,
            [b'[' | b'{', ..] => Some(params),
            _ => Some(RawJson::checked(format!("[{}]", params.get()))),
        });
        let Some(grants) = grants else {
            registry.relay_as(name, &caller, params, call);
            return;
        };
        let (head, logged, began) = (
            CallHead { method: name, deadline: call.deadline(), hops: call.hops() },
            name.to_owned(),
            Instant::now(),
        );
        let log = move |fault: Option<&Fault>| grants.log_call(&logged, fault, began.elapsed());
        let responder = call.defer().audited(log);
        Call::detached(&head, &caller, None, responder, |call| {
            registry.relay_as(name, &caller, params, call);
        });
    }

    fn stop(&self) -> Option<(ShutdownSignal, ShutdownSignal)> {
        Some((self.settings.stop.clone(), self.settings.force_stop.clone()))
    }
}

/// What a service tells of itself.
#[derive(Serialize)]
struct Answer<'a> {
    r#type: &'a str,
    name: &'a str,
    id: &'a str,
    version: &'a str,
    metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoints: Option<Vec<DescribedEndpoint>>,
}

#[derive(Serialize)]
struct DescribedEndpoint {
    name: String,
    subject: String,
    queue_group: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(flatten)]
    stats: Option<FunctionStats>,
}

/// What tools show of a service or function, as texts.
#[derive(Default, Serialize)]
struct Metadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

/// Returns a time in the form of RFC 3339, in UTC. The date is computed as in
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second % 3600 / 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_as_in_rfc_3339() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
