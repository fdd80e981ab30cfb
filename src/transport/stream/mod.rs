//! Byte streams such as TCP: the pipe over one, and the wrappers around it.

mod alarm;
mod keepalive;
mod lingering_close;
mod read_buffer;
mod read_gate;
mod rewind;
mod stall_timeout;
mod stream_pipe;
mod write_buffer;

pub(crate) use alarm::Alarm;
pub(super) use keepalive::is_keepalive_timeout;
pub use keepalive::set_keepalive;
pub(in crate::transport) use keepalive::{Heartbeat, PeerIdle, keepalive_error};
pub use lingering_close::send_and_close;
pub(super) use lingering_close::{LingeringClose, close_stream};
pub(super) use read_buffer::with_read_buffer;
pub(super) use read_gate::ReadGate;
pub use rewind::Rewind;
pub use stall_timeout::StallTimeout;
pub(super) use stall_timeout::is_stall_timeout;
#[cfg(feature = "grpc")]
pub(super) use stall_timeout::stall_error;
pub use stream_pipe::StreamPipe;
pub(super) use write_buffer::WriteBuffer;
