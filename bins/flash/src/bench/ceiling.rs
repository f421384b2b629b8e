//! Raw limits of this machine: Redis, NATS and loopback sockets without the services, for comparison with bids.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use domain::{Amount, AuctionId, BidId, BidRequest, UserId};
use protocol::{CreateRequest, Person};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::load::{BATCH, Load, STEP_CENTS};
use crate::stack::{Stack, connections};

/// Bytes of one message, about as many as a bid has on the wire.
const ECHO_BYTES: usize = 300;

/// Calls of many bids that are in flight at most: of a thousand the last would wait longer than a call may take.
const MAX_BATCHED_CALLS: u64 = 64;

/// Measures each limit at this load.
pub async fn measure(stack: &Stack, load: Load) -> Result<Value> {
    let batched = Load { in_flight: load.in_flight.min(MAX_BATCHED_CALLS), ..load };
    let (one, batched) = (script(stack, load, 1).await?, script(stack, batched, BATCH).await?);
    Ok(json!({
        "in_flight": load.in_flight,
        "script_calls_per_second": one,
        "script_bids_per_second_in_batches": batched,
        "batch": BATCH,
        "log_appends_per_second": appends(stack, load).await?,
        "loopback_round_trips_per_second": round_trips(load).await?,
    }))
}

/// Runs `call` in a loop in each of the workers; returns the sum of its results per second.
async fn rate<Call, Done>(load: Load, call: Call) -> Result<f64>
where
    Call: Fn() -> Done + Clone + Send + 'static,
    Done: Future<Output = Result<u64>> + Send,
{
    let end = Instant::now() + Duration::from_secs(load.seconds);
    let mut workers = JoinSet::new();
    for _ in 0..load.in_flight {
        let call = call.clone();
        workers.spawn(async move {
            let mut done = 0;
            while Instant::now() < end {
                done += call().await?;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(worker) = workers.join_next().await {
        done += worker??;
    }
    Ok(done as f64 / load.seconds as f64)
}

/// The bid script without the services: accepted bids per second.
async fn script(stack: &Stack, load: Load, batch: usize) -> Result<f64> {
    let hotstate = hotstate::Hotstate::connect(&connections::redis(&stack.servers)).await?;
    let auction_id = AuctionId::from_uuid(Uuid::new_v4());
    let request = CreateRequest {
        auction_id,
        host: Person { user_id: UserId::from_uuid(Uuid::new_v4()), username: "host".to_owned() },
        starting_bid: Amount::from_cents(100)?,
        increment: Amount::from_cents(STEP_CENTS)?,
        options: protocol::Options::default(),
        reserve: None,
        sealed_reserve: None,
        duration_ms: 600_000,
        anti_snipe_mode: domain::AntiSnipeMode::Off,
        anti_snipe_window_ms: 0,
        anti_snipe_extension_ms: 0,
        anti_snipe_max_extensions: 0,
        starts_at: None,
        valid_until: u64::MAX / 2,
    };
    hotstate.create(&request).await?;
    hotstate.open(auction_id).await?.context("the auction is not in Redis")?;
    let price = Arc::new(AtomicU64::new(100));
    let place = move || {
        let (hotstate, price) = (hotstate.clone(), Arc::clone(&price));
        async move {
            let first = price.fetch_add(STEP_CENTS * batch as u64, Ordering::Relaxed);
            let bids: Vec<BidRequest> = (0..batch as u64)
                .map(|nth| {
                    let cents = first + nth * STEP_CENTS;
                    Ok(BidRequest {
                        bid_id: BidId::from_uuid(Uuid::new_v4()),
                        user_id: UserId::from_uuid(Uuid::from_u128(u128::from(1 + cents % 64))),
                        username: "robot".to_owned(),
                        offer: Amount::from_cents(cents)?.into(),
                    })
                })
                .collect::<Result<_>>()?;
            let verdicts = hotstate.place(auction_id, &bids, 0).await?.context("the auction is not in Redis")?;
            let accepted = verdicts.decisions.iter();
            Ok(accepted.filter(|decision| matches!(decision, domain::Decision::Accepted { .. })).count() as u64)
        }
    };
    rate(load, place).await
}

/// Synced appends of about one bid each to a separate stream, per second.
async fn appends(stack: &Stack, load: Load) -> Result<f64> {
    let bus = bus::Bus::connect(&connections::nats(&stack.servers), "bench").await?;
    let config = async_nats::jetstream::stream::Config {
        name: "BENCH".to_owned(),
        subjects: vec!["bench.append".to_owned()],
        max_bytes: 512 * 1024 * 1024,
        ..Default::default()
    };
    bus.jetstream.create_stream(config).await?;
    let jetstream = bus.jetstream.clone();
    let append = move || {
        let jetstream = jetstream.clone();
        async move {
            jetstream.publish("bench.append", vec![b'x'; ECHO_BYTES].into()).await?.await?;
            Ok(1)
        }
    };
    let rate = rate(load, append).await;
    bus.jetstream.delete_stream("BENCH").await?;
    rate
}

/// Round trips per second over one loopback connection for each bid in flight.
async fn round_trips(load: Load) -> Result<f64> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let echo = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; ECHO_BYTES];
                while socket.read_exact(&mut buffer).await.is_ok() && socket.write_all(&buffer).await.is_ok() {}
            });
        }
    });
    let end = Instant::now() + Duration::from_secs(load.seconds);
    let mut workers = JoinSet::new();
    for _ in 0..load.in_flight {
        workers.spawn(async move {
            let mut socket = tokio::net::TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let (mut buffer, mut done) = ([0; ECHO_BYTES], 0u64);
            while Instant::now() < end {
                socket.write_all(&buffer).await?;
                socket.read_exact(&mut buffer).await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(worker) = workers.join_next().await {
        done += worker??;
    }
    echo.abort();
    if done == 0 {
        bail!("no message was echoed");
    }
    Ok(done as f64 / load.seconds as f64)
}
