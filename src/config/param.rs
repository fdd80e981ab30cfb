//! The parameters of a program.

use super::table::{Field, Result};

/// One declared parameter of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamConfig {
    /// The parameter's name: a letter or `_`, then letters, digits, `_` and `-`.
    pub name: String,
    /// The type of its JSON value.
    pub kind: ParamKind,
    /// Whether its value may begin an argument with a dash, as options do; `false` by default.
    pub leading_dash: bool,
    /// The value, as JSON, if the caller gives none; without it, the caller must give one.
    pub default: Option<String>,
    /// The values that it may have, as JSON; any if empty.
    pub choices: Vec<String>,
    /// A sentence for people.
    pub description: Option<String>,
}

impl ParamConfig {
    /// Creates a required parameter.
    pub fn new(name: impl Into<String>, kind: ParamKind) -> Self {
        Self {
            name: name.into(),
            kind,
            leading_dash: false,
            default: None,
            choices: Vec::new(),
            description: None,
        }
    }
}

/// The type of a parameter's JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// `"string"`: a string.
    String,
    /// `"integer"`: an integer in any notation, such as `5.0` or `1e3`.
    Integer,
    /// `"number"`: any number.
    Number,
    /// `"boolean"`: true or false.
    Boolean,
}

/// Parses the parameters of a function of a process, which are no arguments of a program.
pub(super) fn parse_of_process(field: Field<'_>) -> Result<Vec<ParamConfig>> {
    let params = parse(field)?;
    if let Some(param) = params.iter().find(|param| param.leading_dash) {
        let message = format!("{} takes no leading_dash, which is for the arguments of exec", param.name);
        return Err(field.fail(&message));
    }
    Ok(params)
}

/// Parses the parameters of a program.
pub(super) fn parse(field: Field<'_>) -> Result<Vec<ParamConfig>> {
    let Some(table) = field.table("params") else {
        return Err(field.expected("a table such as { path = \"string\" }"));
    };
    let (mut params, mut wrong) = (Vec::new(), None);
    for (key, value) in table.entries {
        let name = key.get_ref().as_ref();
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            let rule = "a name starts with a letter or _, followed by letters, digits, _ and -";
            return Err(table
                .source
                .fail(key.span().start, format!("{name:?} cannot name a parameter: {rule}")));
        }
        let field = Field { heading: table.heading, key: name, value, ..field };
        match param(field) {
            Ok(param) => params.push(param),
            Err(mistake) => {
                if let Some(earlier) = wrong.replace(mistake) {
                    field.source.note::<()>(Err(earlier));
                }
            }
        }
    }
    wrong.map_or(Ok(params), Err)
}

/// Parses a parameter: its type, or a table with its type and options.
fn param(field: Field<'_>) -> Result<ParamConfig> {
    let mut param = ParamConfig::new(field.key, ParamKind::String);
    let (mut kind, mut default, mut choices) = (field, None, None);
    if let Some(table) = field.table(field.heading) {
        table.allow(&["type", "leading_dash", "default", "choices", "description"]);
        kind = table.get("type").ok_or_else(|| field.fail("needs a type, such as { type = \"string\" }"))?;
        if let Some(field) = table.get("leading_dash") {
            param.leading_dash = field.boolean()?;
        }
        if let Some(field) = table.get("description") {
            param.description = Some(field.string()?.to_owned());
        }
        default = table.get("default");
        choices = table.get("choices");
    }
    param.kind = match kind.value.get_ref().as_str() {
        Some("string") => ParamKind::String,
        Some("integer") => ParamKind::Integer,
        Some("number") => ParamKind::Number,
        Some("boolean") => ParamKind::Boolean,
        _ => return Err(kind.expected("a type: \"string\", \"integer\", \"number\" or \"boolean\"")),
    };
    param.default = default.map(|field| json_value(field, param.kind)).transpose()?;
    if let Some(field) = choices {
        let each = field.list("a list of values such as [\"fast\", \"slow\"]")?;
        param.choices = each.map(|field| json_value(field, param.kind)).collect::<Result<_>>()?;
        if let Some(wrong) = param.default.as_ref().filter(|default| !param.choices.contains(default)) {
            return Err(field.fail(&format!("must contain the default, {wrong}")));
        }
    }
    Ok(param)
}

/// Returns a value of a parameter as JSON.
fn json_value(field: Field<'_>, kind: ParamKind) -> Result<String> {
    let value = field.value.get_ref();
    let integer = || {
        let integer = value.as_integer()?;
        i64::from_str_radix(integer.as_str(), integer.radix()).ok()
    };
    let number = || value.as_float()?.as_str().parse::<f64>().ok().filter(|number| number.is_finite());
    let json = match kind {
        ParamKind::String => value
            .as_str()
            .filter(|text| !text.contains('\0'))
            .and_then(|text| serde_json::to_string(text).ok()),
        ParamKind::Integer => integer().map(|integer| integer.to_string()),
        ParamKind::Number => integer()
            .map(|integer| integer.to_string())
            .or_else(|| number().and_then(|number| serde_json::to_string(&number).ok())),
        ParamKind::Boolean => value.as_bool().map(|boolean| boolean.to_string()),
    };
    let expected = match kind {
        ParamKind::String => "a string without NUL characters",
        ParamKind::Integer => "an integer",
        ParamKind::Number => "a number",
        ParamKind::Boolean => "true or false",
    };
    json.ok_or_else(|| field.expected(expected))
}
