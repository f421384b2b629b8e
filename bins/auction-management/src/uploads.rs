//! `POST /uploads`: an address to which a person sends one photo.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use admission::{Allowance, Rate};
use cloud::{PhotoType, Uploads};
use domain::UserId;
use protocol::input::Fields;
use protocol::{Code, Failure, MAX_PHOTO_BYTES, Upload};
use warp::http::StatusCode;

use crate::context::{Answered, Context};

/// Addresses for one person and instance: the photos of six auctions at once.
const RATE: Rate = Rate { at_once: 60, per_second: 1 };
/// People remembered. Those with half of their allowance are forgotten first.
const MAX_PEOPLE: usize = 10_000;
/// Longest name of a type that is read.
const MAX_TYPE_CHARACTERS: usize = 100;

/// `/uploads`.
#[derive(Clone)]
pub struct Photos {
    pub context: Context,
    /// None where the deployment has no bucket.
    pub uploads: Option<Arc<Uploads>>,
    allowances: Arc<Mutex<HashMap<UserId, Allowance>>>,
}

impl Photos {
    pub fn new(context: Context, uploads: Option<Uploads>) -> Self {
        Self { context, uploads: uploads.map(Arc::new), allowances: Arc::default() }
    }

    /// `POST /uploads`.
    pub async fn ask(&self, token: Option<&str>, body: &[u8]) -> Answered {
        let user_id = self.context.identity(token).await?.person.user_id;
        let fields = Fields::parse(body)?;
        let photo = photo_type(&fields.text("content_type", 1, MAX_TYPE_CHARACTERS)?)?;
        let size = fields.whole("size", 1, MAX_PHOTO_BYTES)?;
        let Some(uploads) = &self.uploads else {
            let sentence = "Photos cannot be uploaded here; give the addresses of photos that are on the web";
            return Err(Failure::new(Code::NotFound, sentence));
        };
        self.admit(user_id, Instant::now())?;
        let signed = uploads.presign(photo, size).await.map_err(|error| {
            tracing::error!(error = %errors::chain(&error), "failed to sign an upload");
            Failure::from(Code::Unavailable)
        })?;
        let upload = Upload {
            upload_url: &signed.upload_url,
            method: "PUT",
            headers: signed.headers.iter().map(|(name, value)| (*name, value.as_str())).collect(),
            image_url: &signed.image_url,
            expires_in: signed.expires_in_seconds,
        };
        Ok(service::http::json(StatusCode::OK, &upload))
    }

    fn admit(&self, user_id: UserId, now: Instant) -> Result<(), Failure> {
        let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        if allowances.len() >= MAX_PEOPLE {
            allowances.retain(|_, allowance| !allowance.has_recovered(now));
        }
        let is_full = allowances.len() >= MAX_PEOPLE && !allowances.contains_key(&user_id);
        if !is_full && allowances.entry(user_id).or_insert_with(|| Allowance::new(RATE, now)).take(now) {
            Ok(())
        } else {
            Err(Code::RateLimited.into())
        }
    }
}

fn photo_type(content_type: &str) -> Result<PhotoType, Failure> {
    let known = PhotoType::ALL.into_iter().find(|photo| photo.content_type() == content_type);
    known.ok_or_else(|| {
        let all = PhotoType::ALL.map(PhotoType::content_type).join(", ");
        Failure::new(Code::InvalidRequest, format!("content_type must be one of {all}"))
    })
}
