//! How a function is named.

use std::any::{TypeId, type_name};
use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use super::kind::{KindMarker, Many, One, Zero};

/// Names a function within its server: by text, by number, or by a Rust type (a message's, say).
///
/// ```
/// use chanrpc::chan::FunctionId;
///
/// struct Login;
/// assert_eq!(FunctionId::from("add").to_string(), "add");
/// assert_eq!(FunctionId::from(7).to_string(), "7");
/// assert!(FunctionId::of::<Login>().to_string().ends_with("Login"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FunctionId {
    /// A text, such as `"disk.free"`. The only form that the network can name.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
    /// A Rust type.
    Type {
        /// What tells one type from another.
        id: TypeId,
        /// The type's name, for messages.
        name: &'static str,
    },
}

impl FunctionId {
    /// Returns the id that stands for the type `T`.
    pub fn of<T: 'static>() -> Self {
        Self::Type { id: TypeId::of::<T>(), name: type_name::<T>() }
    }
}

impl Hash for FunctionId {
    /// Every call looks an id up, so as little as possible is hashed.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Text(text) => state.write(text.as_bytes()),
            Self::Number(number) => state.write_i64(*number),
            Self::Type { id, .. } => id.hash(state),
        }
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Type { name, .. } => f.write_str(name),
        }
    }
}

impl From<&'static str> for FunctionId {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for FunctionId {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<i64> for FunctionId {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A [`FunctionId`] that knows what the function takes and gives, so that a wrong call does not compile. Made as
/// [`Id0`], [`Id1`] or [`IdN`].
///
/// ```
/// use chanrpc::chan::{Functions, Id0, Id1, Server};
///
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// const RESET: Id0<()> = Id0::new("reset");
///
/// let mut functions = Functions::new();
/// functions.register1(ADD, |total: &mut i64, n| { *total += n; *total })?.register0(RESET, |total, ()| *total = 0)?;
///
/// let server = Server::new(0, functions);
/// let client = server.client();
/// std::thread::spawn(|| smol::block_on(server.run()));
/// assert_eq!(client.call1(ADD, 5).wait()?, 5);
/// client.call0(RESET, ()).wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Another type of arguments does not compile,
/// ```compile_fail,E0308
/// # use chanrpc::chan::{Client, Id1};
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// fn wrong(client: &Client) { let _call = client.call1(ADD, "five"); }
/// ```
/// nor does another result,
/// ```compile_fail,E0308
/// # use chanrpc::chan::{Client, Id1};
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// fn wrong(client: &Client) { let _total: String = client.call1(ADD, 5).wait().unwrap(); }
/// ```
/// nor another kind, nor a function that does not fit its id.
/// ```compile_fail,E0277
/// # use chanrpc::chan::{Client, Id1};
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// fn wrong(client: &Client) { let _call = client.call0(ADD, 5); }
/// ```
/// ```compile_fail,E0308
/// # use chanrpc::chan::{Functions, Id1};
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// fn wrong(functions: &mut Functions<i64>) { let _ = functions.register1(ADD, |_, n| n.to_string()); }
/// ```
pub struct Id<K, A, R> {
    id: FunctionId,
    signature: PhantomData<fn(A, K) -> R>,
}

/// The typed id of a function of no result.
pub type Id0<A> = Id<Zero, A, ()>;
/// The typed id of a function of one result.
pub type Id1<A, R> = Id<One, A, R>;
/// The typed id of a function of several results.
pub type IdN<A, R> = Id<Many, A, R>;

impl<K: KindMarker, A, R> Id<K, A, R> {
    /// Names a function by a text.
    pub const fn new(text: &'static str) -> Self {
        Self { id: FunctionId::Text(Cow::Borrowed(text)), signature: PhantomData }
    }

    /// Names a function by a number.
    pub const fn number(number: i64) -> Self {
        Self { id: FunctionId::Number(number), signature: PhantomData }
    }
}

impl<K: KindMarker, A: 'static, R> Id<K, A, R> {
    /// Names a function by the type of its arguments, a message's for instance.
    pub fn of_arguments() -> Self {
        Self { id: FunctionId::of::<A>(), signature: PhantomData }
    }
}

impl<K, A, R> Clone for Id<K, A, R> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), signature: PhantomData }
    }
}

impl<K, A, R> fmt::Debug for Id<K, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl<K, A, R> From<Id<K, A, R>> for FunctionId {
    fn from(id: Id<K, A, R>) -> Self {
        id.id
    }
}

/// An id under which a function that takes `A` may be found: a typed [`Id`], or a text, number or
/// [`FunctionId`], whose types are compared when the call is made.
#[diagnostic::on_unimplemented(message = "`{Self}` does not name a function that takes `{A}`")]
pub trait Takes<A>: Into<FunctionId> + sealed::Sealed {}

/// An id under which a function of the kind `K` ([`Zero`], [`One`] or [`Many`]) that takes `A` and gives `R` may be
/// found: a typed [`Id`], or a text, number or [`FunctionId`], whose types are compared when the call is made.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a function of this kind that takes `{A}` and gives `{R}`"
)]
pub trait Names<K, A, R>: Takes<A> {}

impl<K, A, R> Takes<A> for Id<K, A, R> {}
impl<K, A, R> Names<K, A, R> for Id<K, A, R> {}

macro_rules! untyped {
    ($($id:ty)*) => {$(
        impl sealed::Sealed for $id {}
        impl<A> Takes<A> for $id {}
        impl<K, A, R> Names<K, A, R> for $id {}
    )*};
}
untyped!(FunctionId &'static str String i64);

mod sealed {
    #[allow(unreachable_pub, reason = "seals public traits")]
    pub trait Sealed {}
    impl<K, A, R> Sealed for super::Id<K, A, R> {}
}
