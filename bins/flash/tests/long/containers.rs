//! Brings up `docker-compose.yml` on a container engine that belongs to the test.
//!
//! Images cannot be pulled without a registry, so the test builds stand-ins under the names that the committed
//! files use: Debian itself, and Debian with the server in question. The stand-in of the Rust image has a `cargo`
//! that copies the programs of the test's own build. The test covers everything in this repository: the
//! Dockerfile, the files it copies, users and paths in the image, settings, health checks, start order, the
//! one-shot migrate, volumes, published ports, and stopping within the grace period.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::http;
use testkit::scratch::{Scratch, programs, tools};
use testkit::socket::{Socket, Transport};
use testkit::{Process, Signal, install, run_quietly};

const PROJECT: &str = "flash-test";
const PROGRAMS: [&str; 2] = ["flash", "flash-services"];
/// Time for the engine to start or to stop.
const ENGINE_PATIENCE: Duration = Duration::from_secs(30);
/// Size of the production image without its base.
const MAX_IMAGE_MEGABYTES: f64 = 60.0;
/// Time from `up` until every health check passes.
const HEALTH_PATIENCE: Duration = Duration::from_secs(120);

/// A container engine, separate from the machine's own.
struct Engine {
    process: Process,
    socket: String,
}

impl Engine {
    fn start(scratch: &Path) -> Result<Self> {
        // The path of a socket has a length limit, which a scratch directory may exceed.
        let run = std::env::temp_dir().join(format!("flash-engine-{}", std::process::id()));
        let socket = format!("unix://{}", run.join("docker.sock").display());
        let mut command = Command::new("dockerd");
        command.args(["--host", &socket, "--data-root"]).arg(scratch.join("engine"));
        command.arg("--exec-root").arg(run.join("exec")).arg("--pidfile").arg(run.join("pid"));
        let process = Process::start("dockerd", &command, None, Signal::Terminate, &scratch.join("dockerd.log"))?;
        let mut engine = Self { process, socket };
        let deadline = Instant::now() + ENGINE_PATIENCE;
        while engine.docker(&["info"]).is_err() {
            engine.process.check()?;
            ensure!(Instant::now() < deadline, "the container engine does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(engine)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The classic builder: Debian's engine comes without BuildKit.
        command.env("DOCKER_HOST", &self.socket).env("DOCKER_BUILDKIT", "0").current_dir(checkout());
        command
    }

    fn docker(&self, arguments: &[&str]) -> Result<()> {
        run_quietly(self.command("docker").args(arguments))
    }

    /// Builds an image with this tag from `dockerfile` and the files in `context`.
    fn build(&self, tag: &str, context: &Path, dockerfile: &str) -> Result<()> {
        eprintln!("building a stand-in for {tag} …");
        std::fs::write(context.join("Dockerfile"), dockerfile)?;
        self.docker(&["build", "--tag", tag, &context.display().to_string()])
    }

    fn compose(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command("docker-compose");
        let output = command.args(["--project-name", PROJECT]).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The size of an image with its base.
    fn megabytes(&self, image: &str) -> Result<f64> {
        let output = self.command("docker").args(["image", "inspect", "--format", "{{.Size}}", image]).output()?;
        let bytes: f64 = std::str::from_utf8(&output.stdout)?.trim().parse().with_context(|| image.to_owned())?;
        Ok(bytes / 1e6)
    }

    /// The engine's description of every container.
    fn containers(&self) -> Result<Vec<Value>> {
        let ids = self.compose(&["ps", "--quiet", "--all"])?;
        let output = self.command("docker").arg("inspect").args(ids.split_whitespace()).output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Brings the containers up. Fails with the end of their logs.
    fn up(&self, arguments: &[&str]) -> Result<()> {
        let up = self.compose(&[&["up", "--detach"], arguments].concat()).map(drop);
        up.or_else(|error| Err(error.context(self.compose(&["logs", "--no-color", "--tail", "40"])?)))
    }

    /// Waits until each container is healthy and the one-shot container has ended with success.
    fn await_health(&self) -> Result<()> {
        let deadline = Instant::now() + HEALTH_PATIENCE;
        loop {
            let containers = self.containers()?;
            let waiting: Vec<String> = containers.iter().filter(|container| !is_up(container)).map(name).collect();
            if waiting.is_empty() && containers.len() == 13 {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not healthy: {waiting:?}\n{}",
                self.compose(&["logs", "--no-color", "--tail", "40"])?
            );
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.compose(&["down", "--volumes", "--timeout", "1"]));
        self.process.stop(Signal::Terminate, ENGINE_PATIENCE);
    }
}

fn name(container: &Value) -> String {
    container["Config"]["Labels"]["com.docker.compose.service"].as_str().unwrap_or_default().to_owned()
}

fn is_up(container: &Value) -> bool {
    let state = &container["State"];
    if name(container) == "migrate" {
        return state["Status"] == "exited" && state["ExitCode"] == 0;
    }
    state["Health"]["Status"] == "healthy"
}

fn checkout() -> PathBuf {
    tools().parent().map(Path::to_owned).unwrap_or_default()
}

fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/long/images")
}

/// Builds an image for each name that the committed files use.
fn stand_ins(engine: &Engine, scratch: &Path) -> Result<()> {
    let installed = programs()?;
    let folder = |name: &str| -> Result<PathBuf> {
        let folder = scratch.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    };
    eprintln!("building a stand-in for debian:bookworm-slim …");
    // It runs programs that were built on this machine, so it must be the same release.
    let release = std::fs::read_to_string("/etc/os-release")?;
    let release = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).context("a Debian")?;
    let root = folder("debian")?;
    run_quietly(Command::new("debootstrap").args(["--variant=minbase", release]).arg(&root))?;
    let archive = scratch.join("debian.tar");
    run_quietly(
        Command::new("tar").arg("--create").arg("--file").arg(&archive).arg("--directory").arg(&root).arg("."),
    )?;
    std::fs::remove_dir_all(&root)?;
    engine.docker(&["import", &archive.display().to_string(), "debian:bookworm-slim"])?;
    std::fs::remove_file(archive)?;

    let debian = |packages: &str, rest: &str| {
        let install = "apt-get update && apt-get install -y --no-install-recommends";
        format!("FROM debian:bookworm-slim\nRUN {install} {packages}\n{rest}\n")
    };
    let rust = folder("rust")?;
    std::fs::create_dir_all(rust.join("programs"))?;
    eprintln!("building the programs …");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The same features as the test itself, so that nothing is compiled twice.
    let build = ["build", "--locked", "--profile", "fast", "--workspace", "--bins", "--features", "flash/long"];
    run_quietly(Command::new(cargo).args(build).current_dir(checkout()))?;
    let built = Path::new(env!("CARGO_BIN_EXE_flash")).parent().context("a folder")?;
    for program in PROGRAMS {
        // As the profile of the images does.
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(rust.join("programs").join(program)).arg(built.join(program));
        run_quietly(&mut strip)?;
    }
    std::fs::copy(images().join("cargo"), rust.join("cargo"))?;
    let copies = "COPY programs /programs\nCOPY cargo /usr/local/bin/cargo";
    engine.build("rust:1.95-bookworm", &rust, &debian("ca-certificates", copies))?;

    let nats = folder("nats")?;
    std::fs::copy(&installed.nats_server, nats.join("nats-server"))?;
    let rest = "RUN ln -s /bin/busybox /usr/bin/wget\nCOPY nats-server /usr/local/bin/\nENTRYPOINT [\"nats-server\"]";
    engine.build("nats:2.12-alpine", &nats, &debian("busybox", rest))?;

    let rest = "RUN ln -s /bin/busybox /usr/bin/wget\nUSER haproxy";
    engine.build("haproxy:2.6-alpine", &folder("haproxy")?, &debian("haproxy busybox", rest))?;

    let redis = folder("redis")?;
    std::fs::copy(images().join("redis-entrypoint"), redis.join("entrypoint"))?;
    let rest =
        "WORKDIR /data\nCOPY entrypoint /usr/local/bin/docker-entrypoint.sh\nENTRYPOINT [\"docker-entrypoint.sh\"]";
    engine.build("redis:7.4-alpine", &redis, &debian("redis-server", rest))?;

    let postgres = folder("postgres")?;
    std::fs::copy(images().join("postgres-entrypoint"), postgres.join("entrypoint"))?;
    let rest = "COPY entrypoint /entrypoint\nENTRYPOINT [\"/entrypoint\"]";
    engine.build("postgres:16-alpine", &postgres, &debian("postgresql", rest))?;

    let moto = folder("moto")?;
    let environment = tools().join("venv/lib");
    let python = std::fs::read_dir(environment)?.next().context("a Python")??.path();
    run_quietly(Command::new("cp").arg("-r").arg(python.join("site-packages")).arg(&moto))?;
    let rest = "RUN ln -s python3 /usr/bin/python\nCOPY site-packages /site-packages\nENV PYTHONPATH=/site-packages\n\
                ENTRYPOINT [\"python3\", \"-m\", \"moto.server\", \"-H\", \"0.0.0.0\"]";
    engine.build("motoserver/moto:5.2.5", &moto, &debian("python3", rest))
}

async fn post(port: u16, path: &str, token: &str, body: &Value) -> Result<Value> {
    let reply = http::post(&format!("http://127.0.0.1:{port}{path}"), Some(token), body).await?;
    ensure!(reply.status < 300, "{path}: {} {}", reply.status, reply.text);
    Ok(reply.json)
}

/// Runs one auction: creation, a bid that a watcher sees, the close, the history.
async fn run_auction(token: impl Fn(&str) -> Result<String>) -> Result<()> {
    let (host, anna, ben) = (token("host")?, token("anna")?, token("ben")?);
    let auction = json!({"title": "Vase", "duration": 600, "starting_bid": 10});
    let created = post(8000, "/auctions", &host, &auction).await?;
    ensure!(created["ivs_stream_key"].is_string(), "no video: {created}");
    let id = created["auction_id"].as_str().context("an id")?;
    let mut watcher = Socket::enter("http://127.0.0.1:8001", Transport::Plain, &ben).await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    let bid = post(8002, "/bids", &anna, &json!({"auction_id": id, "amount": "10.50"})).await?;
    ensure!(bid["status"] == "accepted", "{bid}");
    let update = watcher.event("bid_update").await?;
    ensure!(update["data"]["bids"][0]["bid_id"] == bid["bid_id"], "{update}");
    let closed = post(8000, &format!("/auctions/{id}/close"), &host, &json!({})).await?;
    ensure!((&closed["outcome"], &closed["winner_username"]) == (&json!("sold"), &json!("anna")), "{closed}");
    let ended = watcher.event("auction_ended").await?;
    ensure!(ended["data"]["winning_bid"] == json!(10.5), "{ended}");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let history = http::get(&format!("http://127.0.0.1:8000/auctions/{id}/bids"), None).await?;
        if history.json["bids"][0]["bid_id"] == bid["bid_id"] {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the bid never appeared in the history: {}", history.text);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn compose_builds_and_becomes_healthy() -> Result<()> {
    install::ensure_containers(&|step| eprintln!("{step} …"))?;
    let scratch = Scratch::new("containers")?;
    let engine = Engine::start(scratch.path())?;
    stand_ins(&engine, scratch.path())?;
    eprintln!("docker-compose up --build …");
    engine.up(&["--build"])?;
    engine.await_health()?;
    run_auction(|name| {
        let token = engine.compose(&["exec", "-T", "issuer", "flash", "token", "--user", name])?;
        Ok(token.trim().to_owned())
    })
    .await?;
    let demo = engine.compose(&["exec", "-T", "issuer", "flash", "demo", "--seconds", "10"])?;
    println!("{demo}");
    assert_eq!(demo.matches(" ok ").count(), 5, "{demo}");
    let megabytes = engine.megabytes("flash-auction")? - engine.megabytes("debian:bookworm-slim")?;
    println!("the image adds {megabytes:.1} MB to its base");
    assert!(megabytes < MAX_IMAGE_MEGABYTES, "{megabytes} MB");

    // Data lives in volumes: new containers still have the auctions.
    engine.compose(&["down"])?;
    engine.up(&[])?;
    engine.await_health()?;
    let auctions = http::get("http://127.0.0.1:8000/auctions", None).await?;
    let outcomes: Vec<_> =
        auctions.json["auctions"].as_array().context("a list")?.iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, ["sold", "sold"], "that of the demo is one of them");

    // Each ends by itself within the grace period; exit code 137 would mean that the engine killed it.
    engine.compose(&["stop"])?;
    for container in engine.containers()? {
        let code = container["State"]["ExitCode"].as_i64().context("a code")?;
        // Python has no handler for SIGTERM, which gives 143.
        let expected: &[i64] = if name(&container) == "aws" { &[0, 143] } else { &[0] };
        ensure!(expected.contains(&code), "{} exited with {code}", name(&container));
    }
    drop(engine);
    scratch.remove();
    Ok(())
}
