//! Requests over NATS under trouble: an answer that panics, more requests at once than any queue takes, and a server that
//! hangs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bus::{About, Bus, Micro, RequestError};
use flash::stack::connections;
use futures_util::future::join_all;
use protocol::{Code, Reply};
use serde_json::json;
use testkit::scratch::{Scratch, programs};
use testkit::{Servers, Signal, Topology};

const SUBJECT: &str = "numbers.repeat";
/// The number at which the answer panics.
const PANICS: u64 = 0;
/// More than the queues of the connection and the places of the endpoint take.
const AT_ONCE: u64 = 5_000;

/// Repeats numbers.
async fn serve(bus: &Bus) -> Result<Micro> {
    let about =
        About { name: "numbers", version: "1.0.0", description: "Repeats numbers", status: Arc::new(|| json!({})) };
    let micro =
        Micro::start(bus, about, service::Stop::new().child_token()).await.map_err(anyhow::Error::from_boxed)?;
    let repeat = async |number: u64| {
        // Not before the first wait: that part runs while the request is received.
        tokio::task::yield_now().await;
        assert_ne!(number, PANICS, "as the test asked for");
        Reply::Ok(number)
    };
    let unreadable = |_: &str| Reply::Failed(Code::InvalidRequest.into());
    micro.serve(SUBJECT, unreadable, repeat).await.map_err(anyhow::Error::from_boxed)?;
    bus.client.flush().await?;
    Ok(micro)
}

async fn ask(bus: &Bus, number: u64, within: Duration) -> Result<u64, RequestError> {
    let reply: Reply<u64> = bus::request(bus, SUBJECT, &number, within).await?;
    reply.into_result().map_err(|failure| RequestError::NoAnswer(failure.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_survive_a_panic_a_crowd_and_a_server_that_hangs() -> Result<()> {
    let scratch = Scratch::new("requests")?;
    let servers = Servers::start(&programs()?, scratch.path(), Topology::default()).await?;
    let settings = connections::nats(&servers);
    let (serving, asking) = (Bus::connect(&settings, "test").await?, Bus::connect(&settings, "test").await?);
    let micro = serve(&serving).await?;
    let (soon, patient) = (Duration::from_millis(500), Duration::from_secs(20));
    let all = |within| join_all((1..=AT_ONCE).map(|number| ask(&asking, number, within)));

    // A panic costs its own request the answer.
    ensure!(matches!(ask(&asking, PANICS, soon).await, Err(RequestError::NoAnswer(_))));
    for (number, answer) in (1..).zip(all(patient).await) {
        assert_eq!(answer?, number);
    }

    // While the server hangs, every request ends at its time limit; afterwards all are answered again.
    let nats = &servers.nats.first().context("a server")?.process;
    nats.signal(Signal::Stop)?;
    let stopped = Instant::now();
    let answers = all(soon).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(RequestError::NoAnswer(_)))));
    assert!(stopped.elapsed() < 10 * soon, "{:?}", stopped.elapsed());
    nats.signal(Signal::Continue)?;
    assert_eq!(ask(&asking, 7, patient).await?, 7);

    micro.finish().await;
    tokio::task::spawn_blocking(move || servers.stop()).await?;
    scratch.remove();
    Ok(())
}
