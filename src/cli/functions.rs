//! What a node tells of its functions, for people.

use std::fmt::{self, Write};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::connection::Connected;
use super::result::explain;
use super::{Exit, print_error};
use crate::message::RawJson;

/// A function.
pub(super) struct Function {
    pub(super) name: String,
    /// `None` if they are not known.
    pub(super) params: Option<Vec<Param>>,
    pub(super) result: Option<String>,
    /// The provider and its target.
    pub(super) provider: String,
    pub(super) description: Option<String>,
    /// Codes and messages.
    pub(super) errors: Vec<(String, String)>,
}

/// One of its parameters.
pub(super) struct Param {
    pub(super) name: String,
    pub(super) type_name: String,
    pub(super) required: bool,
    /// As JSON.
    pub(super) default: Option<String>,
    /// The values that it may have, as JSON; any if empty.
    pub(super) choices: Vec<String>,
    pub(super) description: Option<String>,
}

/// Asks for the functions that match a pattern. Also returns the text of the answer.
pub(super) async fn fetch(connected: &Connected, pattern: &str) -> Result<(Vec<Function>, String), Exit> {
    let quoted = serde_json::to_string(pattern).unwrap_or_default();
    let params = Some(RawJson::checked(format!("{{\"pattern\":{quoted},\"verbose\":true}}")));
    let listed = connected.call("rpc.list", params).await.map_err(|error| explain(&error))?;
    let parsed = parse(listed.get());
    let functions = parsed.map_err(|error| {
        print_error(format_args!("{} sent an invalid reply to rpc.list: {error}", connected.address));
        Exit::Failed
    })?;
    Ok((functions, listed.get().to_owned()))
}

fn parse(json: &str) -> Result<Vec<Function>, serde_json::Error> {
    serde_json::from_str::<Vec<Object<'_>>>(json)?.iter().map(function).collect()
}

fn function(described: &Object<'_>) -> Result<Function, serde_json::Error> {
    let required = |object: &Object<'_>, name: &str| object.text(name)?.ok_or_else(|| missing(name));
    let list = |name: &str| serde_json::from_str::<Vec<Object<'_>>>(described.get(name).unwrap_or("[]"));
    let param = |param: &Object<'_>| {
        let schema = Object::of_schema(param.get("schema").ok_or_else(|| missing("schema"))?)?;
        let choices: Vec<&RawValue> = serde_json::from_str(schema.get("enum").unwrap_or("[]"))?;
        Ok(Param {
            name: required(param, "name")?,
            type_name: schema.type_name(),
            required: param.get("required") != Some("false"),
            default: param.get("default").map(str::to_owned),
            choices: choices.into_iter().map(|choice| choice.get().to_owned()).collect(),
            description: param.text("description")?,
        })
    };
    let params = match described.get("params") {
        None => None,
        Some(_) => Some(list("params")?.iter().map(param).collect::<Result<_, serde_json::Error>>()?),
    };
    let result = match described.get("result") {
        Some(schema) => Some(Object::of_schema(schema)?.type_name()),
        None => described.text("kind")?.map(|kind| if kind == "1" { "any".to_owned() } else { kind }),
    };
    let mut provider = required(described, "provider")?;
    if let Some(target) = described.text("target")? {
        let _ = write!(provider, " {target}");
    }
    let error = |error: &Object<'_>| {
        let code = error.get("code").ok_or_else(|| missing("code"))?.to_owned();
        Ok((code, required(error, "message")?))
    };
    let errors = list("errors")?.iter().map(error).collect::<Result<_, serde_json::Error>>()?;
    let (name, description) = (required(described, "name")?, described.text("description")?);
    Ok(Function { name, params, result, provider, description, errors })
}

impl Function {
    /// Returns its name, parameters and result on one line.
    pub(super) fn signature(&self) -> String {
        let mut text = format!("{}(", self.name);
        match &self.params {
            None => text.push('…'),
            Some(params) => {
                for (index, Param { name, type_name, required, .. }) in params.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    let optional = if *required { "" } else { "?" };
                    let _ = write!(text, "{comma}{name}{optional}: {type_name}");
                }
            }
        }
        text.push(')');
        if let Some(result) = &self.result {
            let _ = write!(text, " -> {result}");
        }
        text
    }

    /// Returns parameters to start from, as an object.
    pub(super) fn template(&self) -> String {
        let mut json = String::from("{");
        for param in self.params.iter().flatten().filter(|param| param.required || param.default.is_some()) {
            let comma = if json.len() > 1 { "," } else { "" };
            let _ = write!(json, "{comma}{}:{}", quoted(&param.name), param.example());
        }
        json.push('}');
        json
    }
}

impl Param {
    /// Returns a value, as JSON: its default, a choice, or one of its type.
    pub(super) fn example(&self) -> String {
        let simple = || match &*self.type_name {
            "integer" | "number" => "1".to_owned(),
            "boolean" => "true".to_owned(),
            "object" => "{}".to_owned(),
            "array" => "[]".to_owned(),
            "string" => quoted(&self.name),
            _ => "null".to_owned(),
        };
        self.default.clone().or_else(|| self.choices.first().cloned()).unwrap_or_else(simple)
    }
}

/// Returns a text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn missing(member: &str) -> serde_json::Error {
    serde::de::Error::custom(format_args!("missing field `{member}`"))
}

/// The members of an object, in the form of JSON. One type for all objects of a reply, so that the binary has the code
/// that reads them once.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Returns the members of a schema, which may also be `true`.
    fn of_schema(json: &'a str) -> Result<Self, serde_json::Error> {
        if json.starts_with('{') { serde_json::from_str(json) } else { Ok(Self(Vec::new())) }
    }

    /// Returns the type that a schema names, which may also be a list of types, or `any`.
    fn type_name(&self) -> String {
        self.text("type").ok().flatten().unwrap_or_else(|| "any".to_owned())
    }

    /// Returns a member, unless it is `null`.
    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(member, _)| member == name)?;
        Some(value.get()).filter(|json| *json != "null")
    }

    fn text(&self, name: &str) -> Result<Option<String>, serde_json::Error> {
        self.get(name).map(serde_json::from_str).transpose()
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}
