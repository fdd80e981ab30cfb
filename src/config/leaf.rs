//! A listener for Leaf's clients: `dialect = "leaf"` and `[listen.leaf]`.

use super::table::{Field, Result, Table};

const HEADING: &str = "[listen.leaf]";
const DIALECTS: &str = "\"leaf\"; without the key the first bytes of a connection tell its dialect";

/// How a listener for Leaf's clients is set: a gate's `LenMsgLen`, `LittleEndian`, `MinMsgLen` and `MaxMsgLen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// How many bytes a message's length takes: 1, 2 or 4; 2 by default.
    pub length: u8,
    /// Which of them comes first; the most significant by default.
    pub order: ByteOrder,
    /// The shortest message; 1 by default.
    pub min: u32,
    /// The longest message; 4096 by default, or what the length can say, or [`Limits::message`](super::Limits), if that
    /// is less.
    pub max: u32,
    /// Whether messages come in WebSocket frames, without a length, and not over plain TCP.
    pub websocket: bool,
}

/// Which byte of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// `"big"`: the most significant.
    Big,
    /// `"little"`: the least significant.
    Little,
}

/// Reads what a listener says of Leaf. `message` is the limit of every message.
pub(super) fn leaf(listen: &Table<'_>, message: usize) -> Result<Option<Leaf>> {
    let table = match listen.get("leaf") {
        Some(field) => Some(field.table(HEADING).ok_or_else(|| field.expected("a table: [listen.leaf]"))?),
        None => None,
    };
    match (listen.get("dialect"), table) {
        (None, None) => Ok(None),
        (None, Some(table)) => Err(table.fail("holds only where [[listen]] says dialect = \"leaf\"")),
        (Some(dialect), _) if dialect.string()? != "leaf" => Err(dialect.expected(DIALECTS)),
        (Some(_), table) => settings(table.as_ref(), message).map(Some),
    }
}

fn settings(table: Option<&Table<'_>>, message: usize) -> Result<Leaf> {
    let mut leaf = Leaf { length: 2, order: ByteOrder::Big, min: 1, max: 4096, websocket: false };
    let mut max = 4096;
    if let Some(table) = table {
        table.allow(&["length", "order", "min", "max", "websocket"])?;
        if let Some(field) = table.get("length") {
            let length = field.integer().and_then(|length| u8::try_from(length).ok());
            leaf.length = length
                .filter(|length| matches!(length, 1 | 2 | 4))
                .ok_or_else(|| field.expected("1, 2 or 4 bytes"))?;
        }
        if let Some(field) = table.get("order") {
            leaf.order = match field.value.get_ref().as_str() {
                Some("big") => ByteOrder::Big,
                Some("little") => ByteOrder::Little,
                _ => return Err(field.expected("\"big\" or \"little\"")),
            };
        }
        if let Some(field) = table.get("websocket") {
            let websocket = field.value.get_ref().as_bool();
            leaf.websocket = websocket.ok_or_else(|| field.expected("true or false"))?;
        }
    }
    // A length that is not sent bounds nothing.
    let most = match leaf.length {
        _ if leaf.websocket => u32::MAX,
        1 => u8::MAX.into(),
        2 => u16::MAX.into(),
        _ => u32::MAX,
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    max = max.min(most).min(message);
    let mut min = 1;
    if let Some(table) = table {
        table.size("max", 1..=most, &mut max)?;
        if let Some(field) = table.get("max").filter(|_| max > message) {
            return Err(longer_than_any(field, max, message));
        }
        table.size("min", 1..=max, &mut min)?;
    }
    // Neither is more than `most`, which is a u32.
    (leaf.min, leaf.max) = (min as u32, max as u32);
    Ok(leaf)
}

fn longer_than_any(max: Field<'_>, bytes: usize, message: usize) -> super::ConfigError {
    max.fail(&format!(
        "{bytes} bytes are more than the {message} that any message may have; raise message in [limits], or lower this"
    ))
}
