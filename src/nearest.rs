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

/// Returns the number of characters to insert, delete, replace or exchange with their neighbour.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    let mut above: Vec<usize> = Vec::new();
    let mut last = None;
    for (line, a) in one.chars().take(MAX_LEN).enumerate() {
        let mut next = vec![line + 1];
        for (at, &b) in other.iter().enumerate() {
            let mut best = (row[at] + usize::from(a != b)).min(row[at + 1] + 1).min(next[at] + 1);
            if at > 0 && last == Some(b) && other[at - 1] == a {
                best = best.min(above[at - 1] + 1);
            }
            next.push(best);
        }
        above = std::mem::replace(&mut row, next);
        last = Some(a);
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
            ("lsit", Some("list")),
            ("lit", Some("list")),
            ("abcd", None),
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
