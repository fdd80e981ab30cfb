//! Formats JSON text, compact or pretty. Leaves numbers and the order of members unchanged.

/// Removes insignificant white space.
pub(super) fn compact(json: &str) -> String {
    format(json, false)
}

/// Puts each member or element on its own indented line.
pub(super) fn pretty(json: &str) -> String {
    format(json, true)
}

fn format(json: &str, pretty: bool) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    let mut chars = json.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        if pretty {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        }
    };
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match c {
            ' ' | '\n' | '\r' | '\t' => {}
            '{' | '[' => {
                out.push(c);
                while chars.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' if pretty => out.push_str(": "),
            '"' => {
                in_string = true;
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{compact, pretty};

    #[test]
    fn formats_compact_and_pretty() {
        let json = "{ \"a b\" : [ 1.50 , 12345678901234567890 ], \"e\\\" \": { }, \"f\":[]}";
        assert_eq!(compact(json), r#"{"a b":[1.50,12345678901234567890],"e\" ":{},"f":[]}"#);
        assert_eq!(
            pretty(json),
            "{\n  \"a b\": [\n    1.50,\n    12345678901234567890\n  ],\n  \"e\\\" \": {},\n  \"f\": []\n}"
        );
    }
}
