//! What a function takes and returns, independent of its provider.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::json::{ScanFailed, Scanner};
use super::object::Object;
use super::{Fault, RawJson, number};
use crate::chan::Kind;

/// The maximum length of a value that an error quotes, in characters.
const MAX_QUOTED: usize = 40;

/// What a function takes and returns. `rpc.list` reports it, the page makes its form of it, and errors about wrong
/// parameters use its words.
///
/// ```
/// use chanrpc::message::{Param, Schema, Signature};
///
/// let signature = Signature::default()
///     .param(Param::new("pin", Schema::integer()).description("the number of the pin"))
///     .param(Param::new("on", Schema::boolean()).default(&true))
///     .result(Schema::null())
///     .description("switches a light");
/// assert_eq!(signature.to_string(), "(pin: integer, on?: boolean) -> null");
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Signature {
    /// The number of results, if known; serialized as `"0"`, `"1"` or `"n"`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_kind")]
    pub kind: Option<Kind>,
    /// The parameters in their order; `None` if they are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Vec<Param>>,
    /// The type of the result, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Schema>,
    /// A sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The errors of the function itself: their codes and messages.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "serialize_errors")]
    pub errors: Vec<(i64, Cow<'static, str>)>,
}

impl Signature {
    /// Sets [`kind`](Self#structfield.kind).
    ///
    /// ```
    /// # use chanrpc::chan::Kind;
    /// # use chanrpc::message::Signature;
    /// let signature = Signature::default().names(["a"]).kind(Kind::Many);
    /// assert_eq!(signature.to_string(), "(a: any) -> n");
    /// ```
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Adds a parameter.
    ///
    /// ```
    /// # use chanrpc::message::{Param, Schema, Signature};
    /// let signature = Signature::default().param(Param::new("pin", Schema::integer()));
    /// assert_eq!(signature.to_string(), "(pin: integer)");
    /// ```
    #[must_use]
    pub fn param(mut self, param: Param) -> Self {
        self.params.get_or_insert_default().push(param);
        self
    }

    /// Names the parameters in their order. Ones beyond those that are known are added, with any type.
    ///
    /// ```
    /// # use chanrpc::message::{Param, Schema, Signature};
    /// let signature = Signature::default().param(Param::new("0", Schema::number()));
    /// assert_eq!(signature.names(["a", "b"]).to_string(), "(a: number, b: any)");
    /// ```
    #[must_use]
    pub fn names<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let params = self.params.get_or_insert_default();
        for (index, name) in names.into_iter().enumerate() {
            match params.get_mut(index) {
                Some(param) => name.clone_into(&mut param.name),
                None => params.push(Param::new(name, Schema::any())),
            }
        }
        self
    }

    /// Sets [`result`](Self#structfield.result).
    ///
    /// ```
    /// # use chanrpc::message::{Schema, Signature};
    /// let signature = Signature::default().names(["path"]).result(Schema::string());
    /// assert_eq!(signature.to_string(), "(path: any) -> string");
    /// ```
    #[must_use]
    pub fn result(mut self, schema: Schema) -> Self {
        self.result = Some(schema);
        self
    }

    /// Sets [`description`](Self#structfield.description).
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Adds an error with which the function answers.
    ///
    /// ```
    /// # use chanrpc::message::Signature;
    /// let signature = Signature::default().error(7, "the lamp is broken");
    /// assert_eq!(signature.errors, [(7, "the lamp is broken".into())]);
    /// ```
    #[must_use]
    pub fn error(mut self, code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        self.errors.push((code, message.into()));
        self
    }

    /// Reads what `rpc.list` reports of a function. Members that are not known are ignored.
    ///
    /// # Errors
    /// If a member that is known has another type than it should.
    pub(crate) fn read(function: &Object<'_>) -> Result<Self, serde_json::Error> {
        let param = |param: &Object<'_>| {
            let mut read = Param::new(param.required("name")?, Schema::read(param.required_json("schema")?));
            read.required = param.get("required") != Some("false");
            read.default = param.get("default").map(|json| RawJson::checked(json.to_owned()));
            read.description = param.text("description")?;
            Ok(read)
        };
        let error = |error: &Object<'_>| {
            Ok((serde_json::from_str(error.required_json("code")?)?, error.required("message")?.into()))
        };
        let params = match function.get("params") {
            None => None,
            Some(_) => Some(function.list("params", param)?),
        };
        let kind = match function.text("kind")?.as_deref() {
            Some("0") => Some(Kind::Zero),
            Some("1") => Some(Kind::One),
            Some("n") => Some(Kind::Many),
            _ => None,
        };
        Ok(Self {
            kind,
            params,
            result: function.get("result").map(Schema::read),
            description: function.text("description")?,
            errors: function.list("errors", error)?,
        })
    }

    /// Returns the name of a kind in `rpc.list`.
    pub(crate) fn kind_name(kind: Kind) -> &'static str {
        match kind {
            Kind::Zero => "0",
            Kind::One => "1",
            Kind::Many => "n",
        }
    }

    /// Returns the value of each parameter, in their order: the caller's, by position or by name, or the default.
    ///
    /// # Errors
    /// The fault that the caller receives if a parameter is missing, unknown or of the wrong type. If the parameters are
    /// not known, that is always so.
    pub(crate) fn bind<'a>(&'a self, given: Option<&'a RawJson<'_>>) -> Result<Vec<Option<&'a str>>, Fault> {
        let params = self.params.as_deref().unwrap_or_default();
        let json = given.map_or("[]", RawJson::get).trim_ascii_start();
        if !json.starts_with(['[', '{']) {
            return Err(self.mismatch(format_args!("the parameters must be an array or an object")));
        }
        let Given { values, count } =
            Given::find(params, json).map_err(|problem| self.mismatch(format_args!("{problem}")))?;
        if count > params.len() {
            return Err(self.wrong_count(count));
        }
        let value = |(param, value): (&'a Param, Option<&'a str>)| match value {
            Some(value) if param.schema.accepts(value) => Ok(Some(value)),
            // A caller that leaves out an optional parameter may also give null.
            Some("null") if !param.required => Ok(param.default_text()),
            Some(value) => Err(self.wrong_type(param, value)),
            None if !param.required => Ok(param.default_text()),
            None if json.starts_with('[') => Err(self.wrong_count(count)),
            None => Err(self.mismatch(format_args!("parameter {:?} is missing", param.name))),
        };
        params.iter().zip(values).map(value).collect()
    }

    fn wrong_count(&self, count: usize) -> Fault {
        self.mismatch(format_args!("got {count} parameter{}", if count == 1 { "" } else { "s" }))
    }

    fn wrong_type(&self, Param { name, schema, .. }: &Param, json: &str) -> Fault {
        let (name_of_type, shown) = (schema.name(), shortened(json));
        self.mismatch(format_args!("parameter {name:?} must be of type {name_of_type}, not {shown}"))
    }

    /// Returns the fault for parameters that do not fit: what is wrong, and what the function takes.
    pub(crate) fn mismatch(&self, what: fmt::Arguments<'_>) -> Fault {
        match self.params {
            Some(_) => Fault::invalid_params(format!("{what}; the function takes {}", self.list())),
            None => Fault::invalid_params(what.to_string()),
        }
    }

    /// Returns the parameters in parentheses.
    fn list(&self) -> String {
        let Some(params) = &self.params else { return "(…)".to_owned() };
        let mut text = String::from("(");
        for (index, Param { name, schema, required, .. }) in params.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let optional = if *required { "" } else { "?" };
            let _ = write!(text, "{comma}{name}{optional}: {}", schema.name());
        }
        text.push(')');
        text
    }
}

/// The caller's values for the parameters. Nothing else is kept: an object may have a million other members.
struct Given<'j> {
    values: Vec<Option<&'j str>>,
    /// The number of values in an array.
    count: usize,
}

impl<'j> Given<'j> {
    /// Finds the values in an array or an object.
    ///
    /// # Errors
    /// What is wrong.
    fn find(params: &[Param], json: &'j str) -> Result<Self, String> {
        let (mut values, mut count) = (vec![None; params.len()], 0);
        let mut problem = None;
        // It is JSON, as deep as its codec allowed.
        let mut scanner = Scanner::new(json, usize::MAX);
        let found = if json.starts_with('[') {
            scanner.array(|scanner| {
                let value = scanner.value()?;
                if let Some(place) = values.get_mut(count) {
                    *place = Some(value);
                }
                count += 1;
                Ok(())
            })
        } else {
            scanner.object(|scanner, key| {
                let value = scanner.value()?;
                let of_key =
                    |param: &Param| key.within(param.name.len()).is_some_and(|key| key == param.name);
                let what = match params.iter().position(of_key).map(|at| values[at].replace(value)) {
                    Some(None) => return Ok(()),
                    Some(Some(_)) => "occurs twice",
                    None => "is unknown",
                };
                problem = Some(format!("parameter \"{}\" {what}", shortened(key.text)));
                Err(ScanFailed)
            })
        };
        match (problem, found) {
            (Some(problem), _) => Err(problem),
            (None, Err(ScanFailed)) => Err(scanner.error().to_string()),
            (None, Ok(())) => Ok(Self { values, count }),
        }
    }
}

/// Writes the signature as `(a: number, b?: number) -> number`.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list())?;
        match (&self.result, self.kind) {
            (Some(result), _) => write!(f, " -> {}", result.name()),
            (None, Some(Kind::One)) => f.write_str(" -> any"),
            (None, Some(kind)) => write!(f, " -> {}", Signature::kind_name(kind)),
            (None, None) => Ok(()),
        }
    }
}

/// One parameter of a function.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Param {
    /// The name. A parameter without one is named by its position, from `"0"`.
    pub name: String,
    /// The type.
    pub schema: Schema,
    /// The caller must give a value.
    pub required: bool,
    /// The value if the caller gives none.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_json")]
    pub default: Option<RawJson<'static>>,
    /// A sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Param {
    /// Creates a required parameter.
    ///
    /// ```
    /// # use chanrpc::message::{Param, Schema};
    /// let pin = Param::new("pin", Schema::integer());
    /// assert!(pin.required);
    /// ```
    pub fn new(name: impl Into<String>, schema: Schema) -> Self {
        Self { name: name.into(), schema, required: true, default: None, description: None }
    }

    /// Makes the parameter optional.
    ///
    /// ```
    /// # use chanrpc::message::{Param, Schema, Signature};
    /// let note = Param::new("note", Schema::string()).optional();
    /// assert_eq!(Signature::default().param(note).to_string(), "(note?: string)");
    /// ```
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// Makes the parameter optional, with a default value. A value without a JSON form is ignored.
    ///
    /// ```
    /// # use chanrpc::message::{Param, Schema};
    /// let on = Param::new("on", Schema::boolean()).default(&true);
    /// assert!(!on.required);
    /// assert_eq!(on.default.unwrap().get(), "true");
    /// ```
    #[must_use]
    pub fn default(self, value: &impl Serialize) -> Self {
        Self { default: RawJson::of(value).ok(), ..self.optional() }
    }

    /// Sets [`description`](Self#structfield.description).
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    fn default_text(&self) -> Option<&str> {
        self.default.as_ref().map(RawJson::get)
    }
}

/// The type of a parameter or a result, as a [JSON Schema](https://json-schema.org) of draft 7.
#[derive(Clone, Debug)]
pub struct Schema {
    json: Arc<str>,
    /// The `type` that it requires, if it is a single one.
    name: Option<Arc<str>>,
}

macro_rules! simple_schemas {
    ($($name:ident = $type:literal: $what:literal;)+) => {
        impl Schema {
            $(
                #[doc = concat!("Returns the schema of ", $what, ".")]
                pub fn $name() -> Self {
                    Self::of_type($type)
                }
            )+
        }
    };
}

simple_schemas! {
    string = "string": "a text";
    integer = "integer": "a whole number";
    number = "number": "a number";
    boolean = "boolean": "`true` or `false`";
    object = "object": "an object with any members";
    array = "array": "an array with any elements";
    null = "null": "`null`, the result of a function without one";
}

impl Schema {
    /// Returns the schema of any value.
    pub fn any() -> Self {
        Self::written("{}", None)
    }

    /// Returns the schema of a named type of JSON.
    pub(crate) fn of_type(name: &str) -> Self {
        Self::written(&format!("{{\"type\":\"{name}\"}}"), Some(name))
    }

    /// Returns the schema of bytes, as a text in base64.
    pub(crate) fn base64() -> Self {
        Self::written(r#"{"type":"string","contentEncoding":"base64"}"#, Some("string"))
    }

    /// Returns a schema that was written as JSON, with its `type`.
    pub(crate) fn written(json: &str, name: Option<&str>) -> Self {
        Self { json: json.into(), name: name.map(Arc::from) }
    }

    /// Takes over a schema that is known to be a JSON object.
    pub(crate) fn parse(json: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct Typed {
            r#type: String,
        }
        let name = serde_json::from_str(json).ok().map(|Typed { r#type }| r#type);
        Self::written(json, name.as_deref())
    }

    /// Takes over what another node gives as a schema. `true`, and what is no schema, is any value.
    fn read(json: &str) -> Self {
        if json.starts_with('{') { Self::parse(json) } else { Self::any() }
    }

    /// Returns a word for the type: that of the schema's `type`, or `any`.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("any")
    }

    /// Restricts a named type to some values, in JSON.
    pub(crate) fn with_choices(&self, choices: &[String]) -> Self {
        let name = self.name();
        let json = format!("{{\"type\":\"{name}\",\"enum\":[{}]}}", choices.join(","));
        Self { json: json.into(), name: self.name.clone() }
    }

    /// Returns the values that it allows, in JSON; none if they are not listed.
    #[cfg(feature = "cli")]
    pub(crate) fn choices(&self) -> Vec<String> {
        let schema = serde_json::from_str::<Object<'_>>(&self.json).ok();
        let listed = schema.as_ref().and_then(|schema| schema.get("enum")).unwrap_or("[]");
        let values: Vec<&RawValue> = serde_json::from_str(listed).unwrap_or_default();
        values.into_iter().map(|value| value.get().to_owned()).collect()
    }

    /// Returns the schema as JSON.
    pub(crate) fn json(&self) -> &str {
        &self.json
    }

    /// Returns `false` if a value is certainly not of this type. Only its outermost type is checked.
    fn accepts(&self, json: &str) -> bool {
        let first = json.bytes().next().unwrap_or_default();
        match self.name.as_deref() {
            Some("string") => first == b'"',
            Some("number") => first == b'-' || first.is_ascii_digit(),
            Some("integer") => number::is_whole(json),
            Some("boolean") => matches!(json, "true" | "false"),
            Some("object") => first == b'{',
            Some("array") => first == b'[',
            Some("null") => json == "null",
            _ => true,
        }
    }
}

impl From<Value> for Schema {
    fn from(schema: Value) -> Self {
        Self::written(&schema.to_string(), schema["type"].as_str())
    }
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_text(&self.json, serializer)
    }
}

/// Returns a text that is cut after a few characters.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[allow(clippy::ref_option, reason = "serde passes a reference to the field")]
fn serialize_kind<S: Serializer>(kind: &Option<Kind>, serializer: S) -> Result<S::Ok, S::Error> {
    kind.map(Signature::kind_name).serialize(serializer)
}

#[allow(clippy::ref_option, reason = "serde passes a reference to the field")]
fn serialize_json<S: Serializer>(json: &Option<RawJson<'_>>, serializer: S) -> Result<S::Ok, S::Error> {
    match json {
        Some(json) => serialize_text(json.get(), serializer),
        None => serializer.serialize_none(),
    }
}

/// Serializes errors as objects.
pub(crate) fn serialize_errors<S: Serializer>(
    errors: &[(i64, Cow<'static, str>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Error<'a> {
        code: i64,
        message: &'a str,
    }
    serializer.collect_seq(errors.iter().map(|(code, message)| Error { code: *code, message }))
}

fn serialize_text<S: Serializer>(json: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::from_str::<&RawValue>(json).map_err(serde::ser::Error::custom)?.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        Signature::default()
            .param(Param::new("pin", Schema::integer()))
            .param(Param::new("on", Schema::boolean()).default(&true))
            .param(Param::new("note", Schema::string()).optional())
    }

    fn bound(json: &str) -> Result<Vec<Option<String>>, String> {
        let json = RawJson::checked(json.to_owned());
        let signature = signature();
        let values = signature.bind(Some(&json)).map_err(|fault| fault.message.into_owned())?;
        Ok(values.into_iter().map(|value| value.map(str::to_owned)).collect())
    }

    #[test]
    fn values_by_position_and_by_name() {
        let some = |text: &str| Some(text.to_owned());
        for (json, expected) in [
            ("[3]", [some("3"), some("true"), None]),
            ("[3,false]", [some("3"), some("false"), None]),
            ("[3,null,\"x\"]", [some("3"), some("true"), some("\"x\"")]),
            (" {\"on\":false,\"pin\":3}", [some("3"), some("false"), None]),
            ("[3.0]", [some("3.0"), some("true"), None]),
            ("[-3e2]", [some("-3e2"), some("true"), None]),
            ("{\"pin\":3,\"note\":null}", [some("3"), some("true"), None]),
        ] {
            assert_eq!(bound(json), Ok(expected.to_vec()), "{json}");
        }
    }

    #[test]
    fn wrong_values_name_the_parameter_and_what_the_function_takes() {
        let takes = "; the function takes (pin: integer, on?: boolean, note?: string)";
        for (json, expected) in [
            ("[]", "got 0 parameters"),
            ("[1,true,\"\",4]", "got 4 parameters"),
            ("{}", "parameter \"pin\" is missing"),
            ("{\"pin\":1,\"of\":1}", "parameter \"of\" is unknown"),
            ("{\"pin\":1,\"on\":true,\"pin\":2}", "parameter \"pin\" occurs twice"),
            ("[\"3\"]", "parameter \"pin\" must be of type integer, not \"3\""),
            ("[3.5]", "parameter \"pin\" must be of type integer, not 3.5"),
            ("[1,0]", "parameter \"on\" must be of type boolean, not 0"),
            ("3", "the parameters must be an array or an object"),
        ] {
            assert_eq!(bound(json), Err(format!("{expected}{takes}")), "{json}");
        }
        let long = bound(&format!("[{:?}]", "é".repeat(1000))).unwrap_err();
        assert!(long.chars().count() < 200, "{long}");
    }

    #[test]
    fn serialized_form() {
        let signature = signature().kind(Kind::One).result(Schema::null());
        assert_eq!(
            serde_json::to_string(&signature).unwrap(),
            "{\"kind\":\"1\",\"params\":[{\"name\":\"pin\",\"schema\":{\"type\":\"integer\"},\"required\":true},\
             {\"name\":\"on\",\"schema\":{\"type\":\"boolean\"},\"required\":false,\"default\":true},\
             {\"name\":\"note\",\"schema\":{\"type\":\"string\"},\"required\":false}],\"result\":{\"type\":\"null\"}}"
        );
    }
}
