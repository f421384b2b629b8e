//! The settings of auction-management.

use std::time::Duration;

use cloud::PhotoBucket;
use domain::Amount;
use service::http::HttpSettings;
use service::{Environment, Listen, Mistakes, Reader};
use store::HostLimits;

/// Everything that the environment sets.
#[derive(Clone)]
pub struct Config {
    /// Address and port of the HTTP API.
    pub listen: Listen,
    /// Limits of the HTTP server.
    pub http: HttpSettings,
    /// PostgreSQL.
    pub database_url: String,
    /// Redis; cluster or single node.
    pub redis: hotstate::Settings,
    /// NATS.
    pub nats: bus::Settings,
    /// Region and endpoint of AWS.
    pub aws: cloud::Settings,
    /// DynamoDB table of the bid history.
    pub bids_table: String,
    /// SQS queue of the notifications.
    pub queue_url: String,
    /// Bucket of the photos; None where hosts give addresses only.
    pub photo_bucket: Option<PhotoBucket>,
    /// Seconds from an auction's end to the removal of its video channel.
    pub video_linger_seconds: u64,
    /// Time between two questions which hosts stream. None: IVS is not asked.
    pub stream_state_interval: Option<Duration>,
    /// Issuer and audience of the accepted tokens.
    pub identity: identity::Settings,
    /// Whether everyone but an auction's host sees aliases in place of names. The same setting as in websocket.
    pub show_aliases: bool,
    /// Rules of an auction whose host sets none.
    pub defaults: Defaults,
    /// Most auctions of one host.
    pub limits: HostLimits,
}

/// Rules of an auction whose host sets none.
#[derive(Clone)]
pub struct Defaults {
    /// ISO 4217 code of a currency with two decimals.
    pub currency: String,
    /// Smallest step between two bids.
    pub increment: Amount,
    /// A bid this close to the end extends the auction.
    pub anti_snipe_window_seconds: u64,
    /// Seconds that one extension adds.
    pub anti_snipe_extension_seconds: u64,
    /// Most extensions of one auction.
    pub max_extensions: u32,
}

/// Port if `LISTEN_ADDRESS` is not set.
const DEFAULT_PORT: u16 = 8000;
/// Seconds that a channel outlives its auction, for viewers who still watch after the end. CONTRACT.md, Video.
const DEFAULT_LINGER_SECONDS: u64 = 300;
/// Seconds between two questions which hosts stream: one call of five a second that IVS takes from an account, and soon
/// enough for people who wait for a picture.
const DEFAULT_STREAM_STATE_SECONDS: u64 = 5;
/// Open auctions of one host. Far more than a person presents, few enough that one account cannot use up log and video.
const DEFAULT_OPEN_AUCTIONS: u32 = 100;
/// Creations of one host in an hour. A catalogue can be entered in one go; a loop is stopped.
const DEFAULT_AUCTIONS_PER_HOUR: u32 = 200;
/// Cents of the default increment.
const ONE_UNIT_CENTS: u64 = 100;
/// ISO 4217 currencies whose minor unit is not a hundredth.
const OTHER_DECIMALS: [&str; 24] = [
    "BHD", "BIF", "CLF", "CLP", "DJF", "GNF", "IQD", "ISK", "JOD", "JPY", "KMF", "KRW", "KWD", "LYD", "OMR", "PYG",
    "RWF", "TND", "UGX", "UYI", "VND", "VUV", "XAF", "XPF",
];

impl Config {
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let config = Self {
            listen: reader.listen(DEFAULT_PORT),
            http: HttpSettings::read(&mut reader),
            database_url: reader.required("DATABASE_URL"),
            redis: reader.part(hotstate::Settings::read),
            nats: reader.part(bus::Settings::read),
            aws: reader.part(cloud::Settings::read),
            bids_table: reader.required("DYNAMODB_BIDS_TABLE"),
            queue_url: reader.required("SQS_NOTIFICATION_QUEUE_URL"),
            photo_bucket: photo_bucket(&mut reader),
            video_linger_seconds: reader.parsed("VIDEO_LINGER_SECONDS", DEFAULT_LINGER_SECONDS, "whole seconds"),
            stream_state_interval: stream_state_interval(&mut reader),
            identity: reader.part(identity::Settings::read),
            show_aliases: reader.parsed("SHOW_ALIASES", false, "true or false"),
            defaults: Defaults::read(&mut reader),
            limits: HostLimits {
                open: reader.above_0("MAX_OPEN_AUCTIONS_PER_USER", DEFAULT_OPEN_AUCTIONS),
                in_an_hour: reader.above_0("MAX_AUCTIONS_PER_USER_PER_HOUR", DEFAULT_AUCTIONS_PER_HOUR),
            },
        };
        reader.finish(config)
    }
}

/// `STREAM_STATE_INTERVAL_SECONDS`; 0 is never.
fn stream_state_interval(reader: &mut Reader<'_>) -> Option<Duration> {
    let seconds = reader.read(
        "STREAM_STATE_INTERVAL_SECONDS",
        DEFAULT_STREAM_STATE_SECONDS,
        "whole seconds from 0 to 60",
        |text| text.parse().ok().filter(|seconds| *seconds <= 60),
    );
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// `UPLOADS_BUCKET` and `UPLOADS_PUBLIC_URL`.
fn photo_bucket(reader: &mut Reader<'_>) -> Option<PhotoBucket> {
    let expected = "3 to 63 lower-case letters, digits and hyphens";
    let name =
        reader.read("UPLOADS_BUCKET", None, expected, |text| PhotoBucket::is_name(text).then(|| Some(text.to_owned())));
    let address = |text: &str| {
        let uri = text.parse::<http::Uri>().ok()?;
        let is_web =
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none();
        is_web.then(|| Some(text.trim_end_matches('/').to_owned()))
    };
    let public_url = reader.read("UPLOADS_PUBLIC_URL", None, "an http or https address without a query", address);
    if name.is_none() && public_url.is_some() {
        reader.mistake("UPLOADS_PUBLIC_URL needs UPLOADS_BUCKET");
    }
    name.map(|name| PhotoBucket { name, public_url })
}

impl Defaults {
    fn read(reader: &mut Reader<'_>) -> Self {
        let seconds = |reader: &mut Reader<'_>, name| {
            reader.read(name, 30, "whole seconds from 0 to 604800", |text| {
                text.parse().ok().filter(|seconds| *seconds <= 604_800)
            })
        };
        let one = Amount::from_stored(ONE_UNIT_CENTS);
        let increment = reader
            .read("MINIMUM_BID_INCREMENT", one, "an amount such as 1.00", |text| Amount::parse(text).ok().map(Some));
        let currency =
            reader.read("CURRENCY", "USD".to_owned(), "an ISO 4217 code of a currency with two decimals", |text| {
                let code = text.len() == 3 && text.bytes().all(|letter| letter.is_ascii_uppercase());
                (code && !OTHER_DECIMALS.contains(&text)).then(|| text.to_owned())
            });
        Self {
            currency,
            increment: increment.unwrap_or_else(|| unreachable!("a hundred cents are an amount")),
            anti_snipe_window_seconds: seconds(reader, "ANTI_SNIPE_THRESHOLD"),
            anti_snipe_extension_seconds: seconds(reader, "ANTI_SNIPE_EXTENSION"),
            max_extensions: reader.parsed("MAX_ANTI_SNIPE_EXTENSIONS", 5, "a whole number"),
        }
    }
}
