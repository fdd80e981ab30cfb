//! A listener for Leaf clients: `dialect = "leaf"` and `[listen.leaf]`.

#[cfg(feature = "grpc")]
use std::path::PathBuf;

use super::table::{Field, Mistake, Result, Table};

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
    /// The messages of a gate with the protobuf processor; those of others are JSON.
    #[cfg(feature = "grpc")]
    pub protobuf: Option<LeafProtobuf>,
}

/// The messages of a gate with the protobuf processor.
#[cfg(feature = "grpc")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafProtobuf {
    /// The file with their descriptors; path as typed.
    pub descriptors: PathBuf,
    /// Their full names, in the order of their numbers.
    pub messages: Vec<String>,
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
    let mut leaf = LeafConfig {
        length: 2,
        order: ByteOrder::Big,
        min: 1,
        max: 4096,
        websocket: false,
        #[cfg(feature = "grpc")]
        protobuf: None,
    };
    let mut max = 4096;
    if let Some(table) = table {
        table.allow(&[
            "length",
            "order",
            "min",
            "max",
            "websocket",
            #[cfg(feature = "grpc")]
            "descriptors",
            #[cfg(feature = "grpc")]
            "messages",
        ]);
        #[cfg(feature = "grpc")]
        {
            leaf.protobuf = protobuf(table)?;
        }
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
        table.size("max", 1..=largest, &mut max);
        if let Some(field) = table.get("max").filter(|_| max > max_message) {
            return Err(exceeds_max_message(field, max, max_message));
        }
        table.size("min", 1..=max, &mut min);
    }
    // Neither exceeds `largest`, which was converted from a u32.
    (leaf.min, leaf.max) = (min as u32, max as u32);
    Ok(leaf)
}

#[cfg(feature = "grpc")]
fn protobuf(table: &Table<'_>) -> Result<Option<LeafProtobuf>> {
    match (table.get("descriptors"), table.get("messages")) {
        (None, None) => Ok(None),
        (Some(descriptors), Some(messages)) => {
            let wanted =
                "the messages in the order of their numbers, such as [\"msg.Hello\", \"msg.Welcome\"]";
            let messages =
                messages.list(wanted)?.map(|name| name.visible_name("msg.Hello").map(str::to_owned));
            Ok(Some(LeafProtobuf {
                descriptors: descriptors.path()?,
                messages: messages.collect::<Result<_>>()?,
            }))
        }
        _ => Err(table.fail("needs descriptors and messages for Leaf's protobuf processor, or neither")),
    }
}

fn exceeds_max_message(max: Field<'_>, bytes: usize, max_message: usize) -> Box<Mistake> {
    max.fail(&format!(
        "{bytes} bytes exceed the limit of {max_message} for all messages; raise message in [limits], or lower this"
    ))
}
