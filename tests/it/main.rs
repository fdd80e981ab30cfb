//! The tests that drive the library and the binary from outside.
