//! The files of the web page, embedded in the program: `/`, `/page/…`, `/client.js` and `/config.json`.
//!
//! Everything is prepared at the start: the compressed form of each file, its tag, and the headers that all files share.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha1::{Digest, Sha1};
use warp::Reply;
use warp::reply::Response;

use crate::page_config::PageConfig;

/// Bytes from which a file is compressed. Below it the headers of gzip eat what is saved.
const COMPRESS_FROM_BYTES: usize = 256;
/// Bytes of the digest in a tag. Versions of a file differ in it; it protects nothing.
const TAG_BYTES: usize = 12;

const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";
const JSON: &str = "application/json";

/// An embedded file: its path, its type and its content.
type Embedded = (&'static str, &'static str, &'static [u8]);

macro_rules! files {
    ($($kind:ident $($name:literal)+;)+) => {
        &[$($((concat!("/page/", $name), $kind, include_bytes!(concat!("../page/", $name))),)+)+]
    };
}

/// The files below `/page/`. A test compares them with the directory and with the references between the files.
const FILES: &[Embedded] = files! {
    STYLE "style.css" "views.css";
    IMAGE "icon.svg";
    JAVASCRIPT "alerts.js" "api.js" "bidbutton.js" "countdown.js" "dom.js" "en.js" "lead.js" "live.js" "main.js"
        "messages.js" "money.js" "pkce.js" "prebid.js" "room.js" "session.js" "shell.js" "store.js" "text.js" "verify.js"
        "views/bidbar.js" "views/console.js" "views/create.js" "views/lot.js" "views/lots.js" "views/media.js"
        "views/mine.js" "views/parts.js" "views/photos.js" "views/prebid.js" "views/sell.js" "views/start.js"
        "views/talk.js" "views/verify.js";
};

/// The other files.
const ROOT_FILES: &[Embedded] =
    &[("/", HTML, include_bytes!("../page/index.html")), ("/client.js", JAVASCRIPT, include_bytes!("client.js"))];

/// One file as it is sent.
struct File {
    kind: &'static str,
    tag: HeaderValue,
    plain: Bytes,
    /// None if compression gains nothing.
    gzip: Option<Bytes>,
}

/// All files of the page by path. A cheap handle.
#[derive(Clone)]
pub struct Page(Arc<Prepared>);

struct Prepared {
    files: HashMap<&'static str, File>,
    /// Headers of every file.
    headers: HeaderMap,
}

impl Page {
    /// Compresses the files and writes `/config.json`.
    ///
    /// # Errors
    /// When the policy that follows from the configuration is no header.
    pub fn new(config: &PageConfig) -> anyhow::Result<Self> {
        let embedded = FILES.iter().chain(ROOT_FILES);
        let mut files: HashMap<_, _> =
            embedded.map(|(path, kind, content)| (*path, File::new(kind, Bytes::from_static(content)))).collect();
        files.insert("/config.json", File::new(JSON, serde_json::to_vec(config)?.into()));
        let policy = HeaderValue::from_str(&config.content_security_policy())?;
        let headers = [
            (header::CONTENT_SECURITY_POLICY, policy),
            // A module of another version must not be taken from the cache without asking.
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (
                HeaderName::from_static("permissions-policy"),
                HeaderValue::from_static("camera=(), microphone=(), geolocation=()"),
            ),
            (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
        ];
        Ok(Self(Arc::new(Prepared { files, headers: headers.into_iter().collect() })))
    }

    /// The reply to a request for this path. None if there is no such file.
    pub fn get(&self, path: &str, request: &HeaderMap) -> Option<Response> {
        let file = self.0.files.get(path)?;
        let is_known = request.get(header::IF_NONE_MATCH).is_some_and(|known| matches(known, &file.tag));
        let mut response = if is_known {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let gzip = file.gzip.as_ref().filter(|_| accepts_gzip(request));
            let mut response = Response::new(gzip.unwrap_or(&file.plain).clone().into());
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
            if gzip.is_some() {
                response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        };
        let headers = response.headers_mut();
        headers.extend(self.0.headers.clone());
        headers.insert(header::ETAG, file.tag.clone());
        Some(response)
    }
}

impl File {
    fn new(kind: &'static str, plain: Bytes) -> Self {
        // Weak: both forms of a file have one tag.
        let digest = Sha1::digest(&plain);
        let mut tag = "W/\"".to_owned();
        for byte in digest.iter().take(TAG_BYTES) {
            // Writing to a text cannot fail.
            let _ = write!(tag, "{byte:02x}");
        }
        tag.push('"');
        let gzip = compressed(&plain).filter(|gzip| gzip.len() < plain.len());
        // Hexadecimal digits are always a header.
        let tag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("W/\"\""));
        Self { kind, tag, plain, gzip }
    }
}

fn compressed(plain: &[u8]) -> Option<Bytes> {
    if plain.len() < COMPRESS_FROM_BYTES {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Into memory: this cannot fail.
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// Whether `If-None-Match` names this tag, by the weak comparison of RFC 9110, 8.8.3.2.
fn matches(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(known), Ok(tag)) = (known.to_str(), tag.to_str()) else { return false };
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    known.split(',').any(|one| one.trim() == "*" || opaque(one) == opaque(tag))
}

/// Whether the client takes gzip: it is named, and not with a weight of 0 (RFC 9110, 12.5.3).
fn accepts_gzip(request: &HeaderMap) -> bool {
    let lines = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let mut codings = lines.flat_map(|line| line.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().trim_start_matches("q=").parse().unwrap_or(0.0_f32);
        name.trim().eq_ignore_ascii_case("gzip") && weight > 0.0
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read as _;
    use std::path::Path;

    use http_body_util::BodyExt;

    use super::*;

    fn page() -> Page {
        Page::new(&PageConfig::default()).expect("a page")
    }

    fn request(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header"))])
    }

    async fn body(response: Response) -> Vec<u8> {
        response.into_body().collect().await.expect("a body").to_bytes().to_vec()
    }

    /// The files in the directory of the page that are meant for browsers, as paths.
    fn present() -> BTreeSet<String> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let mut found = BTreeSet::new();
        for (folder, prefix) in [(directory.clone(), "/page/"), (directory.join("views"), "/page/views/")] {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let entry = entry.expect("an entry");
                let name = entry.file_name().into_string().expect("a name");
                if entry.path().is_file() && !["README.md", "package.json", "index.html"].contains(&name.as_str()) {
                    found.insert(format!("{prefix}{name}"));
                }
            }
        }
        found
    }

    #[test]
    fn every_file_of_the_page_is_embedded_and_nothing_else() {
        let embedded: BTreeSet<String> = FILES.iter().map(|(path, ..)| (*path).to_owned()).collect();
        assert_eq!(embedded, present());
        for absent in
            ["/page/README.md", "/page/package.json", "/page/tests/money.test.js", "/page/index.html", "/page/"]
        {
            assert!(page().get(absent, &HeaderMap::new()).is_none(), "{absent}");
        }
    }

    /// Absolute paths in quotes of every file, and relative imports of modules, lead to a file that is served.
    #[test]
    fn every_referenced_file_is_served() {
        let (page, mut references) = (page(), 0);
        for (path, kind, content) in FILES.iter().chain(ROOT_FILES) {
            let text = std::str::from_utf8(content).expect("text");
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let quoted = text.split(['"', '\'']).filter(|text| !text.contains(char::is_whitespace));
            for reference in quoted.filter(|text| [".js", ".css", ".svg"].iter().any(|end| text.ends_with(end))) {
                let found = match reference.split_once('/') {
                    Some(("", _)) => reference.to_owned(),
                    Some((".", name)) => format!("{folder}/{name}"),
                    Some(("..", name)) => format!("{}/{name}", folder.rsplit_once('/').map_or("", |(up, _)| up)),
                    _ => continue,
                };
                references += 1;
                // The types of the client are for editors and `tsc`.
                assert!(found == "/src/client.js" || page.get(&found, &HeaderMap::new()).is_some(), "{path}: {found}");
            }
            assert!(*kind != HTML || text.contains("/page/main.js"), "{path}");
        }
        assert!(references > 60, "the references were not found: {references}");
    }

    #[tokio::test]
    async fn client_gets_the_form_that_it_accepts() {
        let page = page();
        for (accepted, is_compressed) in
            [("gzip, br", true), ("br;q=1, GZIP;q=0.5", true), ("gzip;q=0", false), ("identity", false), ("", false)]
        {
            let response = page.get("/page/main.js", &request(header::ACCEPT_ENCODING, accepted)).expect("a file");
            assert_eq!(response.headers().contains_key(header::CONTENT_ENCODING), is_compressed, "{accepted}");
            assert_eq!(response.headers()[header::VARY], "accept-encoding");
            let sent = body(response).await;
            let mut text = Vec::new();
            if is_compressed {
                flate2::read::GzDecoder::new(sent.as_slice()).read_to_end(&mut text).expect("gzip");
            } else {
                text = sent;
            }
            assert_eq!(text, include_bytes!("../page/main.js"), "{accepted}");
        }
    }

    #[tokio::test]
    async fn known_file_is_not_sent_again() {
        let page = page();
        let response = page.get("/", &HeaderMap::new()).expect("a file");
        let tag = response.headers()[header::ETAG].to_str().expect("text").to_owned();
        for (known, status) in [
            (tag.clone(), 304),
            (tag.trim_start_matches("W/").to_owned(), 304),
            (format!("\"other\", {tag}"), 304),
            ("*".to_owned(), 304),
            ("\"other\"".to_owned(), 200),
        ] {
            let response = page.get("/", &request(header::IF_NONE_MATCH, &known)).expect("a file");
            assert_eq!(response.status(), status, "{known}");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
            assert!(response.headers().contains_key(header::CONTENT_SECURITY_POLICY), "{known}");
            assert_eq!(body(response).await.is_empty(), status == 304, "{known}");
        }
    }
}
