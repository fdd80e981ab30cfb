//! The return types of functions.

use std::error::Error;

use super::error::FunctionError;

/// The return type of a function with the result `R`: `R` itself, or a `Result<R, E>` whose error its caller receives
/// as [`CallError::Failed`](super::CallError::Failed). The error is any [`std::error::Error`], a `String` or a `&str`.
///
/// The compiler infers `M`.
#[diagnostic::on_unimplemented(
    message = "the function returns `{Self}`, but its id names the result `{R}`",
    label = "return `{R}`, or `Result<{R}, E>` where `E` is a `std::error::Error`, a `String` or a `&str`"
)]
pub trait Outcome<R, M>: Sized {
    /// Returns the result, or the error that the caller receives.
    ///
    /// # Errors
    /// The error that the function returned.
    fn into_result(self) -> Result<R, FunctionError>;
}

impl<R> Outcome<R, ()> for R {
    fn into_result(self) -> Result<R, FunctionError> {
        Ok(self)
    }
}

impl<R, E: Into<Box<dyn Error + Send + Sync>>> Outcome<R, (E,)> for Result<R, E> {
    fn into_result(self) -> Result<R, FunctionError> {
        self.map_err(FunctionError::new)
    }
}
