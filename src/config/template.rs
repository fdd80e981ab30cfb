//! Placeholders in a program's arguments.

use super::{Param, Piece, Template};

/// Parses one element of an argument list.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn parse(text: &str, params: &[Param]) -> Result<Template, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, tail) = rest.split_at(at);
        literal.push_str(before);
        if tail.starts_with("{{") || tail.starts_with("}}") {
            literal.push_str(&tail[..1]);
            rest = &tail[2..];
            continue;
        }
        let Some((name, after)) = tail.strip_prefix('{').and_then(|inner| inner.split_once('}')) else {
            return Err(format!("{text:?} holds a single brace; a literal one is doubled: {{{{ or }}}}"));
        };
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Param(find(name, params)?));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(Template(pieces))
}

/// Finds a parameter by its name or by its position. The two never clash: a name does not begin with a digit.
fn find(name: &str, params: &[Param]) -> Result<usize, String> {
    let index = if name.bytes().all(|b| b.is_ascii_digit()) {
        name.parse().ok().filter(|index| *index < params.len())
    } else {
        params.iter().position(|param| param.name == name)
    };
    index.ok_or_else(|| {
        let declared: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
        let declared = if declared.is_empty() { "nothing".to_owned() } else { declared.join(", ") };
        format!("no parameter stands behind {{{name}}}; params declares {declared}; a literal brace is doubled: {{{{")
    })
}

#[cfg(test)]
mod tests {
    use super::super::ParamKind;
    use super::*;

    fn pieces(text: &str) -> Result<Vec<Piece>, String> {
        let param = |name: &str| Param { name: name.to_owned(), kind: ParamKind::String };
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
    fn doubled_braces_are_literal() {
        assert_eq!(pieces("{{path}}"), Ok(vec![literal("{path}")]));
        assert_eq!(pieces("{{{path}}}é"), Ok(vec![literal("{"), Piece::Param(0), literal("}é")]));
    }

    #[test]
    fn anything_else_in_braces_is_an_error() {
        for wrong in [
            "{",
            "}",
            "a{b",
            "a}b",
            "{path",
            "{}",
            "{2}",
            "{+1}",
            "{99999999999999999999}",
            "{ path }",
            "{\"a\":1}",
            "{{{",
        ] {
            assert!(pieces(wrong).is_err(), "{wrong:?}");
        }
    }
}
