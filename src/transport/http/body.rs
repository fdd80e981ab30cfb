//! Reads the body of a request within its limits.

use std::time::Instant;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use smol::Timer;
use smol::future::FutureExt;

use super::service::RequestLimits;
use crate::receive_deadline::ReceiveDeadline;

/// Why a body could not be read.
pub(super) enum BodyError {
    /// It was not received in time.
    Timeout,
    /// It exceeds the limit. Contains the part up to the limit.
    TooLarge(Vec<u8>),
    /// The stream failed, or the body is not valid HTTP.
    Http(hyper::Error),
}

/// Reads a body. Sets a timer only if the body is not available at once.
pub(super) async fn read_body(mut body: Incoming, limits: RequestLimits) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    let mut timeout: Option<ReceiveDeadline> = None;
    loop {
        let frame = match smol::future::poll_once(body.frame()).await {
            Some(frame) => frame,
            None => {
                let timeout = timeout.get_or_insert_with(|| {
                    let mut timeout = ReceiveDeadline::new(Instant::now());
                    timeout.progress(bytes.len(), Instant::now());
                    timeout
                });
                let deadline = timeout.deadline(limits.stall_timeout, limits.body);
                let expired = async {
                    Timer::at(deadline).await;
                    Err(BodyError::Timeout)
                };
                async { Ok(body.frame().await) }.or(expired).await?
            }
        };
        let Some(frame) = frame else { return Ok(bytes) };
        let Ok(data) = frame.map_err(BodyError::Http)?.into_data() else { continue };
        let room = limits.body - bytes.len();
        if data.len() > room {
            bytes.extend_from_slice(&data[..room]);
            return Err(BodyError::TooLarge(bytes));
        }
        if let Some(timeout) = &mut timeout {
            timeout.progress(data.len(), Instant::now());
        }
        // Most bodies arrive in one piece, which need not be copied.
        if bytes.is_empty() {
            bytes = data.into();
        } else {
            bytes.extend_from_slice(&data);
        }
    }
}
