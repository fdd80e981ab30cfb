//! The callers that a table of functions accepts.

use super::id::FunctionId;
use super::kind::Kind;

/// The callers of a [`Functions`](super::Functions) table: [`Local`] ones, or also ones over the network, which
/// requires arguments and results with a wire format.
pub trait Scope<A, R>: Reach {
    /// Returns the value that the table stores for a function.
    #[doc(hidden)]
    fn export(id: &FunctionId, kind: Kind) -> Self::Export;
}

/// The part of a [`Scope`] that does not depend on a function.
#[doc(hidden)]
pub trait Reach: 'static {
    /// The value that the table stores for each function.
    #[doc(hidden)]
    type Export: Clone + Send + Sync + 'static;
}

/// Functions for callers in this process, with arguments and results of any types.
#[doc(hidden)]
#[derive(Debug)]
pub enum Local {}

impl Reach for Local {
    type Export = ();
}

impl<A, R> Scope<A, R> for Local {
    fn export(_: &FunctionId, _: Kind) {}
}
