//! The web page in Chromium: scenarios of `tests/page/`, each against a system of its own. Every state that they reach
//! is looked at in two sizes and two colour schemes; the pictures are kept in `target/page/<scenario>/`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flash::stack::Name;
use flash::stack::issuer::Issuer;
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use testkit::crowd::Crowd;
use testkit::install;
use testkit::scratch::tools;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::time::timeout;

use crate::test_system::TestSystem;

/// Time for one scenario. The longest takes a minute on a machine that is not busy.
const WITHIN: Duration = Duration::from_secs(400);
/// Variable under which the first picture of the README is written again.
const UPDATE: &str = "UPDATE_PICTURES";
/// Largest picture in the README, in bytes. It is loaded with every look at the repository.
const MAX_PICTURE_BYTES: u64 = 150 * 1024;

/// A scenario that runs.
struct Scenario {
    system: TestSystem,
    crowd: Option<Crowd>,
    reports: Vec<Value>,
}

impl Scenario {
    const fn new(system: TestSystem) -> Self {
        Self { system, crowd: None, reports: Vec::new() }
    }

    /// Runs the script to its end, answers its requests, and returns its results.
    async fn run(mut self, script: &str, environment: &[(&str, String)]) -> Result<Vec<Value>> {
        let done = timeout(WITHIN, self.play(script, environment)).await;
        done.with_context(|| format!("{script} took longer than {WITHIN:?}"))??;
        // How many bids each of its clients got is the business of other tests.
        drop(self.crowd);
        self.system.end().await;
        Ok(self.reports)
    }

    async fn play(&mut self, script: &str, environment: &[(&str, String)]) -> Result<()> {
        let say = |step: &str| eprintln!("{step} …");
        let (modules, chromium) = (install::ensure_node(&tools(), &say)?, install::ensure_chromium(&say)?);
        let pictures = pictures(script.trim_end_matches(".mjs"));
        if pictures.exists() {
            std::fs::remove_dir_all(&pictures)?;
        }
        let mut node = Command::new("node")
            .arg(sources().join(script))
            .env("MODULES", modules)
            .env("CHROMIUM", chromium)
            .env("PAGE", self.system.stack.page_url())
            .env("SCREENSHOTS", &pictures)
            // Over TLS the certificate of the stack's own authority is none of node's business.
            .env("NODE_TLS_REJECT_UNAUTHORIZED", "0")
            .envs(environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut answers = node.stdin.take().context("stdin")?;
        let mut lines = BufReader::new(node.stdout.take().context("stdout")?).lines();
        while let Some(line) = lines.next_line().await? {
            let line: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            if line["report"].is_string() {
                eprintln!("{line}");
                self.reports.push(line);
            } else {
                self.answer(&line, &mut answers).await?;
            }
        }
        let status = node.wait().await?;
        ensure!(status.success(), "{script} failed; what each person saw last is in {}", pictures.display());
        ensure!(self.reports.iter().any(|line| line["report"] == "done"), "{script} ended early");
        Ok(())
    }

    /// Answers one request of a script.
    async fn answer(&mut self, request: &Value, answers: &mut ChildStdin) -> Result<()> {
        let data = &request["data"];
        let answer = match request["what"].as_str().unwrap_or_default() {
            "token" => json!(token(&self.system.stack.issuer, data)?),
            "kill edge" => {
                self.system.stack.kill_and_restart_instance(Name::Websocket, 0).await?;
                Value::Null
            }
            "restart edge" => {
                self.system.stack.restart_instance(Name::Websocket, 0).await?;
                Value::Null
            }
            "crowd" => {
                self.enter(data).await?;
                Value::Null
            }
            other => bail!("the script asks for {other}"),
        };
        answers.write_all(format!("{}\n", json!({ "data": answer })).as_bytes()).await?;
        Ok(())
    }

    /// Lets a crowd into an auction.
    async fn enter(&mut self, data: &Value) -> Result<()> {
        let (id, count) =
            (data["auction_id"].as_str().context("an auction")?, data["count"].as_u64().context("a count")?);
        let tokens = flash::stack::issuer::tokens(&self.system.stack.issuer, count).await?;
        let edges = vec![self.system.stack.url(Name::Websocket).to_owned()];
        self.crowd = Some(Crowd::enter(edges, id, tokens, 0).await?);
        Ok(())
    }
}

fn token(issuer: &Issuer, data: &Value) -> Result<String> {
    let name = data["name"].as_str().context("a name")?;
    issuer.token_of(&DevelopmentUser::named(name), data["seconds"].as_u64().context("seconds")?)
}

/// The directory of the scripts.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page")
}

/// The directory of a scenario's pictures.
fn pictures(scenario: &str) -> PathBuf {
    testkit::scratch::target().join("page").join(scenario)
}

/// From the sign-in to the result, by mouse and keyboard, with a reload at every stage, a restart of the edge and tokens
/// that end in the middle, and two clocks that are ten minutes wrong.
#[tokio::test(flavor = "multi_thread")]
async fn three_people_and_a_host_take_an_auction_to_its_end() -> Result<()> {
    let scenario = Scenario::new(TestSystem::start("page-auction").await?);
    let picture = picture();
    let environment =
        if std::env::var_os(UPDATE).is_some() { vec![("PICTURE", picture.display().to_string())] } else { Vec::new() };
    scenario.run("auction.mjs", &environment).await?;
    let size = std::fs::metadata(&picture).with_context(|| format!("{UPDATE}=1 writes the picture"))?.len();
    ensure!(size <= MAX_PICTURE_BYTES, "{} has {size} bytes", picture.display());
    Ok(())
}

/// The picture of the page in the README.
fn picture() -> PathBuf {
    sources().join("lot.webp")
}

/// The countdown says "confirming" at zero; the end is shown when the server has sent it. Unknown, cancelled and
/// foreign auctions have their messages.
#[tokio::test(flavor = "multi_thread")]
async fn late_bid_extends_and_the_server_alone_ends_the_auction() -> Result<()> {
    let scenario = Scenario::new(TestSystem::start("page-ends").await?);
    scenario.run("ends.mjs", &[]).await?;
    Ok(())
}

/// A lot that opens later: its countdown, the form for a maximum with its refusals, and the opening.
#[tokio::test(flavor = "multi_thread")]
async fn maximums_set_before_the_opening_are_bid_at_it() -> Result<()> {
    let scenario = Scenario::new(TestSystem::start("page-prebids").await?);
    scenario.run("prebids.mjs", &[]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_texts_and_lost_networks_harm_nothing() -> Result<()> {
    let scenario = Scenario::new(TestSystem::start("page-input").await?);
    scenario.run("input.mjs", &[]).await?;
    Ok(())
}

/// Runs the scenario with many bids, and this number of bots that watch.
async fn measure_frames(system: TestSystem, bots: usize, seconds: usize, least_updates: usize) -> Result<()> {
    let environment = [("BOTS", bots), ("SECONDS", seconds), ("LEAST_UPDATES", least_updates)];
    let environment = environment.map(|(name, value)| (name, value.to_string()));
    Scenario::new(system).run("frames.mjs", &environment).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frame_takes_less_than_50_ms_at_many_updates_a_second() -> Result<()> {
    Box::pin(measure_frames(TestSystem::start("page-frames").await?, 20, 10, 10)).await
}

/// The same with 2,000 bots in the auction.
#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn frame_takes_less_than_50_ms_among_two_thousand_bots() -> Result<()> {
    let settings = vec![("MAX_CONNECTIONS_PER_ADDRESS".to_owned(), "5000".to_owned())];
    let system = TestSystem::with("page-crowd", settings, true).await?;
    Box::pin(measure_frames(system, 2_000, 20, 10)).await
}
