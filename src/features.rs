//! What this build has beyond the default.

/// The optional features of this build.
pub(crate) const FEATURES: &[&str] = &[
    #[cfg(feature = "tls")]
    "tls",
    #[cfg(feature = "grpc")]
    "grpc",
    #[cfg(feature = "nats")]
    "nats",
];
