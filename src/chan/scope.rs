//! From where the functions of a table can be called.

use super::id::FunctionId;
use super::kind::Kind;

/// From where the functions of a [`Functions`](super::Functions) table can be called: [`Local`], or over the network
/// too, which takes arguments and results that have a form on the wire.
pub trait Scope<A, R>: Reach {
    /// Returns what the table keeps for a function.
    #[doc(hidden)]
    fn export(id: &FunctionId, kind: Kind) -> Self::Export;
}

/// What all functions of a table have in common.
pub trait Reach: 'static {
    /// What the table keeps for each function.
    #[doc(hidden)]
    type Export: Clone + Send + Sync + 'static;
}

/// Functions for callers in this process, with arguments and results of any types.
#[derive(Debug)]
pub enum Local {}

impl Reach for Local {
    type Export = ();
}

impl<A, R> Scope<A, R> for Local {
    fn export(_: &FunctionId, _: Kind) {}
}
