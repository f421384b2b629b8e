use super::*;

fn place(fields: &str) -> Result<(Option<u64>, Option<u64>), Code> {
    let id = "00000000-0000-0000-0000-000000000001";
    let user = Person { user_id: id.parse().expect("an id"), username: "anna".to_owned() };
    let body = format!(r#"{{"auction_id":"{id}",{fields}}}"#);
    let cents = |amount: Option<Amount>| amount.map(Amount::cents);
    parse_place_bid(body.as_bytes(), None, user)
        .map(|bid| (cents(bid.amount), cents(bid.max_amount)))
        .map_err(|failure| failure.code)
}

#[test]
fn amount_may_be_left_out_beside_a_maximum() {
    for (fields, expected) in [
        (r#""amount":5"#, Ok((Some(500), None))),
        (r#""amount":5,"max_amount":null"#, Ok((Some(500), None))),
        (r#""max_amount":"7.50""#, Ok((None, Some(750)))),
        (r#""amount":5,"max_amount":5"#, Ok((Some(500), Some(500)))),
        (r#""amount":5,"max_amount":4.99"#, Err(Code::InvalidAmount)),
        (r#""amount":5,"max_amount":"x""#, Err(Code::InvalidAmount)),
        (r#""bid_id":"00000000-0000-f000-8000-000000000001","amount":5"#, Err(Code::InvalidRequest)),
        (r#""bid_id":null"#, Err(Code::InvalidRequest)),
    ] {
        assert_eq!(place(fields), expected, "{fields}");
    }
}

#[test]
fn answer_is_in_the_record_of_one_plain_bid_alone() {
    let lines = include_str!("../../tests/stored/closed.jsonl").lines();
    let records = lines.map(|line| serde_json::from_str(line).expect("a record"));
    let record: Record = records.into_iter().find(|record: &Record| record.bids.len() == 1).expect("a bid");
    let extensions = record.state.extension_count;
    let accepted = AcceptedBid::in_record(&record, extensions).expect("an answer");
    let bid = &record.bids[0];
    let expected = AcceptedBid {
        bid_id: bid.bid_id,
        auction_id: record.auction_id,
        seq: record.seq,
        amount: bid.amount,
        minimum_bid: record.state.minimum_bid,
        end_time: record.state.end_time,
        anti_snipe_triggered: false,
        extension_count: extensions,
        timestamp: record.time,
        outbid_at: None,
        is_kept: false,
        max_amount: None,
    };
    assert_eq!(accepted, expected);
    let mut extended = record.clone();
    extended.state.extension_count += 1;
    assert!(AcceptedBid::in_record(&extended, extensions).is_some_and(|accepted| accepted.anti_snipe_triggered));

    let changed = |change: fn(&mut Record)| {
        let mut record = record.clone();
        change(&mut record);
        AcceptedBid::in_record(&record, extensions)
    };
    assert_eq!(
        changed(|record| record.bids.push(record.bids[0].clone())),
        None,
        "the state after the first is unknown"
    );
    assert_eq!(changed(|record| record.bids.clear()), None);
    assert_eq!(changed(|record| record.bids[0].kind = BidKind::Prebid.into()), None);
    assert_eq!(changed(|record| record.bids[0].sealed = Some("x".parse().expect("a text"))), None, "a maximum");
    assert_eq!(changed(|record| record.state.options.buy_now = record.state.high_bid), None, "the auction is over");
}

#[test]
fn answer_says_in_words_that_a_maximum_was_higher() {
    let amount = |cents| Amount::from_cents(cents).expect("an amount");
    let id = |text: &str| text.parse().expect("an id");
    let bid = |outbid_at: Option<u64>, max_amount: Option<u64>, minimum| AcceptedBid {
        bid_id: id("00000000-0000-0000-0000-000000000001"),
        auction_id: "00000000-0000-0000-0000-000000000002".parse().expect("an id"),
        seq: 3,
        amount: amount(500),
        minimum_bid: amount(minimum),
        end_time: 9,
        anti_snipe_triggered: false,
        extension_count: 0,
        timestamp: 1,
        outbid_at: outbid_at.map(amount),
        is_kept: false,
        max_amount: max_amount.map(amount),
    };
    for (bid, expected, highest) in [
        (bid(None, None, 600), "Your bid is the highest", "5.00"),
        (bid(None, Some(900), 600), "Your bid is the highest. We bid for you up to 9.00", "5.00"),
        (bid(None, None, 500), "You bought it at the buy-now price", "5.00"),
        (
            bid(Some(600), None, 700),
            "Another bidder's maximum is at least as high, so you were outbid at once. The next bid must be at least 7.00",
            "6.00",
        ),
        (bid(Some(800), None, 800), "Another bidder's earlier maximum reached the buy-now price", "8.00"),
    ] {
        let (is_highest, has_maximum) = (bid.outbid_at.is_none(), bid.max_amount.is_some());
        let public = Answer::Accepted(bid).public();
        let fields: serde_json::Value = serde_json::from_str(public.get()).expect("JSON");
        assert_eq!(fields["message"], expected);
        assert_eq!(fields["is_highest"], is_highest, "{expected}");
        assert_eq!(fields.get("your_max_amount").is_some(), has_maximum, "{expected}");
        assert!(public.get().contains(&format!(r#""current_high_bid":{highest},"#)), "{public}");
    }
}
