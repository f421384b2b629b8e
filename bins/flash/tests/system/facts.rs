//! The facts of an auction that is over, as anyone may check them: page by page, from the creation to the end.

use anyhow::{Context, Result, ensure};
use domain::Head;
use serde_json::{Value, json};
use testkit::http;

use crate::test_system::TestSystem;

/// Bids of a person that the maximum of another one meets at once: more records than a page has.
const MET_BIDS: usize = 110;
/// Pages that are read at most.
const MAX_PAGES: usize = 10;

/// The user id of the person with this name.
async fn user_id(system: &TestSystem, name: &str) -> Result<String> {
    let profile = http::get(&system.management("/users/me"), Some(&system.token(name)?)).await?;
    Ok(profile.json["user_id"].as_str().with_context(|| profile.text.clone())?.to_owned())
}

/// All facts of an auction, and the number of their pages.
async fn facts(system: &TestSystem, id: &str) -> Result<(Vec<Value>, usize)> {
    let (mut facts, mut after) = (Vec::new(), "0".to_owned());
    for pages in 1..=MAX_PAGES {
        let page = http::get(&system.management(&format!("/auctions/{id}/facts?after={after}")), None).await?;
        ensure!(page.status == 200, "{}", page.text);
        facts.extend(page.json["facts"].as_array().context("facts")?.iter().cloned());
        match page.json["next_after"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return Ok((facts, pages)),
        }
    }
    anyhow::bail!("more than {MAX_PAGES} pages")
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_of_an_ended_auction_form_one_chain() -> Result<()> {
    let system = TestSystem::start("facts").await?;
    let id = system.auction(&json!({"title": "Clock", "duration": 600, "starting_bid": 5, "video": false})).await?;
    let path = system.management(&format!("/auctions/{id}/facts"));
    let early = http::get(&path, None).await?;
    assert_eq!((early.status, &early.json["code"]), (409, &json!("wrong_state")), "{}", early.text);

    let (host, anna, ben) = (system.token("host")?, system.token("anna")?, system.token("ben")?);
    for maximum in [900, 1_000] {
        let kept = system.bid_at(0, &anna, &json!({"auction_id": id, "max_amount": maximum})).await?;
        assert_eq!(kept.status, 200, "{}", kept.text);
    }
    let mut amount = json!(10);
    for _ in 0..MET_BIDS {
        let met = system.bid_at(0, &ben, &json!({"auction_id": id, "amount": amount})).await?;
        assert_eq!((met.status, &met.json["is_highest"]), (200, &json!(false)), "{}", met.text);
        amount = met.json["minimum_bid"].clone();
    }
    let cleo = user_id(&system, "cleo").await?;
    for act in ["block", "unblock"] {
        let url = system.management(&format!("/auctions/{id}/{act}"));
        let done = http::post(&url, Some(&host), &json!({"user_id": cleo})).await?;
        assert_eq!(done.status, 200, "{}", done.text);
    }
    let closed = http::post(&system.management(&format!("/auctions/{id}/close")), Some(&host), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    system.closed_row(&id).await?;

    let (facts, pages) = facts(&system, &id).await?;
    assert!(pages > 1, "one page has all {} facts", facts.len());
    let (mut head, mut hidden) = (Head::GENESIS, 0);
    for (fact, seq) in facts.iter().zip(1..) {
        assert_eq!(fact["seq"], json!(seq), "{fact}");
        let stated: Head = fact["head"].as_str().context("a head")?.parse()?;
        match fact["text"].as_str() {
            Some(text) => assert_eq!(head.next(text), stated, "{fact}"),
            None => hidden += 1,
        }
        head = stated;
        assert!(!fact.to_string().contains(&cleo), "a person who was blocked is shown: {fact}");
    }
    assert_eq!(hidden, 3, "the changed maximum, the block and its end");
    let log = system.log(&id).await?;
    let last = log.last().context("a record")?;
    assert_eq!((&json!(head.to_string()), facts.len() as u64), (&last["head"], last["seq"].as_u64().context("a seq")?));
    let text = |fact: &Value| fact["text"].as_str().unwrap_or_default().to_owned();
    assert!(text(&facts[0]).starts_with("1\ncreated\n"), "{}", facts[0]);
    let anna_id = user_id(&system, "anna").await?;
    let end = text(facts.last().context("a fact")?);
    assert!(end.contains("\nclosed\n") && end.contains(&anna_id), "{end}");
    let of_kind = |kind: &str| facts.iter().filter(|fact| text(fact).split('\n').nth(1) == Some(kind)).count();
    assert_eq!((of_kind("bid"), of_kind("proxy")), (MET_BIDS + 1, MET_BIDS));

    for (address, status, code) in [
        (format!("{path}?after=-1"), 400, "invalid_request"),
        (format!("{path}?after=18446744073709551615"), 400, "invalid_request"),
        (system.management(&format!("/auctions/{}/facts", uuid::Uuid::new_v4())), 404, "auction_not_found"),
    ] {
        let refused = http::get(&address, None).await?;
        assert_eq!((refused.status, &refused.json["code"]), (status, &json!(code)), "{address}: {}", refused.text);
    }
    let beyond = http::get(&format!("{path}?after=9000000000000000000"), None).await?;
    assert_eq!((beyond.status, &beyond.json["facts"]), (200, &json!([])), "{}", beyond.text);
    system.end().await;
    Ok(())
}
