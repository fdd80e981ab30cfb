//! The messages of listeners for Leaf clients.

use std::sync::{Mutex, PoisonError};

use crate::codec::leaf::{ByteOrder, LeafMessages};
use crate::codec::protobuf::Schema;
use crate::config::{LeafConfig, LeafProtobuf};
use crate::encoding;

/// The messages of a listener, by what they are made of. They stay as long as the process, since connections refer to
/// them; so the same ones are made once.
type Made = (Vec<u8>, Vec<String>, ByteOrder, &'static LeafMessages);
static MADE: Mutex<Vec<Made>> = Mutex::new(Vec::new());

/// Loads the messages of a listener. Returns `None` if they are JSON.
///
/// # Errors
/// If the descriptors cannot be used, or lack a message.
pub(crate) fn messages(leaf: &LeafConfig, order: ByteOrder) -> Result<Option<&'static LeafMessages>, String> {
    let Some(LeafProtobuf { descriptors, messages: names }) = &leaf.protobuf else { return Ok(None) };
    let fail = |error: String| format!("descriptors {} of [listen.leaf]: {error}", descriptors.display());
    let set = encoding::read_bytes(descriptors).map_err(|error| fail(error.to_string()))?;
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = made.iter().find(|known| known.0 == set && known.1 == *names && known.2 == order);
    if let Some((.., messages)) = known {
        return Ok(Some(messages));
    }
    let mut schema = Schema::default();
    schema.add(&set).map_err(fail)?;
    let messages: &_ = Box::leak(Box::new(LeafMessages::new(&schema, names, order).map_err(fail)?));
    made.push((set, names.clone(), order, messages));
    Ok(Some(messages))
}
