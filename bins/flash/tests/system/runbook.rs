//! The questions of the runbook: every command of the section is run with the real nats CLI against a running system,
//! and must print the field that the runbook says to look at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::scratch::target;
use testkit::{Servers, run_quietly};

use crate::test_system::TestSystem;

const RUNBOOK: &str = include_str!("../../../../nomad/RUNBOOK.md");
/// The CLI whose output the runbook shows.
const CLI: &str = "github.com/nats-io/natscli/nats@v0.5.0";
/// Commands in the section, so that a changed layout does not leave the test without any.
const AT_LEAST: usize = 15;

/// A command of the runbook, and the text that it must print.
struct Question {
    command: String,
    look_at: String,
}

/// The commands of the section Questions: those in its blocks that begin with `$ nats --context`. The text before a
/// block names the field.
fn questions() -> Result<Vec<Question>> {
    let (_, section) = RUNBOOK.split_once("\n## Questions\n").context("the section Questions")?;
    let section = section.split("\n## ").next().context("a section")?;
    let parts: Vec<&str> = section.split("\n```").collect();
    let mut questions = Vec::new();
    for pair in parts.chunks(2) {
        let [text, block] = pair else { break };
        let Some(command) = block.strip_prefix("console\n$ ").filter(|block| block.starts_with("nats --context"))
        else {
            continue;
        };
        questions.push(Question { command: whole(command), look_at: field(text)? });
    }
    Ok(questions)
}

/// The command at the beginning of a block, with the lines that continue it: after a backslash, or in an open quote.
fn whole(block: &str) -> String {
    let mut command = String::new();
    for line in block.lines() {
        command.push_str(line);
        let is_open = command.matches('\'').count() % 2 == 1;
        if !line.ends_with('\\') && !is_open {
            break;
        }
        command.push('\n');
    }
    command
}

/// The field in the last sentence of a text: "Look at `field`."
fn field(text: &str) -> Result<String> {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, rest) = words.rsplit_once("Look at `").with_context(|| format!("nothing to look at: {words}"))?;
    Ok(rest.split('`').next().unwrap_or_default().to_owned())
}

/// The nats CLI: the one on PATH, or one that Go installs into a directory below `target`. None where neither is.
fn cli() -> Result<Option<PathBuf>> {
    let path = std::env::var_os("PATH").context("PATH")?;
    let find =
        |program: &str| std::env::split_paths(&path).map(|place| place.join(program)).find(|file| file.is_file());
    let directory = target().join("nats-cli");
    let installed = directory.join("nats");
    if !installed.is_file() {
        let Some(go) = find("go") else { return Ok(find("nats")) };
        std::fs::create_dir_all(&directory)?;
        eprintln!("installing the nats CLI …");
        run_quietly(Command::new(go).args(["install", CLI]).env("GOBIN", &directory))?;
    }
    Ok(Some(installed))
}

/// A shell with the contexts of the runbook, in a home of its own.
struct Shell {
    nats: PathBuf,
    home: PathBuf,
    variables: BTreeMap<&'static str, String>,
}

impl Shell {
    fn run(&self, command: &str) -> Result<Output> {
        let directory = self.nats.parent().context("a directory")?;
        let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("timeout");
        shell.args(["20", "bash", "-o", "pipefail", "-c", command]).env("PATH", path);
        shell.env("HOME", &self.home).env("XDG_CONFIG_HOME", self.home.join(".config")).envs(&self.variables);
        Ok(shell.output()?)
    }

    fn context(&self, name: &str, servers: &Servers, user: &str, password: &str) -> Result<()> {
        let url = format!("{}://127.0.0.1:{}", servers.nats_scheme(), servers.nats[0].port);
        let mut saving = format!("nats context save {name} --server '{url}' --user '{user}' --password '{password}'");
        if let Some(tls) = &servers.tls {
            let files = [
                ("tlsca", &tls.authority.ca_file),
                ("tlscert", &tls.client.cert_file),
                ("tlskey", &tls.client.key_file),
            ];
            for (option, file) in files {
                saving.push_str(&format!(" --{option} '{}'", file.display()));
            }
        }
        let output = self.run(&saving)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }
}

/// The users of the stack by the name of their context: those that `stack.json` has.
fn logins(description: &serde_json::Value) -> BTreeMap<String, (String, String)> {
    let nats = &description["nats"];
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let mut logins = BTreeMap::new();
    if let (Some(user), Some(password)) = (text(&nats["user"]), text(&nats["password"])) {
        logins.insert("flash-operator".to_owned(), (user, password));
    }
    for user in ["admin", "system"] {
        if let Some(password) = text(&nats[user]["password"]) {
            logins.insert(format!("flash-{user}"), (user.to_owned(), password));
        }
    }
    logins
}

fn has(output: &Output, text: &str) -> bool {
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains(text)
}

#[test]
fn every_question_names_what_to_look_at() -> Result<()> {
    let questions = questions()?;
    ensure!(questions.len() >= AT_LEAST, "only {} commands were found", questions.len());
    for Question { command, look_at } in &questions {
        ensure!(!look_at.is_empty() && !command.ends_with('\\'), "{command}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_runbook_answers_its_question() -> Result<()> {
    let Some(nats) = cli()? else {
        // The same requests over the wire are in `operators.rs`.
        eprintln!("neither Go nor the nats CLI is installed: the commands were not run");
        return Ok(());
    };
    let system = TestSystem::start("runbook").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1})).await?;
    assert_eq!(system.bid("anna", &id, &json!(5)).await?.status, 200);
    system.history(&id, 1).await?;
    // A record that no consumer can read, for the dead letters.
    let bus = system.bus().await?;
    let unreadable = protocol::subject::log(uuid::Uuid::new_v4().to_string().parse()?);
    bus.jetstream.publish(unreadable, "{}".into()).await?.await?;
    let letters = bus::DeadLetters::open(&bus).await?;
    let parked = async {
        let mut from = 1;
        loop {
            match letters.next(from).await? {
                Some(letter) if letter.consumer == protocol::subject::PERSISTENCE_CONSUMER => return anyhow::Ok(()),
                Some(letter) => from = letter.letter + 1,
                None => tokio::time::sleep(Duration::from_millis(25)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), parked).await.context("the record was not parked")??;

    let home = system.path().join("home");
    std::fs::create_dir_all(&home)?;
    let backup = system.path().join("backup").to_string_lossy().into_owned();
    let first = bus::Log::open(&bus).await?.next(id.parse()?, 0).await?.context("a record")?.stream_seq;
    let variables = BTreeMap::from([("AUCTION", id), ("SEQ", first.to_string()), ("BACKUP", backup)]);
    let shell = Shell { nats, home, variables };
    let logins = logins(&system.stack.description());
    for (context, (user, password)) in &logins {
        shell.context(context, &system.stack.servers, user, password)?;
    }
    let mut ran = 0;
    for Question { command, look_at } in questions()? {
        let context = command.split_whitespace().nth(2).context("a context")?;
        if !logins.contains_key(context) {
            eprintln!("this stack has no login for {context}: {command}");
            continue;
        }
        // Statistics are measured every two seconds.
        let mut output = shell.run(&command)?;
        for _ in 0..5 {
            if has(&output, &look_at) {
                break;
            }
            output = shell.run(&command)?;
        }
        ensure!(has(&output, &look_at), "{command}\ndoes not print {look_at}: {output:?}");
        ran += 1;
    }
    ensure!(ran >= AT_LEAST - 2, "only {ran} commands were run");
    assert!(Path::new(&shell.variables["BACKUP"]).join("backup.json").is_file());
    system.end().await;
    Ok(())
}
