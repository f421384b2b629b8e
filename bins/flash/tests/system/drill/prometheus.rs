//! A real Prometheus with the rules and the configuration of `nomad/observability`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use flash::Stack;
use serde_json::Value;
use testkit::scratch::tools;
use testkit::tls::authority_of;
use testkit::{Process, Signal, eventually, free_port, http, install};
use tokio::time::timeout;

use crate::rolling::ingress::Ingress;

/// The files that a deployment gives it.
const FILES: [&str; 3] = ["prometheus.yml", "recording.yml", "alerts.yml"];
/// Scrapes of every instance after which rates can be computed. One takes five seconds.
const SCRAPES: u32 = 5;
/// Time for these.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// Time to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// A running Prometheus.
pub struct Prometheus {
    process: Process,
    url: String,
    targets: usize,
}

impl Prometheus {
    /// Starts it with an empty store. `name` is that of its directory.
    pub fn start(directory: &Path, name: &str, stack: &Stack, ingress: &Ingress) -> Result<Self> {
        install::ensure_prometheus(&|step| eprintln!("{step} …"))?;
        let home = directory.join("prometheus").join(name);
        fs::create_dir_all(&home)?;
        let observability = tools().with_file_name("nomad").join("observability");
        for file in FILES {
            fs::copy(observability.join(file), home.join(file)).with_context(|| file.to_owned())?;
        }
        let mut targets = String::new();
        let instances = stack.instances.iter().map(|instance| (instance.name.text(), &instance.operations));
        let all: Vec<_> = instances.chain([("ingress", &ingress.operations)]).collect();
        for (job, url) in &all {
            writeln!(targets, "- labels: {{ job: {job} }}\n  targets: [\"{}\"]", authority_of(url))?;
        }
        fs::write(home.join("targets.yml"), targets)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", home.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", home.join("store").display()))
            .arg(format!("--web.listen-address={address}"));
        let log = directory.join(format!("logs/prometheus-{name}.log"));
        let process = Process::start("prometheus", &command, None, Signal::Terminate, &log)?;
        Ok(Self { process, url: format!("http://{address}"), targets: all.len() })
    }

    async fn api(&self, path: &str) -> Result<Value> {
        let reply = http::get(&format!("{}/api/v1/{path}", self.url), None).await?;
        anyhow::ensure!(reply.status == 200, "{}", reply.text);
        Ok(reply.json["data"].clone())
    }

    /// Waits until every instance was scraped often enough.
    pub async fn has_seen_enough(&self) -> Result<()> {
        let query = format!("query?query=count(sum_over_time(up%5B5m%5D)%20%3E%3D%20{SCRAPES})");
        let ready = format!("{}/-/ready", self.url);
        let answers = async || Ok(http::get(&ready, None).await.is_ok_and(|reply| reply.status == 200).then_some(()));
        eventually("Prometheus is ready", answers).await?;
        let seen = async {
            loop {
                let found = self.api(&query).await?;
                let count = found["result"][0]["value"][1].as_str().map_or(Ok(0), str::parse)?;
                if count == self.targets {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        timeout(SEEN_WITHIN, seen).await.context("not every instance was scraped")?
    }

    /// The names of the alarms that fire.
    pub async fn firing(&self) -> Result<BTreeSet<String>> {
        let data = self.api("alerts").await?;
        let alerts = data["alerts"].as_array().context("alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| Ok(alert["labels"]["alertname"].as_str().context("a name")?.to_owned())).collect()
    }

    /// Ends it.
    pub async fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::Terminate)?;
        self.process.ended(ENDS_WITHIN).await
    }
}
