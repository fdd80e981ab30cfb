//! How a function is named.

use std::any::{TypeId, type_name};
use std::borrow::Cow;
use std::fmt;

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
