//! gRPC services of the user's: `[grpc]` and `[grpc.methods]`.

use std::path::PathBuf;

use super::table::{Field, Result, Table};

pub(super) const HEADING: &str = "[grpc]";
const METHODS: &str = "[grpc.methods]";

/// The services that a node has besides its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GrpcConfig {
    /// The files with the descriptors; paths as typed.
    pub descriptors: Vec<PathBuf>,
    /// A result with a member that the reply's message lacks is an error.
    pub strict: bool,
    /// What differs from the rule by which methods have names of functions.
    pub methods: Vec<MethodConfig>,
}

/// What one method, or all methods of a service, are mapped to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MethodConfig {
    /// `package.Service/Method`, or `package.Service/*`.
    pub method: String,
    pub to: MethodTarget,
}

/// What answers a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MethodTarget {
    /// A function. In the name of a family, `*` is the method's name with a small first letter.
    Function {
        name: String,
        /// The fields are its parameters in their order, rather than by name. By default, as its signature says.
        is_positional: Option<bool>,
    },
    /// The events of a topic. `{field}` in its name is a field of the request.
    Topic {
        name: String,
        /// The stream continues when events were dropped, which its messages cannot tell.
        skips_missed: bool,
    },
    /// Nothing.
    Nothing,
}

/// Parses `[grpc]`.
pub(super) fn parse(table: &Table<'_>) -> Result<GrpcConfig> {
    table.allow(&["descriptors", "strict", "methods"]);
    let wanted =
        "the files that protoc --include_imports --descriptor_set_out writes, such as [\"api.binpb\"]";
    let descriptors = table.require("descriptors", "[\"api.binpb\"]")?.list(wanted)?;
    let descriptors = descriptors.map(Field::path).collect::<Result<_>>()?;
    let strict = table.get("strict").map(Field::boolean).transpose()?.unwrap_or_default();
    let mut config = GrpcConfig { descriptors, strict, methods: Vec::new() };
    if let Some(methods) = table.table("methods", METHODS)? {
        for (key, value) in methods.entries {
            let field = Field { source: methods.source, heading: METHODS, key: key.get_ref(), value };
            if let Some(method) = methods.source.note(method(field)) {
                config.methods.push(method);
            }
        }
    }
    Ok(config)
}

fn method(field: Field<'_>) -> Result<MethodConfig> {
    let path =
        field.key.split_once('/').filter(|(service, method)| !service.is_empty() && !method.is_empty());
    if path.is_none_or(|(_, method)| method.contains('/')) {
        return Err(field
            .fail("a method is \"package.Service/Method\", and all of a service are \"package.Service/*\""));
    }
    let is_service = field.key.ends_with("/*");
    let wanted = "a function such as \"greet\", { function = \"greet\", params = \"positional\" }, \
                  { topic = \"news\" }, or false";
    let to = if let Some(table) = field.table(METHODS) {
        table.allow(&["function", "params", "topic", "skip_missed"]);
        match (table.get("function"), table.get("topic")) {
            (Some(name), None) => {
                let is_positional = table.get("params").map(|params| match params.string() {
                    Ok("positional") => Ok(true),
                    Ok("named") => Ok(false),
                    _ => Err(params.expected("\"positional\" or \"named\"")),
                });
                let is_positional = is_positional.transpose()?;
                MethodTarget::Function { name: function(name, is_service)?, is_positional }
            }
            (None, Some(topic)) => {
                let name = topic.visible_name("sensor.{id}")?;
                if is_service || name.contains('*') {
                    return Err(topic.fail("a topic is for one method, and no family"));
                }
                let skips_missed =
                    table.get("skip_missed").map(Field::boolean).transpose()?.unwrap_or_default();
                MethodTarget::Topic { name: name.to_owned(), skips_missed }
            }
            _ => return Err(field.expected(wanted)),
        }
    } else if field.value.get_ref().as_bool() == Some(false) {
        MethodTarget::Nothing
    } else if field.value.get_ref().as_str().is_some() {
        MethodTarget::Function { name: function(field, is_service)?, is_positional: None }
    } else {
        return Err(field.expected(wanted));
    };
    Ok(MethodConfig { method: field.key.to_owned(), to })
}

fn function(field: Field<'_>, is_service: bool) -> Result<String> {
    let name = field.visible_name("greet")?;
    match (is_service, name.strip_suffix(".*").unwrap_or(name).contains('*'), name.ends_with(".*")) {
        (true, false, true) | (false, false, false) => Ok(name.to_owned()),
        (true, ..) => Err(field.fail("the methods of a service become a family such as \"greeter.*\"")),
        (false, ..) => {
            Err(field.fail("a method becomes one function; only \"package.Service/*\" becomes a family"))
        }
    }
}
