//! Placeholders in a program's arguments.

use super::param::ParamConfig;

/// One element of a program's argument list, parsed. Its pieces are concatenated to exactly one argument.
///
/// In the file, `{path}` is replaced by the parameter of that name, `{0}` by the first declared parameter, and `{{path}}`
/// by the text `{path}`. Other braces are literal, and so are all braces if no parameter is declared. An empty element has
/// no pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgTemplate(pub Vec<Piece>);

/// A part of an [`ArgTemplate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Literal text.
    Literal(String),
    /// The caller's value for a parameter: an index into [`ExecConfig::params`](super::ExecConfig::params).
    Param(usize),
}

/// Parses one element of an argument list.
///
/// Only braces around a name or a number are special, and only if parameters are declared: `{path}` is a parameter,
/// `{{path}}` the text `{path}`. Other braces pass unchanged, since they are common in the languages of programs.
///
/// # Errors
/// A message that names the undeclared parameter.
pub(super) fn parse(text: &str, params: &[ParamConfig]) -> Result<ArgTemplate, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while !params.is_empty()
        && let Some(at) = rest.find('{')
    {
        let (before, tail) = rest.split_at(at);
        literal.push_str(before);
        let opened = tail.bytes().take_while(|byte| *byte == b'{').count();
        let inner = &tail[opened..];
        let name = &inner[..inner.find(|c: char| !is_name_char(c)).unwrap_or(inner.len())];
        let closed = inner[name.len()..].bytes().take_while(|byte| *byte == b'}').count();
        let pairs = opened.min(closed);
        if !is_name(name) || pairs == 0 {
            literal.push_str(&tail[..opened]);
            rest = inner;
            continue;
        }
        // Each two pairs of braces are one literal pair; a remaining single pair marks the parameter.
        literal.push_str(&"{".repeat(opened - pairs + pairs / 2));
        if pairs % 2 == 0 {
            literal.push_str(name);
        } else {
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Param(find(name, params)?));
        }
        literal.push_str(&"}".repeat(closed - pairs + pairs / 2));
        rest = &inner[name.len() + closed..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(ArgTemplate(pieces))
}

/// Returns `true` if the text between braces is a parameter's name or position.
fn is_name(text: &str) -> bool {
    let first = text.as_bytes().first();
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    first.is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_' || is_number)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// Finds a parameter by its name or position. The two never conflict, since a name does not begin with a digit.
fn find(name: &str, params: &[ParamConfig]) -> Result<usize, String> {
    let index = if name.bytes().all(|b| b.is_ascii_digit()) {
        name.parse().ok().filter(|index| *index < params.len())
    } else {
        params.iter().position(|param| param.name == name)
    };
    index.ok_or_else(|| {
        let declared: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
        let declared = declared.join(", ");
        format!(
            "{{{name}}} refers to no parameter; params declares {declared}; write {{{{{name}}}}} for the literal text"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::param::ParamKind;
    use super::*;

    fn pieces(text: &str) -> Result<Vec<Piece>, String> {
        let param = |name: &str| ParamConfig::new(name, ParamKind::String);
        parse(text, &[param("path"), param("depth")]).map(|template| template.0)
    }

    fn literal(text: &str) -> Piece {
        Piece::Literal(text.to_owned())
    }

    #[test]
    fn text_and_placeholders() {
        assert_eq!(pieces(""), Ok(vec![]));
        assert_eq!(pieces("-k"), Ok(vec![literal("-k")]));
        assert_eq!(pieces("{path}"), Ok(vec![Piece::Param(0)]));
        assert_eq!(pieces("{1}{0}"), Ok(vec![Piece::Param(1), Piece::Param(0)]));
        assert_eq!(pieces("--depth={depth};"), Ok(vec![literal("--depth="), Piece::Param(1), literal(";")]));
    }

    #[test]
    fn doubled_braces_around_a_name_are_literal() {
        assert_eq!(pieces("{{path}}"), Ok(vec![literal("{path}")]));
        assert_eq!(pieces("{{nothing}}"), Ok(vec![literal("{nothing}")]));
        assert_eq!(pieces("{{{path}}}é"), Ok(vec![literal("{"), Piece::Param(0), literal("}é")]));
        assert_eq!(pieces("{{{{path}}}}"), Ok(vec![literal("{{path}}")]));
        assert_eq!(pieces("{{path}: 1}"), Ok(vec![literal("{"), Piece::Param(0), literal(": 1}")]));
        assert_eq!(pieces("{1: {path}}"), Ok(vec![literal("{1: "), Piece::Param(0), literal("}")]));
    }

    #[test]
    fn other_braces_are_literal() {
        for text in [
            "{",
            "}",
            "a{b",
            "a}b",
            "{path",
            "{}",
            "{+1}",
            "{ path }",
            "{\"a\":1}",
            "{{{",
            "{{.Names}}",
            "{print $1}",
            "{}{}",
            "}}{{",
            "{-a}",
            "{1a}",
            "{é}",
        ] {
            assert_eq!(pieces(text), Ok(vec![literal(text)]), "{text:?}");
        }
    }

    #[test]
    fn without_parameters_everything_is_literal() {
        for text in ["{print}", "{{.Names}}", "{0}", "{{path}}", "{"] {
            assert_eq!(parse(text, &[]), Ok(ArgTemplate(vec![literal(text)])), "{text:?}");
        }
    }

    #[test]
    fn undeclared_name_is_an_error() {
        for wrong in ["{print}", "{2}", "{99999999999999999999}", "a{paht}", "{{{paht}}}"] {
            let error = pieces(wrong).unwrap_err();
            assert!(error.contains("params declares path, depth"), "{error}");
        }
    }
}
