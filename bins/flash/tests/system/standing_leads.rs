//! The limit on what a person leads with, in all auctions and at all instances together.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use testkit::eventually;
use testkit::http::{self, Reply};

use crate::test_system::TestSystem;

const DEFAULT_LIMIT: &str = "1000.00";

/// Two instances of bid-processing with a low default limit.
async fn limited(test: &str) -> Result<TestSystem> {
    TestSystem::start_with(test, |options| {
        options.instances = BTreeMap::from([(Name::BidProcessing, 2)]);
        options.settings = vec![("DEFAULT_PERSON_LIMIT".to_owned(), DEFAULT_LIMIT.to_owned())];
    })
    .await
}

fn lot() -> Value {
    json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false})
}

fn check(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, &reply.json["code"]), (status, &json!(code)), "{}", reply.text);
}

/// A person with an auction of their own, in which a bid asks for the limit and can never be accepted: the limit is
/// checked before the host is.
struct Person {
    name: &'static str,
    token: String,
    own_lot: String,
}

impl Person {
    async fn new(system: &TestSystem, name: &'static str) -> Result<Self> {
        let own_lot = system.create(name, &lot()).await?["auction_id"].as_str().context("an id")?.to_owned();
        Ok(Self { name, token: system.token(name)?, own_lot })
    }

    async fn bid(&self, system: &TestSystem, instance: usize, bid: &Value) -> Result<Reply> {
        system.bid_at(instance, &self.token, bid).await
    }

    /// Waits until every instance admits this amount and not a cent more: the records of all bids have arrived.
    async fn may_add(&self, system: &TestSystem, cents: u64) -> Result<()> {
        for instance in 0..system.stack.urls(Name::BidProcessing).len() {
            let what = format!("{} may add {cents} cents at instance {instance}", self.name);
            eventually(&what, async || {
                let mut codes = Vec::new();
                // No bid is of 0 cents.
                for cents in [cents.max(1), cents + 1] {
                    let amount = format!("{}.{:02}", cents / 100, cents % 100);
                    let bid = json!({"auction_id": self.own_lot, "amount": amount});
                    codes.push(self.bid(system, instance, &bid).await?.json["code"].take());
                }
                let admitted = if cents == 0 { "limit_exceeded" } else { "host_cannot_bid" };
                Ok((codes == [admitted, "limit_exceeded"]).then_some(()))
            })
            .await?;
        }
        Ok(())
    }
}

/// Leads count over all auctions and instances, a maximum in full; a lead that is overtaken or whose auction ends counts
/// no more; an accepted bid sent again gets its answer.
#[tokio::test(flavor = "multi_thread")]
async fn leads_of_all_auctions_count_until_they_end() -> Result<()> {
    let system = limited("standing-leads").await?;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(system.auction(&lot()).await?);
    }
    let (anna, ben) = (Person::new(&system, "anna").await?, Person::new(&system, "ben").await?);
    anna.may_add(&system, 100_000).await?;
    let first = json!({"auction_id": ids[0], "amount": 600, "bid_id": uuid::Uuid::new_v4().to_string()});
    let placed = anna.bid(&system, 0, &first).await?;
    assert_eq!(placed.status, 200, "{}", placed.text);
    anna.may_add(&system, 40_000).await?;
    let refused = anna.bid(&system, 1, &json!({"auction_id": ids[1], "amount": "400.01"})).await?;
    check(&refused, 403, "limit_exceeded");
    let error = refused.json["error"].as_str().unwrap_or_default();
    ensure!(error.contains(DEFAULT_LIMIT) && error.contains("600.00"), "{error}");
    ensure!(refused.json["seq"].is_u64() && refused.json["minimum_bid"] == 1.0, "{}", refused.text);
    assert_eq!(anna.bid(&system, 1, &json!({"auction_id": ids[1], "amount": 400})).await?.status, 200);
    anna.may_add(&system, 0).await?;
    let mut socket = system.socket("anna").await?;
    let refused = socket.ask("place_bid", json!({"auction_id": ids[2], "amount": 1})).await?;
    assert_eq!(refused["data"]["code"], "limit_exceeded", "{refused}");
    for instance in 0..2 {
        let again = anna.bid(&system, instance, &first).await?;
        assert_eq!((again.status, &again.json), (200, &placed.json), "sent again");
    }

    // A maximum counts in full, although its price is 1.00, and may be lowered.
    let proxy = json!({"auction_id": ids[2], "amount": 1, "max_amount": 900});
    assert_eq!(ben.bid(&system, 0, &proxy).await?.status, 200);
    ben.may_add(&system, 10_000).await?;
    check(&ben.bid(&system, 1, &json!({"auction_id": ids[2], "max_amount": "1000.01"})).await?, 403, "limit_exceeded");
    let lowered = ben.bid(&system, 1, &json!({"auction_id": ids[2], "max_amount": 300})).await?;
    assert_eq!(lowered.status, 200, "{}", lowered.text);
    ben.may_add(&system, 70_000).await?;

    // Ben overtakes anna for 650.
    assert_eq!(ben.bid(&system, 0, &json!({"auction_id": ids[0], "amount": 650})).await?.status, 200);
    anna.may_add(&system, 60_000).await?;
    ben.may_add(&system, 5_000).await?;
    let close = system.management(&format!("/auctions/{}/close", ids[1]));
    let closed = http::post(&close, Some(&system.token("host")?), &json!({})).await?;
    assert_eq!(closed.status, 200, "{}", closed.text);
    anna.may_add(&system, 100_000).await?;

    // The limit decides nothing about an auction that is over or is none, nor about a bid that a buy-now price cuts.
    check(&anna.bid(&system, 0, &json!({"auction_id": ids[1], "amount": 5_000})).await?, 409, "auction_closed");
    let none = json!({"auction_id": uuid::Uuid::new_v4().to_string(), "amount": 5_000});
    check(&anna.bid(&system, 0, &none).await?, 404, "auction_not_found");
    let mut cheap = lot();
    cheap["buy_now_price"] = json!(50);
    let cheap = system.auction(&cheap).await?;
    let bought = anna.bid(&system, 0, &json!({"auction_id": cheap, "amount": 5_000})).await?;
    assert_eq!((bought.status, &bought.json["amount"]), (200, &json!(50.0)), "{}", bought.text);
    system.end().await;
    Ok(())
}

/// The operator's limit holds at once and after a restart of bid-processing, which sums the leads from the log.
#[tokio::test(flavor = "multi_thread")]
async fn operator_limits_a_person() -> Result<()> {
    let mut system = limited("limit-of-a-person").await?;
    let ids = [system.auction(&lot()).await?, system.auction(&lot()).await?];
    let anna = Person::new(&system, "anna").await?;
    let id = DevelopmentUser::named("anna").user_id.to_string();
    let limit = ["limit", "--user", id.as_str()];
    let shown = system.admin_ok(&limit).await?;
    ensure!(shown.contains(&id) && shown.contains("anna") && shown.contains("DEFAULT_PERSON_LIMIT"), "{shown}");
    let set = system.admin_ok(&[&limit[..], &["--amount", "50.00"]].concat()).await?;
    ensure!(set.trim_end().ends_with("50.00"), "{set}");
    anna.may_add(&system, 5_000).await?;
    assert_eq!(anna.bid(&system, 0, &json!({"auction_id": ids[0], "amount": 20})).await?.status, 200);
    anna.may_add(&system, 3_000).await?;
    // A new instance comes last, so this restarts both.
    for _ in 0..2 {
        system.stack.restart_instance(Name::BidProcessing, 0).await?;
    }
    anna.may_add(&system, 3_000).await?;

    system.admin_ok(&[&limit[..], &["--amount", "none"]].concat()).await?;
    let rich = json!({"auction_id": ids[1], "amount": "99999999.00"});
    eventually("no limit holds", async || {
        let reply = anna.bid(&system, 0, &rich).await?;
        ensure!(reply.status == 200 || reply.json["code"] == "limit_exceeded", "{}", reply.text);
        Ok((reply.status == 200).then_some(()))
    })
    .await?;
    let removed = system.admin_ok(&[&limit[..], &["--remove"]].concat()).await?;
    ensure!(removed.contains("DEFAULT_PERSON_LIMIT"), "{removed}");
    // Above the default by far: not a cent more.
    eventually("the default holds again", async || {
        let reply = anna.bid(&system, 1, &json!({"auction_id": anna.own_lot, "amount": 1})).await?;
        Ok((reply.json["code"] == "limit_exceeded").then_some(()))
    })
    .await?;

    // Before the first appearance, and arguments that are none.
    let unseen = uuid::Uuid::new_v4().to_string();
    let early = system.admin_ok(&["limit", "--user", &unseen, "--amount", "7"]).await?;
    ensure!(early.contains("has not appeared yet") && early.trim_end().ends_with("7.00"), "{early}");
    for wrong in
        [&["--user", "anna"][..], &["--user", &unseen, "--amount", "1e3"], &["--user", &unseen, "--amount", "0"]]
    {
        let output = system.admin(&[&["limit"], wrong].concat()).await?;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
    }
    system.end().await;
    Ok(())
}

/// Started while auction-management is away, bid-processing accepts bids up to the default limit, and neither accepts nor
/// refuses for good those that may be above a person's limit.
#[tokio::test(flavor = "multi_thread")]
async fn bids_up_to_the_default_need_no_auction_management() -> Result<()> {
    let mut system = limited("limits-unknown").await?;
    let (id, other) = (system.auction(&lot()).await?, system.auction(&lot()).await?);
    let anna = Person::new(&system, "anna").await?;
    let user = DevelopmentUser::named("anna").user_id.to_string();
    system.admin_ok(&["limit", "--user", &user, "--amount", "5000"]).await?;
    anna.may_add(&system, 500_000).await?;
    system.stack.kill_instance(Name::AuctionManagement, 0).await?;
    // The limits that were read before hold on.
    anna.may_add(&system, 500_000).await?;
    // A new instance comes last, so this restarts both.
    for _ in 0..2 {
        system.stack.restart_instance(Name::BidProcessing, 0).await?;
    }
    let above = json!({"auction_id": id, "amount": 3_000, "bid_id": uuid::Uuid::new_v4().to_string()});
    check(&anna.bid(&system, 0, &above).await?, 503, "unavailable");
    assert_eq!(anna.bid(&system, 0, &json!({"auction_id": other, "amount": 1_000})).await?.status, 200);
    system.stack.add_instance(Name::AuctionManagement).await?;
    eventually("the limit is known again", async || {
        let reply = anna.bid(&system, 0, &above).await?;
        ensure!(reply.status == 200 || reply.json["code"] == "unavailable", "{}", reply.text);
        Ok((reply.status == 200).then_some(()))
    })
    .await?;
    system.end().await;
    Ok(())
}
