//! Guides, each with whole programs.
//!
//! - [Embedding](embedding): from a server to a service on the network.
//! - [Coming from Leaf](from_leaf), [coming from gRPC](from_grpc): the counterparts of what you know.

// The files link to each other by name. Here the first definition of a link holds.

/// [from-grpc.md]: from_grpc#errors
/// [several forwards]: https://github.com/chanrpc/chanrpc/blob/main/docs/configuration.md#functions-of-other-nodes
/// [every dialect]: https://github.com/chanrpc/chanrpc/blob/main/docs/protocol.md
/// [access rules]: https://github.com/chanrpc/chanrpc/blob/main/docs/configuration.md#access
/// [topics]: https://github.com/chanrpc/chanrpc/blob/main/docs/topics.md
/// [gRPC]: https://github.com/chanrpc/chanrpc/blob/main/docs/grpc.md
/// [counter.rs]: https://github.com/chanrpc/chanrpc/blob/main/examples/counter.rs
/// [commands.rs]: https://github.com/chanrpc/chanrpc/blob/main/examples/commands.rs
/// [waterfall.rs]: https://github.com/chanrpc/chanrpc/blob/main/examples/waterfall.rs
/// [chat.rs]: https://github.com/chanrpc/chanrpc/blob/main/examples/chat.rs
/// [evening.rs]: https://github.com/chanrpc/chanrpc/blob/main/examples/evening.rs
/// [lobby]: https://github.com/chanrpc/chanrpc/blob/main/examples/lobby/main.rs
/// [exposed.rs]: https://github.com/chanrpc/chanrpc/blob/main/examples/exposed.rs
#[doc = include_str!("../docs/embedding.md")]
pub mod embedding {}

/// [embedding.md]: embedding
/// [topic]: embedding#topics
/// [`Lanes`]: embedding#lanes
/// [waterfall]: embedding#waterfall
/// [`dialect = "leaf"`]: https://github.com/chanrpc/chanrpc/blob/main/docs/configuration.md#leaf
/// [option]: https://github.com/chanrpc/chanrpc/blob/main/docs/operations.md#tls
/// [a gate, translated]: from_leaf#a-gate-translated
/// [lobby]: https://github.com/chanrpc/chanrpc/blob/main/examples/lobby/main.rs
/// [examples/evening.rs]: https://github.com/chanrpc/chanrpc/blob/main/examples/evening.rs
#[doc = include_str!("../docs/from-leaf.md")]
pub mod from_leaf {}

/// [protocol.md]: https://github.com/chanrpc/chanrpc/blob/main/docs/protocol.md
/// [grpc.md]: https://github.com/chanrpc/chanrpc/blob/main/docs/grpc.md
/// [services of your `.proto`]: https://github.com/chanrpc/chanrpc/blob/main/docs/grpc.md#services-of-your-own
/// [from Rust]: https://github.com/chanrpc/chanrpc/blob/main/docs/grpc.md#from-rust
/// [configuration]: https://github.com/chanrpc/chanrpc/blob/main/docs/configuration.md#workers
/// [deferred]: embedding#answering-later
/// [job]: embedding#jobs-and-futures
/// [attaches]: embedding#streams
/// [binary with TLS]: https://github.com/chanrpc/chanrpc/blob/main/docs/operations.md#tls
/// [may call what]: https://github.com/chanrpc/chanrpc/blob/main/docs/configuration.md#access
/// [forward calls]: https://github.com/chanrpc/chanrpc/blob/main/docs/configuration.md#functions-of-other-nodes
/// [drain or close]: embedding#shutdown
#[doc = include_str!("../docs/from-grpc.md")]
pub mod from_grpc {}
