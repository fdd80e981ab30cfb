//! The services of the user's, by their descriptors: which function or topic answers each method.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::codec::protobuf::{Method, Schema, Streaming, Wanted};
use crate::config::{GrpcConfig, MethodTarget};
use crate::encoding;
use crate::nearest::nearest;
use crate::route::{Action, Grants};

/// The user's services.
#[derive(Debug, Default)]
pub(crate) struct Services {
    schema: Schema,
    methods: BTreeMap<String, Mapped>,
    /// A member that a reply lacks is an error.
    pub(super) is_strict: bool,
}

/// A method and what answers it.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) method: Method,
    pub(super) target: Target,
    /// A result did not fit entirely, which was logged.
    pub(super) is_logged: AtomicBool,
}

/// What answers a method.
#[derive(Debug)]
pub(super) enum Target {
    Function {
        name: String,
        is_positional: Option<bool>,
    },
    Topic {
        name: String,
        skips_missed: bool,
    },
    /// Nothing, for this reason.
    Nothing(&'static str),
}

/// Why services cannot be used.
#[derive(Debug)]
pub(crate) struct ServicesError(String);

impl fmt::Display for ServicesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServicesError {}

impl Services {
    /// Loads the descriptors of a configuration, and maps their methods.
    ///
    /// # Errors
    /// If a file cannot be used, or a method that is configured does not exist or does not fit.
    pub(crate) fn load(config: &GrpcConfig) -> Result<Self, ServicesError> {
        let mut schema = Schema::default();
        for path in &config.descriptors {
            read_descriptors(&mut schema, path)?;
        }
        let mut methods = BTreeMap::new();
        for method in schema.methods() {
            let target = Target::of(&method, config)?;
            let mapped = Mapped { method, target, is_logged: AtomicBool::new(false) };
            methods.insert(mapped.method.path(), mapped);
        }
        let paths = || methods.keys().map(|path| &**path);
        for configured in config.methods.iter().map(|configured| &configured.method) {
            let is_known = match configured.strip_suffix('*') {
                Some(service) => paths().any(|path| path.starts_with(service)),
                None => methods.contains_key(configured),
            };
            if !is_known {
                let near = nearest(configured, &mut paths());
                let near = near.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
                return Err(ServicesError(format!(
                    "[grpc.methods]: the descriptors have no method {configured:?}{near}"
                )));
            }
        }
        Ok(Self { schema, methods, is_strict: config.strict })
    }

    /// Returns the functions that answer methods, with the paths of those.
    #[cfg(feature = "cli")]
    pub(crate) fn functions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.methods.iter().filter_map(|(path, mapped)| match &mapped.target {
            Target::Function { name, .. } => Some((&**path, &**name)),
            _ => None,
        })
    }

    /// Returns the methods that nothing answers although the configuration does not say so, with the reasons.
    #[cfg(feature = "cli")]
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = (&str, &str)> {
        self.methods.iter().filter_map(|(path, mapped)| match mapped.target {
            Target::Nothing(reason) if reason != OFF => Some((&**path, reason)),
            _ => None,
        })
    }

    pub(super) fn find(&self, path: &str) -> Option<&Mapped> {
        self.methods.get(path.trim_start_matches('/'))
    }

    pub(super) fn has_service(&self, name: &str) -> bool {
        self.methods.values().any(|mapped| mapped.method.service() == name)
    }

    /// Returns the services of which a caller may call a method.
    pub(super) fn visible(&self, grants: &Grants) -> Vec<&str> {
        let visibility = grants.visibility();
        let mut services: Vec<_> = self
            .methods
            .values()
            .filter(|mapped| mapped.is_visible(grants, &|name| visibility.includes(name)))
            .map(|mapped| mapped.method.service())
            .collect();
        services.dedup();
        services
    }

    /// Returns the `FileDescriptorProto` that is asked for, with what a caller may call.
    pub(super) fn file(&self, wanted: Wanted<'_>, grants: &Grants) -> Option<Vec<u8>> {
        let visibility = grants.visibility();
        let sees = |path: &str| {
            self.methods
                .get(path)
                .is_some_and(|mapped| mapped.is_visible(grants, &|name| visibility.includes(name)))
        };
        self.schema.file(wanted, &sees)
    }
}

/// Why a method that is `false` in the configuration is not answered.
const OFF: &str = "the method is not offered";

impl Target {
    fn of(method: &Method, config: &GrpcConfig) -> Result<Self, ServicesError> {
        let path = method.path();
        let of_service = format!("{}/*", method.service());
        let configured = |wanted: &str| config.methods.iter().find(|configured| configured.method == wanted);
        let found = configured(&path).or_else(|| configured(&of_service));
        let misfit = |what| Err(ServicesError(format!("[grpc.methods]: {path:?} {what}")));
        match (found.map(|found| &found.to), method.streaming()) {
            (Some(MethodTarget::Nothing), _) => Ok(Self::Nothing(OFF)),
            (_, Streaming::Client) => Ok(Self::Nothing("the client sends a stream, which is not supported")),
            (Some(MethodTarget::Topic { .. }), Streaming::None) => {
                misfit("gives one message, so a function must answer it rather than a topic")
            }
            (Some(MethodTarget::Topic { name, skips_missed }), Streaming::Server) => {
                Ok(Self::Topic { name: name.clone(), skips_missed: *skips_missed })
            }
            (Some(MethodTarget::Function { .. }), Streaming::Server)
                if found.is_some_and(|found| found.method == path) =>
            {
                misfit("gives a stream, so a topic must answer it rather than a function")
            }
            (_, Streaming::Server) => {
                Ok(Self::Nothing("it gives a stream, for which [grpc.methods] must name a topic"))
            }
            (Some(MethodTarget::Function { name, is_positional }), Streaming::None) => {
                let family = name.strip_suffix('*').map(|family| format!("{family}{}", method.small_name()));
                let name = family.unwrap_or_else(|| name.clone());
                Ok(Self::Function { name, is_positional: *is_positional })
            }
            (None, Streaming::None) => {
                Ok(Self::Function { name: method.default_function(), is_positional: None })
            }
        }
    }
}

impl Mapped {
    /// `may_call` returns `true` for a function that the caller may call.
    fn is_visible(&self, grants: &Grants, may_call: &dyn Fn(&str) -> bool) -> bool {
        match &self.target {
            Target::Function { name, .. } => may_call(name),
            Target::Topic { name, .. } => {
                // A topic that depends on the request is visible to those who may subscribe to some of its family.
                let name = name
                    .split_once('{')
                    .map_or(Cow::Borrowed(&**name), |(family, _)| format!("{family}*").into());
                grants.allow(Action::Subscribe, &name).is_ok()
            }
            Target::Nothing(_) => false,
        }
    }
}

/// Adds the descriptors of a file.
///
/// # Errors
/// If it cannot be read, or has no descriptors.
fn read_descriptors(schema: &mut Schema, path: &Path) -> Result<(), ServicesError> {
    let fail = |error: &dyn fmt::Display| ServicesError(format!("descriptors {}: {error}", path.display()));
    let set = encoding::read_bytes(path).map_err(|error| fail(&error))?;
    schema.add(&set).map_err(|error| {
        let is_text =
            std::str::from_utf8(&set).is_ok_and(|text| text.contains("syntax") || text.contains("message "));
        let hint = if is_text {
            "; it is the text that protoc --descriptor_set_out makes descriptors of"
        } else {
            ""
        };
        fail(&format!("{error}{hint}"))
    })
}

/// Returns the name of a topic, in which `{field}` is a field of the request.
///
/// # Errors
/// If the value cannot be a part of a name.
pub(super) fn filled_in(name: &str, request: &str) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = name;
    while let Some((before, (field, after))) =
        rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        let members: BTreeMap<String, serde_json::Value> = serde_json::from_str(request).unwrap_or_default();
        let value = match members.get(field) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Number(number)) => number.to_string(),
            _ => return Err(format!("{field}: it must be a text or a number, for the topic {name:?}")),
        };
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'*' | b'"' | b'\\');
        if value.is_empty() || value.len() > 128 || !value.bytes().all(is_allowed) {
            return Err(format!("{field}: it must be 1 to 128 visible ASCII characters but *, \" and \\"));
        }
        filled.push_str(before);
        filled.push_str(&value);
        rest = after;
    }
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_named_by_the_request() {
        let request = r#"{"id":"attic","number":7,"all":"*","none":"","list":[]}"#;
        assert_eq!(filled_in("news", request).unwrap(), "news");
        assert_eq!(filled_in("a.{id}.{number}.b", request).unwrap(), "a.attic.7.b");
        for name in ["a.{all}", "a.{none}", "a.{list}", "a.{absent}"] {
            assert!(filled_in(name, request).is_err(), "{name}");
        }
    }
}
