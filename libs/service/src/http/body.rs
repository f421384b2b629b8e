//! The body of a request, read as a whole.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Largest request body. Every valid request is far smaller.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Bytes of a too large body that are read and discarded, so that the client finishes writing and reads the answer
/// instead of meeting a reset connection.
const MAX_DISCARDED_BYTES: usize = 4 * 1024 * 1024;

/// Why a body is not used.
pub(super) enum BodyError {
    TooLarge,
    /// A chunk is malformed, or the client stopped sending.
    Broken,
}

/// Reads a body as a whole.
///
/// # Errors
/// When it is too large or broken.
pub(super) async fn whole(mut body: Incoming) -> Result<Bytes, BodyError> {
    let mut read = Vec::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(|_| BodyError::Broken)?.into_data().unwrap_or_default();
        size += data.len();
        if size <= MAX_BODY_BYTES {
            read.extend_from_slice(&data);
        } else if size > MAX_DISCARDED_BYTES {
            return Err(BodyError::TooLarge);
        }
    }
    if size <= MAX_BODY_BYTES { Ok(read.into()) } else { Err(BodyError::TooLarge) }
}
