//! The name that was most likely meant by another one.

/// The maximum length of a name that is compared, in bytes.
const MAX_LEN: usize = 256;

/// Returns the name that is most like `wanted`: one that differs in at most a third of its characters, begins with it,
/// or ends with it after a dot. Ignores case, and dashes in front.
pub(crate) fn nearest<'a>(wanted: &str, names: &mut dyn Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.trim_start_matches('-').to_ascii_lowercase();
    let wanted = plain(wanted);
    let mut best = None;
    for name in names.filter(|name| name.len() <= MAX_LEN) {
        let plain = plain(name);
        let (wanted_len, len) = (wanted.chars().count(), plain.chars().count());
        let is_part =
            wanted_len > 1 && (plain.starts_with(&wanted) || plain.ends_with(&format!(".{wanted}")));
        let distance = if is_part { 1 } else { distance(&wanted, &plain) };
        let is_near = is_part || distance * 3 <= len.max(wanted_len);
        if is_near && best.is_none_or(|(smallest, _)| distance < smallest) {
            best = Some((distance, name));
        }
    }
    best.map(|(_, name)| name)
}

/// Returns the number of characters to insert, delete or replace (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (line, a) in one.chars().take(MAX_LEN).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (at, b) in other.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant() {
        let commands = ["serve", "call", "go", "list", "--timeout", "--version", "demo.add", "disk.free"];
        for (wanted, found) in [
            ("cal", Some("call")),
            ("CALL", Some("call")),
            ("lsit", None),
            ("lists", Some("list")),
            ("--tiemout", Some("--timeout")),
            ("--time", Some("--timeout")),
            ("version", Some("--version")),
            ("add", Some("demo.add")),
            ("demo.ad", Some("demo.add")),
            ("disk", Some("disk.free")),
            ("dsik.fre", Some("disk.free")),
            ("g", None),
            ("dance", None),
            ("", None),
            ("-x", None),
        ] {
            assert_eq!(nearest(wanted, &mut commands.into_iter()), found, "{wanted}");
        }
    }
}
