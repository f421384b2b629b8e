//! Lists, searches and categories, own bids with their auctions, and names that other clients know.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use testkit::http;

use crate::test_system::TestSystem;

/// Titles of a list, in its order.
async fn titles(system: &TestSystem, query: &str) -> Result<(Vec<String>, u64)> {
    let page = http::get(&system.management(&format!("/auctions?{query}")), None).await?;
    assert_eq!(page.status, 200, "{query}: {}", page.text);
    let auctions = page.json["auctions"].as_array().context("auctions")?;
    let titles = auctions.iter().map(|auction| auction["title"].as_str().unwrap_or_default().to_owned()).collect();
    Ok((titles, page.json["total"].as_u64().context("a total")?))
}

async fn end(system: &TestSystem, id: &str, how: &str) -> Result<()> {
    let reply =
        http::post(&system.management(&format!("/auctions/{id}/{how}")), Some(&system.token("host")?), &json!({}))
            .await?;
    assert_eq!(reply.status, 200, "{}", reply.text);
    system.closed_row(id).await?;
    Ok(())
}

/// Filters, orders, text search and categories, each with every count.
#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_ordered_and_searched() -> Result<()> {
    let system = TestSystem::start("lists").await?;
    let mut ids = BTreeMap::new();
    for (title, duration, price, category, description) in [
        ("Brass Lamp", 600, 30, Some("Light"), "From a ship's cabin"),
        ("E-bike 3.5", 60, 500, Some("Wheels"), "Hardly used"),
        ("Tischleuchte", 3_600, 20, Some("Light"), "Messing, 1920"),
        ("Nothing", 600, 10, None, "A gift's wrapping"),
    ] {
        let auction = json!({"title": title, "duration": duration, "starting_bid": price, "category": category,
            "description": description, "video": false});
        ids.insert(title, system.auction(&auction).await?);
    }
    // The price of a running auction decides within a page.
    assert_eq!(system.bid("anna", &ids["Nothing"], &json!(40)).await?.status, 200);
    end(&system, &ids["Tischleuchte"], "close").await?;
    end(&system, &ids["Brass Lamp"], "cancel").await?;

    let all = ["Nothing", "Tischleuchte", "E-bike 3.5", "Brass Lamp"];
    for (query, expected) in [
        ("", &all[..]),
        ("sort=newest", &all),
        ("limit=1000", &all),
        ("limit=999999999&offset=0", &all),
        ("status=live", &["Nothing", "E-bike 3.5"]),
        ("status=closed,cancelled", &["Tischleuchte", "Brass Lamp"]),
        ("status=closed&status=live", &["Nothing", "Tischleuchte", "E-bike 3.5"]),
        ("sort=ending", &["E-bike 3.5", "Nothing", "Brass Lamp", "Tischleuchte"]),
        ("sort=ending&status=live", &["E-bike 3.5", "Nothing"]),
        ("sort=price", &["Tischleuchte", "Brass Lamp", "Nothing", "E-bike 3.5"]),
        ("q=lamp", &["Brass Lamp"]),
        ("q=LIGHT+ship", &["Brass Lamp"]),
        ("q=tisch", &["Tischleuchte"]),
        ("q=gift%27s", &["Nothing"]),
        ("q=e-bike&status=live", &["E-bike 3.5"]),
        ("q=e-bike&status=closed", &[]),
        ("q=3.5", &["E-bike 3.5"]),
        ("q=lamp+bike", &[]),
        ("q=", &all),
        ("q=%26+%7C+%21+%28+%27+%3A*+%5C", &[]),
        ("category=Light", &["Tischleuchte", "Brass Lamp"]),
        ("category=light", &[]),
    ] {
        let (found, total) = titles(&system, query).await?;
        assert_eq!(
            (found, total),
            (expected.iter().map(|title| (*title).to_owned()).collect(), expected.len() as u64),
            "{query}"
        );
    }
    // The end of a paused auction is open: it does not come before one that ends.
    let pause = system.management(&format!("/auctions/{}/pause", ids["E-bike 3.5"]));
    assert_eq!(http::post(&pause, Some(&system.token("host")?), &json!({})).await?.status, 200);
    let (found, _) = titles(&system, "sort=ending&status=live,paused").await?;
    assert_eq!(found, ["Nothing", "E-bike 3.5"]);
    let resume = system.management(&format!("/auctions/{}/resume", ids["E-bike 3.5"]));
    assert_eq!(http::post(&resume, Some(&system.token("host")?), &json!({})).await?.status, 200);
    // The total is that of the filter on every page, also behind the last one.
    for (offset, rows) in [(0, 3), (3, 1), (4, 0), (5, 0)] {
        let (found, total) = titles(&system, &format!("limit=3&offset={offset}")).await?;
        assert_eq!((found.len(), total), (rows, 4), "offset {offset}");
    }
    for bad in [
        "status=",
        "status=live,",
        "status=creating",
        "sort=",
        "sort=best",
        "limit=0",
        "limit=-1",
        "limit=ten",
        "q=%00",
        &format!("q={}", "a".repeat(201)),
        &format!("q={}", ["a"; 11].join("+")),
    ] {
        let refused = http::get(&system.management(&format!("/auctions?{bad}")), None).await?;
        assert_eq!(
            (refused.status, &refused.json["code"]),
            (400, &json!("invalid_request")),
            "{bad}: {}",
            refused.text
        );
        assert_eq!(refused.json["message"], refused.json["error"], "{bad}");
    }

    let categories = system.management("/auctions/categories");
    for (query, expected) in [
        ("", json!([{"category": "Light", "count": 2}, {"category": "Wheels", "count": 1}])),
        ("?status=live", json!([{"category": "Wheels", "count": 1}])),
        ("?status=closed&status=cancelled", json!([{"category": "Light", "count": 2}])),
        ("?status=paused", json!([])),
    ] {
        let found = http::get(&format!("{categories}{query}"), None).await?;
        assert_eq!((found.status, &found.json), (200, &json!({"categories": expected})), "{query}");
    }
    assert_eq!(http::get(&format!("{categories}?status=sold"), None).await?.status, 400);
    system.end().await;
    Ok(())
}

/// Each own bid carries what a page shows of its auction, while it runs and after its end.
#[tokio::test(flavor = "multi_thread")]
async fn own_bids_carry_their_auctions() -> Result<()> {
    let system = TestSystem::start("own-bids").await?;
    let photos = json!(["https://example.com/1.jpg", "https://example.com/2.jpg"]);
    let auction = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "images": photos, "video": false});
    let id = system.auction(&auction).await?;
    for (name, amount) in [("anna", 5), ("ben", 6)] {
        assert_eq!(system.bid(name, &id, &json!(amount)).await?.status, 200);
    }
    system.history(&id, 2).await?;
    let own = async |name: &str| -> Result<Value> {
        let page = http::get(&system.management("/bids"), Some(&system.token(name)?)).await?;
        assert_eq!(page.json["bids"].as_array().map(Vec::len), Some(1), "{}", page.text);
        Ok(page.json["bids"][0].clone())
    };
    let anna = own("anna").await?;
    for (field, expected) in [
        ("title", json!("Lamp")),
        ("auction_title", json!("Lamp")),
        ("image_url", photos[0].clone()),
        ("auction_image", photos[0].clone()),
        ("status", json!("outbid")),
        ("auction_status", json!("live")),
        ("currency", json!("USD")),
        ("amount", json!(5.0)),
        ("current_high_bid", json!(6.0)),
        ("minimum_bid", json!(7.0)),
        ("winning_bid", Value::Null),
    ] {
        assert_eq!(anna[field], expected, "{field}: {anna}");
    }
    let state = http::get(&system.management(&format!("/auctions/{id}/state")), None).await?.json;
    assert_eq!(anna["end_time"], state["end_time"]);
    assert!(anna["time_remaining_seconds"].as_u64().is_some_and(|left| (1..=600).contains(&left)), "{anna}");
    assert_eq!(own("ben").await?["status"], "winning");

    end(&system, &id, "close").await?;
    let (anna, ben) = (own("anna").await?, own("ben").await?);
    assert_eq!((&anna["status"], &ben["status"]), (&json!("lost"), &json!("won")));
    for bid in [&anna, &ben] {
        assert_eq!((&bid["auction_status"], &bid["winning_bid"]), (&json!("closed"), &json!(6.0)), "{bid}");
        assert_eq!(bid["time_remaining_seconds"], 0, "{bid}");
        assert!(bid["end_time"].as_u64() < state["end_time"].as_u64(), "the real end, not the planned one: {bid}");
    }
    system.end().await;
    Ok(())
}

/// The leader by id, the real end, and the other names of photos, in the auction, its state and its end.
#[tokio::test(flavor = "multi_thread")]
async fn auction_names_its_leader_and_its_real_end() -> Result<()> {
    let system = TestSystem::start("leader").await?;
    let photos = json!(["https://example.com/1.jpg"]);
    let auction = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "images": photos, "video": false});
    let created = system.create("host", &auction).await?;
    assert_eq!((&created["images"], &created["gallery_images"]), (&photos, &photos));
    assert_eq!((&created["image_url"], &created["high_bidder_id"]), (&photos[0], &Value::Null));
    let id = created["auction_id"].as_str().context("an id")?;
    let mut watcher = system.socket("anna").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    watcher.ask("place_bid", json!({"auction_id": id, "amount": 5})).await?;
    let anna = json!(DevelopmentUser::named("anna").user_id.to_string());
    let shown = system.wait_for(&format!("/auctions/{id}"), |auction| auction["bid_count"] == 1).await?;
    assert_eq!((&shown["high_bidder_id"], &shown["ended_at"]), (&anna, &Value::Null));
    let state = format!("/auctions/{id}/state");
    let running = system.wait_for(&state, |state| state["bid_count"] == 1).await?;
    assert_eq!((&running["high_bidder_id"], &running["ended_at"]), (&anna, &Value::Null));

    end(&system, id, "close").await?;
    let ended = watcher.event("auction_ended").await?["data"].clone();
    let over = system.wait_for(&state, |state| state["status"] == "closed").await?;
    assert_eq!(ended["end_time"], over["ended_at"], "the frame has the real end");
    assert!(over["ended_at"].as_u64() < running["end_time"].as_u64(), "{over}");
    let row = system.wait_for(&format!("/auctions/{id}"), |auction| auction["status"] == "closed").await?;
    assert_eq!((&row["high_bidder_id"], &row["winner_id"]), (&anna, &anna));
    let refused = watcher.ask("place_bid", json!({"auction_id": id, "amount": 9})).await?["data"].clone();
    assert_eq!((&refused["code"], &refused["message"]), (&json!("auction_closed"), &refused["error"]));
    let unknown = watcher.ask("dance", json!({})).await?["data"].clone();
    assert!(unknown["message"].is_string() && unknown["message"] == unknown["error"], "{unknown}");
    system.end().await;
    Ok(())
}

/// A photo is sent to the signed address from a browser's origin, once, and reading it needs no signature. Other types and sizes
/// get no address, and neither does a person who asks for too many.
#[tokio::test(flavor = "multi_thread")]
async fn photos_are_uploaded_to_a_signed_address() -> Result<()> {
    let system = TestSystem::start("photos").await?;
    let (uploads, anna) = (system.management("/uploads"), system.token("anna")?);
    let photo = b"\x89PNG\r\n\x1a\n not really".to_vec();
    let asked = json!({"content_type": "image/png", "size": photo.len()});
    let upload = http::post(&uploads, Some(&anna), &asked).await?;
    assert_eq!((upload.status, &upload.json["method"], &upload.json["expires_in"]), (200, &json!("PUT"), &json!(300)));
    let text = |name: &str| upload.json[name].as_str().map(str::to_owned).with_context(|| name.to_owned());
    let (upload_url, image_url) = (text("upload_url")?, text("image_url")?);
    assert_eq!(upload.json["headers"], json!({"content-type": "image/png", "if-none-match": "*"}));
    assert!(
        upload_url.contains("X-Amz-SignedHeaders=content-length%3Bcontent-type%3Bhost%3Bif-none-match"),
        "length and type are signed: {upload_url}"
    );
    assert!(
        upload_url.starts_with(&format!("{image_url}?")) && image_url.ends_with(".png"),
        "{upload_url} {image_url}"
    );

    // A browser asks this before it sends from another origin.
    let preflight = ::http::Request::builder()
        .method("OPTIONS")
        .uri(&upload_url)
        .header("origin", "http://127.0.0.1:8001")
        .header("access-control-request-method", "PUT")
        .header("access-control-request-headers", "content-type,if-none-match");
    let allowed = http::send(preflight.body(bytes::Bytes::new().into())?).await?;
    let origin = allowed.headers.get("access-control-allow-origin").and_then(|origin| origin.to_str().ok());
    assert!(allowed.status == 200 && origin.is_some_and(|origin| ["*", "http://127.0.0.1:8001"].contains(&origin)));
    let send = async |body: &[u8]| {
        let request =
            ::http::Request::put(&upload_url).header("content-type", "image/png").header("if-none-match", "*");
        http::send(request.body(body.to_vec().into())?).await
    };
    assert_eq!(send(&photo).await?.status, 200);
    assert_eq!(send(b"another").await?.status, 412, "a photo that was seen is not replaced");
    let shown = http::get(&image_url, None).await?;
    let kind = shown.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    assert_eq!((shown.status, kind), (200, Some("image/png")));
    assert!(shown.text.contains("not really"), "{}", shown.text);
    let auction = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "images": [image_url], "video": false});
    assert_eq!(system.create("anna", &auction).await?["image_url"], json!(image_url));

    assert_eq!(http::post(&uploads, None, &asked).await?.status, 401);
    for bad in [
        json!({}),
        json!({"content_type": "image/png"}),
        json!({"size": 5}),
        json!({"content_type": "image/svg+xml", "size": 5}),
        json!({"content_type": "text/html", "size": 5}),
        json!({"content_type": "image/png\r\nx-amz-acl: public-read", "size": 5}),
        json!({"content_type": "IMAGE/PNG", "size": 5}),
        json!({"content_type": "image/png", "size": 0}),
        json!({"content_type": "image/png", "size": 10 * 1024 * 1024 + 1}),
        json!({"content_type": "image/png", "size": -1}),
        json!({"content_type": "image/png", "size": 1.5}),
        json!({"content_type": "image/png", "size": "5"}),
    ] {
        let refused = http::post(&uploads, Some(&anna), &bad).await?;
        assert_eq!(
            (refused.status, &refused.json["code"]),
            (400, &json!("invalid_request")),
            "{bad}: {}",
            refused.text
        );
    }
    let ben = system.token("ben")?;
    let caller = http::Caller::new();
    let mut limited = None;
    for nth in 0..200 {
        let reply = caller.post(&uploads, Some(&ben), &asked).await?;
        if reply.status != 200 {
            limited = Some((nth, reply));
            break;
        }
    }
    let (nth, reply) = limited.context("no limit after 200 addresses")?;
    assert_eq!((reply.status, &reply.json["code"]), (429, &json!("rate_limited")), "{}", reply.text);
    assert!(nth >= 60 && reply.headers.contains_key("retry-after"), "after {nth}");
    assert_eq!(http::post(&uploads, Some(&anna), &asked).await?.status, 200, "the limit is that of each person");
    system.end().await;
    Ok(())
}

/// Without a bucket there is a sentence for the person, and all else works.
#[tokio::test(flavor = "multi_thread")]
async fn deployment_without_a_bucket_says_so() -> Result<()> {
    let system = TestSystem::with("no-bucket", vec![("UPLOADS_BUCKET".to_owned(), String::new())], false).await?;
    let asked = json!({"content_type": "image/png", "size": 5});
    let refused = http::post(&system.management("/uploads"), Some(&system.token("anna")?), &asked).await?;
    assert_eq!((refused.status, &refused.json["code"]), (404, &json!("not_found")), "{}", refused.text);
    assert!(refused.json["error"].as_str().is_some_and(|sentence| sentence.contains("Photos")), "{}", refused.text);
    system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false})).await?;
    system.end().await;
    Ok(())
}
