//! `flash watch` and `flash top` without a terminal, against a running edge; request ids and log lines of services.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::http;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use crate::test_system::{TestSystem, program};

/// Time for a line to be printed. `top` prints after two rounds, two seconds apart.
const PRINTED_WITHIN: Duration = Duration::from_secs(10);

/// The program with these arguments, the edge of the system and a pipe in place of a terminal.
fn flash(system: &TestSystem, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).args(["--url", system.stack.url(Name::Websocket)]);
    if let Some(tls) = &system.stack.servers.tls {
        command.arg("--ca-file").arg(&tls.authority.ca_file);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    let next = tokio::time::timeout(PRINTED_WITHIN, lines.next_line()).await.context("no line in time")??;
    next.context("the output ended")
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_prints_bids_and_the_end_and_top_lists_the_auction() -> Result<()> {
    let system = TestSystem::start("watch").await?;
    let id = system.auction(&json!({"title": "Cello, 1780", "duration": 600, "starting_bid": 1})).await?;
    let mut watching = flash(&system, &["watch", &id]).spawn()?;
    let mut lines = BufReader::new(watching.stdout.take().context("an output")?).lines();
    let first = line(&mut lines).await?;
    assert!(first.starts_with("Cello, 1780: live, 0 bids"), "{first}");

    assert_eq!(system.bid("anna", &id, &json!(1234.5)).await?.status, 200);
    let mut printed = line(&mut lines).await?;
    // The connection itself may be news before the bid is.
    while printed.contains("joined") || printed.contains("left") {
        printed = line(&mut lines).await?;
    }
    assert!(printed.starts_with("anna bids 1,234.50"), "{printed}");

    let top = tokio::time::timeout(PRINTED_WITHIN, flash(&system, &["top"]).output()).await??;
    let report = String::from_utf8(top.stdout)?;
    assert!(top.status.success() && report.contains(" live auctions, "), "{report}");
    let row = report.lines().find(|line| line.contains(&id)).context("a row of the auction")?;
    assert!(row.contains("1,234.50") && row.contains("anna") && row.ends_with("Cello, 1780"), "{row}");
    assert!(!report.contains("TROUBLE"), "{report}");

    let close = system.management(&format!("/auctions/{id}/close"));
    assert_eq!(http::post(&close, Some(&system.token("host")?), &json!({})).await?.status, 200);
    let mut last = line(&mut lines).await?;
    while !last.starts_with("SOLD") {
        last = line(&mut lines).await?;
    }
    assert!(last.starts_with("SOLD to anna for 1,234.50"), "{last}");
    let status = tokio::time::timeout(PRINTED_WITHIN, watching.wait()).await??;
    assert!(status.success(), "{status}");
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_of_an_auction_that_does_not_exist_fails_with_its_sentence() -> Result<()> {
    let system = TestSystem::start("watch-nothing").await?;
    let id = uuid::Uuid::new_v4().to_string();
    let watched = flash(&system, &["watch", &id]).output();
    let output = tokio::time::timeout(PRINTED_WITHIN, watched).await??;
    let errors = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("There is no such auction"), "{errors}");
    system.end().await;
    Ok(())
}

/// Every door returns the request's id. The lines of a service name it, the service, and a refused bid.
#[tokio::test(flavor = "multi_thread")]
async fn refused_bid_and_request_are_found_in_the_log() -> Result<()> {
    let settings = vec![("RUST_LOG".to_owned(), "info,bid_processing=debug,service=debug".to_owned())];
    let system = TestSystem::with("found-bid", settings, true).await?;
    for name in Name::ALL {
        let health = format!("{}/health", system.stack.url(name));
        let reply = http::send(http::request("GET", &health, None).header("x-request-id", "mine-7").body("".into())?);
        assert_eq!(reply.await?.headers["x-request-id"], "mine-7", "{}", name.text());
        let made = http::get(&health, None).await?;
        uuid::Uuid::parse_str(made.headers["x-request-id"].to_str()?)?;
    }
    let id = system.auction(&json!({"title": "Vase", "duration": 600, "starting_bid": 10})).await?;
    let bid_id = uuid::Uuid::new_v4().to_string();
    let bid = json!({"auction_id": id, "bid_id": bid_id, "amount": 1});
    let refused = system.bid_at(0, &system.token("anna")?, &bid).await?;
    assert_eq!(refused.json["code"], "bid_too_low", "{}", refused.text);
    let request_id = refused.headers["x-request-id"].to_str()?;

    let lines = log_lines(&system, "bid-processing-")?;
    let about_bid =
        lines.iter().find(|line| line["fields"]["bid_id"] == bid_id.as_str()).context("a line of the bid")?;
    assert_eq!(about_bid["fields"]["code"], "bid_too_low", "{about_bid}");
    assert_eq!(about_bid["fields"]["auction_id"], id.as_str(), "{about_bid}");
    assert_eq!(about_bid["span"]["request_id"], request_id, "{about_bid}");
    let is_of_request =
        |line: &&Value| line["span"]["request_id"] == request_id && line["fields"]["message"] == "answered a request";
    let about_request = lines.iter().find(is_of_request).context("a line of the request")?;
    assert_eq!(about_request["fields"]["status"], refused.status, "{about_request}");
    let opened =
        |line: &&Value| line["fields"]["message"] == "auction opened" && line["fields"]["auction_id"] == id.as_str();
    assert_eq!(lines.iter().filter(opened).count(), 1);
    for line in &lines {
        ensure!(line["service"] == "bid-processing" && line["instance"].is_string(), "{line}");
    }
    system.end().await;
    Ok(())
}

/// The lines of the log files whose names begin like this.
fn log_lines(system: &TestSystem, prefix: &str) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(system.path().join("logs"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let text = std::fs::read_to_string(entry.path())?;
            lines.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
        }
    }
    ensure!(!lines.is_empty(), "no log of {prefix}");
    Ok(lines)
}
