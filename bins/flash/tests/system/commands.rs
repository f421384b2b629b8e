//! The commands as on a command line, and the commands in README.md, the runbook and the tool's README.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::scratch::{Scratch, tools};
use testkit::{http, install};

const README: &str = include_str!("../../../../README.md");
const RUNBOOK: &str = include_str!("../../../../nomad/RUNBOOK.md");
const TOOL: &str = include_str!("../../README.md");

/// A directory that the tool takes for another checkout, with its own `.flash/` and ports.
struct Checkout {
    scratch: Scratch,
    port_base: u16,
}

impl Checkout {
    fn new(test: &str) -> Result<Self> {
        install::ensure(&tools(), &|step| eprintln!("{step} …"))?;
        let scratch = Scratch::new(test)?;
        let directory = scratch.path().join(".flash");
        std::fs::create_dir_all(&directory)?;
        // The files by which the tool recognises a checkout.
        std::fs::create_dir_all(scratch.path().join("bins/flash"))?;
        std::fs::write(scratch.path().join("Cargo.toml"), "")?;
        std::os::unix::fs::symlink(tools().join("venv"), directory.join("venv"))?;
        Ok(Self { scratch, port_base: testkit::free_ports(&[0, 1, 2, 3, 1004, 1005])? })
    }

    fn directory(&self) -> PathBuf {
        self.scratch.path().join(".flash")
    }

    /// `flash` with these arguments, in this checkout.
    fn flash(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flash"));
        command.args(arguments).current_dir(self.scratch.path());
        command
    }

    /// Starts `up` and returns when it has printed that it is ready, with its output.
    fn up(&self, arguments: &[&str]) -> Result<Up> {
        let started = Instant::now();
        let base = self.port_base.to_string();
        let mut child = self
            .flash(&["up", "--port-base", &base])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut printed = String::new();
        let mut output = BufReader::new(child.stdout.take().context("an output")?);
        while !printed.contains("Ctrl-C") {
            if output.read_line(&mut printed)? == 0 {
                let mut errors = String::new();
                child.stderr.take().context("errors")?.read_to_string(&mut errors)?;
                anyhow::bail!("`up` ended: {printed}{errors}");
            }
        }
        Ok(Up { child, output: printed, ready_after: started.elapsed() })
    }

    fn stack(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(self.directory().join("stack.json"))?)?)
    }

    /// Command lines of the servers and services of this checkout that still run.
    fn processes(&self) -> Vec<String> {
        let needle = self.scratch.path().to_string_lossy().into_owned();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ours = |path: &Path| {
            let text =
                |file: &str| String::from_utf8_lossy(&std::fs::read(path.join(file)).unwrap_or_default()).into_owned();
            let command = text("cmdline");
            (command.contains(&needle) || text("environ").contains(&needle)).then_some(command)
        };
        entries.filter_map(|entry| ours(&entry.path())).collect()
    }

    fn gone_within(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "still running: {left:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a block of a document in bash, with the ports of this checkout.
    fn shell(&self, block: &str) -> Result<Output> {
        let bin = self.scratch.path().join("bin");
        std::fs::create_dir_all(&bin)?;
        // `cargo flash …` is an alias that builds and runs this binary, which is already built.
        let shim = format!("#!/bin/sh\n[ \"$1\" = flash ] && shift && exec {} \"$@\"\n", env!("CARGO_BIN_EXE_flash"));
        std::fs::write(bin.join("cargo"), shim)?;
        std::fs::set_permissions(bin.join("cargo"), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &self.with_ports(block)])
            .env("PATH", path)
            .current_dir(self.scratch.path())
            .output()?;
        ensure!(output.status.success(), "{block}\n{output:?}");
        Ok(output)
    }

    fn with_ports(&self, text: &str) -> String {
        (0..4u16).fold(text.to_owned(), |text, nth| {
            text.replace(&format!("localhost:{}", 8000 + nth), &format!("127.0.0.1:{}", self.port_base + nth))
        })
    }
}

struct Up {
    child: Child,
    output: String,
    ready_after: Duration,
}

impl Up {
    fn signal(&self, name: &str) -> Result<()> {
        testkit::run_quietly(Command::new("kill").args(["-s", name, "--", &self.child.id().to_string()]))
    }

    /// Sends the signal of Ctrl-C and returns the time until the end.
    fn interrupt(mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.signal("INT")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}");
        Ok(begun.elapsed())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The fenced blocks of a document in this language, in order.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    document.split(&fence).skip(1).filter_map(|rest| Some(rest.split("```").next()?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_commands_work() -> Result<()> {
    let checkout = Checkout::new("readme")?;
    let commands = blocks(README, "sh");
    assert_eq!((commands[0].as_str(), commands[1].as_str()), ("cargo flash up\n", "cargo flash test\n"));
    let alias = std::fs::read_to_string(tools().with_file_name(".cargo/config.toml"))?;
    assert!(alias.contains("flash = \"run --profile fast --package flash --\""), "{alias}");

    let up = checkout.up(&[])?;
    assert!(up.output.starts_with("Ready\n"), "{}", up.output);
    let output = checkout.shell(&commands[2])?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("\"status\":\"accepted\""), "{text}");
    // The lines that `up` prints for copying work as well.
    let copied: Vec<&str> = up.output.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let start = copied.iter().position(|line| line.starts_with("HOST=")).context("lines to copy")?;
    // The nats CLI need not be here.
    let copied: Vec<&str> = copied[start..].iter().copied().filter(|line| !line.starts_with("nats ")).collect();
    let output = checkout.shell(&copied.join("\n"))?;
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"status\":\"accepted\""), "{output:?}");

    // The snippet for a browser, in node, whose WebSocket is that of the `ws` package.
    let node = install::ensure_node(&tools(), &|step| eprintln!("{step} …"))?;
    let snippet = blocks(README, "js").into_iter().next().context("a snippet")?;
    let token = checkout.shell("cargo flash token --user anna")?;
    let auction: Value = http::post(
        &format!("http://127.0.0.1:{}/auctions", checkout.port_base),
        Some(String::from_utf8(checkout.shell("cargo flash token --user host")?.stdout)?.trim()),
        &serde_json::json!({"title": "Lamp", "duration": 60, "starting_bid": 10}),
    )
    .await?
    .json;
    let snippet = checkout
        .with_ports(&snippet)
        .replace("PASTE-A-TOKEN", String::from_utf8(token.stdout)?.trim())
        .replace("PASTE-AN-AUCTION-ID", auction["auction_id"].as_str().context("an id")?);
    let script = format!(
        "globalThis.WebSocket = require('ws');\nconst log = console.log;\n\
         console.log = (...words) => {{ log(...words); if (words[0] === 'bid_result') process.exit(0); }};\n\
         setTimeout(() => process.exit(1), 10000);\n{snippet}"
    );
    let output = Command::new("node").arg("-e").arg(script).current_dir(node).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("bid_result") && text.contains("accepted"), "{output:?}");

    // Bots over both transports. The demo succeeds only if all stores agree.
    let demo = checkout.shell("cargo flash demo --seconds 6 --bots 8")?;
    let table = String::from_utf8(demo.stdout)?;
    for row in ["winner", "bid to screen", "DynamoDB", "PostgreSQL", "mails"] {
        assert!(table.contains(row), "{table}");
    }

    for block in commands[3..].iter().chain(&blocks(RUNBOOK, "sh")).chain(&blocks(TOOL, "sh")) {
        if !block.contains("flash demo") {
            checkout.shell(block)?;
        }
    }

    let took = up.interrupt()?;
    assert!(took < Duration::from_secs(10), "Ctrl-C took {took:?}");
    checkout.gone_within(Duration::from_secs(1))?;
    assert!(checkout.stack().is_err(), "stack.json is left over");
    checkout.scratch.remove();
    Ok(())
}

/// Commands that take minutes are in blocks of the language `console`. They are parsed, not run.
#[test]
fn documented_commands_can_be_parsed() -> Result<()> {
    let mut parsed = 0;
    for block in [README, RUNBOOK, TOOL].into_iter().flat_map(|document| blocks(document, "console")) {
        for line in block.lines().filter_map(|line| line.strip_prefix("$ cargo ")) {
            <flash::Command as clap::Parser>::try_parse_from(line.split(' ')).with_context(|| line.to_owned())?;
            parsed += 1;
        }
    }
    ensure!(parsed > 0, "no command was found");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stacks_run_side_by_side_and_restart_after_a_kill() -> Result<()> {
    let (one, mut two) = (Checkout::new("up-one")?, Checkout::new("up-two")?);
    let first = one.up(&["--instances", "bid-processing=2"])?;
    let in_same_checkout = one.flash(&["up"]).output()?;
    assert_eq!(in_same_checkout.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&in_same_checkout.stderr).contains("cargo flash down"), "{in_same_checkout:?}");
    let own_base = std::mem::replace(&mut two.port_base, one.port_base);
    let taken = two.flash(&["up", "--port-base", &two.port_base.to_string()]).output()?;
    assert_eq!(taken.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&taken.stderr).contains(&format!("port {}", one.port_base)), "{taken:?}");
    two.port_base = own_base;

    // A second stack beside the first, with each service a separate process, as in production.
    let beside = two.up(&["--processes"])?;
    let stack = two.stack()?;
    for (name, service) in stack["services"].as_object().context("services")? {
        let health = http::get(&format!("{}/health", service["url"].as_str().context("a url")?), None).await?.json;
        assert_eq!((&health["status"], &health["service"]), (&Value::from("healthy"), &Value::from(name.as_str())));
        assert_ne!(service["pid"], stack["flash_pid"], "{name} is a separate process");
    }
    // After a kill of its parent no process is left.
    beside.signal("KILL")?;
    two.gone_within(Duration::from_secs(5))?;
    let down = two.flash(&["down"]).output()?;
    assert!(down.status.success() && two.stack().is_err(), "{down:?}");

    // The first stack is not affected. It keeps its data over a quick restart.
    let management = format!("http://127.0.0.1:{}", one.port_base);
    let token = String::from_utf8(one.flash(&["token", "--user", "host"]).output()?.stdout)?;
    let auction = serde_json::json!({"title": "Lamp", "duration": 600, "starting_bid": 10});
    let created = http::post(&format!("{management}/auctions"), Some(token.trim()), &auction).await?;
    assert_eq!(created.status, 201, "{}", created.text);
    let down = one.flash(&["down"]).output()?;
    assert!(down.status.success(), "{down:?}");
    drop(first);
    one.gone_within(Duration::from_secs(1))?;
    let again = one.up(&[])?;
    assert!(again.ready_after < Duration::from_secs(10), "a warm start was ready after {:?}", again.ready_after);
    let id = created.json["auction_id"].as_str().context("an id")?;
    let found = http::get(&format!("{management}/auctions/{id}"), None).await?;
    assert_eq!((found.status, &found.json["status"]), (200, &Value::from("live")));
    let token = String::from_utf8(one.flash(&["token", "--user", "anna"]).output()?.stdout)?;
    let bid = serde_json::json!({"auction_id": id, "amount": 10});
    let placed = http::post(&format!("http://127.0.0.1:{}/bids", one.port_base + 2), Some(token.trim()), &bid).await?;
    assert_eq!(placed.status, 200, "{}", placed.text);
    again.interrupt()?;

    let fresh = one.up(&["--fresh"])?;
    assert_eq!(http::get(&format!("{management}/auctions/{id}"), None).await?.status, 404, "--fresh starts empty");
    fresh.interrupt()?;
    one.gone_within(Duration::from_secs(1))?;
    one.scratch.remove();
    two.scratch.remove();
    Ok(())
}

/// `.env.example` has exactly the settings that programs read.
#[test]
fn env_example_lists_exactly_the_settings_that_are_read() -> Result<()> {
    let environment = service::Environment::default();
    flash::read_all_settings(&environment);
    let mut read = environment.asked();
    // Read by the process, whatever the service, and by the logging library.
    read.extend(service::PROCESS_SETTINGS.map(str::to_owned));
    let text = std::fs::read_to_string(tools().with_file_name(".env.example"))?;
    let name = |line: &str| Some(line.trim_start_matches("# ").split_once('=')?.0.to_owned());
    let is_name = |name: &String| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let shown: std::collections::BTreeSet<String> = text.lines().filter_map(name).filter(is_name).collect();
    assert_eq!(shown, read);
    Ok(())
}

/// A hot auction accepts at least 30 % of the bids that the script alone decides on this Redis, with several bids in
/// each record. Both are measured in one run, so that a slow machine slows both.
#[test]
fn hot_auction_reaches_a_third_of_its_script_rate() -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_flash")).args(["bench", "bids", "--seconds", "2"]).output()?;
    ensure!(output.status.success(), "{output:?}");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let measured: serde_json::Value =
        serde_json::from_slice(&std::fs::read(tools().with_file_name("target").join("bench/bids.json"))?)?;
    let number = |part: &str, name: &str| measured[part][name].as_f64().with_context(|| format!("no {part}.{name}"));
    let accepted = number("bids", "accepted_per_second")?;
    let script = number("ceiling", "script_calls_per_second")?;
    ensure!(accepted >= 0.3 * script, "{accepted} of {script} accepted bids a second");
    let records = number("bids", "log_records_per_second")?;
    ensure!(records > 0.0 && records * 4.0 < accepted, "{records} records for {accepted} bids");
    Ok(())
}
