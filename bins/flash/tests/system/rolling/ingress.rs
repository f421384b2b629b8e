//! The ingress of a deployment: a real HAProxy with `nomad/ingress/haproxy.cfg`, into which it writes the list of
//! instances as Nomad's template does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flash::stack::Name;
use testkit::scratch::tools;
use testkit::{Process, Signal, eventually, free_port, http, install};

/// Condition of the parts about certificates. The test stores no such variable.
const HAS_VARIABLE: &str = "if nomadVarExists \"nomad/jobs/ingress\"";
/// Condition of the part that names the port for operations of one instance.
const IS_SAME: &str = "if eq .AllocID $server.AllocID";
/// Connections of the ingress. The file's own number needs more open files than a developer's machine allows.
const MAX_CONNECTIONS: &str = "maxconn 2000";
/// Lines that HAProxy logs when it has started a worker, and when a backend has lost its last instance.
const NEW_WORKER: &str = "New worker (";
const NO_SERVER: &str = "has no server available!";
/// Time for the master and its workers to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// One instance in Nomad's list of services.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Id of its allocation.
    pub allocation: String,
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: String,
}

/// Nomad's list of services: the registrations under each name.
pub type Services = BTreeMap<String, Vec<Registration>>;

/// A piece of a template: text, a value, or a block that ends with `end`.
enum Piece<'a> {
    Text(&'a str),
    Value(&'a str),
    Block { head: &'a str, body: Vec<Piece<'a>> },
}

/// Reads up to the end of this block, or without one to the end of the template.
fn parse<'a>(rest: &mut &'a str, block: Option<&'a str>) -> Result<Vec<Piece<'a>>> {
    let mut pieces = Vec::new();
    loop {
        let Some((text, after)) = rest.split_once("{{") else {
            ensure!(block.is_none(), "{block:?} has no end");
            pieces.push(Piece::Text(std::mem::take(rest)));
            return Ok(pieces);
        };
        let (action, after) = after.split_once("}}").context("an action has no end")?;
        let (text, action) = match action.strip_prefix('-') {
            Some(action) => (text.trim_end(), action.trim()),
            None => (text, action.trim()),
        };
        *rest = after;
        pieces.push(Piece::Text(text));
        if action == "end" {
            ensure!(block.is_some(), "an end without a block");
            return Ok(pieces);
        }
        let is_block = ["if ", "range ", "with "].iter().any(|word| action.starts_with(word));
        pieces.push(match is_block {
            true => Piece::Block { head: action, body: parse(rest, Some(action))? },
            false => Piece::Value(action),
        });
    }
}

/// The registrations that the names of a block stand for.
#[derive(Clone, Copy, Default)]
struct Scope<'a> {
    dot: Option<&'a Registration>,
    server: Option<&'a Registration>,
}

/// Appends these pieces to `output`. Fails at an action that the file did not have when this was written.
fn write(pieces: &[Piece<'_>], services: &Services, scope: Scope<'_>, output: &mut String) -> Result<()> {
    for piece in pieces {
        match piece {
            Piece::Text(text) => output.push_str(text),
            Piece::Value(field) => {
                let dot = scope.dot.with_context(|| format!("{field} outside of a range"))?;
                output.push_str(match *field {
                    ".AllocID" => &dot.allocation,
                    ".Address" => &dot.address,
                    ".Port" => &dot.port,
                    unknown => bail!("an unknown action: {unknown}"),
                });
            }
            Piece::Block { head: HAS_VARIABLE, .. } => {}
            Piece::Block { head: IS_SAME, body } => {
                let (dot, server) = scope.dot.zip(scope.server).context("a comparison outside of two ranges")?;
                if dot.allocation == server.allocation {
                    write(body, services, scope, output)?;
                }
            }
            Piece::Block { head, body } => {
                let unknown = || format!("an unknown action: {head}");
                let range = head.strip_prefix("range ").with_context(unknown)?;
                let of_server = range.strip_prefix("$server := ");
                let call = of_server.unwrap_or(range).strip_prefix("nomadService \"").with_context(unknown)?;
                let name = call.strip_suffix('"').with_context(unknown)?;
                for registration in services.get(name).with_context(|| format!("no instance of {name}"))? {
                    let server = of_server.map_or(scope.server, |_| Some(registration));
                    write(body, services, Scope { dot: Some(registration), server }, output)?;
                }
            }
        }
    }
    Ok(())
}

/// The template with this list, as Nomad writes it.
fn render(template: &str, services: &Services) -> Result<String> {
    let (mut rest, mut text) = (template, String::new());
    write(&parse(&mut rest, None)?, services, Scope::default(), &mut text)?;
    ensure!(!text.contains("{{") && !text.contains("}}"), "an action is left: {text}");
    Ok(text)
}

/// The ingress of docker-compose.yml is that of the job, with one container as the only instance of each service.
#[test]
fn compose_has_the_ingress_of_the_job() -> Result<()> {
    let directory = tools().with_file_name("nomad").join("ingress");
    let mut services = Services::new();
    for name in [Name::AuctionManagement, Name::BidProcessing, Name::Timer, Name::Websocket] {
        let (container, port) = (name.text().to_owned(), (8000 + name.port_offset()).to_string());
        let only = Registration { allocation: container.clone(), address: container.clone(), port };
        services.insert(format!("{container}-operations"), vec![only.clone()]);
        services.insert(container, vec![only]);
    }
    let written = render(&fs::read_to_string(directory.join("haproxy.cfg"))?, &services)?;
    let file = directory.join("compose.cfg");
    if std::env::var_os("UPDATE_INGRESS").is_some() {
        fs::write(&file, &written)?;
    }
    assert_eq!(fs::read_to_string(&file)?, written, "UPDATE_INGRESS=1 writes the file again");
    Ok(())
}

/// A running ingress.
pub struct Ingress {
    /// Its address for clients.
    pub url: String,
    /// Its address for operations.
    pub operations: String,
    process: Process,
    template: String,
    configuration: PathBuf,
    written: String,
    log: PathBuf,
    workers: usize,
}

impl Ingress {
    /// Starts it with this list of instances.
    pub async fn start(directory: &Path, services: &Services) -> Result<Self> {
        let program = install::ensure_haproxy(&|step| eprintln!("{step} …"))?;
        let file = tools().with_file_name("nomad").join("ingress/haproxy.cfg");
        let mut template = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let (clients, operations) = (free_port()?, free_port()?);
        for (from, to) in [
            ("bind :8080\n", format!("bind 127.0.0.1:{clients}\n")),
            ("bind :8404\n", format!("bind 127.0.0.1:{operations}\n")),
            ("maxconn 50000", MAX_CONNECTIONS.to_owned()),
        ] {
            ensure!(template.matches(from).count() == 1, "{from:?} is not once in {}", file.display());
            template = template.replace(from, &to);
        }
        let (configuration, log) = (directory.join("haproxy.cfg"), directory.join("logs/haproxy.log"));
        let written = render(&template, services)?;
        fs::write(&configuration, &written)?;
        // The arguments of the job.
        let mut command = Command::new(program);
        command.args(["-W", "-db", "-f"]).arg(&configuration);
        let process = Process::start("haproxy", &command, None, Signal::Terminate, &log)?;
        let (url, operations) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{operations}"));
        let ready = format!("{operations}/ready");
        let mut ingress = Self { url, operations, process, template, configuration, written, log, workers: 1 };
        let answers = async || {
            ingress.process.check()?;
            anyhow::Ok(http::get(&ready, None).await.is_ok_and(|reply| reply.status == 200).then_some(()))
        };
        eventually("the ingress answers", answers).await?;
        Ok(ingress)
    }

    /// Writes this list of instances and, if it is another one, lets a new worker read it.
    pub async fn read_list(&mut self, services: &Services) -> Result<()> {
        let text = render(&self.template, services)?;
        if text == self.written {
            return Ok(());
        }
        let new = self.configuration.with_extension("new");
        fs::write(&new, &text)?;
        fs::rename(new, &self.configuration)?;
        self.written = text;
        self.process.check()?;
        self.process.signal(Signal::Reload)?;
        self.workers += 1;
        let started = async || {
            let count = self.lines(NEW_WORKER)?.len();
            anyhow::Ok((count == self.workers).then_some(()))
        };
        eventually("the ingress has read its list", started).await
    }

    /// Every report that a backend had no instance that was ready.
    pub fn empty_backends(&self) -> Result<Vec<String>> {
        self.lines(NO_SERVER)
    }

    fn lines(&self, part: &str) -> Result<Vec<String>> {
        let log = fs::read_to_string(&self.log)?;
        Ok(log.lines().filter(|line| line.contains(part)).map(str::to_owned).collect())
    }

    /// Ends it with its connections.
    pub async fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::Terminate)?;
        self.process.ended(ENDS_WITHIN).await
    }
}
