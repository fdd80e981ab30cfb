//! What a node tells of topics, as it is written.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// What a node tells of a topic, and its reply to a subscription.
#[derive(serde::Deserialize, Default)]
#[serde(default)]
pub(super) struct Told<'a> {
    #[serde(borrow)]
    pub(super) topic: Cow<'a, str>,
    pub(super) seq: Option<u64>,
    pub(super) epoch: Option<String>,
    pub(super) missed: bool,
    pub(super) count: Option<u64>,
    pub(super) next: Option<u64>,
    pub(super) age_ms: Option<u64>,
    pub(super) reason: Option<String>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
}

impl<'a> Told<'a> {
    /// Parses an object, or an array of one.
    pub(super) fn parse(json: &'a str) -> Self {
        let inner = json.trim().strip_prefix('[').and_then(|json| json.strip_suffix(']'));
        serde_json::from_str(inner.unwrap_or(json)).unwrap_or_default()
    }
}
