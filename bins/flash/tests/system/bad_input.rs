//! One table of bad input: each case is answered with its status and code and changes nothing.

use anyhow::{Context, Result};
use flash::stack::Name;
use identity::development::{DevelopmentKey, DevelopmentUser, claims};
use serde_json::{Value, json};
use testkit::http::{self, Reply};

use crate::test_system::TestSystem;

struct Case {
    name: String,
    url: String,
    token: Option<String>,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
}

fn bids(system: &TestSystem) -> String {
    format!("{}/bids", system.stack.url(Name::BidProcessing))
}

/// Invalid ids, which must not become part of a subject or key.
const BAD_IDS: [&str; 11] = [
    "*",
    ">",
    "a.b",
    "",
    "..",
    "0b7c2f6e5a534f7e9a352a0d0c9d1e11",
    "{0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11}",
    "urn:uuid:0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11",
    "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e1\n",
    "0b7c2f6e.5a53.4f7e.9a35.2a0d0c9d1e11",
    "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e1\r\nPUB x 0",
];

const BAD_AMOUNTS: [&str; 18] = [
    "1.001",
    "\"1.001\"",
    "1e3",
    "\"1e3\"",
    "1E3",
    "\"NaN\"",
    "\"Infinity\"",
    "-1",
    "\"-1\"",
    "0",
    "0.00",
    "\"0\"",
    "100000000",
    "99999999.991",
    "\"\"",
    "true",
    "[]",
    "{}",
];

fn bodies(system: &TestSystem, auction: &str) -> Vec<(String, Vec<u8>, u16, &'static str)> {
    let mut bodies: Vec<(String, Vec<u8>, u16, &'static str)> = Vec::new();
    let mut add = |name: &str, body: &str, status: u16, code: &'static str| {
        bodies.push((name.to_owned(), body.as_bytes().to_vec(), status, code));
    };
    for malformed in ["", "{", "[]", "null", "5", "\"text\"", "{\"auction_id\":}", "{'a':1}"] {
        add(&format!("malformed {malformed}"), malformed, 400, "invalid_request");
    }
    add("a NUL character", "\u{0}", 400, "invalid_request");
    add("no auction", r#"{"amount":5}"#, 400, "invalid_request");
    add("no amount", &format!(r#"{{"auction_id":"{auction}"}}"#), 400, "invalid_request");
    add("amount null", &format!(r#"{{"auction_id":"{auction}","amount":null}}"#), 400, "invalid_request");
    add("a bare NaN is no JSON", &format!(r#"{{"auction_id":"{auction}","amount":NaN}}"#), 400, "invalid_request");
    add("auction is a number", r#"{"auction_id":5,"amount":5}"#, 400, "invalid_request");
    add(
        "bid id is a number",
        &format!(r#"{{"auction_id":"{auction}","amount":5,"bid_id":5}}"#),
        400,
        "invalid_request",
    );
    add("a low maximum", &format!(r#"{{"auction_id":"{auction}","amount":5,"max_amount":4}}"#), 400, "invalid_amount");
    for amount in BAD_AMOUNTS {
        let body = format!(r#"{{"auction_id":"{auction}","amount":{amount}}}"#);
        add(&format!("amount {amount}"), &body, 400, "invalid_amount");
    }
    for id in BAD_IDS {
        add(&format!("auction {id:?}"), &json!({"auction_id": id, "amount": 5}).to_string(), 400, "invalid_request");
        add(
            &format!("bid id {id:?}"),
            &json!({"auction_id": auction, "amount": 5, "bid_id": id}).to_string(),
            400,
            "invalid_request",
        );
    }
    let unknown = json!({"auction_id": "00000000-0000-4000-8000-000000000000", "amount": 5}).to_string();
    add("an unknown auction", &unknown, 404, "auction_not_found");
    let long = format!(r#"{{"auction_id":"{auction}","amount":5,"note":"{}"}}"#, "x".repeat(64 * 1024));
    add("over 64 KiB", &long, 413, "too_large");
    bodies.push(("not UTF-8".to_owned(), b"{\"auction_id\":\"\xff\xfe\"}".to_vec(), 400, "invalid_request"));
    let _ = system;
    bodies
}

fn tokens(system: &TestSystem) -> Result<Vec<(&'static str, Option<String>, &'static str)>> {
    let issuer = &system.stack.issuer;
    let user = DevelopmentUser::named("mallory");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let good = claims(&issuer.issuer, &issuer.client_id, &user, now, 600);
    let altered = |change: &dyn Fn(&mut Value)| -> Result<Option<String>> {
        let mut claims = good.clone();
        change(&mut claims);
        Ok(Some(issuer.key.sign(&claims)?))
    };
    let valid = issuer.key.sign(&good)?;
    let parts: Vec<&str> = valid.split('.').collect();
    let [header, body, signature] = parts[..] else { anyhow::bail!("a token has three parts") };
    let stranger = DevelopmentKey::generate(&issuer.key.kid)?;
    let critical = issuer.key.sign_with(|header| header.crit = Some(vec!["b64".to_owned()]), &good)?;
    // {"alg":"none","typ":"JWT","kid":"flash-development"} and the same with HS256.
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIiwia2lkIjoiZmxhc2gtZGV2ZWxvcG1lbnQifQ";
    let hs256 = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImZsYXNoLWRldmVsb3BtZW50In0";
    let other_body = altered(&|claims| claims["sub"] = json!(uuid::Uuid::new_v4().to_string()))?.context("a token")?;
    let other_body = other_body.split('.').nth(1).context("a body")?;
    Ok(vec![
        ("absent", None, "unauthenticated"),
        ("empty", Some(String::new()), "unauthenticated"),
        ("garbage", Some("garbage".to_owned()), "unauthenticated"),
        ("three garbage parts", Some("a.b.c".to_owned()), "unauthenticated"),
        ("expired", altered(&|claims| claims["exp"] = json!(now - 1))?, "token_expired"),
        (
            "no expiry",
            altered(&|claims| drop(claims.as_object_mut().and_then(|claims| claims.remove("exp"))))?,
            "unauthenticated",
        ),
        ("another issuer", altered(&|claims| claims["iss"] = json!("https://example.com"))?, "unauthenticated"),
        (
            "no issuer",
            altered(&|claims| drop(claims.as_object_mut().and_then(|claims| claims.remove("iss"))))?,
            "unauthenticated",
        ),
        ("a list of issuers", altered(&|claims| claims["iss"] = json!([claims["iss"]]))?, "unauthenticated"),
        ("not valid yet", altered(&|claims| claims["nbf"] = json!(now + 60))?, "unauthenticated"),
        ("nbf is text", altered(&|claims| claims["nbf"] = json!("soon"))?, "unauthenticated"),
        ("issued in the far future", altered(&|claims| claims["iat"] = json!(u64::MAX))?, "unauthenticated"),
        ("an unknown critical header", Some(critical), "unauthenticated"),
        ("another audience", altered(&|claims| claims["aud"] = json!("other"))?, "unauthenticated"),
        (
            "an access token of another client",
            altered(&|claims| {
                claims["token_use"] = json!("access");
                claims["client_id"] = json!("other");
            })?,
            "unauthenticated",
        ),
        ("no use", altered(&|claims| claims["token_use"] = json!("refresh"))?, "unauthenticated"),
        ("sub is no UUID", altered(&|claims| claims["sub"] = json!("*"))?, "unauthenticated"),
        ("tampered body", Some(format!("{header}.{other_body}.{signature}")), "unauthenticated"),
        (
            "tampered signature",
            Some(format!("{header}.{body}.{}", signature.chars().rev().collect::<String>())),
            "unauthenticated",
        ),
        ("a foreign key under our key id", Some(stranger.sign(&good)?), "unauthenticated"),
        ("none", Some(format!("{none}.{body}.")), "unauthenticated"),
        ("HS256", Some(format!("{hs256}.{body}.{signature}")), "unauthenticated"),
        ("longer than any token", Some("x".repeat(12_000)), "unauthenticated"),
    ])
}

fn creations() -> Vec<(String, String, u16, &'static str)> {
    let mut table = Vec::new();
    let good = json!({"title": "Lamp", "duration": 60, "starting_bid": 10});
    let mut add = |name: &str, change: &dyn Fn(&mut Value), code: &'static str| {
        let mut body = good.clone();
        change(&mut body);
        table.push((format!("create: {name}"), body.to_string(), 400, code));
    };
    for missing in ["title", "duration", "starting_bid"] {
        add(
            &format!("no {missing}"),
            &|body| drop(body.as_object_mut().and_then(|body| body.remove(missing))),
            "invalid_request",
        );
    }
    let wrong: [(&str, Value); 27] = [
        ("title", json!("")),
        ("title", json!("   ")),
        ("title", json!("x".repeat(501))),
        ("title", json!(5)),
        ("title", json!("a\u{0}b")),
        ("duration", json!(4)),
        ("duration", json!(604_801)),
        ("duration", json!("60")),
        ("duration", json!(5.5)),
        ("duration", json!(-5)),
        ("images", json!("x")),
        ("images", json!(vec!["https://example.com/a"; 11])),
        ("image_url", json!("javascript:alert(1)")),
        ("anti_snipe", json!("off")),
        ("anti_snipe", json!({"mode": "sometimes"})),
        ("anti_snipe", json!({"window": -1})),
        ("anti_snipe", json!({"window": 61})),
        ("increments", json!("steep")),
        ("increments", json!([])),
        ("increments", json!(5)),
        ("increments", json!([{"from": 0}])),
        ("increments", json!([{"from": 0, "step": 1}, {"from": 0, "step": 2}])),
        ("increments", json!([{"from": 0, "step": 2}, {"from": 10, "step": 1}])),
        ("increments", json!(vec![json!({"from": 0, "step": 1}); 21])),
        ("allow_self_raise", json!("yes")),
        ("buy_now_price", json!(9.99)),
        ("buy_now_price", json!("9")),
    ];
    for (field, value) in &wrong {
        add(&format!("{field} {value}"), &|body| body[*field] = value.clone(), "invalid_request");
    }
    for (field, value) in [("starting_bid", json!(0)), ("starting_bid", json!(1.001)), ("minimum_increment", json!(-1))]
    {
        add(&format!("{field} {value}"), &|body| body[field] = value.clone(), "invalid_amount");
    }
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_rejected_with_its_code_and_changes_nothing() -> Result<()> {
    let system = TestSystem::start("bad-input").await?;
    let auction = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    let (anna, create_url, bids_url) = (system.token("anna")?, system.management("/auctions"), bids(&system));
    let before = system.log(&auction).await?;

    let mut cases = Vec::new();
    for (name, body, status, code) in bodies(&system, &auction) {
        cases.push(Case { name, url: bids_url.clone(), token: Some(anna.clone()), body, status, code });
    }
    for (name, token, code) in tokens(&system)? {
        let close = system.management(&format!("/auctions/{auction}/close"));
        for (request, url) in [("bid", &bids_url), ("create", &create_url), ("close", &close)] {
            let body = json!({"auction_id": auction, "amount": 5, "title": "x", "duration": 60, "starting_bid": 1})
                .to_string();
            cases.push(Case {
                name: format!("{request}: {name}"),
                url: url.clone(),
                token: token.clone(),
                body: body.into(),
                status: 401,
                code,
            });
        }
    }
    for (name, body, status, code) in creations() {
        cases.push(Case { name, url: create_url.clone(), token: Some(anna.clone()), body: body.into(), status, code });
    }
    for case in &cases {
        let reply = http::post_raw(&case.url, case.token.as_deref(), case.body.clone())
            .await
            .with_context(|| case.name.clone())?;
        check(&case.name, &reply, case.status, case.code);
    }

    // An option of another type is rejected by its name.
    for field in ["starts_at", "allow_prebids", "follows", "gap"] {
        let body = json!({"title": "Lamp", "duration": 60, "starting_bid": 10, field: true});
        let reply = http::post(&create_url, Some(&anna), &body).await?;
        check(field, &reply, 400, "invalid_request");
        assert!(reply.text.contains(field), "{}", reply.text);
    }

    // Paths.
    for id in ["*", "%3E", "a.b", "%7B%7D", "%0A", "0b7c2f6e5a534f7e9a352a0d0c9d1e11"] {
        for path in ["", "/state", "/bids", "/timer"] {
            check(
                id,
                &http::get(&system.management(&format!("/auctions/{id}{path}")), None).await?,
                400,
                "invalid_request",
            );
        }
    }
    let unknown = "/auctions/00000000-0000-4000-8000-000000000000";
    for path in ["", "/state", "/bids", "/timer"] {
        check(path, &http::get(&system.management(&format!("{unknown}{path}")), None).await?, 404, "auction_not_found");
    }
    check("path", &http::get(&system.management("/nothing"), None).await?, 404, "not_found");
    check("method", &http::get(&bids_url.replace("/bids", "/internal/bids"), None).await?, 405, "method_not_allowed");

    // A bid id belongs to one bid of one user.
    let bid_id = uuid::Uuid::new_v4().to_string();
    let place = async |name: &str, amount: u64| {
        system
            .bid_at(0, &system.token(name)?, &json!({"auction_id": auction, "amount": amount, "bid_id": bid_id}))
            .await
    };
    let first = place("anna", 5).await?;
    let again = place("anna", 5).await?;
    assert_eq!((again.status, &again.json), (200, &first.json), "the same bid id gets the same answer");
    check("other amount", &place("anna", 6).await?, 422, "bid_id_reused");
    check("other user", &place("ben", 5).await?, 422, "bid_id_reused");
    check("the host", &system.bid("host", &auction, &json!(50)).await?, 403, "host_cannot_bid");
    check("the leader", &system.bid("anna", &auction, &json!(50)).await?, 409, "already_leading");

    let after = system.log(&auction).await?;
    assert_eq!(after.len(), before.len() + 1, "only the one good bid is in the log");
    let list = http::get(&system.management("/auctions"), None).await?.json;
    assert_eq!(list["total"], 1, "nothing was created");
    system.end().await;
    Ok(())
}

fn check(name: &str, reply: &Reply, status: u16, code: &str) {
    assert_eq!((name, reply.status, &reply.json["code"]), (name, status, &json!(code)), "{}", reply.text);
    assert!(reply.json["error"].as_str().is_some_and(|sentence| !sentence.is_empty()), "{name}: no sentence");
    assert!(!reply.text.contains("eyJ"), "{name}: a token in a reply");
}
