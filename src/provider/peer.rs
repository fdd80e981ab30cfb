//! The peer provider: functions that connections offer, and `rpc.offer` and `rpc.withdraw`.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::builtin_support::{describe, write_json};
use crate::message::{Fault, Param, RawJson, Schema, Signature, code};
use crate::route::{
    Action, BuiltinCall, Call, Caller, Description, Grants, Members, Offer, Peer, PeerError, Provider,
    ProviderKind, Share, Table,
};

/// The number of calls that a peer takes at a time, unless it says another.
const IN_FLIGHT: usize = 16;
/// The number of further calls that wait.
const QUEUE: usize = 16;
/// The maximum length of a description, in bytes.
const MAX_DESCRIPTION: usize = 1024;
/// The maximum length of what a peer tells of its parameters, in bytes of JSON.
const MAX_PARAMS: usize = 4096;

/// Passes calls to the peers that offer a function.
struct Offered {
    /// This node's name, for the path in a fault.
    node: Arc<str>,
    max_hops: u32,
    members: Arc<Members<Peer>>,
}

impl Provider for Offered {
    fn call(&self, mut call: Call<'_>) {
        let hops = call.hops() + 1;
        if hops > self.max_hops {
            let message = format!("the call was forwarded {} times already (limits.hops)", self.max_hops);
            return call.reply(Err(Fault::new(code::HOP_LIMIT, message).through(&self.node)));
        }
        let Some(place) = self.members.choose() else {
            return call.reply(Err(Fault::not_sent(
                "the peer that offered the function is gone, or may no longer offer it",
            )));
        };
        let (method, params) = (call.method().to_owned(), call.take_params().map(RawJson::into_owned));
        let (peer, deadline, responder) = (place.peer().clone(), call.deadline(), call.defer());
        let (id, is_notification) = (peer.reserve(), !responder.expects_reply());
        if !is_notification && !responder.on_cancel(&peer.canceller(id)) {
            return responder.send(Err(Fault::new(code::CANCELLED, "cancelled by the caller")));
        }
        let deadline = (!is_notification).then_some(deadline);
        let answer = move |result: Result<_, PeerError>| {
            // Free before the caller has its answer, and the next call comes.
            drop(place);
            responder.send(result.map_err(fault));
        };
        peer.call(id, method.into(), params, deadline, hops, is_notification, answer);
    }
}

fn fault(error: PeerError) -> Fault {
    match error {
        PeerError::Unsent(reason) => {
            Fault::not_sent(format!("the peer that offers the function is gone: {reason}"))
        }
        PeerError::Lost(reason) => Fault::lost(format!(
            "the peer that offers the function was lost during the call, which may have run: {reason}"
        )),
        PeerError::Busy => {
            let message = "too many calls wait for the peer that offers the function (limits.output)";
            Fault::new(code::BUSY, message).unsent()
        }
        PeerError::Deadline => Fault::new(code::DEADLINE, "the deadline passed"),
        PeerError::Fault(fault) => fault,
    }
}

pub(super) fn describe_offer() -> Description {
    let signature = Signature::default()
        .param(Param::new("name", Schema::string()))
        .param(Param::new("description", Schema::string()).optional())
        .param(Param::new("params", Schema::array()).optional())
        .param(Param::new("in_flight", Schema::integer()).optional())
        .param(Param::new("share", Schema::string()).default(&"one"))
        .param(Param::new("meta", Schema::boolean()).default(&false))
        .result(Schema::boolean())
        .description("offers a function, or a family such as \"py.*\", which this connection then answers");
    describe(signature)
}

pub(super) fn describe_withdraw() -> Description {
    let signature = Signature::default()
        .param(Param::new("name", Schema::string()))
        .result(Schema::boolean())
        .description("withdraws what this connection offers; false if it does not");
    describe(signature)
}

/// `rpc.offer`.
pub(super) fn offer(BuiltinCall { table, grants, params, out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    let offered = try_offer(table, grants, params).and_then(|()| write_json(out, &true));
    if offered.is_err() {
        table.metrics.offers_refused.inc();
    }
    offered
}

fn try_offer(table: &Table, grants: &Grants, params: Option<&RawJson<'_>>) -> Result<(), Fault> {
    let signature = describe_offer().signature;
    let given = signature.bind(params)?;
    let [name, description, params, in_flight, share, meta] = given[..] else {
        unreachable!("rpc.offer has six parameters")
    };
    let (name, caller) = (text(name)?, grants.caller());
    let peer = reachable(caller)?.clone();
    grants.allow(Action::Offer, &name)?;
    let description = description.map(|json| text(Some(json))).transpose()?;
    if description.as_ref().is_some_and(|text| text.len() > MAX_DESCRIPTION) {
        return Err(Fault::invalid_params(format!("the description has more than {MAX_DESCRIPTION} bytes")));
    }
    let max_in_flight = table.max_offer_in_flight();
    let in_flight = match in_flight {
        None => IN_FLIGHT.min(max_in_flight),
        Some(json) => {
            json.parse().ok().filter(|number| (1..=max_in_flight).contains(number)).ok_or_else(|| {
                Fault::invalid_params(format!(
                    "in_flight is 1 to {max_in_flight} (limits.in_flight), not {json}"
                ))
            })?
        }
    };
    let share = match &*text(share)? {
        "one" => Share::One,
        "any" => Share::Any,
        _ => return Err(Fault::invalid_params("share is \"one\" or \"any\"")),
    };
    let owner = caller.owner();
    let mut described = Signature { description, ..Signature::default() };
    described.params = params.map(parameters).transpose()?;
    let described = Description::default()
        .provider(ProviderKind::Peer)
        .signature(described)
        .target(owner.to_string())
        .workers(crate::config::Workers::new(in_flight).queue(QUEUE));
    let (name, right) = (name.clone().into_boxed_str(), grants.right(Action::Offer, &name));
    let (connection, knows_meta) = (caller.connection(), meta == Some("true"));
    let offer = Offer { name, connection, owner, right, peer, in_flight, share, knows_meta };
    let (node, max_hops) = (&table.name, table.max_hops());
    table.offer(offer, &described, &|members| {
        Arc::new(Offered { node: node.clone(), max_hops, members: members.clone() })
    })
}

/// `rpc.withdraw`.
pub(super) fn withdraw(BuiltinCall { table, grants, params, out, .. }: BuiltinCall<'_>) -> Result<(), Fault> {
    let signature = describe_withdraw().signature;
    let given = signature.bind(params)?;
    let (name, caller) = (text(given[0])?, grants.caller());
    let withdrawn = table.withdraw(&name, caller.connection(), reachable(caller)?);
    write_json(out, &withdrawn)
}

/// Returns the other end of the caller's connection, which can be called.
fn reachable(caller: &Caller) -> Result<&Peer, Fault> {
    let peer = caller.peer().filter(|_| caller.dialect() != "leaf");
    peer.ok_or_else(|| {
        let what = match caller.dialect() {
            "http" => "over HTTP",
            "leaf" => "in Leaf's messages, which have no replies",
            _ => "by a caller without a connection",
        };
        let message = format!("nothing can be offered {what}; use TCP or WebSocket");
        Fault::new(code::UNKNOWN_FUNCTION, message)
    })
}

fn text(json: Option<&str>) -> Result<String, Fault> {
    serde_json::from_str(json.unwrap_or("\"\"")).map_err(|error| Fault::invalid_params(error.to_string()))
}

/// Returns what a peer tells of its parameters: a list of names, or of what `rpc.list` reports.
fn parameters(json: &str) -> Result<Vec<Param>, Fault> {
    if json.len() > MAX_PARAMS {
        return Err(Fault::invalid_params(format!("params has more than {MAX_PARAMS} bytes")));
    }
    let signature = Signature::default()
        .param(Param::new("name", Schema::string()))
        .param(Param::new("schema", Schema::object()).optional())
        .param(Param::new("required", Schema::boolean()).default(&true))
        .param(Param::new("default", Schema::any()).optional())
        .param(Param::new("description", Schema::string()).optional());
    let list: Vec<&RawValue> =
        serde_json::from_str(json).map_err(|error| Fault::invalid_params(error.to_string()))?;
    let parameter = |element: &RawValue| {
        if element.get().starts_with('"') {
            return Ok(Param::new(text(Some(element.get()))?, Schema::any()));
        }
        let element = RawJson::from(element);
        let wrong = |fault: Fault| {
            Fault::invalid_params(format!("params is a list of names, or of objects: {}", fault.message))
        };
        let given = signature.bind(Some(&element)).map_err(wrong)?;
        let schema = given[1].map_or_else(Schema::any, Schema::parse);
        let mut param = Param::new(text(given[0])?, schema);
        param.required = given[2] == Some("true") && given[3].is_none();
        param.default = given[3].map(|json| RawJson::checked(json.to_owned()));
        param.description = given[4].map(|json| text(Some(json))).transpose()?;
        Ok(param)
    };
    list.into_iter().map(parameter).collect()
}
