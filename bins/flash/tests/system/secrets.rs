//! Maximums and reserves: they work through every door, come back after a loss of Redis, and stand nowhere in plain.

use std::path::Path;

use anyhow::{Context, Result};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::http::{self, Reply};

use crate::test_system::TestSystem;

/// A reserve and a maximum below it, with digits that appear by chance nowhere else.
const RESERVE: &str = "81828182.39";
const MAXIMUM: &str = "71734259.61";
/// The same in cents, as services and the log would write them.
const DIGITS: [&str; 4] = [RESERVE, MAXIMUM, "8182818239", "7173425961"];
/// Data of servers that may hold the amounts: Redis, and the reserve in PostgreSQL.
const MAY_HOLD: [&str; 2] = ["redis", "postgres"];

async fn place(system: &TestSystem, name: &str, bid: &Value) -> Result<Reply> {
    system.bid_at(0, &system.token(name)?, bid).await
}

/// Lets people lead with the large amounts here.
pub fn unlimited() -> Vec<(String, String)> {
    vec![("DEFAULT_PERSON_LIMIT".to_owned(), "none".to_owned())]
}

fn money(text: &str) -> Value {
    serde_json::from_str(text).expect("a number")
}

/// Every place below a directory that has one of the secret amounts.
fn leaks(directory: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if MAY_HOLD.iter().any(|server| name.starts_with(server) && kind.is_dir()) {
            continue;
        }
        if kind.is_dir() {
            leaks(&path, found)?;
        } else if kind.is_file() {
            // A file may disappear while it is looked for.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let has = |digits: &&&str| bytes.windows(digits.len()).any(|window| window == digits.as_bytes());
            found.extend(DIGITS.iter().filter(has).map(|digits| format!("{digits} in {}", path.display())));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_amounts_stand_nowhere_in_plain() -> Result<()> {
    let system = TestSystem::with("secrets", unlimited(), true).await?;
    let lot = json!({"title": "Lamp", "duration": 600, "starting_bid": 70, "minimum_increment": 10,
        "reserve_price": money(RESERVE)});
    let auction = system.create("host", &lot).await?;
    assert_eq!(
        (&auction["reserve_price"], &auction["has_reserve"]),
        (&money(RESERVE), &json!(true)),
        "the host's reply"
    );
    let id = auction["auction_id"].as_str().context("an id")?.to_owned();
    let mut shown = Vec::new();
    let mut watcher = system.socket("watcher").await?;
    shown.push(watcher.ask("join_auction", json!({"auction_id": id})).await?.to_string());

    // The owner alone is shown the maximum: in the answer and when joining.
    let mut owner = system.socket("anna").await?;
    let placed = owner.ask("place_bid", json!({"auction_id": id, "max_amount": money(MAXIMUM)})).await?;
    assert_eq!((&placed["data"]["amount"], &placed["data"]["your_max_amount"]), (&json!(70.0), &money(MAXIMUM)));
    let rival = place(&system, "ben", &json!({"auction_id": id, "amount": 100})).await?;
    assert_eq!((rival.status, &rival.json["is_highest"]), (200, &json!(false)), "{}", rival.text);
    assert_eq!(rival.json["current_high_bid"], json!(110.0));
    assert!(rival.json["message"].as_str().is_some_and(|message| message.contains("outbid at once")), "{}", rival.text);
    shown.push(rival.text);
    let joined = owner.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!((&joined["data"]["your_max_amount"], &joined["data"]["reserve_met"]), (&money(MAXIMUM), &json!(false)));
    let mut other = system.socket("ben").await?;
    let joined = other.ask("join_auction", json!({"auction_id": id})).await?;
    assert_eq!(joined["data"]["your_max_amount"], Value::Null, "not the leader's");
    shown.push(joined.to_string());
    let update = watcher.until(|frame| frame["data"]["high_bid"] == json!(110.0)).await?;
    let kinds: Vec<&Value> = update["data"]["bids"].as_array().into_iter().flatten().map(|bid| &bid["kind"]).collect();
    assert_eq!(kinds.last(), Some(&&json!("proxy")), "{update}");
    shown.push(update.to_string());

    for path in ["", "/state", "/bids"] {
        let url = system.management(&format!("/auctions/{id}{path}"));
        shown.push(http::get(&url, Some(&system.token("ben")?)).await?.text);
    }
    for service in [Name::AuctionManagement, Name::Websocket, Name::BidProcessing] {
        shown.push(http::get(&format!("{}/metrics", system.stack.url(service)), None).await?.text);
    }
    let url = system.management(&format!("/auctions/{id}/close"));
    let closed = http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!(
        (&closed.json["outcome"], &closed.json["winner_id"]),
        (&json!("unsold"), &Value::Null),
        "{}",
        closed.text
    );
    shown.push(watcher.event("auction_ended").await?.to_string());
    shown.extend(system.log(&id).await?.iter().map(ToString::to_string));

    for text in &shown {
        assert!(!DIGITS.iter().any(|digits| text.contains(digits)), "{text}");
    }
    let mut found = Vec::new();
    leaks(system.path(), &mut found)?;
    assert!(found.is_empty(), "{found:#?}");
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn maximum_and_reserve_come_back_from_the_log() -> Result<()> {
    let system = TestSystem::start("secrets-rebuilt").await?;
    let lot =
        json!({"title": "Vase", "duration": 600, "starting_bid": 70, "minimum_increment": 10, "reserve_price": 500});
    let id = system.auction(&lot).await?;
    let anna = json!({"auction_id": id, "max_amount": 300, "bid_id": uuid::Uuid::new_v4().to_string()});
    let first = place(&system, "anna", &anna).await?;
    assert_eq!((first.status, &first.json["amount"]), (200, &json!(70.0)), "{}", first.text);
    assert_eq!(
        place(&system, "ben", &json!({"auction_id": id, "max_amount": 100})).await?.json["is_highest"],
        json!(false)
    );
    let raised = json!({"auction_id": id, "max_amount": 400, "bid_id": uuid::Uuid::new_v4().to_string()});
    let changed = place(&system, "anna", &raised).await?;
    assert_eq!((changed.status, &changed.json["amount"]), (200, &json!(110.0)), "{}", changed.text);

    let mut redis = system.stack.servers.redis[0].client()?.get_multiplexed_async_connection().await?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await?;
    for (bid, expected) in [(&anna, &first), (&raised, &changed)] {
        assert_eq!(place(&system, "anna", bid).await?.json, expected.json, "the same answer as before the loss");
    }
    let rival = place(&system, "ben", &json!({"auction_id": id, "amount": 390})).await?;
    assert_eq!(
        (&rival.json["current_high_bid"], &rival.json["is_highest"]),
        (&json!(400.0), &json!(false)),
        "{}",
        rival.text
    );
    let bought = place(&system, "cara", &json!({"auction_id": id, "max_amount": 900})).await?;
    assert_eq!(
        (&bought.json["amount"], &bought.json["is_highest"]),
        (&json!(500.0), &json!(true)),
        "the reserve is bid"
    );
    let types: Vec<Value> = system.log(&id).await?.iter().map(|record| record["type"].clone()).collect();
    assert_eq!(types, ["created", "opened", "bids", "bids", "maximum", "bids", "bids"]);
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_secrets_are_refused_and_the_rest_works() -> Result<()> {
    let no_key = vec![("LOG_SECRET_KEY".to_owned(), String::new())];
    let system = TestSystem::with("no-key", no_key, false).await?;
    let id = system.auction(&json!({"title": "Cup", "duration": 600, "starting_bid": 5, "video": false})).await?;
    let refused = place(&system, "anna", &json!({"auction_id": id, "amount": 5, "max_amount": 9})).await?;
    assert_eq!((refused.status, &refused.json["code"]), (400, &json!("invalid_request")), "{}", refused.text);
    assert!(refused.text.contains("max_amount"), "{}", refused.text);
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    let lot = json!({"title": "Cup", "duration": 600, "starting_bid": 5, "reserve_price": 9, "video": false});
    let refused = http::post(&system.management("/auctions"), Some(&system.token("host")?), &lot).await?;
    assert_eq!((refused.status, &refused.json["code"]), (400, &json!("invalid_request")), "{}", refused.text);
    assert!(refused.text.contains("reserve_price"), "{}", refused.text);
    system.end().await;
    Ok(())
}
