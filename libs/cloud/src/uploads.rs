//! Photos in S3. Browsers upload them directly, each to an address that is signed for one file of one type and size.
//!
//! The SDK of S3 would do little else here than sign: the signer that the other SDKs bring is used instead.

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use errors::BoxError;
use tokio::sync::Mutex;

/// Time for which a signed address is valid: enough to send a large photo over a slow line.
const VALID_FOR: Duration = Duration::from_secs(300);
/// Time limit for getting credentials.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);
/// First part of every key. The policy of the bucket makes what lies below it readable.
const PREFIX: &str = "photos";

/// Why an address could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The configuration has no credentials, or their source failed.
    #[error("failed to get credentials")]
    Credentials(#[source] BoxError),
    /// The signer rejected the request.
    #[error("failed to sign an address")]
    Sign(#[source] BoxError),
}

/// Where photos are stored, and where they are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhotoBucket {
    /// Name of the bucket.
    pub name: String,
    /// Address under which browsers find the bucket's objects, without the last slash. None: the bucket's own.
    pub public_url: Option<String>,
}

/// A type of photo that every browser shows. SVG is not among them: it may hold scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhotoType {
    /// `image/jpeg`
    Jpeg,
    /// `image/png`
    Png,
    /// `image/webp`
    Webp,
    /// `image/avif`
    Avif,
    /// `image/gif`
    Gif,
}

/// A signed address for one upload.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedUpload {
    /// Where the file is sent to by PUT. Its bearer may store one file.
    pub upload_url: String,
    /// The headers that must be sent. A browser adds `content-length`, which is signed as well.
    pub headers: Vec<(&'static str, String)>,
    /// Where the photo is found afterwards.
    pub image_url: String,
    /// Seconds for which `upload_url` is valid.
    pub expires_in_seconds: u64,
}

/// The photos of a deployment.
pub struct Uploads {
    client: Presigner,
    provider: Option<SharedCredentialsProvider>,
    /// The newest credentials. Some sources need a request of their own for each.
    credentials: Mutex<Option<Credentials>>,
    public_url: String,
}

/// Signs requests to one bucket.
struct Presigner {
    region: String,
    /// Address of the bucket.
    bucket_url: String,
}

impl PhotoType {
    /// Every type.
    pub const ALL: [Self; 5] = [Self::Jpeg, Self::Png, Self::Webp, Self::Avif, Self::Gif];

    /// The `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Avif => "image/avif",
            Self::Gif => "image/gif",
        }
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Avif => "avif",
            Self::Gif => "gif",
        }
    }
}

impl PhotoBucket {
    /// Whether a text can name a bucket. Dots are allowed by S3, but break TLS in the bucket's host name.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        let is_inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        (3..=63).contains(&text.len()) && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
    }
}

impl Uploads {
    /// Sends nothing yet.
    #[must_use]
    pub fn new(config: &SdkConfig, bucket: &PhotoBucket) -> Self {
        let region = config.region().map_or_else(|| "us-east-1".to_owned(), ToString::to_string);
        let bucket_url = bucket_url(&bucket.name, &region, config.endpoint_url());
        Self {
            public_url: bucket.public_url.clone().unwrap_or_else(|| bucket_url.clone()),
            client: Presigner { region, bucket_url },
            provider: config.credentials_provider(),
            credentials: Mutex::default(),
        }
    }

    /// Address below which the photos are found.
    #[must_use]
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// An address for one new photo of this type and exactly this size.
    ///
    /// # Errors
    /// Without credentials, or when their source fails.
    pub async fn presign(&self, photo: PhotoType, bytes: u64) -> Result<SignedUpload, UploadError> {
        let credentials = self.credentials().await?;
        let key = format!("{PREFIX}/{}.{}", uuid::Uuid::new_v4(), photo.extension());
        let headers = required_headers(photo);
        let upload_url = self.client.put_object(&key, &headers, bytes, credentials, SystemTime::now())?;
        Ok(SignedUpload {
            upload_url,
            headers,
            image_url: format!("{}/{key}", self.public_url),
            expires_in_seconds: VALID_FOR.as_secs(),
        })
    }

    /// Credentials that are valid for as long as an address signed with them, if the source has such.
    async fn credentials(&self) -> Result<Credentials, UploadError> {
        let mut kept = self.credentials.lock().await;
        let until = SystemTime::now() + VALID_FOR;
        let lasts = |found: &&Credentials| found.expiry().is_none_or(|expiry| expiry > until);
        if let Some(found) = kept.as_ref().filter(lasts) {
            return Ok(found.clone());
        }
        let failed = |error: BoxError| UploadError::Credentials(error);
        let provider = self.provider.as_ref().ok_or_else(|| failed("no source of credentials".into()))?;
        let found = tokio::time::timeout(CREDENTIALS_TIMEOUT, provider.provide_credentials()).await;
        let found = found.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?;
        *kept = Some(found.clone());
        Ok(found)
    }
}

/// The address of a bucket: below the emulator's, or a host of its own.
fn bucket_url(name: &str, region: &str, endpoint: Option<&str>) -> String {
    match endpoint {
        Some(endpoint) => format!("{}/{name}", endpoint.trim_end_matches('/')),
        None => {
            let china = if region.starts_with("cn-") { ".cn" } else { "" };
            format!("https://{name}.s3.{region}.amazonaws.com{china}")
        }
    }
}

/// `If-None-Match: *`, because an address must not replace a photo that people have seen.
fn required_headers(photo: PhotoType) -> Vec<(&'static str, String)> {
    vec![("content-type", photo.content_type().to_owned()), ("if-none-match", "*".to_owned())]
}

impl Presigner {
    /// The signed address of PutObject. S3 rejects a request whose length or other signed headers differ.
    fn put_object(
        &self,
        key: &str,
        headers: &[(&'static str, String)],
        bytes: u64,
        credentials: Credentials,
        now: SystemTime,
    ) -> Result<String, UploadError> {
        let failed = |error: BoxError| UploadError::Sign(error);
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(VALID_FOR);
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(now)
            .settings(settings)
            .build()
            .map_err(|error| failed(error.into()))?
            .into();
        let address = format!("{}/{key}", self.bucket_url);
        let length = bytes.to_string();
        let signed = headers.iter().map(|(name, value)| (*name, value.as_str())).chain([("content-length", &*length)]);
        let request = SignableRequest::new("PUT", &*address, signed, SignableBody::UnsignedPayload)
            .map_err(|error| failed(error.into()))?;
        let (instructions, _) = sign(request, &params).map_err(|error| failed(error.into()))?.into_parts();
        let mut request = http::Request::put(&address).body(()).map_err(|error| failed(error.into()))?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(request.uri().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "photos/6a1f0a9e-2f86-4b3c-9d5e-0a4f7f2f3b11.jpg";

    /// The signatures are those that botocore 1.44.5 (`S3SigV4QueryAuth`) makes of the same requests.
    #[test]
    fn signatures_are_those_of_another_implementation() {
        let check = |endpoint: Option<&str>, expected_url: &str, expected_signature: &str| {
            let region = "eu-central-1".to_owned();
            let client = Presigner { bucket_url: bucket_url("photos-bucket", &region, endpoint), region };
            let credentials = Credentials::new("AKIDEXAMPLE", "secret", Some("token".to_owned()), None, "test");
            // 2026-01-02 03:04:05 UTC.
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
            let url = client.put_object(KEY, &required_headers(PhotoType::Jpeg), 12_345, credentials, now).unwrap();
            let (address, query) = url.split_once('?').unwrap();
            assert_eq!(address, format!("{expected_url}/{KEY}"));
            let query: Vec<&str> = query.split('&').collect();
            let signed = "X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost%3Bif-none-match";
            assert!(query.contains(&signed), "{query:?}");
            assert!(
                query.contains(&"X-Amz-Date=20260102T030405Z") && query.contains(&"X-Amz-Expires=300"),
                "{query:?}"
            );
            assert!(query.contains(&&*format!("X-Amz-Signature={expected_signature}")), "{query:?}");
        };
        check(
            Some("http://127.0.0.1:5000/"),
            "http://127.0.0.1:5000/photos-bucket",
            "5d25557c4b58201e0fa2c5fd68c472a50e7ddc107e4116010841f92b2ad4eedf",
        );
        check(
            None,
            "https://photos-bucket.s3.eu-central-1.amazonaws.com",
            "0b69431441bbb64b242ba7af8a43c005e795cf2fae65e39ace85f682406ba05d",
        );
    }

    #[test]
    fn bucket_names_are_those_that_a_host_name_takes() {
        for name in ["abc", "flash-auction-photos", "1photo"] {
            assert!(PhotoBucket::is_name(name), "{name}");
        }
        for name in ["", "ab", "-abc", "abc-", "a.b.c", "Photos", "a/b", "photos ", &"a".repeat(64)] {
            assert!(!PhotoBucket::is_name(name), "{name}");
        }
    }
}
