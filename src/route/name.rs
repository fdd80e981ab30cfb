//! Function names: their maximum length, how errors quote them, and patterns over them.

/// The maximum length of a function name in bytes.
pub(super) const MAX_NAME: usize = 128;

/// The prefixes of names that the protocol reserves.
pub(super) const RESERVED: [&str; 2] = ["rpc.", "$/"];

/// Quotes a name for an error message, truncated after [`MAX_NAME`] characters.
pub(super) fn quoted(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        None => format!("{name:?}"),
        Some((end, _)) => format!("{:?}…", &name[..end]),
    }
}

/// Returns `true` if `pattern`, in which `*` matches any text, matches `name`. Takes time linear in both lengths.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Returns `true` if `pattern` may match a name that starts with `prefix`.
pub(super) fn may_match_prefix(pattern: &str, prefix: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.starts_with(prefix),
        Some((first, _)) => first.starts_with(prefix) || prefix.starts_with(first),
    }
}

/// Returns `true` if `pattern` matches every name.
pub(super) fn matches_all(pattern: &str) -> bool {
    !pattern.is_empty() && pattern.bytes().all(|byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "disk.free", true),
            ("disk.free", "disk.free", true),
            ("disk", "disk.free", false),
            ("disk.*", "disk.free", true),
            ("*.free", "disk.free", true),
            ("d*k*e", "disk.free", true),
            ("d*z*e", "disk.free", false),
            ("disk.free*free", "disk.free", false),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
