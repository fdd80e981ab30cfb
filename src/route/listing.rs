//! What `rpc.list` reports of a function.

use std::borrow::Cow;

use serde::Serialize;

use super::{Description, Told};
use crate::message::{Param, Schema, Signature, serialize_errors};
use crate::metrics::TargetStats;

/// One function in `rpc.list`, as JSON.
pub(crate) struct Listed {
    pub(crate) name: Box<str>,
    /// The name alone.
    pub(crate) brief: String,
    /// The whole description.
    pub(crate) verbose: String,
    /// The description without what is reserved for callers that may call every function.
    pub(crate) redacted: String,
}

impl Listed {
    /// Describes a function.
    pub(super) fn new(name: &str, description: &Description) -> Self {
        #[derive(Serialize)]
        struct Function<'a> {
            name: &'a str,
            provider: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            kind: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            params: Option<&'a [Param]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            result: Option<&'a Schema>,
            #[serde(skip_serializing_if = "Option::is_none")]
            target: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            description: Option<&'a str>,
            #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "serialize_errors")]
            errors: &'a [(i64, Cow<'static, str>)],
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            targets: &'a [TargetStats],
            #[serde(skip_serializing_if = "Option::is_none")]
            hops: Option<u32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            stale: Option<bool>,
        }
        let Description { provider, signature, target, told, nodes, .. } = description;
        let hops = told.map(|Told { hops, .. }| hops);
        let stale = told.and_then(|Told { is_stale, .. }| is_stale.then_some(true));
        let text = |target: Option<&str>, targets: &[TargetStats]| {
            let function = Function {
                name,
                provider: provider.as_str(),
                kind: signature.kind.map(Signature::kind_name),
                params: signature.params.as_deref(),
                result: signature.result.as_ref(),
                target,
                description: signature.description.as_deref(),
                errors: &signature.errors,
                targets,
                hops,
                stale,
            };
            serde_json::to_string(&function).unwrap_or_default()
        };
        let targets = nodes.as_ref().map(|nodes| nodes.targets()).unwrap_or_default();
        let (verbose, redacted) = (text(target.as_deref(), &targets), text(None, &[]));
        let brief = serde_json::to_string(name).unwrap_or_default();
        Self { name: name.into(), brief, verbose, redacted }
    }
}
