//! What this project's own tests, fuzz targets and benchmarks use beyond the public API. Not part of the API: it may
//! change in any release.

#[cfg(feature = "node")]
pub mod codec {
    pub use crate::codec::detect::DETECT_LIMIT;
    pub use crate::codec::*;
}
#[cfg(feature = "cli")]
pub mod load {
    pub use crate::load::*;
}
#[cfg(feature = "node")]
pub mod session {
    pub use crate::session::*;
}
#[cfg(feature = "node")]
pub mod transport {
    pub use crate::transport::*;
}
