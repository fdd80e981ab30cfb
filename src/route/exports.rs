//! What makes a table of functions one for the network.

use super::Caller;
use crate::chan::Functions;

/// Functions for callers in this process and over the network, with arguments and results that have a JSON form.
///
/// Parameters become arguments: an array becomes a tuple, an array of one element also a plain value, an object a
/// struct, and no parameters `()` or an `Option`. A result is any value that implements [`Serialize`](serde::Serialize);
/// the error of a `Result` becomes a [`Fault`](crate::message::Fault). A function that takes its arguments as
/// [`WithCaller`] learns who calls.
#[derive(Debug)]
pub enum Network {}

/// A table of functions for the network, made by [`Functions::exported`].
pub type Exports<S> = Functions<S, Network>;

/// The arguments of a function that learns who calls. Over the network the parameters become `A`; a caller in this
/// process gives both, such as [`Caller::local`].
///
/// ```
/// use chanrpc::route::WithCaller;
/// use chanrpc::{Functions, Id1, Node, Remote};
///
/// const GREET: Id1<WithCaller<String>, String> = Id1::new("greet");
///
/// let mut functions = Functions::exported();
/// functions.register(GREET, |_: &mut (), WithCaller(caller, name)| format!("{name}, by {}", caller.dialect()))?;
/// let node = Node::builder("example").serve(functions, ()).listen("127.0.0.1:0").start()?;
///
/// let remote = Remote::connect(node.addresses()[0].to_string());
/// assert_eq!(remote.call1::<_, String>("greet", ["Ann"]).wait()?, "Ann, by lines");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct WithCaller<A>(pub Caller, pub A);
