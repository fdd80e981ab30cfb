//! Subjects, and names as subjects.

/// Maximum length of a subject, in bytes. The server limits a whole control line to 4096.
const MAX_SUBJECT: usize = 1024;

/// Returns `true` if a message may be published to a subject: its tokens, between dots, are not empty and no wildcards.
pub(super) fn is_subject(subject: &str) -> bool {
    let is_token = |token: &str| !token.is_empty() && !matches!(token, "*" | ">");
    subject.len() <= MAX_SUBJECT
        && !subject.contains(|c: char| c.is_whitespace() || c.is_control())
        && subject.split('.').all(is_token)
}

/// Returns the subject of a name behind a prefix, or of a family, such as `math.*`, the pattern of its subjects. `None`
/// if there is none.
pub fn subject_of(prefix: &str, name: &str) -> Option<String> {
    let dot = if prefix.is_empty() { "" } else { "." };
    let (base, wildcard) = match name.strip_suffix(".*") {
        Some(base) => (base, ".>"),
        None => (name, ""),
    };
    is_subject(base).then(|| format!("{prefix}{dot}{base}{wildcard}"))
}
