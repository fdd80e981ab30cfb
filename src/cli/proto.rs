//! Functions as a `.proto`, for `describe --proto`.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::functions::Function;
use crate::chan::Kind;
use crate::message::{Param, Schema};

const PACKAGE: &str = "functions.v1";
/// The service of functions without a dot in their names.
const SERVICE: &str = "Functions";
const HEAD: &str = "\
// Functions as gRPC services, by chanrpc describe --proto. Keep this file: numbers of fields are the order of parameters
// today, and must not change once there are clients.";

/// A method, and what it needs.
struct Method {
    text: String,
    messages: String,
    /// A line of `[grpc.methods]`, unless the rule gives the function.
    mapping: Option<String>,
}

/// Returns the services of functions. Families, whose functions are not known, have none.
pub(super) fn proto(functions: &[Function]) -> String {
    let mut services: BTreeMap<String, Vec<Method>> = BTreeMap::new();
    let mut taken = Vec::new();
    for function in functions.iter().filter(|function| !function.name.ends_with('*')) {
        let (family, name) = function.name.rsplit_once('.').unwrap_or((SERVICE, &function.name));
        let (service, mut method) = (identifier(family), identifier(name));
        while taken.contains(&(service.clone(), method.clone())) {
            method.push('_');
        }
        taken.push((service.clone(), method.clone()));
        let made = Method::of(function, &service, &method);
        services.entry(service).or_default().push(made);
    }
    let (mut bodies, mut messages, mut mappings) = (String::new(), String::new(), String::new());
    for (service, methods) in &services {
        let _ = write!(bodies, "\nservice {service} {{\n");
        for method in methods {
            bodies.push_str(&method.text);
            messages.push_str(&method.messages);
            method.mapping.iter().for_each(|line| _ = writeln!(mappings, "//   {line}"));
        }
        bodies.push_str("}\n");
    }
    let mut text = format!("{HEAD}\n");
    if !mappings.is_empty() {
        let _ = write!(text, "//\n// In the configuration of the node:\n//   [grpc.methods]\n{mappings}");
    }
    let _ = write!(text, "syntax = \"proto3\";\n\npackage {PACKAGE};\n");
    let uses = |name: &str| [&bodies, &messages].iter().any(|part| part.contains(name));
    let imports: Vec<_> =
        [("Empty", "empty"), ("Struct", "struct"), ("Value", "struct"), ("ListValue", "struct")]
            .into_iter()
            .filter(|(name, _)| uses(&format!("google.protobuf.{name}")))
            .map(|(_, file)| format!("import \"google/protobuf/{file}.proto\";\n"))
            .collect();
    if !imports.is_empty() {
        let mut imports = imports;
        imports.dedup();
        let _ = write!(text, "\n{}", imports.concat());
    }
    text + &bodies + messages.trim_end() + "\n"
}

impl Method {
    fn of(function: &Function, service: &str, method: &str) -> Self {
        let signature = &function.signature;
        let mut messages = String::new();
        let names: Vec<_> = function.params().iter().map(|param| field_name(&param.name)).collect();
        let is_positional = function.params().iter().zip(&names).any(|(param, name)| param.name != *name);
        let request = match &signature.params {
            None => "google.protobuf.Struct".to_owned(),
            Some(params) if params.is_empty() => "google.protobuf.Empty".to_owned(),
            Some(params) => {
                let name = format!("{service}{method}Request");
                let _ = write!(messages, "\nmessage {name} {{\n");
                for (number, (Param { schema, required, description, .. }, field)) in
                    params.iter().zip(&names).enumerate()
                {
                    comment(&mut messages, description.as_deref());
                    let kind = kind(schema.json());
                    let is_plain = !kind.starts_with("repeated ") && !kind.starts_with("google.");
                    let optional = if *required || !is_plain { "" } else { "optional " };
                    let _ = writeln!(messages, "  {optional}{kind} {field} = {};", number + 1);
                }
                messages.push_str("}\n");
                name
            }
        };
        let kind = match (signature.result.as_ref().map(Schema::json), signature.kind) {
            (_, Some(Kind::Zero)) => "google.protobuf.Empty".to_owned(),
            (_, Some(Kind::Many)) => "google.protobuf.ListValue".to_owned(),
            (Some(schema), _) => self::kind(schema),
            (None, _) => "google.protobuf.Value".to_owned(),
        };
        let reply = if kind.starts_with("google.") {
            kind
        } else {
            let name = format!("{service}{method}Reply");
            let _ = write!(messages, "\nmessage {name} {{\n  {kind} result = 1;\n}}\n");
            name
        };
        let mut text = String::new();
        comment(&mut text, signature.description.as_deref());
        let _ = writeln!(text, "  rpc {method}({request}) returns ({reply});");
        let by_rule = format!("{}.{}", small(service), small(method));
        let quoted = super::functions::quoted(&function.name);
        let mapping = match (is_positional, by_rule == function.name) {
            (true, _) => Some(format!("{{ function = {quoted}, params = \"positional\" }}")),
            (false, false) => Some(quoted),
            (false, true) => None,
        };
        let mapping = mapping.map(|to| format!("\"{PACKAGE}.{service}/{method}\" = {to}"));
        Self { text, messages, mapping }
    }
}

fn comment(text: &mut String, description: Option<&str>) {
    for line in description.into_iter().flat_map(str::lines) {
        let _ = writeln!(text, "  // {line}");
    }
}

/// Returns the type of a field for a JSON Schema.
fn kind(schema: &str) -> String {
    let schema = serde_json::from_str(schema).unwrap_or_default();
    match (simple(&schema), schema.get("items")) {
        (Some("array"), Some(items)) => match simple(items).and_then(scalar) {
            Some(scalar) => format!("repeated {scalar}"),
            None => "google.protobuf.ListValue".to_owned(),
        },
        (Some("array"), None) => "google.protobuf.ListValue".to_owned(),
        (Some("object"), _) => "google.protobuf.Struct".to_owned(),
        (Some("null"), _) => "google.protobuf.Empty".to_owned(),
        (Some(name), _) => scalar(name).unwrap_or("google.protobuf.Value").to_owned(),
        (None, _) => "google.protobuf.Value".to_owned(),
    }
}

fn simple(schema: &Value) -> Option<&str> {
    schema.get("type")?.as_str()
}

fn scalar(name: &str) -> Option<&'static str> {
    Some(match name {
        "string" => "string",
        "integer" => "int64",
        "number" => "double",
        "boolean" => "bool",
        _ => return None,
    })
}

/// Returns a name as that of a service or method.
fn identifier(name: &str) -> String {
    let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
    let mut letters = name.chars();
    match letters.next() {
        Some(first) if first.is_ascii_alphabetic() => {
            first.to_ascii_uppercase().to_string() + letters.as_str()
        }
        _ => format!("F{name}"),
    }
}

/// Returns the name of a parameter, or another one if it cannot be that of a field.
fn field_name(name: &str) -> String {
    let is_valid = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if is_valid {
        name.to_owned()
    } else {
        format!("p{}", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_"))
    }
}

fn small(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or(String::new(), |first| first.to_ascii_lowercase().to_string() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Signature;

    fn function(name: &str, signature: Signature) -> Function {
        Function {
            name: name.into(),
            signature,
            provider: String::new(),
            targets: Vec::new(),
            is_stale: false,
        }
    }

    #[test]
    fn functions_become_services() {
        let functions = [
            function(
                "disk.free",
                Signature::default()
                    .param(Param::new("path", Schema::string()).description("where"))
                    .param(Param::new("all", Schema::boolean()).optional())
                    .result(Schema::integer())
                    .description("tells what is free"),
            ),
            function("disk.read_all", Signature::default().kind(Kind::Many)),
            function(
                "reset",
                Signature { params: Some(Vec::new()), ..Signature::default() }.kind(Kind::Zero),
            ),
            function(
                "a.b.c-d",
                Signature::default().param(Param::new("0", Schema::any())).result(Schema::object()),
            ),
            function("math.*", Signature::default()),
        ];
        let expected = format!(
            "{HEAD}\n\
//\n\
// In the configuration of the node:\n\
//   [grpc.methods]\n\
//   \"functions.v1.A_b/C_d\" = {{ function = \"a.b.c-d\", params = \"positional\" }}\n\
//   \"functions.v1.Functions/Reset\" = \"reset\"\n\
syntax = \"proto3\";\n\n\
package functions.v1;\n\n\
import \"google/protobuf/empty.proto\";\n\
import \"google/protobuf/struct.proto\";\n\n\
service A_b {{\n  rpc C_d(A_bC_dRequest) returns (google.protobuf.Struct);\n}}\n\n\
service Disk {{\n  // tells what is free\n  rpc Free(DiskFreeRequest) returns (DiskFreeReply);\n  \
rpc Read_all(google.protobuf.Struct) returns (google.protobuf.ListValue);\n}}\n\n\
service Functions {{\n  rpc Reset(google.protobuf.Empty) returns (google.protobuf.Empty);\n}}\n\n\
message A_bC_dRequest {{\n  google.protobuf.Value p0 = 1;\n}}\n\n\
message DiskFreeRequest {{\n  // where\n  string path = 1;\n  optional bool all = 2;\n}}\n\n\
message DiskFreeReply {{\n  int64 result = 1;\n}}\n"
        );
        assert_eq!(proto(&functions), expected);
    }
}
