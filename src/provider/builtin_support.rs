//! What all built-in functions have in common.

use serde::Serialize;

use crate::chan::Kind;
use crate::message::{Fault, Signature, code};
use crate::route::{Description, ProviderKind};

/// Describes a built-in function, which has one result.
pub(super) fn describe(signature: Signature) -> Description {
    Description::default().provider(ProviderKind::Builtin).signature(signature.kind(Kind::One))
}

/// Appends a result as JSON.
pub(super) fn write_json(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), Fault> {
    serde_json::to_writer(out, value).map_err(|error| Fault::new(code::INTERNAL, error.to_string()))
}
