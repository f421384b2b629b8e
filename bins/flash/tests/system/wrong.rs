//! The running system is judged: an honest auction holds every invariant, and each auction with a deliberate mistake
//! (`service::fault`, made inside a service or in the backend of `faulty-service`) is caught by the invariant that
//! forbids it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use domain::Amount;
use flash::check::history::History;
use flash::check::recorder::{Recorder, books, now};
use flash::check::{Demands, check, report};
use flash::stack::Name;
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use service::fault::FaultPoint;
use testkit::Signal;
use testkit::http::Caller;
use tokio::time::Instant;

use crate::world::World;

/// Fault points, and what forbids them.
const WRONG: [(FaultPoint, &str); 18] = [
    (FaultPoint::SkipAppend, "I1"),
    (FaultPoint::LogBidTwice, "I3"),
    (FaultPoint::LogOtherAmount, "I3"),
    (FaultPoint::ForgetExtension, "I4"),
    (FaultPoint::InflateMinimumBid, "I6"),
    (FaultPoint::AnswerFromThePast, "I6"),
    (FaultPoint::ForgetBidId, "I7"),
    (FaultPoint::CloseLate, "I8"),
    (FaultPoint::ForgetResult, "I9"),
    (FaultPoint::EverybodyWins, "I9"),
    (FaultPoint::ForgetHistory, "I10"),
    (FaultPoint::MailTwice, "I11"),
    (FaultPoint::ForgetLoser, "I11"),
    (FaultPoint::HideBid, "I12"),
    (FaultPoint::RepeatFrame, "I12"),
    (FaultPoint::LeakToken, "I14"),
    (FaultPoint::SkipRebuild, "I15"),
    (FaultPoint::AskManagementFirst, "I16"),
];
const HONEST: &str = "honest";

/// How long each auction runs; its two first bids move the end by a second each.
const DURATION: Duration = Duration::from_secs(13);
/// From the opening until all that is not broken has ended.
const OVER_AFTER: Duration = Duration::from_secs(17);
const BID_EVERY: Duration = Duration::from_millis(250);

struct Lot {
    id: String,
    bidders: [DevelopmentUser; 2],
    watcher: DevelopmentUser,
}

/// Two who outbid each other over HTTP, and repeat what was accepted: under the same id it is the same bid.
async fn bid(recorder: Arc<Recorder>, url: String, lot: Arc<Lot>, tokens: [String; 2], until: Instant) {
    let (caller, mut cents, mut turn) = (Caller::new(), 100, 0);
    while Instant::now() < until {
        let (user, token) = (&lot.bidders[turn % 2], &tokens[turn % 2]);
        let amount = Amount::from_cents(cents).expect("an amount").to_string();
        let bid = json!({"auction_id": lot.id, "amount": amount, "bid_id": uuid::Uuid::new_v4().to_string()});
        for _ in 0..2 {
            let sent = now();
            let answer = caller.post(&url, Some(token), &bid).await.ok();
            recorder.call(user, &bid, sent, answer.as_ref().map(|answer| &answer.json));
            let Some(answer) = answer else { continue };
            if answer.status != 200 {
                break;
            }
            cents = Amount::parse(&answer.json["minimum_bid"].to_string()).map_or(cents + 100, Amount::cents);
        }
        turn += 1;
        tokio::time::sleep(BID_EVERY).await;
    }
}

/// Watches, and bids what cannot win, until the end or until it is time.
async fn watch(world: &World, recorder: Arc<Recorder>, lot: Arc<Lot>, until: Instant) -> Result<()> {
    let (user, mut socket) = (&lot.watcher, world.socket(&lot.watcher.name).await?);
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
                let bid = json!({"auction_id": lot.id, "amount": "0.50", "bid_id": uuid::Uuid::new_v4().to_string()});
                asked.insert(id, (bid.clone(), now()));
                socket.request("place_bid", bid, id).await?;
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    Ok(())
}

/// The lines about one auction.
fn part(text: &str, id: &str) -> Result<String> {
    let of_it = |line: &str| -> Result<bool> {
        let value: Value = serde_json::from_str(line)?;
        let whose = [&value, &value["record"], &value["row"], &value["data"]].map(|part| part["auction_id"].as_str());
        Ok(whose.contains(&Some(id)) || value["kind"] == "fault" || value["kind"] == "secret")
    };
    let mut part = String::new();
    for line in text.lines() {
        if of_it(line)? {
            part += line;
            part.push('\n');
        }
    }
    Ok(part)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_system_is_caught_by_name() -> Result<()> {
    let world = World::shaped("wrong", |options| {
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
        let created = world.create(&host, &lot).await?;
        let id = created["auction_id"].as_str().context("an id")?.to_owned();
        recorder.secret(created["ivs_stream_key"].as_str().unwrap_or_default());
        let person = |role: &str| DevelopmentUser::named(&format!("{role}-{nth}"));
        let lot = Lot { id: id.clone(), bidders: [person("anna"), person("ben")], watcher: person("carl") };
        people.extend([person("host"), lot.bidders[0].clone(), lot.bidders[1].clone(), lot.watcher.clone()]);
        points.insert(id, *point);
        lots.push(Arc::new(lot));
    }
    people.iter().for_each(|person| recorder.secret(&person.email));
    testkit::write_private(&world.path().join("fault-points.json"), &serde_json::to_vec(&points)?)?;

    let until = Instant::now() + OVER_AFTER;
    let url = format!("{}/bids", world.stack.url(Name::BidProcessing));
    let mut bidding = Vec::new();
    for lot in &lots {
        let tokens = [world.token(&lot.bidders[0].name)?, world.token(&lot.bidders[1].name)?];
        bidding.push(tokio::spawn(bid(Arc::clone(&recorder), url.clone(), Arc::clone(lot), tokens, until)));
    }
    let watching = lots.iter().map(|lot| watch(&world, Arc::clone(&recorder), Arc::clone(lot), until));
    let watching = futures_util::future::join_all(watching);
    let faults = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let from = now();
        // Its process stands still: who needs it waits.
        let mut instances = world.stack.instances.iter();
        let management = instances.find(|instance| instance.name == Name::AuctionManagement).context("an instance")?;
        management.signal(Signal::Stop)?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        management.signal(Signal::Continue)?;
        recorder.fault("auction-management stands still", &["auction-management"], from, now());
        let from = now();
        redis::cmd("FLUSHALL").query_async::<()>(&mut world.redis().await?).await?;
        recorder.fault("Redis is emptied", &["redis"], from, now());
        anyhow::Ok(())
    };
    let (watched, faults) = tokio::join!(watching, faults);
    faults?;
    watched.into_iter().collect::<Result<Vec<()>>>()?;
    for bidder in bidding {
        bidder.await?;
    }

    // What the honest auction's books have, the others' have as far as they ever will.
    let honest = &lots[names.len() - 1].id;
    world.history(honest, world.checked_bids(honest).await?.len()).await?;
    world.closed_row(honest).await?;
    let title = format!("Lot {} of {HONEST}", names.len() - 1);
    let told = |data: &Value| {
        let mails = data["ses"]["Message"].as_array().into_iter().flatten();
        mails.filter(|mail| mail["subject"].as_str().is_some_and(|subject| subject.ends_with(&title))).count() == 3
    };
    world.wait_at(&format!("{}/moto-api/data.json", world.stack.servers.aws_endpoint()), told).await?;
    let ids: Vec<String> = lots.iter().map(|lot| lot.id.clone()).collect();
    let text = recorder.text(&books(&world.stack, &ids, &people).await?);
    std::fs::write(world.path().join("history.jsonl"), &text)?;

    let demands = Demands { faults: 2, ..Demands::default() };
    let judged = |id: &str| -> Result<(BTreeSet<&'static str>, String)> {
        let history = History::parse(&part(&text, id)?)?;
        let verdict = check(&history, &demands);
        Ok((verdict.broken(), report(&history, &verdict)))
    };
    let (broken, text) = judged(honest)?;
    ensure!(broken.is_empty(), "the honest auction:\n{text}");
    ensure!(!text.contains(" 0 call,") && !text.contains(" 0 frame,"), "{text}");
    let mut missed = Vec::new();
    for (lot, (point, invariant)) in lots.iter().zip(WRONG) {
        let (broken, text) = judged(&lot.id)?;
        println!("{:22} {invariant:4} {broken:?}", point.name());
        if !broken.contains(invariant) {
            missed.push(format!("{point:?} is {invariant}, and not caught:\n{text}"));
        }
    }
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    world.end().await;
    Ok(())
}
