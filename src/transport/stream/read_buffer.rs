//! One read buffer per thread, shared by all connections, so that an idle connection needs none of its own.

use std::cell::RefCell;

/// Size of the buffer, and thus of the largest single read, in bytes.
const SIZE: usize = 64 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SIZE]);
}

/// Calls `read` with the thread's read buffer.
pub(in crate::transport) fn with_read_buffer<R>(read: impl FnOnce(&mut [u8]) -> R) -> R {
    READ_BUFFER.with_borrow_mut(|buffer| read(buffer))
}
