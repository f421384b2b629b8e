//! The running system is judged: an honest auction holds every invariant, and each auction with a deliberate mistake
//! (`service::fault`, made inside a service or in the backend of `faulty-service`) is caught by the invariant that
//! forbids it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use checker::history::History;
use checker::{Demands, Invariant, check, report};
use flash::stack::Name;
use flash::stack::recorder::{Recorder, books, now};
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use service::fault::FaultPoint;
use testkit::Signal;
use testkit::bidder::{minimum_bid, new_bid};
use testkit::http::Caller;
use tokio::time::Instant;

use crate::test_system::TestSystem;

/// Fault points, each with the invariant that it violates.
const WRONG: [(FaultPoint, Invariant); 18] = [
    (FaultPoint::SkipAppend, Invariant::Durable),
    (FaultPoint::LogBidTwice, Invariant::Dense),
    (FaultPoint::LogOtherAmount, Invariant::Dense),
    (FaultPoint::ForgetExtension, Invariant::Legal),
    (FaultPoint::InflateMinimumBid, Invariant::JustRefusals),
    (FaultPoint::AnswerFromThePast, Invariant::JustRefusals),
    (FaultPoint::ForgetBidId, Invariant::Idempotent),
    (FaultPoint::CloseLate, Invariant::OneClose),
    (FaultPoint::ForgetResult, Invariant::OneWinner),
    (FaultPoint::EverybodyWins, Invariant::OneWinner),
    (FaultPoint::ForgetHistory, Invariant::History),
    (FaultPoint::MailTwice, Invariant::Notified),
    (FaultPoint::ForgetLoser, Invariant::Notified),
    (FaultPoint::HideBid, Invariant::Sockets),
    (FaultPoint::RepeatFrame, Invariant::Sockets),
    (FaultPoint::LeakToken, Invariant::Secrets),
    (FaultPoint::SkipRebuild, Invariant::Recovery),
    (FaultPoint::AskManagementFirst, Invariant::NarrowPath),
];
/// Name of the auction without a fault point.
const HONEST: &str = "honest";

/// Duration of each auction. Its first two bids extend it by a second each.
const DURATION: Duration = Duration::from_secs(13);
/// Time from the opening until every auction without a defect has ended.
const OVER_AFTER: Duration = Duration::from_secs(17);
/// Interval between the bids of one auction.
const BID_EVERY: Duration = Duration::from_millis(250);
/// Cents of a bid that is too low. Every auction starts at 1.00.
const TOO_LOW_CENTS: u64 = 50;

struct Lot {
    id: String,
    bidders: [DevelopmentUser; 2],
    watcher: DevelopmentUser,
}

/// Lets two bidders outbid each other over HTTP. Each accepted bid is repeated: under the same id it is the same bid.
async fn bid(recorder: Arc<Recorder>, url: String, lot: Arc<Lot>, tokens: [String; 2], until: Instant) {
    let (caller, mut cents, mut turn) = (Caller::new(), 100, 0);
    while Instant::now() < until {
        let (user, token) = (&lot.bidders[turn % 2], &tokens[turn % 2]);
        let bid = new_bid(&lot.id, cents);
        for _ in 0..2 {
            let sent = now();
            let answer = caller.post(&url, Some(token), &bid).await.ok();
            recorder.call(user, &bid, sent, answer.as_ref().map(|answer| &answer.json));
            let Some(answer) = answer else { continue };
            if answer.status != 200 {
                break;
            }
            cents = minimum_bid(&answer.json).unwrap_or(cents + 100);
        }
        turn += 1;
        tokio::time::sleep(BID_EVERY).await;
    }
}

/// Watches, and places bids that are too low, until `until`.
async fn watch(system: &TestSystem, recorder: Arc<Recorder>, lot: Arc<Lot>, until: Instant) -> Result<()> {
    let (user, mut socket) = (&lot.watcher, system.socket(&lot.watcher.name).await?);
    let mut asked: HashMap<u64, (Value, u64)> = HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(900));
    socket.request("join_auction", json!({"auction_id": lot.id}), 0).await?;
    for id in 1.. {
        tokio::select! {
            frame = socket.next() => {
                let frame = frame?;
                if let Some((bid, sent)) = frame["id"].as_u64().and_then(|id| asked.remove(&id)) {
                    recorder.call(user, &bid, sent, Some(&frame["data"]));
                }
                recorder.frame(&user.name, user, &frame, None);
            }
            _ = ticks.tick() => {
                let bid = new_bid(&lot.id, TOO_LOW_CENTS);
                asked.insert(id, (bid.clone(), now()));
                socket.request("place_bid", bid, id).await?;
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    Ok(())
}

/// The lines of the recorded history that are about one auction.
fn part(text: &str, id: &str) -> Result<String> {
    let is_about = |line: &str| -> Result<bool> {
        let value: Value = serde_json::from_str(line)?;
        let whose = [&value, &value["record"], &value["row"], &value["data"]].map(|part| part["auction_id"].as_str());
        Ok(whose.contains(&Some(id)) || value["kind"] == "fault" || value["kind"] == "secret")
    };
    let mut part = String::new();
    for line in text.lines() {
        if is_about(line)? {
            part += line;
            part.push('\n');
        }
    }
    Ok(part)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_point_is_caught_by_its_invariant() -> Result<()> {
    let system = TestSystem::start_with("wrong", |options| {
        options.processes = Some(env!("CARGO_BIN_EXE_faulty-service").into());
        let file = options.directory.join("fault-points.json").display().to_string();
        options.settings = vec![("FAULT_POINTS".to_owned(), file)];
    })
    .await?;
    let recorder = Arc::new(Recorder::default());
    let names: Vec<&str> = WRONG.iter().map(|(point, _)| point.name()).chain([HONEST]).collect();
    let snipe = json!({"mode": "extend", "window": 13, "extension": 1, "max_extensions": 2});
    let (mut lots, mut people, mut points) = (Vec::new(), Vec::new(), HashMap::new());
    for (nth, point) in names.iter().enumerate() {
        let title = format!("Lot {nth} of {point}");
        let lot = json!({"title": title, "duration": DURATION.as_secs(), "starting_bid": 1, "anti_snipe": snipe});
        let host = format!("host-{nth}");
        let created = system.create(&host, &lot).await?;
        let id = created["auction_id"].as_str().context("an id")?.to_owned();
        recorder.secret(created["ivs_stream_key"].as_str().unwrap_or_default());
        let person = |role: &str| DevelopmentUser::named(&format!("{role}-{nth}"));
        let lot = Lot { id: id.clone(), bidders: [person("anna"), person("ben")], watcher: person("carl") };
        people.extend([person("host"), lot.bidders[0].clone(), lot.bidders[1].clone(), lot.watcher.clone()]);
        points.insert(id, *point);
        lots.push(Arc::new(lot));
    }
    people.iter().for_each(|person| recorder.secret(&person.email));
    testkit::write_private(&system.path().join("fault-points.json"), &serde_json::to_vec(&points)?)?;

    let until = Instant::now() + OVER_AFTER;
    let url = format!("{}/bids", system.stack.url(Name::BidProcessing));
    let mut bidding = Vec::new();
    for lot in &lots {
        let tokens = [system.token(&lot.bidders[0].name)?, system.token(&lot.bidders[1].name)?];
        bidding.push(tokio::spawn(bid(Arc::clone(&recorder), url.clone(), Arc::clone(lot), tokens, until)));
    }
    let watching = lots.iter().map(|lot| watch(&system, Arc::clone(&recorder), Arc::clone(lot), until));
    let watching = futures_util::future::join_all(watching);
    let faults = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let from = now();
        // Its process is stopped: requests that need it wait.
        let mut instances = system.stack.instances.iter();
        let management = instances.find(|instance| instance.name == Name::AuctionManagement).context("an instance")?;
        management.signal(Signal::Stop)?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        management.signal(Signal::Continue)?;
        recorder.fault("auction-management is stopped", &["auction-management"], from, now());
        let from = now();
        redis::cmd("FLUSHALL").query_async::<()>(&mut system.redis().await?).await?;
        recorder.fault("Redis is emptied", &["redis"], from, now());
        anyhow::Ok(())
    };
    let (watched, faults) = tokio::join!(watching, faults);
    faults?;
    watched.into_iter().collect::<Result<Vec<()>>>()?;
    for bidder in bidding {
        bidder.await?;
    }

    // When the honest auction is complete everywhere, the others are as complete as they will ever be.
    let honest = &lots[names.len() - 1].id;
    system.history(honest, system.checked_bids(honest).await?.len()).await?;
    system.closed_row(honest).await?;
    let title = format!("Lot {} of {HONEST}", names.len() - 1);
    let all_mails_are_sent = |data: &Value| {
        let mails = data["ses"]["Message"].as_array().into_iter().flatten();
        mails.filter(|mail| mail["subject"].as_str().is_some_and(|subject| subject.ends_with(&title))).count() == 3
    };
    system.wait_at(&format!("{}/moto-api/data.json", system.stack.servers.aws_endpoint()), all_mails_are_sent).await?;
    let ids: Vec<String> = lots.iter().map(|lot| lot.id.clone()).collect();
    let text = recorder.text(&books(&system.stack, &ids, &people).await?);
    std::fs::write(system.path().join("history.jsonl"), &text)?;

    let demands = Demands { faults: 2, ..Demands::default() };
    let judged = |id: &str| -> Result<(BTreeSet<Invariant>, String)> {
        let history = History::parse(&part(&text, id)?)?;
        let verdict = check(&history, &demands);
        Ok((verdict.broken(), report(&history, &verdict)))
    };
    let (broken, text) = judged(honest)?;
    ensure!(broken.is_empty(), "the honest auction violates an invariant:\n{text}");
    ensure!(!text.contains(" 0 call,") && !text.contains(" 0 frame,"), "{text}");
    let mut missed = Vec::new();
    for (lot, (point, invariant)) in lots.iter().zip(WRONG) {
        let (broken, text) = judged(&lot.id)?;
        println!("{:22} {invariant:4} {broken:?}", point.name());
        if !broken.contains(&invariant) {
            missed.push(format!("{point:?} violates {invariant} and was not caught:\n{text}"));
        }
    }
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    system.end().await;
    Ok(())
}
