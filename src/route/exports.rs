//! What makes a table of functions one for the network.

use crate::chan::Functions;

/// Functions for callers in this process and over the network, with arguments and results that have a JSON form.
///
/// Parameters become arguments: an array becomes a tuple, an array of one element also a plain value, an object a
/// struct, and no parameters `()` or an `Option`. A result is any value that implements [`Serialize`](serde::Serialize);
/// the error of a `Result` becomes a [`Fault`](crate::message::Fault).
#[derive(Debug)]
pub enum Network {}

/// A table of functions for the network, made by [`Functions::exported`].
pub type Exports<S> = Functions<S, Network>;
