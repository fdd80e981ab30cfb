//! The ids of functions.

use std::any::{TypeId, type_name};
use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use super::kind::{Many, One, Zero};

/// Identifies a function of a server by a text, a number, or a Rust type such as that of a message.
///
/// ```
/// use chanrpc::chan::FunctionId;
///
/// struct Login;
/// assert_eq!(FunctionId::from("add").to_string(), "add");
/// assert_eq!(FunctionId::from(7).to_string(), "7");
/// assert!(FunctionId::of::<Login>().to_string().ends_with("Login"));
/// ```
#[derive(Clone, Debug, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FunctionId {
    /// A text, such as `"disk.free"`. The only kind of id that works over the network.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
    /// A Rust type.
    Type {
        /// Identifies the type.
        id: TypeId,
        /// The type's name, for messages.
        name: &'static str,
    },
}

impl FunctionId {
    /// Returns the id of the type `T`.
    pub fn of<T: 'static>() -> Self {
        Self::Type { id: TypeId::of::<T>(), name: type_name::<T>() }
    }
}

impl PartialEq for FunctionId {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // Most texts are the constant with which the function was registered.
            (Self::Text(text), Self::Text(other)) => std::ptr::eq(&**text, &**other) || text == other,
            (Self::Number(number), Self::Number(other)) => number == other,
            (Self::Type { id, .. }, Self::Type { id: other, .. }) => id == other,
            _ => false,
        }
    }
}

impl Hash for FunctionId {
    /// Hashes as little as possible, since every call looks up an id.
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

impl From<Cow<'static, str>> for FunctionId {
    fn from(text: Cow<'static, str>) -> Self {
        Self::Text(text)
    }
}

macro_rules! from_integers {
    ($($integer:ty)*) => {$(
        impl From<$integer> for FunctionId {
            fn from(number: $integer) -> Self {
                Self::Number(number.into())
            }
        }
    )*};
}
from_integers!(i32 u32 i64);

/// A [`FunctionId`] with the kind of the function, the type of its arguments and the type of its result, so that a
/// call that does not fit fails to compile. Declared as [`Id0`], [`Id1`] or [`IdN`].
///
/// ```
/// use chanrpc::chan::{Functions, Id0, Id1, Server};
///
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// const RESET: Id0<()> = Id0::new("reset");
///
/// let mut functions = Functions::new();
/// functions.register(ADD, |total: &mut i64, n| { *total += n; *total })?.register(RESET, |total, ()| *total = 0)?;
///
/// let server = Server::new(0, functions);
/// let client = server.client();
/// std::thread::spawn(|| smol::block_on(server.run()));
/// assert_eq!(client.call(ADD, 5).wait()?, 5);
/// client.call(RESET, ()).wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Arguments of another type do not compile,
/// ```compile_fail,E0308
/// # use chanrpc::chan::{Client, Id1};
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// fn wrong(client: &Client) { let _call = client.call(ADD, "five"); }
/// ```
/// nor does a result of another type,
/// ```compile_fail,E0308
/// # use chanrpc::chan::{Client, Id1};
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// fn wrong(client: &Client) { let _total: String = client.call(ADD, 5).wait().unwrap(); }
/// ```
/// a typed id in a call by text, which would lose its types,
/// ```compile_fail,E0277
/// # use chanrpc::chan::{Client, Id1};
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// fn wrong(client: &Client) { let _call = client.call0(ADD, 5); }
/// ```
/// or a function whose result is not the one of its id.
/// ```compile_fail,E0277
/// # use chanrpc::chan::{Functions, Id1};
/// const ADD: Id1<i64, i64> = Id1::new("add");
/// fn wrong(functions: &mut Functions<i64>) { let _ = functions.register(ADD, |_, n| n.to_string()); }
/// ```
pub struct Id<K, A, R> {
    id: FunctionId,
    signature: PhantomData<fn(A, K) -> R>,
}

/// The typed id of a function without a result.
pub type Id0<A> = Id<Zero, A, ()>;
/// The typed id of a function with one result.
pub type Id1<A, R> = Id<One, A, R>;
/// The typed id of a function with several results.
pub type IdN<A, R> = Id<Many, A, R>;

impl<K, A, R> Id<K, A, R> {
    /// Creates an id from a text.
    pub const fn new(text: &'static str) -> Self {
        Self { id: FunctionId::Text(Cow::Borrowed(text)), signature: PhantomData }
    }

    /// Creates an id from a number.
    pub const fn number(number: i64) -> Self {
        Self { id: FunctionId::Number(number), signature: PhantomData }
    }

    /// Creates an id from a value that is known only at run time, such as a `String`.
    pub fn from_id(id: impl Into<FunctionId>) -> Self {
        Self { id: id.into(), signature: PhantomData }
    }

    /// Creates an id from the type of the arguments, for example of a message.
    pub fn of_arguments() -> Self
    where
        A: 'static,
    {
        Self { id: FunctionId::of::<A>(), signature: PhantomData }
    }

    /// Returns the id without its types.
    pub fn untyped(&self) -> &FunctionId {
        &self.id
    }

    /// Returns the id without its types.
    pub fn into_untyped(self) -> FunctionId {
        self.id
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

impl<K, A, R> fmt::Display for Id<K, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// An id of a function that takes `A`: a typed [`Id`], or anything that becomes a [`FunctionId`], whose types are
/// compared when the call is made.
#[diagnostic::on_unimplemented(message = "`{Self}` does not name a function that takes `{A}`")]
pub trait Takes<A>: sealed::IntoFunctionId {}

impl<K, A, R> Takes<A> for Id<K, A, R> {}

macro_rules! untyped {
    ($($id:ty)*) => {$(
        impl sealed::IntoFunctionId for $id {
            fn into_function_id(self) -> FunctionId {
                self.into()
            }
        }
        impl<A> Takes<A> for $id {}
    )*};
}
untyped!(FunctionId &'static str String Cow<'static, str> i32 u32 i64);

pub(super) mod sealed {
    #[allow(unreachable_pub, reason = "seals a public trait")]
    pub trait IntoFunctionId {
        /// Returns the id without its types.
        fn into_function_id(self) -> super::FunctionId;
    }
    impl<K, A, R> IntoFunctionId for super::Id<K, A, R> {
        fn into_function_id(self) -> super::FunctionId {
            self.id
        }
    }
}
