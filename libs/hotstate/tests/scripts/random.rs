//! Random auctions, bids and acts for `model.rs`.

use domain::{Amount, AntiSnipeMode, Auction, AuctionId, Band, BidRequest, HostAct, Ladder, Offer, Sealed, Status};
use fastrand::Rng;
use protocol::{CreateRequest, Options};
use uuid::Uuid;

use crate::model::{HOST, bid};
use crate::{request, user};

/// A ladder from the starting bid upwards, with bands narrow enough for an auction to climb through some of them.
fn random_ladder(starting_bid: u64, random: &mut Rng) -> Ladder {
    let (mut from_cents, mut step) = (random.u64(0..=starting_bid), random.u64(1..=100));
    let mut bands = Vec::new();
    for _ in 0..random.usize(1..=9) {
        bands.push(Band { from_cents, step: Amount::from_cents(step).expect("an amount") });
        from_cents = from_cents.max(starting_bid) + random.u64(1..5_000);
        step += random.u64(0..1_000);
    }
    Ladder::new(bands).expect("a ladder")
}

pub fn random_request(auction: u128, random: &mut Rng) -> CreateRequest {
    let cents = |cents| Amount::from_cents(cents).expect("an amount");
    let starting_bid = random.u64(1..=Amount::MAX_CENTS / 2);
    // A third of the auctions is plain.
    let with_options = !auction.is_multiple_of(3);
    let modes = [AntiSnipeMode::Extend, AntiSnipeMode::Off, AntiSnipeMode::Reset];
    let options = Options {
        increments: (with_options && random.bool()).then(|| random_ladder(starting_bid, random)),
        allow_self_raise: with_options && random.bool(),
        buy_now: (with_options && random.bool()).then(|| cents(starting_bid + random.u64(0..200_000))),
        allow_prebids: with_options && random.bool(),
        ..Options::default()
    };
    let options = if with_options && random.u8(0..4) == 0 { following(options, random) } else { options };
    let highest_reserve = options.buy_now.map_or(starting_bid + 200_000, Amount::cents).min(Amount::MAX_CENTS);
    let reserve = (with_options && random.bool()).then(|| cents(random.u64(starting_bid..=highest_reserve)));
    CreateRequest {
        starting_bid: cents(starting_bid),
        increment: cents(random.u64(1..=5_000)),
        options,
        reserve,
        sealed_reserve: reserve.map(|_| sealed(random)),
        anti_snipe_mode: modes[random.usize(..if with_options { 3 } else { 2 })],
        // Either every bid is late or none is, so the time that passes during the test makes no difference.
        anti_snipe_window_ms: if random.bool() { 10_000_000 } else { 0 },
        // A reset moves the end only if more than the duration is left.
        anti_snipe_extension_ms: if random.bool() { random.u64(0..=60_000) } else { random.u64(600_000..=660_000) },
        anti_snipe_max_extensions: random.u32(0..=4),
        ..request(auction)
    }
}

/// The options of an auction that follows another, which these tests need not have.
fn following(options: Options, random: &mut Rng) -> Options {
    let before = AuctionId::from_uuid(Uuid::from_u128(random.u128(..)));
    Options { follows: Some(before), gap_ms: random.u64(0..3) * 500, ..options }
}

/// A text as the encrypted form of something. The scripts do not open it.
fn sealed(random: &mut Rng) -> Sealed {
    format!("sealed-{:016x}_", random.u64(..)).parse().expect("a text")
}

/// A bid near the minimum, sometimes by the host, sometimes with a maximum; or one that was accepted before, sometimes
/// altered.
pub fn random_bid(model: &Auction, accepted: &[BidRequest], with_maximums: bool, random: &mut Rng) -> BidRequest {
    if let Some(earlier) = random.choice(accepted).filter(|_| random.u8(0..8) == 0) {
        return altered(earlier, random);
    }
    let minimum = model.minimum_bid().cents();
    let near = |random: &mut Rng| match random.u8(0..100) {
        // Rarely: no bid can follow the largest amount.
        0 => Amount::MAX_CENTS,
        1..20 => minimum.saturating_sub(random.u64(1..200)),
        _ => minimum + random.u64(0..500),
    };
    let cents = near(random).clamp(1, Amount::MAX_CENTS);
    let mut bid = bid(random.u128(1..u128::MAX), random.u128(HOST..HOST + 6), cents);
    if with_maximums && random.u8(0..3) == 0 {
        let standing = model.maximum.as_ref().map(|maximum| maximum.amount.cents());
        let highest = match random.u8(0..4) {
            // At the maximum that stands, or a few cents beside it.
            0 => standing.unwrap_or(cents).saturating_add(random.u64(0..3)).saturating_sub(1),
            1 => near(random),
            _ => minimum + random.u64(0..20_000),
        };
        let maximum = Amount::from_cents(highest.clamp(1, Amount::MAX_CENTS)).expect("an amount");
        let amount = Amount::from_cents(cents).ok().filter(|amount| *amount <= maximum && random.bool());
        bid.offer = Offer::UpTo { amount, maximum, sealed: sealed(random) };
    }
    // The leader changes the maximum more often than chance has it.
    if let Some(leader) = model.leader.as_ref().filter(|_| bid.offer.maximum().is_some() && random.u8(0..4) == 0) {
        (bid.user_id, bid.username) = (leader.user_id, leader.username.clone());
    }
    bid
}

/// A bid that was accepted before, as it was or with another person or offer.
fn altered(earlier: &BidRequest, random: &mut Rng) -> BidRequest {
    let mut again = earlier.clone();
    let more = |amount: Amount| Amount::from_cents(amount.cents() + 1).unwrap_or(amount);
    match random.u8(0..5) {
        0 => {
            again.offer = match again.offer {
                Offer::Exact(amount) => Offer::Exact(more(amount)),
                Offer::Kept { amount, sealed } => Offer::Kept { amount: more(amount), sealed },
                Offer::UpTo { amount, maximum, sealed } => Offer::UpTo { amount, maximum: more(maximum), sealed },
            }
        }
        1 => again.user_id = user(random.u128(HOST..HOST + 6)),
        2 => {
            again.offer = match again.offer {
                Offer::Exact(amount) | Offer::Kept { amount, .. } => {
                    Offer::UpTo { amount: Some(amount), maximum: amount, sealed: sealed(random) }
                }
                Offer::UpTo { maximum, sealed, .. } => Offer::UpTo { amount: Some(maximum), maximum, sealed },
            }
        }
        _ => {
            // Encrypted again.
            if let Offer::UpTo { sealed: text, .. } | Offer::Kept { sealed: text, .. } = &mut again.offer {
                *text = sealed(random);
            }
        }
    }
    again
}

/// Something that the host does; blocked people are often unblocked.
pub fn random_act(model: &Auction, random: &mut Rng) -> HostAct {
    let person = user(random.u128(HOST..HOST + 6));
    match (model.status, random.u8(0..4)) {
        (Status::Paused, 0..3) => HostAct::Resume,
        (_, 0) => HostAct::Pause,
        (_, 1) => HostAct::Block(person),
        (_, 2) => HostAct::Unblock(person),
        _ => [HostAct::Start, HostAct::Resume, HostAct::Unblock(person)][random.usize(0..3)],
    }
}
