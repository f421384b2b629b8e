//! Compares the files of Docker and Nomad with the settings that the programs read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::Value;
use service::{Environment, Mistakes};
use testkit::scratch::{Scratch, tools};
use testkit::tls::{Authority, Flaw};
use testkit::{hcl, install};

/// Settings in job files that the AWS SDK reads itself.
const SDK_SETTINGS: [&str; 1] = ["AWS_ROLE_ARN"];

fn file(name: &str) -> Result<String> {
    let path: PathBuf = tools().with_file_name(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The settings that one program reads.
fn settings_of(name: Name) -> BTreeSet<String> {
    let environment = Environment::default();
    drop(name.read_settings(&environment));
    let mut asked = environment.asked();
    // Read for the process, whatever the service.
    asked.extend(service::PROCESS_SETTINGS.map(str::to_owned));
    asked
}

/// Reads the settings of a program.
type Read<'a> = &'a dyn Fn(&Environment) -> Result<(), Mistakes>;

/// Mistakes that keep a program from starting with these settings.
fn mistakes(read: Read<'_>, given: &BTreeMap<String, String>) -> Vec<String> {
    let mut environment = Environment::default();
    for (setting, value) in given {
        environment.set(setting, value.clone());
    }
    read(&environment).err().map(|mistakes| mistakes.0).unwrap_or_default()
}

/// The settings of a container in docker-compose.yml.
fn settings_in_compose(container: &Value) -> Result<BTreeMap<String, String>> {
    let given = container["environment"].as_object().context("an environment")?;
    // Compose expands `${NAME:-default}`.
    let expanded = |value: &str| {
        let default = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')?.split_once(":-"));
        default.map_or(value, |(_, default)| default).to_owned()
    };
    Ok(given.iter().map(|(name, value)| (name.clone(), expanded(value.as_str().unwrap_or_default()))).collect())
}

/// Converts YAML to JSON with the parser that is installed with the emulator.
fn yaml(text: &str) -> Result<Value> {
    install::ensure(&tools(), &|step| eprintln!("{step} …"))?;
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)";
    let mut python = Command::new(tools().join("venv/bin/python"));
    let mut child =
        python.args(["-c", script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("an input")?, text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "not YAML");
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn compose_runs_the_whole_system_on_loopback() -> Result<()> {
    let compose = yaml(&file("docker-compose.yml")?)?;
    let services = compose["services"].as_object().context("services")?;
    for (name, service) in services {
        for port in service["ports"].as_array().into_iter().flatten() {
            ensure!(port.as_str().is_some_and(|port| port.starts_with("127.0.0.1:")), "{name}: {port} is open to all");
        }
        ensure!(name == "migrate" || service["healthcheck"]["test"].is_array(), "{name} has no health check");
        let is_confined = service["read_only"] == true && service["cap_drop"][0] == "ALL";
        ensure!(is_confined && service["security_opt"].is_array(), "{name} has rights that it does not need");
        let restart = if name == "migrate" { "no" } else { "unless-stopped" };
        ensure!(service["restart"] == restart, "{name} does not come back after a reboot");
        for (dependency, how) in service["depends_on"].as_object().into_iter().flatten() {
            let condition = how["condition"].as_str().context("a condition")?;
            let expected = if dependency == "migrate" { "service_completed_successfully" } else { "service_healthy" };
            ensure!(condition == expected && services.contains_key(dependency), "{name} on {dependency}: {condition}");
        }
    }
    let runs = |name: &str| (services[name]["command"][0].as_str(), services[name]["build"]["target"].as_str());
    assert_eq!(runs("migrate"), (Some("flash-admin"), Some("production")));
    assert_eq!(runs("issuer"), (Some("flash"), Some("development")));
    for name in Name::ALL {
        let service = &services[name.text()];
        let read: Read<'_> = &|environment| name.read_settings(environment);
        assert_eq!(mistakes(read, &settings_in_compose(service)?), Vec::<String>::new(), "{}", name.text());
        let port = 8000 + name.port_offset();
        assert_eq!(service["ports"][0], format!("127.0.0.1:{port}:{port}"), "{}", name.text());
        assert_eq!(service["command"][0], name.text());
    }
    let tools: [(&str, Read<'_>); 2] = [
        ("migrate", &|environment| flash_admin::migrate::Config::read(environment).map(drop)),
        ("issuer", &|environment| flash::IssuerConfig::read(environment).map(drop)),
    ];
    for (name, read) in tools {
        assert_eq!(mistakes(read, &settings_in_compose(&services[name])?), Vec::<String>::new(), "{name}");
    }
    // Every setting is read by some program.
    let everything: BTreeSet<String> = Name::ALL.into_iter().flat_map(settings_of).collect();
    let given = services["timer"]["environment"].as_object().context("an environment")?;
    let unread: Vec<_> = given.keys().filter(|setting| !everything.contains(*setting)).collect();
    assert!(unread.is_empty(), "{unread:?}");
    for (name, image) in
        [("nats", "nats:2.12-alpine"), ("redis", "redis:7.4-alpine"), ("postgres", "postgres:16-alpine")]
    {
        assert_eq!(services[name]["image"], image);
    }
    let ingress: Value = hcl::from_str(&file("nomad/ingress.nomad.hcl")?)?;
    assert_eq!(services["ingress"]["image"], ingress["variable"]["ingress_image"]["default"]);
    Ok(())
}

/// Mebibytes of a size in this unit: `mb` of Redis and `m` of compose are both mebibytes.
fn mebibytes(size: &str, unit: &str) -> Result<u64> {
    size.strip_suffix(unit).with_context(|| format!("{size} is not in {unit}"))?.parse().context("a number")
}

/// Compose, Nomad and the tests run Redis with the same settings. Redis may use less memory than its container has, so
/// that a full Redis refuses writes and is not killed.
#[test]
fn redis_has_the_same_settings_everywhere() -> Result<()> {
    let compose = yaml(&file("docker-compose.yml")?)?;
    let redis = &compose["services"]["redis"];
    let command: Vec<&str> =
        redis["command"].as_array().context("a command")?.iter().filter_map(Value::as_str).collect();
    let in_compose: BTreeMap<&str, &str> =
        command.windows(2).filter_map(|pair| Some((pair[0].strip_prefix("--")?, pair[1]))).collect();

    let text = file("nomad/redis.nomad.hcl")?;
    let body: Value = hcl::from_str(&text)?;
    let task = &body["job"]["redis"]["group"]["redis"]["task"]["redis"];
    let templates = task["template"].as_array().context("templates")?;
    let template = templates.iter().find(|template| template["destination"] == "secrets/redis.conf");
    let template = template.context("a template")?["data"].as_str().context("a text")?;
    let in_nomad: BTreeMap<&str, &str> = template.lines().filter_map(|line| line.trim().split_once(' ')).collect();

    // The tests' Redis is started with the list itself.
    for (setting, value) in testkit::REDIS_SETTINGS {
        assert_eq!(in_compose.get(setting), Some(&value), "{setting} in compose");
        assert_eq!(in_nomad.get(setting), Some(&value), "{setting} in Nomad");
    }
    let compose_limit = mebibytes(redis["mem_limit"].as_str().context("a limit")?, "m")?;
    let nomad_limit = task["resources"]["memory"].as_u64().context("a limit")?;
    for (place, settings, limit) in [("compose", in_compose, compose_limit), ("Nomad", in_nomad, nomad_limit)] {
        let maxmemory = mebibytes(settings.get("maxmemory").context("maxmemory")?, "mb")?;
        // CONTRACT.md, Redis.
        ensure!(maxmemory * 5 <= limit * 3, "{place}: {maxmemory} MiB of {limit} MiB leave no room for a rewrite");
    }
    Ok(())
}

/// nats-server accepts the configuration with the variables that compose sets.
#[test]
fn nats_server_accepts_the_configuration_from_compose() -> Result<()> {
    let programs = install::ensure(&tools(), &|step| eprintln!("{step} …"))?;
    let compose = yaml(&file("docker-compose.yml")?)?;
    let scratch = Scratch::new("nats-conf")?;
    let authority = Authority::of(&scratch.path().join("certificates"))?;
    let certificate = authority.issue("nats", Flaw::None)?;
    let files = [
        ("NATS_TLS_CERT_FILE", &certificate.cert_file),
        ("NATS_TLS_KEY_FILE", &certificate.key_file),
        ("NATS_TLS_CA_FILE", &authority.ca_file),
    ];
    for configuration in ["nats-server.conf", "nats-cluster.conf", "nats-server-tls.conf", "nats-cluster-tls.conf"] {
        let mut nats = Command::new(&programs.nats_server);
        nats.arg("-t").arg("-c").arg(tools().with_file_name("nats").join(configuration));
        for (name, value) in compose["services"]["nats"]["environment"].as_object().context("an environment")? {
            nats.env(name, value.as_str().context("text")?);
        }
        nats.envs(files.map(|(name, file)| (name, format!("\"{}\"", file.display())))).env("NATS_TLS_VERIFY", "true");
        nats.env("NATS_CLUSTER_ADDRESS", "\"127.0.0.1:6222\"").env("NATS_CLUSTER_PASSWORD", "flash");
        nats.env("NATS_ROUTES", "[\"nats://cluster:flash@127.0.0.1:6223\"]");
        let output = nats.current_dir(scratch.path()).output()?;
        ensure!(output.status.success(), "{configuration}: {output:?}");
    }
    scratch.remove();
    Ok(())
}

#[test]
fn image_contains_every_program() -> Result<()> {
    let dockerfile = file("Dockerfile")?;
    ensure!(!dockerfile.contains("# syntax=") && !dockerfile.contains("<<"), "Debian's engine supports neither");
    let copies = |stage: &str, program: &str| stage.contains(&format!("/src/target/release/{program} "));
    let links = |stage: &str, program: &str| {
        let list = stage.split_once("for program in ").and_then(|(_, after)| after.split_once(';'));
        list.is_some_and(|(names, _)| names.split(' ').any(|name| name == program))
    };
    let stages: Vec<&str> = dockerfile.split("\nFROM ").collect();
    let named = |name: &str| {
        stages.iter().find(|stage| stage.lines().next().is_some_and(|from| from.ends_with(&format!(" AS {name}"))))
    };
    let (services, development) =
        (named("services").context("services")?, named("development").context("development")?);
    for program in Name::ALL.map(Name::text).into_iter().chain(["flash-admin"]) {
        ensure!(links(services, program), "{program} is not in the image");
    }
    ensure!(copies(services, "flash-services"), "{services}");
    ensure!(copies(development, "flash") && development.starts_with("services AS"), "{development}");
    // Fault points are a feature that `flash` asks for: production programs are built without it.
    let build = dockerfile.lines().find(|line| line.starts_with("RUN cargo build")).context("a build")?;
    ensure!(!build.contains("--workspace") && !build.contains("-p flash "), "{build}");
    // A build without a target gives the last stage; it has no developer's tool.
    let production = stages.last().context("a stage")?;
    ensure!(production.starts_with("services AS production\n"), "{production}");
    ensure!(!copies(services, "flash") && !copies(production, "flash"), "the production image has a developer's tool");
    Ok(())
}

/// The settings of a task in a job file of this text: `var.name` stands for the default of that variable, or for any text
/// if the operator must set it.
fn settings_in_job(text: &str, body: &Value, task: &Value) -> BTreeMap<String, String> {
    let value = |given: &Value| {
        let given = given.as_str().unwrap_or_default();
        if given.starts_with("${NOMAD_ADDR_") {
            return "10.0.0.7:8001".to_owned();
        }
        let Some(variable) = given.strip_prefix("${var.").and_then(|rest| rest.strip_suffix('}')) else {
            return given.to_owned();
        };
        body["variable"][variable]["default"].as_str().unwrap_or("given").to_owned()
    };
    let environment = task["env"].as_object().into_iter().flatten();
    let mut given: BTreeMap<String, String> = environment.map(|(name, given)| (name.clone(), value(given))).collect();
    let secrets = text.lines().filter_map(|line| Some(line.trim().split_once("={{ .")?.0.to_owned()));
    given.extend(secrets.map(|setting| {
        // Addresses as the README has them: with TLS.
        let value = match setting.as_str() {
            "DATABASE_URL" => "postgres://flash:secret@db.example/flash?sslmode=verify-full".to_owned(),
            "NATS_URL" => "tls://services:secret@10.0.0.5:4222".to_owned(),
            "REDIS_URL" => "rediss://:secret@10.0.0.4:6379".to_owned(),
            "LOG_SECRET_KEY" => "5a".repeat(32),
            _ => "secret".to_owned(),
        };
        (setting, value)
    }));
    given.retain(|setting, _| !SDK_SETTINGS.contains(&setting.as_str()));
    given
}

/// Nomad's jobs are valid HCL; each service has its check, its drain, and the settings that it reads.
#[test]
fn nomad_jobs_set_what_the_programs_read() -> Result<()> {
    let mut jobs: BTreeMap<String, (String, Value)> = BTreeMap::new();
    for entry in std::fs::read_dir(tools().with_file_name("nomad"))? {
        let path = entry?.path();
        if !path.to_string_lossy().ends_with(".nomad.hcl") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let body: Value = hcl::from_str(&text).with_context(|| path.display().to_string())?;
        let (name, _) = body["job"].as_object().and_then(|job| job.iter().next()).context("a job")?;
        jobs.insert(name.clone(), (text, body));
    }
    let names: BTreeSet<&str> = jobs.keys().map(String::as_str).collect();
    let others = ["nats", "nats-cluster", "redis", "ingress", "migrate", "log-archive"];
    let expected: BTreeSet<&str> = Name::ALL.map(Name::text).into_iter().chain(others).collect();
    assert_eq!(names, expected);
    for name in Name::ALL {
        let (text, body) = &jobs[name.text()];
        let group = &body["job"][name.text()]["group"][name.text()];
        let (services, task) = (&group["service"], &group["task"][name.text()]);
        // The ingress finds the first one, Prometheus the second.
        let registered: Vec<_> = (0..2).map(|at| (&services[at]["name"], &services[at]["port"])).collect();
        let operations = Value::from(format!("{}-operations", name.text()));
        assert_eq!(registered, [(&name.text().into(), &"http".into()), (&operations, &"operations".into())]);
        assert_eq!((&services[0]["provider"], &services[0]["check"]["path"]), (&"nomad".into(), &"/ready".into()));
        assert_eq!(task["config"]["command"], name.text());
        // All new instances are ready before the first old one stops.
        assert_eq!(body["job"][name.text()]["update"]["canary"], group["count"], "{}", name.text());
        let kill_timeout: u64 =
            task["kill_timeout"].as_str().and_then(|text| text.strip_suffix('s')).context("seconds")?.parse()?;
        ensure!(kill_timeout > service::DRAIN_TIMEOUT.as_secs() + 2, "{}: {kill_timeout} s", name.text());
        let port = 8000 + name.port_offset();
        assert_eq!(task["env"]["LISTEN_ADDRESS"], format!("0.0.0.0:{port}"));
        assert_eq!(group["network"]["port"]["http"]["to"], port);

        let given = settings_in_job(text, body, task);
        let read = settings_of(name);
        let unread: Vec<_> = given.keys().filter(|setting| !read.contains(*setting)).collect();
        assert!(unread.is_empty(), "{} does not read {unread:?}", name.text());
        let read: Read<'_> = &|environment| name.read_settings(environment);
        assert_eq!(mistakes(read, &given), Vec::<String>::new(), "{}", name.text());
    }
    let tools: [(&str, Read<'_>); 2] = [
        ("log-archive", &|environment| flash_admin::archive::Config::read(environment).map(drop)),
        ("migrate", &|environment| flash_admin::migrate::Config::read(environment).map(drop)),
    ];
    for (job, read) in tools {
        let (text, body) = &jobs[job];
        let task = &body["job"][job]["group"][job]["task"][job];
        assert_eq!(task["config"]["command"], "flash-admin", "{job}");
        assert_eq!(mistakes(read, &settings_in_job(text, body, task)), Vec::<String>::new(), "{job}");
    }
    let archive = &jobs["log-archive"].1["job"]["log-archive"];
    assert_eq!(
        (
            &archive["periodic"]["prohibit_overlap"],
            &archive["group"]["log-archive"]["task"]["log-archive"]["config"]["args"][1]
        ),
        (&true.into(), &"archive".into())
    );
    let migrate = &jobs["migrate"].1["job"]["migrate"];
    assert!(migrate["parameterized"].is_object(), "a second run with the same image needs it");
    assert_eq!(
        (&migrate["type"], &migrate["group"]["migrate"]["task"]["migrate"]["config"]["args"][0]),
        (&"batch".into(), &"migrate".into())
    );
    Ok(())
}
