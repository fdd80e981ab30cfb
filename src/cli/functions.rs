//! What a node tells of its functions, for people.

use std::fmt::Write;

use super::connection::Connected;
use super::result::explain;
use super::{Exit, print_error};
use crate::message::{Object, Param, RawJson, Signature};
#[cfg(feature = "nats")]
use crate::remote::{RemoteError, Survey};

/// A function.
pub(super) struct Function {
    pub(super) name: String,
    pub(super) signature: Signature,
    /// The provider and its target.
    pub(super) provider: String,
    /// The other nodes, if it is forwarded.
    pub(super) targets: Vec<Target>,
    /// The other node that described it is gone.
    pub(super) is_stale: bool,
}

/// A node that a function is forwarded to.
pub(super) struct Target {
    pub(super) to: String,
    pub(super) state: String,
    /// How long it has been in that state, how many calls it has, and why it is not connected.
    pub(super) details: String,
}

/// Asks for the functions that match a pattern. Also returns the text of the answer.
pub(super) async fn fetch(connected: &Connected, pattern: &str) -> Result<(Vec<Function>, String), Exit> {
    let params = RawJson::checked(format!("{{\"pattern\":{},\"verbose\":true}}", quoted(pattern)));
    let listed = list(connected, params).await?;
    let parsed = serde_json::from_str::<Vec<Object<'_>>>(listed.get())
        .and_then(|functions| functions.iter().map(function).collect());
    let functions = parsed.map_err(|error| {
        print_error(format_args!("{} sent an invalid reply to rpc.list: {error}", connected.address));
        Exit::Failed
    })?;
    Ok((functions, listed.get().to_owned()))
}

async fn list(connected: &Connected, params: RawJson<'static>) -> Result<RawJson<'static>, Exit> {
    #[cfg(feature = "nats")]
    if let Some(survey) = connected.remote.survey(&params, connected.deadline).await {
        return of_services(survey, &connected.address);
    }
    connected.call("rpc.list", Some(params)).await.map_err(|error| explain(&error))
}

/// Returns what services of NATS have told, and prints what it lacks.
#[cfg(feature = "nats")]
fn of_services(survey: Result<Survey, RemoteError>, address: &str) -> Result<RawJson<'static>, Exit> {
    let Survey { functions, services, below_prefix, lacks } = survey.map_err(|error| explain(&error))?;
    match (services, below_prefix) {
        (0, _) => {
            print_error(format_args!(
                "no service is at {address}: a node is one with offer = [\"disk.*\"] under [nats], and --creds FILE selects \
                 the account"
            ));
            return Err(Exit::Unavailable);
        }
        (_, 0) => print_error(format_args!(
            "{services} services have answered, and none has a function below the prefix of {address}: \
             nats://HOST:PORT/PREFIX has another, and nats://HOST:PORT/ lists whole subjects"
        )),
        _ => {}
    }
    if let Some(lacks) = lacks {
        print_error(format_args!("the list is incomplete: {lacks}"));
    }
    Ok(functions)
}

fn function(described: &Object<'_>) -> Result<Function, serde_json::Error> {
    let mut provider = described.required("provider")?;
    if let Some(target) = described.text("target")? {
        let _ = write!(provider, " {target}");
    }
    let target = |target: &Object<'_>| {
        let number = |name: &str| target.get(name).unwrap_or("0").to_owned();
        let mut details = format!("for {} s, calls: {}", number("seconds"), number("in_flight"));
        if let Some(reason) = target.text("reason")? {
            let _ = write!(details, ": {reason}");
        }
        Ok(Target { to: target.required("to")?, state: target.required("state")?, details })
    };
    Ok(Function {
        name: described.required("name")?,
        signature: Signature::read(described)?,
        provider,
        targets: described.list("targets", target)?,
        is_stale: described.get("stale") == Some("true"),
    })
}

impl Function {
    /// Returns its name, parameters and result on one line.
    pub(super) fn signature(&self) -> String {
        format!("{}{}", self.name, self.signature)
    }

    pub(super) fn params(&self) -> &[Param] {
        self.signature.params.as_deref().unwrap_or_default()
    }

    /// Returns the provider, with the states of other nodes, in a few words.
    pub(super) fn provided_by(&self) -> String {
        let mut text = self.provider.clone();
        if !self.targets.is_empty() {
            let states: Vec<_> =
                self.targets.iter().map(|Target { to, state, .. }| format!("{to} {state}")).collect();
            text = format!("forward {}", states.join(", "));
        }
        if self.is_stale {
            text.push_str(", stale");
        }
        text
    }

    /// Returns parameters to start from, as an object.
    pub(super) fn template(&self) -> String {
        let mut json = String::from("{");
        for param in self.params().iter().filter(|param| param.required || param.default.is_some()) {
            let comma = if json.len() > 1 { "," } else { "" };
            let _ = write!(json, "{comma}{}:{}", quoted(&param.name), example(param));
        }
        json.push('}');
        json
    }
}

/// Returns a value of a parameter, as JSON: its default, a choice, or one of its type.
pub(super) fn example(param: &Param) -> String {
    let simple = || match param.schema.name() {
        "integer" | "number" => "1".to_owned(),
        "boolean" => "true".to_owned(),
        "object" => "{}".to_owned(),
        "array" => "[]".to_owned(),
        "string" => quoted(&param.name),
        _ => "null".to_owned(),
    };
    let default = param.default.as_ref().map(|json| json.get().to_owned());
    default.or_else(|| param.schema.choices().first().cloned()).unwrap_or_else(simple)
}

/// Returns a text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
