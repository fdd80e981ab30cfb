//! One call: its message, and what its response means.

use data_encoding::BASE64_NOPAD;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use smol::lock::Semaphore;

use crate::codec::grpc::{Status, only_message, percent_decode, prefixed};
use crate::codec::protobuf::{Method, TranscodeError};
use crate::message::{Fault, RawJson, code};
use crate::route::PeerError;
use crate::transport::http2::{Answer, RequestError, Requests};

/// Messages of more bytes are converted on a thread of their own, so that they hold up nobody.
const LARGE: usize = 32 * 1024;
/// Large messages are converted two at a time, since each takes many times its size meanwhile (`config/memory.rs`).
static CONVERSIONS: Semaphore = Semaphore::new(2);

/// Converts a message of this length.
pub(crate) async fn unblocked<T: Send + 'static>(
    length: usize,
    convert: impl FnOnce() -> T + Send + 'static,
) -> T {
    if length <= LARGE {
        return convert();
    }
    let _permit = CONVERSIONS.acquire().await;
    smol::unblock(convert).await
}

/// Sends a call and waits for its answer. Dropped before, it cancels the call.
pub(super) async fn exchange(
    requests: Requests,
    request: Request<()>,
    method: Method,
    params: Option<RawJson<'static>>,
    max: usize,
) -> Result<RawJson<'static>, PeerError> {
    let from = method.request();
    let length = params.as_ref().map_or(0, |params| params.get().len());
    let message = unblocked(length, move || from.of_params(params.as_ref().map(RawJson::get))).await;
    let message = message.map_err(|error| PeerError::Fault(Fault::invalid_params(error)))?;
    if message.len() > max {
        let text = format!("a message of {} bytes; at most {max} are sent (limits.message)", message.len());
        return Err(PeerError::Fault(Fault::new(code::REQUEST_TOO_LARGE, text)));
    }
    let body = prefixed(|out| out.extend_from_slice(&message));
    drop(message);
    let answer = requests.send(request, body).await.map_err(|error| failed(error, max))?;
    let reply = message_of(answer, max).map_err(|status| PeerError::Fault(status.into_fault()))?;
    let to = method.reply();
    let name = to.name().to_owned();
    let json = unblocked(reply.len(), move || to.to_json(&reply, max)).await;
    let json = json.map_err(|error| {
        PeerError::Fault(match error {
            TranscodeError::TooLong => too_long(max),
            TranscodeError::Wrong(error) => {
                Fault::new(code::INTERNAL, format!("the server's reply is no {name}: {error}"))
            }
        })
    })?;
    Ok(RawJson::checked(json))
}

fn too_long(max: usize) -> Fault {
    Fault::new(code::REPLY_TOO_LARGE, format!("a reply of more than {max} bytes (limits.message)"))
}

fn failed(error: RequestError, max: usize) -> PeerError {
    match error {
        RequestError::Unsent(reason) => PeerError::Unsent(reason.into()),
        RequestError::Lost(reason) => PeerError::Lost(reason.into()),
        RequestError::Reset(reason) => {
            let status = match reason {
                h2::Reason::CANCEL => Status::CANCELLED,
                h2::Reason::ENHANCE_YOUR_CALM => Status::RESOURCE_EXHAUSTED,
                h2::Reason::INADEQUATE_SECURITY => Status::PERMISSION_DENIED,
                _ => Status::INTERNAL,
            };
            PeerError::Fault(
                Status::new(status, format!("the server has reset the call: {reason}")).into_fault(),
            )
        }
        RequestError::TooLong => PeerError::Fault(too_long(max)),
    }
}

/// Returns the message of a response that has succeeded.
pub(super) fn message_of(answer: Answer, max: usize) -> Result<Vec<u8>, Status> {
    let Answer { status, headers, mut body, trailers } = answer;
    // A response without a message has its status in the headers.
    let of_call = trailers.as_ref().and_then(status_in).or_else(|| status_in(&headers));
    match of_call {
        Some(status) if status.code != 0 => return Err(status),
        Some(_) => {}
        None => return Err(status_of_http(status)),
    }
    let length = only_message(&body, max)
        .map_err(|status| Status::new(Status::INTERNAL, format!("the server's reply: {}", status.message)))?
        .len();
    body.drain(..body.len() - length);
    Ok(body)
}

/// Returns the status in the trailers or headers of a response.
fn status_in(headers: &HeaderMap) -> Option<Status> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?.parse().unwrap_or(Status::UNKNOWN);
    let message = percent_decode(text("grpc-message").unwrap_or_default());
    let details = text("grpc-status-details-bin").unwrap_or_default().trim_end_matches('=');
    let details = BASE64_NOPAD.decode(details.as_bytes()).unwrap_or_default();
    Some(Status { code, message: message.into(), details })
}

/// Returns what a response without a status means: most likely it comes from a proxy
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
fn status_of_http(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        200 => Status::UNKNOWN,
        400 => Status::INTERNAL,
        401 => Status::UNAUTHENTICATED,
        403 => Status::PERMISSION_DENIED,
        404 => Status::UNIMPLEMENTED,
        429 | 502 | 503 | 504 => Status::UNAVAILABLE,
        _ => Status::UNKNOWN,
    };
    Status::new(code, format!("no gRPC server: it answered with {status} of HTTP and no grpc-status"))
}
