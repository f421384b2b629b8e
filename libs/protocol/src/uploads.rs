//! Photos that a person uploads for an auction: `POST /uploads`.

use std::collections::BTreeMap;

use serde::Serialize;

/// Largest photo, in bytes. Larger than what the camera of a phone makes.
pub const MAX_PHOTO_BYTES: u64 = 10 * 1024 * 1024;

/// Where to send one photo, and where it is found then. The address takes one file, of the type and size that were
/// asked for.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Upload<'a> {
    /// Where the file is sent to.
    pub upload_url: &'a str,
    /// How: always `PUT`.
    #[cfg_attr(feature = "schema", schemars(extend("const" = "PUT")))]
    pub method: &'static str,
    /// The headers that must be sent with it.
    pub headers: BTreeMap<&'a str, &'a str>,
    /// Where the photo is found after that; goes into `images`.
    pub image_url: &'a str,
    /// Seconds for which `upload_url` is valid.
    pub expires_in: u64,
}
