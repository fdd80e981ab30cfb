//! The number of results of a function.

use std::fmt;

/// The number of results of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No result: the answer only confirms that the function has run.
    Zero,
    /// One result.
    One,
    /// A list of results: a tuple or a `Vec`.
    Many,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zero => "no result",
            Self::One => "one result",
            Self::Many => "a list of results",
        })
    }
}

/// [`Kind::Zero`] as a type, for typed ids.
#[derive(Clone, Copy, Debug)]
pub enum Zero {}
/// [`Kind::One`] as a type, for typed ids.
#[derive(Clone, Copy, Debug)]
pub enum One {}
/// [`Kind::Many`] as a type, for typed ids.
#[derive(Clone, Copy, Debug)]
pub enum Many {}

/// A [`Kind`] as a type, for functions with the result `R`: [`Zero`] for `()`, [`One`] for any type, [`Many`] for
/// [`Results`].
#[diagnostic::on_unimplemented(message = "a function of this kind cannot have the result `{R}`")]
pub trait KindMarker<R>: sealed::Sealed {
    /// The kind.
    const KIND: Kind;
}

impl KindMarker<()> for Zero {
    const KIND: Kind = Kind::Zero;
}
impl<R> KindMarker<R> for One {
    const KIND: Kind = Kind::One;
}
impl<R: Results> KindMarker<R> for Many {
    const KIND: Kind = Kind::Many;
}

mod sealed {
    #[allow(unreachable_pub, reason = "seals a public trait")]
    pub trait Sealed {}
    impl Sealed for super::Zero {}
    impl Sealed for super::One {}
    impl Sealed for super::Many {}
}

/// The results of a function of [`Kind::Many`]: a tuple of two to eight, a `Vec` of any number, or either in a
/// `Result`.
pub trait Results: Send + 'static {}

impl<T: Results, E: Send + 'static> Results for Result<T, E> {}

impl<T: Send + 'static> Results for Vec<T> {}

macro_rules! results_of_tuples {
    ($first:ident $($rest:ident)+) => {
        impl<$first: Send + 'static, $($rest: Send + 'static),+> Results for ($first, $($rest),+) {}
        results_of_tuples!($($rest)+);
    };
    ($last:ident) => {};
}
results_of_tuples!(A B C D E F G H);
