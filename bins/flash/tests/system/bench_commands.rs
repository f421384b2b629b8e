//! `flash bench` at a small size: each benchmark ends with success and writes its figures, and impossible numbers are
//! refused with a sentence.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::scratch::{Scratch, tools};

use crate::test_system::TestSystem;

const BENCHMARKS: &str = include_str!("../../BENCHMARKS.md");

/// A directory that the tool takes for its checkout, so that results of tests at the same time do not mix.
struct Results(Scratch);

impl Results {
    fn new(test: &str) -> Result<Self> {
        let scratch = Scratch::new(test)?;
        // The files by which the tool recognises a checkout.
        std::fs::create_dir_all(scratch.path().join("bins/flash"))?;
        std::fs::write(scratch.path().join("Cargo.toml"), "")?;
        Ok(Self(scratch))
    }

    /// Runs `flash bench` with these words; `directory` is that of the running stack, or of the installed programs.
    fn run(&self, words: &str, directory: &std::path::Path) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flash"));
        command.arg("bench").args(words.split(' ')).current_dir(self.0.path()).env("FLASH_DIRECTORY", directory);
        Ok(command.output()?)
    }

    /// Runs a benchmark that must succeed; returns its figures.
    fn measure(&self, words: &str, directory: &std::path::Path) -> Result<Value> {
        let output = self.run(words, directory)?;
        ensure!(output.status.success(), "{words}: {output:?}");
        let name = words.split(' ').next().context("a benchmark")?;
        let file = self.0.path().join(format!("target/bench/{name}.json"));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(printed.contains("Results written to"), "{words}: {printed}");
        let measured = serde_json::from_slice(&std::fs::read(&file)?)?;
        std::fs::remove_file(file)?;
        Ok(measured)
    }
}

/// A figure that must be there and above 0.
fn figure(measured: &Value, pointer: &str) -> Result<f64> {
    let number = measured.pointer(pointer).and_then(Value::as_f64);
    let number = number.with_context(|| format!("no figure {pointer} in {measured}"))?;
    ensure!(number > 0.0, "{pointer} is {number} in {measured}");
    Ok(number)
}

/// The names of the processes, each of which has used memory.
fn processes(measured: &Value) -> Result<Vec<&str>> {
    let processes = measured["processes"].as_array().context("processes")?;
    processes.iter().try_for_each(|process| figure(process, "/resident_mb").map(drop))?;
    processes.iter().map(|process| process["process"].as_str().context("a name")).collect()
}

/// The limit of accepted bids of a person.
fn accepts_a_second(bids: &str) -> Vec<(String, String)> {
    vec![("MAX_BIDS_PER_USER_PER_SECOND".to_owned(), bids.to_owned())]
}

#[tokio::test(flavor = "multi_thread")]
async fn running_stack_is_measured_through_each_door() -> Result<()> {
    // As fast as the machine is: the limit of a person is not under test.
    let system = TestSystem::with("bench-running", accepts_a_second("1000000"), false).await?;
    let results = Results::new("bench-running-results")?;
    system.stack.write_file()?;
    for (words, door) in [
        ("bids --running --seconds 1 --in-flight 8 --door ws --watchers 5", "ws"),
        ("bids --running --seconds 2 --in-flight 8 --auctions 2 --door socketio --rate 20", "socketio"),
        ("bids --running --seconds 2 --in-flight 8 --auctions 2 --door http --rate 20", "http"),
        ("bids --running --seconds 1 --in-flight 8 --door nats", "nats"),
        ("bids --running --seconds 1 --in-flight 4 --door ws --chase", "ws"),
        ("bids --running --seconds 1 --in-flight 4 --auctions 2 --door socketio --chase", "socketio"),
    ] {
        let measured = results.measure(words, system.path())?;
        let bids = &measured["bids"];
        assert_eq!(bids["door"], door, "{words}");
        assert_eq!(bids["watchers"], if words.contains("--watchers") { 5 } else { 0 }, "{words}");
        let accepted = figure(bids, "/accepted_per_second").context(words)?;
        assert!(figure(bids, "/answer_ms/p50")? <= figure(bids, "/answer_ms/max")?, "{words}: {bids}");
        if words.contains("--rate") {
            // Bids of different people overtake each other and are then too low.
            let answers = figure(bids, "/answers_per_second")?;
            assert!((answers - 20.0).abs() <= 1.0 && accepted <= answers, "{words}: {bids}");
        }
        figure(&measured, "/own_lag_ms/p50").context(words)?;
        assert!(processes(&measured)?.contains(&"all services"), "{measured}");
        assert_eq!(measured["ceiling"], Value::Null, "a running stack is not filled");
    }
    let measured = results.measure("latency --running --seconds 1 --people 2 --door ws", system.path())?;
    let names: Vec<&Value> =
        measured["measurements"].as_array().context("some")?.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["quiet", "2 people by turns", "2 people chase each other"]);
    let words = "persistence --running --seconds 1 --rate 20 --auctions 2";
    let measured = results.measure(words, system.path())?;
    figure(&measured, "/items_written")?;
    assert_eq!(measured["drain"], Value::Null, "a running stack is not stopped");
    let refused = results.run("latency --running --without-history", system.path())?;
    assert_eq!(refused.status.code(), Some(2));
    let refused = results.run("recovery --running", system.path())?;
    assert_eq!(refused.status.code(), Some(2), "a running stack is not killed: {refused:?}");
    results.0.remove();
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_closes_its_auctions_and_counts_ticks() -> Result<()> {
    let (system, results) = (TestSystem::start("bench-timers").await?, Results::new("bench-timers-results")?);
    system.stack.write_file()?;
    let words = "timers --running --auctions 30 --closing 5 --seconds 2 --watched 4";
    let measured = results.measure(words, system.path())?;
    assert_eq!((figure(&measured, "/closed")?, figure(&measured, "/watched")?), (10.0, 8.0));
    for pointer in ["/created_per_second", "/hammer_to_screen_ms/p50", "/tick_jitter_ms/max", "/ticks"] {
        figure(&measured, pointer)?;
    }
    let lag = measured["close_lag_ms"]["p50"].as_f64().context("a lag")?;
    assert!(lag >= 0.0, "no auction closes before its end: {measured}");
    assert!(measured["missed_ticks"].is_u64() && !processes(&measured)?.is_empty(), "{measured}");
    results.0.remove();
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_of_the_running_stack_is_named() -> Result<()> {
    let system = TestSystem::with("bench-limited", accepts_a_second("1"), false).await?;
    let results = Results::new("bench-limited-results")?;
    system.stack.write_file()?;
    let limited = results.run("latency --running --people 2", system.path())?;
    let errors = String::from_utf8_lossy(&limited.stderr).into_owned();
    assert!(limited.status.code() == Some(1) && errors.contains("a higher MAX_BIDS_PER_USER_PER_SECOND"), "{errors}");
    results.0.remove();
    system.end().await;
    Ok(())
}

#[test]
fn history_is_left_out_of_a_measurement() -> Result<()> {
    let results = Results::new("bench-without-history")?;
    let measured = results.measure("latency --without-history --seconds 1 --people 2 --bids-before 100", &tools())?;
    let quiet = &measured["measurements"][0];
    assert!(figure(quiet, "/bids_before")? >= 100.0, "{quiet}");
    let names = processes(quiet)?;
    assert!(names.contains(&"bid-processing") && !names.contains(&"bid-persistence"), "{names:?}");
    results.0.remove();
    Ok(())
}

#[test]
fn fanout_reaches_every_watcher_and_answers_the_bidders() -> Result<()> {
    let results = Results::new("bench-fanout")?;
    // The kernel counts processor time in hundredths of a second: fewer writes might take none.
    let measured = results.measure("fanout --watchers 150 --rate 20 --seconds 2", &tools())?;
    assert_eq!(figure(&measured, "/connections")?, 150.0);
    for pointer in ["/answer_ms/p50", "/last_screen_ms/p99", "/bytes_a_frame", "/edge_to_bare"] {
        figure(&measured, pointer)?;
    }
    results.0.remove();
    Ok(())
}

#[test]
fn persistence_drains_the_backlog_of_a_stopped_service() -> Result<()> {
    let results = Results::new("bench-persistence")?;
    let measured = results.measure("persistence --seconds 1 --rate 20 --auctions 2 --backlog 100", &tools())?;
    for pointer in
        ["/lag_ms/mean", "/accepted", "/items_written", "/drain/bids_per_second", "/drain/raw_items_per_second"]
    {
        figure(&measured, pointer)?;
    }
    // The bids of the time before the measurement are in the backlog as well.
    assert!(figure(&measured, "/drain/bids")? >= 100.0, "{measured}");
    let names = processes(&measured)?;
    for name in ["bid-persistence", "nats-server", "redis-server", "postgres", "AWS emulator", "the load"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(processes(&measured["drain"])?.contains(&"bid-persistence"), "{measured}");
    results.0.remove();
    Ok(())
}

#[test]
fn recovery_kills_each_part_and_bids_again() -> Result<()> {
    let results = Results::new("bench-recovery")?;
    let measured = results.measure("recovery --rounds 1 --bids-before 200", &tools())?;
    assert!(figure(&measured, "/bids_before")? >= 200.0, "{measured}");
    let parts = measured["recovery"].as_array().context("parts")?;
    let names: Vec<&Value> = parts.iter().map(|part| &part["part"]).collect();
    assert_eq!(names, ["bid-processing", "redis-server", "nats-server", "websocket"]);
    for part in parts {
        let accepted = figure(part, "/accepted_seconds/max")?;
        figure(part, "/ready_seconds/p50")?;
        if part["part"] == "websocket" {
            assert!(figure(part, "/rejoined_seconds/p50")? <= accepted, "{part}");
        } else {
            assert_eq!(part["rejoined_seconds"], Value::Null);
        }
    }
    assert!(processes(&measured)?.contains(&"bid-processing"), "{measured}");
    results.0.remove();
    Ok(())
}

#[test]
fn impossible_numbers_are_refused_before_anything_starts() -> Result<()> {
    let results = Results::new("bench-refused")?;
    for (words, sentence) in [
        ("bids --rate 0", "0 is not in"),
        ("bids --auctions 0", "0 is not in"),
        ("bids --chase", "see no updates"),
        ("bids --door http --chase", "see no updates"),
        ("bids --door ws --chase --in-flight 3 --auctions 2", "two in each"),
        ("bids --door ws --chase --rate 10", "cannot be used with"),
        ("bids --door telnet", "possible values"),
        ("latency --door nats", "ws, socketio or http"),
        ("latency --door http --people 2", "see no updates"),
        ("persistence --rate 0", "0 is not in"),
        ("recovery --rounds 0", "0 is not in"),
        ("timers --closing 0", "0 is not in"),
        ("timers --auctions 10 --closing 5 --seconds 3", "are 15: more than the 10 auctions"),
        ("fanout --running", "cannot measure a running stack"),
        ("recovery --running", "cannot measure a running stack"),
        ("bids --running --tls", "as it was started"),
        ("bids --running", "no stack is running here"),
    ] {
        let refused = results.run(words, results.0.path())?;
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{words}: {errors}");
        assert!(errors.contains(sentence), "{words}: {errors}");
        assert!(!errors.contains("starting"), "{words}: {errors}");
    }
    results.0.remove();
    Ok(())
}

/// A description that a killed stack has left behind.
#[test]
fn stack_that_does_not_answer_is_refused() -> Result<()> {
    let results = Results::new("bench-gone")?;
    let gone = json!({"url": format!("http://127.0.0.1:{}", testkit::free_port()?), "pid": 1});
    let services: Value = Name::ALL.into_iter().map(|name| (name.text().to_owned(), gone.clone())).collect();
    std::fs::write(results.0.path().join("stack.json"), json!({"services": services}).to_string())?;
    let refused = results.run("bids --running", results.0.path())?;
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && errors.contains("does not answer"), "{refused:?}");
    results.0.remove();
    Ok(())
}

#[test]
fn documented_benchmarks_can_be_parsed() -> Result<()> {
    let commands: Vec<&str> = BENCHMARKS.lines().filter_map(|line| line.strip_prefix("$ cargo ")).collect();
    for command in &commands {
        let parsed = <flash::Command as clap::Parser>::try_parse_from(command.split(' '));
        parsed.with_context(|| (*command).to_owned())?;
    }
    ensure!(commands.len() > 10, "{commands:?}");
    Ok(())
}
