//! The functions for topics: `rpc.subscribe`, `rpc.unsubscribe` and `rpc.publish`.

use std::io::Write;
use std::sync::LazyLock;

use crate::chan::Kind;
use crate::config::{OVERFLOWS, Overflow};
#[cfg(feature = "nats")]
use crate::message::RawJson;
use crate::message::{Fault, Param, Schema, Signature, code};
use crate::route::{Action, Builtin, BuiltinCall, Description, Peer, ProviderKind, Subscribe, Way};

pub(super) const SUBSCRIBE: Builtin =
    Builtin { name: "rpc.subscribe", describe: || describe(&SUBSCRIPTION), answer: subscribe };
pub(super) const UNSUBSCRIBE: Builtin =
    Builtin { name: "rpc.unsubscribe", describe: || describe(&UNSUBSCRIPTION), answer: unsubscribe };
pub(super) const PUBLISH: Builtin =
    Builtin { name: "rpc.publish", describe: || describe(&PUBLICATION), answer: publish };

static SUBSCRIPTION: LazyLock<Signature> = LazyLock::new(|| {
    let description = "subscribes to the events of a topic, or of a family such as chat.*";
    of_topic(description, Schema::object())
        .param(Param::new("since", Schema::integer()).optional())
        .param(Param::new("epoch", Schema::string()).optional())
        .param(Param::new("when_full", Schema::string()).optional())
        .param(Param::new("via", Schema::string()).optional())
});
static UNSUBSCRIPTION: LazyLock<Signature> =
    LazyLock::new(|| of_topic("ends a subscription; returns false if there was none", Schema::boolean()));
static PUBLICATION: LazyLock<Signature> = LazyLock::new(|| {
    let description = "publishes an event to a topic; returns the number of connections that receive it";
    of_topic(description, Schema::integer()).param(Param::new("data", Schema::any()))
});

fn of_topic(description: &str, result: Schema) -> Signature {
    let topic = Param::new("topic", Schema::string());
    Signature::default().param(topic).kind(Kind::One).result(result).description(description)
}

fn describe(signature: &Signature) -> Description {
    Description::default().provider(ProviderKind::Builtin).signature(signature.clone())
}

fn subscribe(BuiltinCall { table, grants, params, head, out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    let peer = peer(grants.caller().peer(), grants.caller().dialect(), "subscribed to")?;
    let given = SUBSCRIPTION.bind(params)?;
    let [topic, since, epoch, when_full, via] = given[..] else {
        unreachable!("rpc.subscribe has five parameters")
    };
    let (topic, epoch, when_full) =
        (text(topic)?, epoch.map(|_| text(epoch)), when_full.map(|_| text(when_full)));
    let (epoch, when_full) = (epoch.transpose()?, when_full.transpose()?);
    let invalid = |what: &str| Fault::invalid_params(format!("{what}; see docs/protocol.md"));
    let since = since.map(|since| since.parse().map_err(|_| invalid("since is the number of an event")));
    let overflow = when_full
        .map(|name| Overflow::named(&name).ok_or_else(|| invalid(&format!("when_full is {OVERFLOWS}"))));
    grants.allow(Action::Subscribe, &topic)?;
    let topics = &table.topics;
    let (since, overflow) = (since.transpose()?, overflow.transpose()?);
    let right = Some(grants.right(Action::Subscribe, &topic));
    let way = Way { hops: head.hops, via: via.map(|_| text(via)).transpose()?.unwrap_or_default() };
    let request = Subscribe { topic: &topic, since, epoch: epoch.as_deref(), overflow, right, way };
    let subscribed = topics.subscribe(peer, &request)?;
    let seq = subscribed.seq.map_or_else(|| "null".to_owned(), |seq| seq.to_string());
    let (epoch, missed) = (topics.epoch(), subscribed.is_missing);
    write(out, format_args!("{{\"seq\":{seq},\"epoch\":\"{epoch}\",\"missed\":{missed}}}"));
    Ok(())
}

fn unsubscribe(BuiltinCall { table, grants, params, out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    let peer = peer(grants.caller().peer(), grants.caller().dialect(), "subscribed to")?;
    let given = UNSUBSCRIPTION.bind(params)?;
    let existed = table.topics.unsubscribe(peer, &text(given[0])?);
    write(out, format_args!("{existed}"));
    Ok(())
}

fn publish(call: BuiltinCall<'_>) -> Result<(), Fault> {
    let BuiltinCall { table, grants, params, .. } = call;
    let given = PUBLICATION.bind(params)?;
    let [topic, Some(data)] = given[..] else { unreachable!("rpc.publish has two required parameters") };
    let topic = text(topic)?;
    grants.allow(Action::Publish, &topic)?;
    if let Some(upstream) = table.topics.upstream(&topic)? {
        return call.pass_to(&*upstream.publish);
    }
    let reached = table.topics.publish(&topic, data)?;
    write(call.out, format_args!("{reached}"));
    Ok(())
}

/// Returns the topic and the data of a call of `rpc.publish`, which has been checked.
#[cfg(feature = "nats")]
pub(super) fn publication(params: Option<&RawJson<'_>>) -> Result<(String, RawJson<'static>), Fault> {
    let given = PUBLICATION.bind(params)?;
    let data = RawJson::checked(given[1].unwrap_or("null").to_owned());
    Ok((text(given[0])?, data))
}

/// Returns the other end of a connection that can receive events.
fn peer<'a>(peer: Option<&'a Peer>, dialect: &str, what: &str) -> Result<&'a Peer, Fault> {
    let advice = "use GET /events, or a connection over TCP or WebSocket";
    let refused = |why| Err(Fault::new(code::UNKNOWN_FUNCTION, format!("nothing can be {what} over {why}")));
    match peer {
        Some(_) if dialect == "leaf" => refused("a Leaf listener: use another listener".to_owned()),
        Some(peer) => Ok(peer),
        None => refused(format!("a single HTTP request: {advice}")),
    }
}

/// Returns a parameter that is a JSON string.
fn text(json: Option<&str>) -> Result<String, Fault> {
    serde_json::from_str(json.unwrap_or_default()).map_err(|error| Fault::invalid_params(error.to_string()))
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes every byte");
}
