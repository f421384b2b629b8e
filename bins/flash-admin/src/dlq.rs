//! `flash-admin dlq`: messages that could not be handled, and putting them back.
//!
//! A record of the log stays in the log when its consumer parks it: putting it back asks the consumer's service to
//! handle it again by its sequence, and then removes the letter. A mail's message is sent to its queue again. Both can be
//! repeated: history and results are keyed by sequence, mails are claimed in PostgreSQL.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bus::{DeadLetter, DeadLetters};
use cloud::{QueueDeadLetters, QueuedLetter};
use protocol::{RedriveRequest, Reply, subject};
use serde_json::{Value, json};
use service::{Environment, Mistakes, Reader};

/// Time for a service to handle one record again: 41 batches for DynamoDB, four at once, of 10 s each at most.
const REDRIVE_TIMEOUT: Duration = Duration::from_secs(120);
/// Letters of one command, if it does not say how many.
const DEFAULT_LIMIT: usize = 100;
/// Characters of a letter's body in a list. `show` prints all.
const SHOWN_CHARACTERS: usize = 120;

/// The arguments of `dlq`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Dlq,
}

/// Where the letters are.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Place {
    /// Records of the log that a consumer could not handle: the stream `AUCTION_DLQ`
    Nats,
    /// Notifications that failed five times: the queue `notification-queue-dlq`
    Sqs,
}

#[derive(Debug, clap::Subcommand)]
enum Dlq {
    /// List dead letters, oldest first
    List {
        #[arg(value_enum)]
        place: Place,
        /// Most letters
        #[arg(long, default_value_t = DEFAULT_LIMIT)]
        limit: usize,
        /// Print JSON, one letter a line
        #[arg(long)]
        json: bool,
    },
    /// Show one dead letter as JSON, with its body
    Show {
        #[arg(value_enum)]
        place: Place,
        /// The letter's number or id, as `list` prints it
        letter: String,
    },
    /// Put dead letters back to their consumer, and remove those that it has handled
    Redrive {
        #[arg(value_enum)]
        place: Place,
        /// The letter's number or id, as `list` prints it
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        letter: Option<String>,
        /// All letters, up to the limit
        #[arg(long)]
        all: bool,
        /// Most letters
        #[arg(long, default_value_t = DEFAULT_LIMIT)]
        limit: usize,
    },
}

/// The settings for letters in NATS.
#[derive(Clone)]
pub struct NatsConfig {
    nats: bus::Settings,
}

impl NatsConfig {
    /// Reads `NATS_URL` and `NATS_CREDS`.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let nats = reader.part(bus::Settings::read);
        reader.finish(Self { nats })
    }
}

/// The settings for letters in SQS.
#[derive(Clone)]
pub struct SqsConfig {
    aws: cloud::Settings,
    queue_url: String,
}

impl SqsConfig {
    /// Reads `AWS_REGION`, `AWS_ENDPOINT_URL`, the credentials and `SQS_NOTIFICATION_QUEUE_URL`.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let (aws, queue_url) = (reader.part(cloud::Settings::read), reader.required("SQS_NOTIFICATION_QUEUE_URL"));
        reader.finish(Self { aws, queue_url })
    }

    async fn letters(&self) -> Result<QueueDeadLetters> {
        let configuration = cloud::configuration(&self.aws).await;
        Ok(QueueDeadLetters::of(&configuration, &self.queue_url).await?)
    }
}

pub(crate) async fn run(arguments: &Arguments, environment: &Environment) -> Result<ExitCode> {
    match &arguments.command {
        Dlq::List { place: Place::Nats, limit, json } => {
            let letters = in_nats(&open(environment).await?.1, *limit).await?;
            let shown = letters.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
            list(&shown, *json);
        }
        Dlq::Show { place: Place::Nats, letter } => {
            let letters = open(environment).await?.1;
            let found = letters.at(number(letter)?).await?.with_context(|| format!("there is no letter {letter}"))?;
            println!("{}", serde_json::to_string_pretty(&found)?);
        }
        Dlq::Redrive { place: Place::Nats, letter, limit, .. } => {
            return redrive_in_nats(environment, letter.as_deref(), *limit).await;
        }
        Dlq::List { place: Place::Sqs, limit, json } => {
            let letters = SqsConfig::read(environment)?.letters().await?;
            let found = letters.receive(*limit, |_| true).await?;
            let shown: Vec<_> = found.iter().map(of_queue).collect();
            for letter in &found {
                letters.release(letter).await?;
            }
            list(&shown, *json);
        }
        Dlq::Show { place: Place::Sqs, letter } => {
            let letters = SqsConfig::read(environment)?.letters().await?;
            let found = letters.receive(1, |found| found.id == *letter).await?;
            let found = found.first().with_context(|| format!("there is no letter {letter}"))?;
            println!("{}", serde_json::to_string_pretty(&of_queue(found))?);
            letters.release(found).await?;
        }
        Dlq::Redrive { place: Place::Sqs, letter, limit, .. } => {
            let letters = SqsConfig::read(environment)?.letters().await?;
            let is_wanted = |found: &QueuedLetter| letter.as_ref().is_none_or(|wanted| found.id == *wanted);
            let most = if letter.is_some() { 1 } else { *limit };
            let found = letters.receive(most, is_wanted).await?;
            ensure!(letter.is_none() || !found.is_empty(), "there is no such letter");
            let mut failed = 0;
            for letter in &found {
                match letters.redrive(letter).await {
                    Ok(()) => println!("{}  sent to the queue again", letter.id),
                    Err(error) => {
                        failed += 1;
                        println!("{}  failed: {:#}", letter.id, anyhow::Error::from(error));
                    }
                }
            }
            return Ok(put_back(found.len(), failed));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(environment: &Environment) -> Result<(bus::Bus, DeadLetters)> {
    let config = NatsConfig::read(environment)?;
    let bus = bus::Bus::connect(&config.nats, "flash-admin dlq").await?;
    let letters = DeadLetters::open(&bus).await?;
    Ok((bus, letters))
}

async fn in_nats(letters: &DeadLetters, limit: usize) -> Result<Vec<DeadLetter>> {
    let (mut found, mut from) = (Vec::new(), 1);
    while found.len() < limit
        && let Some(letter) = letters.next(from).await?
    {
        from = letter.letter + 1;
        found.push(letter);
    }
    Ok(found)
}

async fn redrive_in_nats(environment: &Environment, letter: Option<&str>, limit: usize) -> Result<ExitCode> {
    let (bus, letters) = open(environment).await?;
    let wanted = match letter {
        Some(text) => vec![letters.at(number(text)?).await?.with_context(|| format!("there is no letter {text}"))?],
        None => in_nats(&letters, limit).await?,
    };
    let mut failed = 0;
    for letter in &wanted {
        let DeadLetter { letter: number, consumer, .. } = letter;
        // A letter that stays after its record was handled is handled once more by the next run.
        let redriven = async {
            let done = redrive(&bus, letter).await?;
            letters.remove(*number).await?;
            anyhow::Ok(done)
        };
        match redriven.await {
            Ok(done) => println!("{number}  {consumer}  {done}"),
            Err(error) => {
                failed += 1;
                println!("{number}  {consumer}  failed: {error:#}");
            }
        }
    }
    Ok(put_back(wanted.len(), failed))
}

/// Prints how many letters were put back, and fails if one was not.
fn put_back(all: usize, failed: usize) -> ExitCode {
    println!("{} letters put back, {failed} failed", all - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Has a record handled again by the service of its consumer.
async fn redrive(bus: &bus::Bus, letter: &DeadLetter) -> Result<&'static str> {
    let consumer = &letter.consumer;
    let subject = subject::redrive(consumer).with_context(|| format!("no service handles letters of {consumer}"))?;
    let stream_seq = letter.stream_seq.context("the letter does not say which record it was")?;
    let reply: Reply<bool> = bus::request(bus, subject, &RedriveRequest { stream_seq }, REDRIVE_TIMEOUT).await?;
    match reply {
        Reply::Ok(true) => Ok("handled"),
        Reply::Ok(false) => Ok("the log no longer has it"),
        Reply::Failed(failure) => bail!("{} ({})", failure.error, failure.code.name()),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{text} is not the number of a letter"))
}

fn of_queue(letter: &QueuedLetter) -> Value {
    let QueuedLetter { id, sent_at, receives, body, .. } = letter;
    json!({ "letter": id, "sent_at": sent_at, "receives": receives, "body": body })
}

/// Prints letters, one a line: as JSON, or with the beginning of their bodies.
fn list(letters: &[Value], as_json: bool) {
    for letter in letters {
        if as_json {
            println!("{letter}");
            continue;
        }
        let fields = letter.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let line: Vec<String> = fields
            .map(|(name, value)| match value.as_str() {
                Some(text) => format!("{name}={}", text.chars().take(SHOWN_CHARACTERS).collect::<String>()),
                None => format!("{name}={value}"),
            })
            .collect();
        println!("{}", line.join("  "));
    }
    if !as_json {
        println!("{} letters", letters.len());
    }
}
