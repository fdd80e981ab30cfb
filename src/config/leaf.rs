//! A listener for Leaf clients: `dialect = "leaf"` and `[listen.leaf]`.

use super::table::{Field, Result, Table};

const HEADING: &str = "[listen.leaf]";
const DIALECTS: &str =
    "\"leaf\"; without the key, the dialect of a connection is detected from its first bytes";

/// The framing of Leaf's protocol: the `LenMsgLen`, `LittleEndian`, `MinMsgLen` and `MaxMsgLen` of a Leaf gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafConfig {
    /// The size of a message's length prefix in bytes: 1, 2 or 4; 2 by default.
    pub length: u8,
    /// The byte order of the length prefix; big endian by default.
    pub order: ByteOrder,
    /// The minimum size of a message in bytes; 1 by default.
    pub min: u32,
    /// The maximum size of a message in bytes. The default is 4096, [`Limits::message`](super::Limits), or the largest
    /// value of the length prefix, whichever is least.
    pub max: u32,
    /// Whether messages arrive in WebSocket frames without a length prefix, instead of over plain TCP.
    pub websocket: bool,
}

/// The byte order of a length prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// `"big"`: the most significant byte comes first.
    Big,
    /// `"little"`: the least significant byte comes first.
    Little,
}

/// Parses a listener's `dialect` and `[listen.leaf]`. `max_message` is [`Limits::message`](super::Limits).
pub(super) fn parse(listen: &Table<'_>, max_message: usize) -> Result<Option<LeafConfig>> {
    let table = listen.table("leaf", HEADING)?;
    match (listen.get("dialect"), table) {
        (None, None) => Ok(None),
        (None, Some(table)) => Err(table.fail("requires dialect = \"leaf\" in its [[listen]]")),
        (Some(dialect), _) if dialect.string()? != "leaf" => Err(dialect.expected(DIALECTS)),
        (Some(_), table) => framing(table.as_ref(), max_message).map(Some),
    }
}

fn framing(table: Option<&Table<'_>>, max_message: usize) -> Result<LeafConfig> {
    let mut leaf = LeafConfig { length: 2, order: ByteOrder::Big, min: 1, max: 4096, websocket: false };
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
            leaf.websocket = field.boolean()?;
        }
    }
    // Over WebSocket, no length prefix bounds the size.
    let largest = match leaf.length {
        _ if leaf.websocket => u32::MAX,
        1 => u8::MAX.into(),
        2 => u16::MAX.into(),
        _ => u32::MAX,
    };
    let largest = usize::try_from(largest).unwrap_or(usize::MAX);
    max = max.min(largest).min(max_message);
    let mut min = 1;
    if let Some(table) = table {
        table.size("max", 1..=largest, &mut max)?;
        if let Some(field) = table.get("max").filter(|_| max > max_message) {
            return Err(exceeds_max_message(field, max, max_message));
        }
        table.size("min", 1..=max, &mut min)?;
    }
    // Neither exceeds `largest`, which was converted from a u32.
    (leaf.min, leaf.max) = (min as u32, max as u32);
    Ok(leaf)
}

fn exceeds_max_message(max: Field<'_>, bytes: usize, max_message: usize) -> super::ConfigError {
    max.fail(&format!(
        "{bytes} bytes exceed the limit of {max_message} for all messages; raise message in [limits], or lower this"
    ))
}
