//! Offers this node's functions at other nodes.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use serde::Serialize;

use super::Node;
use super::from_config::remote;
#[cfg(feature = "nats")]
use super::nats::NatsOffer;
use super::secrets::ProviderConfigError;
use crate::config::Config;
use crate::message::{Param, RawJson};
use crate::provider::Relay;
use crate::remote::{OfferEvent, Offering, RemoteBuilder};
use crate::route::{ProviderKind, Registry, matches};

/// The longest description that another node accepts, in bytes.
const MAX_DESCRIPTION: usize = 1024;
/// The longest description of parameters that another node accepts, in bytes of JSON.
const MAX_PARAMS: usize = 4096;

/// Functions that a node offers at another one.
pub(crate) struct RemoteOffer {
    pub(crate) remote: RemoteBuilder,
    /// Patterns of the node's functions.
    pub(crate) functions: Vec<String>,
    /// What the other node calls them begins with this.
    pub(crate) prefix: String,
    pub(crate) is_shared: bool,
    /// The number of calls at a time that the other node passes on, if not its default.
    pub(crate) in_flight: Option<usize>,
}

/// What a node offers elsewhere.
#[derive(Default)]
pub(crate) struct Offers {
    pub(crate) nodes: Vec<RemoteOffer>,
    #[cfg(feature = "nats")]
    nats: Option<NatsOffer>,
}

/// Returns what the node of a configuration offers elsewhere.
///
/// # Errors
/// [`ProviderConfigError`] if a token file or TLS file cannot be used.
pub(crate) fn offers_from_config(config: &Config) -> Result<Offers, ProviderConfigError> {
    let offer = |offer: &crate::config::OfferConfig| {
        let remote = remote(&config.limits, &offer.to)?;
        let (functions, prefix) = (offer.functions.clone(), offer.prefix.clone());
        Ok(RemoteOffer { remote, functions, prefix, is_shared: offer.is_shared, in_flight: None })
    };
    Ok(Offers {
        nodes: config.offers.iter().map(offer).collect::<Result<_, ProviderConfigError>>()?,
        #[cfg(feature = "nats")]
        nats: NatsOffer::from_config(config)?,
    })
}

impl Node {
    /// Connects elsewhere, and offers functions there until this node stops.
    pub(crate) fn offer(&self, offers: Offers) {
        #[cfg(feature = "nats")]
        if let Some(offer) = offers.nats {
            offer.start(&self.shared);
        }
        for offer in offers.nodes {
            let address = offer.remote.address().to_owned();
            let lost = address.clone();
            let withdrawn = Box::new(move |what: &str| {
                log::warn!("{lost}: another connection of the same owner offers what this node did: {what}");
            });
            self.start_offer(offer, withdrawn, Box::new(move |event| log_event(&address, &event)));
        }
    }

    /// Connects to another node, and offers functions there until this node stops. `withdrawn` is called when another
    /// connection takes one over.
    pub(crate) fn start_offer(
        &self,
        offer: RemoteOffer,
        withdrawn: Box<dyn Fn(&str) + Send + Sync>,
        notify: Box<dyn Fn(OfferEvent<'_>) + Send + Sync>,
    ) {
        let RemoteOffer { remote, functions, prefix, is_shared, in_flight } = offer;
        let (registry, shared) = (self.registry(), &self.shared);
        let relay = Relay::registry(registry, prefix.clone(), functions.clone(), withdrawn);
        let weak = Arc::downgrade(registry);
        let offering = Offering {
            offers: Box::new(move || offered(&weak, &functions, &prefix, is_shared, in_flight)),
            notify,
            stop: shared.shutdown.signal(),
            force_stop: shared.shutdown.force_signal(),
            is_connected: AtomicBool::new(false),
        };
        let task = remote.offer(&shared.executor, relay, offering);
        shared.offers().push(task);
    }
}

fn log_event(address: &str, event: &OfferEvent<'_>) {
    match event {
        OfferEvent::Accepted => log::info!("{address} accepts the functions that this node offers"),
        OfferEvent::Refused(name, fault) => log::warn!("{address} refuses the offer of {name}: {fault}"),
        OfferEvent::Disconnected(_) => {}
    }
}

/// Returns the name of each function to offer, and the parameters of `rpc.offer`: whole families by their pattern, so that
/// later functions can be called too, and each function that exists.
fn offered(
    registry: &Weak<Registry>,
    patterns: &[String],
    prefix: &str,
    is_shared: bool,
    in_flight: Option<usize>,
) -> Vec<(String, RawJson<'static>)> {
    #[derive(Serialize)]
    struct Offer<'a> {
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        params: Option<&'a [Param]>,
        share: &'static str,
        meta: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        in_flight: Option<usize>,
    }
    let Some(registry) = registry.upgrade() else { return Vec::new() };
    let share = if is_shared { "any" } else { "one" };
    let mut offers: Vec<(String, RawJson<'static>)> = Vec::new();
    let mut add = |name: &str, description: Option<&str>, params: Option<&[Param]>| {
        let name = format!("{prefix}{name}");
        let description = description.filter(|text| text.len() <= MAX_DESCRIPTION);
        let is_short =
            |params: &&[Param]| RawJson::of(params).is_ok_and(|json| json.get().len() <= MAX_PARAMS);
        let offer =
            Offer { name: &name, description, params: params.filter(is_short), share, meta: true, in_flight };
        if !offers.iter().any(|(other, _)| *other == name)
            && let Ok(json) = RawJson::of(&offer)
        {
            offers.push((name, json));
        }
    };
    for pattern in patterns {
        match pattern.strip_suffix('*') {
            Some(start) if format!("{prefix}{start}").ends_with('.') => add(pattern, None, None),
            _ => {}
        }
    }
    registry.table().each_described(&mut |name, description| {
        // A family that is forwarded is offered as one.
        let is_own = description.provider != ProviderKind::Builtin
            && !description.told.is_some_and(|told| told.is_member);
        if is_own && patterns.iter().any(|pattern| matches(pattern, name)) {
            let signature = &description.signature;
            add(name, signature.description.as_deref(), signature.params.as_deref());
        }
    });
    // A function of a family that is not offered as a whole, or one that comes later.
    for pattern in patterns.iter().filter(|pattern| !pattern.contains('*')) {
        add(pattern, None, None);
    }
    offers
}
