//! Files for operators against the code: rights in AWS, metrics of alarms and dashboard, the runbook, job files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules of `libs/cloud/src` with the prefix of their actions in IAM. A service names its handle as the module.
/// `uploads` calls nothing: an address that it signs has the rights of its signer.
const CLOUD: [(&str, &str); 5] =
    [("history", "dynamodb"), ("mail", "ses"), ("queue", "sqs"), ("uploads", "s3"), ("video", "ivs")];
/// Services, by their directories in `bins/`.
const SERVICES: [&str; 6] =
    ["auction-management", "auction-notifications", "bid-persistence", "bid-processing", "timer", "websocket"];
/// Files with queries.
const QUERIES: [&str; 4] = ["recording.yml", "alerts.yml", "alerts_test.yml", "dashboard.json"];
/// Metrics of the ingress that queries may use. HAProxy 2.6 exports them.
const INGRESS_METRICS: [&str; 3] = [
    "haproxy_backend_active_servers",
    "haproxy_backend_http_responses_total",
    "haproxy_backend_response_time_average_seconds",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The Rust files below a directory, without their tests.
fn sources(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            found.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The word at the beginning of a text.
fn word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// Names of the methods called on `receiver`, also across lines.
fn methods_called<'a>(text: &'a str, receiver: &str) -> BTreeSet<&'a str> {
    let mut called = BTreeSet::new();
    for (at, _) in text.match_indices(receiver) {
        let rest = text[at + receiver.len()..].trim_start();
        let is_whole = !text[..at].ends_with(is_word);
        if let Some(method) = rest.strip_prefix('.').map(word).filter(|_| is_whole)
            && rest[1 + method.len()..].starts_with('(')
        {
            called.insert(method);
        }
    }
    called
}

/// `get_queue_attributes` as IAM writes it: `GetQueueAttributes`.
fn camel_case(name: &str) -> String {
    let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
    name.split('_').filter(|part| !part.is_empty()).map(capital).collect()
}

/// The functions of a file by name, each with its text.
fn functions(text: &str) -> BTreeMap<&str, &str> {
    text.split("\n    pub async fn ")
        .flat_map(|part| part.split("\n    async fn "))
        .skip(1)
        .map(|f| (word(f), f))
        .collect()
}

/// The actions of IAM that a method of a module of `libs/cloud` needs.
fn actions(functions: &BTreeMap<&str, &str>, prefix: &str, method: &str) -> BTreeSet<String> {
    let Some(body) = functions.get(method) else { return BTreeSet::new() };
    let mut needed = BTreeSet::new();
    // `once` is a client that repeats nothing.
    for client in ["client", "once"] {
        let calls = methods_called(body, client);
        needed.extend(calls.into_iter().map(|call| format!("{prefix}:{}", camel_case(call))));
    }
    for called in methods_called(body, "self").into_iter().filter(|called| *called != method) {
        needed.extend(actions(functions, prefix, called));
    }
    needed
}

/// The actions that a service's code needs.
fn needed(service: &str) -> BTreeSet<String> {
    let sources = sources(&root().join("bins").join(service).join("src"));
    if !sources.iter().any(|text| text.contains("cloud::")) {
        return BTreeSet::new();
    }
    let mut needed = BTreeSet::new();
    for (module, prefix) in CLOUD {
        let cloud = text(&format!("libs/cloud/src/{module}.rs"));
        let functions = functions(&cloud);
        let called = sources.iter().flat_map(|text| methods_called(text, module));
        needed.extend(called.flat_map(|method| actions(&functions, prefix, method)));
    }
    needed
}

/// The actions that the resource `name` of the template allows.
fn allowed(template: &str, name: &str) -> BTreeSet<String> {
    let Some((_, rest)) = template.split_once(&format!("\n  {name}:\n")) else { return BTreeSet::new() };
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("   "));
    let items = lines.filter_map(|line| line.trim().strip_prefix("- "));
    let is_action = |item: &&str| {
        item.split_once(':')
            .is_some_and(|(prefix, name)| CLOUD.iter().any(|(_, p)| *p == prefix) && name.chars().all(is_word))
    };
    items.filter(is_action).map(str::to_owned).collect()
}

#[test]
fn each_service_may_make_exactly_its_calls_of_aws() {
    let template = text("nomad/aws/flash-auction.yml");
    let mut all = 0;
    for service in SERVICES {
        let needed = needed(service);
        let name = camel_case(&service.replace('-', "_"));
        assert_eq!(allowed(&template, &format!("{name}Policy")), needed, "allowed and needed by {service}");
        assert_eq!(template.contains(&format!("\n  {name}Role:\n")), !needed.is_empty(), "role of {service}");
        all += needed.len();
    }
    assert!(all > 15, "the calls were not found: {all}");
}

#[test]
fn calls_are_recognised() {
    let file =
        "impl A {\n    pub async fn one(&self) {\n        self\n            .client\n            .put_thing()\n    }\n
    async fn two(&self) {\n        self.one(); self.once.make_it(); self.client_name.other();\n    }\n}";
    let functions = functions(file);
    let check = |method: &str, expected: &[&str]| {
        let found = actions(&functions, "x", method);
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{method}");
    };
    check("one", &["x:PutThing"]);
    check("two", &["x:MakeIt", "x:PutThing"]);
    check("three", &[]);
}

/// The metrics that the code registers, without prefix and `_total`.
fn registered() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for directory in ["bins", "libs"] {
        for entry in std::fs::read_dir(root().join(directory)).expect("crates") {
            for text in sources(&entry.expect("a crate").path().join("src")) {
                for call in [".register(", " register(", ".encode_descriptor("] {
                    let arguments = text.split(call).skip(1).filter_map(|rest| {
                        // A histogram registers itself.
                        let (rest, registry) = (rest.trim_start(), ["registry,", "&mut health.registry,"]);
                        let rest = registry.iter().find_map(|name| rest.strip_prefix(name)).unwrap_or(rest);
                        rest.trim_start().strip_prefix('"')
                    });
                    names.extend(arguments.map(|name| word(name).to_owned()));
                }
            }
        }
    }
    names
}

/// Words of a text that begin with `prefix`, with the text before each.
fn words_with<'a>(text: &'a str, prefix: &str) -> Vec<(&'a str, &'a str)> {
    let found = text.match_indices(prefix).filter(|(at, _)| !text[..*at].ends_with(|c| is_word(c) || c == ':'));
    found.map(|(at, _)| (&text[..at], word(&text[at..]))).collect()
}

/// The metric's name as it is registered, and whether it counts.
fn base_name(metric: &str) -> (&str, bool) {
    let name = metric.trim_start_matches("flash_");
    if let Some(base) = name.strip_suffix("_info") {
        return (base, false);
    }
    let parts = ["_total", "_bucket", "_count", "_sum"];
    let base = parts.iter().find_map(|part| name.strip_suffix(part));
    // Parts of a histogram, whose name has its unit.
    let base = base.filter(|base| name.ends_with("_total") || base.ends_with("_seconds"));
    (base.unwrap_or(name), base.is_some())
}

/// Mistakes in the queries of a file.
fn wrong_queries(text: &str, registered: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (before, metric) in words_with(text, "flash_") {
        let (name, is_counter) = base_name(metric);
        if !registered.contains(name) {
            wrong.push(format!("{metric} is registered nowhere"));
        }
        if !is_counter && ["rate(", "increase("].iter().any(|function| before.ends_with(function)) {
            wrong.push(format!("{metric} is no counter"));
        }
    }
    let of_ingress = words_with(text, "haproxy_").into_iter().map(|(_, metric)| metric);
    wrong.extend(
        of_ingress.filter(|metric| !INGRESS_METRICS.contains(metric)).map(|metric| format!("{metric} of HAProxy")),
    );
    wrong
}

#[test]
fn every_query_names_a_metric_that_exists() {
    let registered = registered();
    assert!(registered.len() > 15 && registered.contains("timer_elected"), "{registered:?}");
    let recording = text("nomad/observability/recording.yml");
    let recorded: BTreeSet<&str> =
        recording.split("- record: ").skip(1).filter_map(|rest| rest.lines().next()).collect();
    let mut used = BTreeSet::new();
    for file in QUERIES {
        let text = text(&format!("nomad/observability/{file}"));
        let wrong = wrong_queries(&text, &registered);
        assert!(wrong.is_empty(), "{file}: {wrong:?}");
        for (at, _) in text.match_indices("flash:") {
            let name = &text[at..];
            let name = &name[..name.find(|c| !is_word(c) && c != ':').unwrap_or(name.len())];
            assert!(recorded.contains(name), "{file}: {name} is not recorded");
        }
        used.extend(words_with(&text, "flash_").into_iter().map(|(_, metric)| base_name(metric).0.to_owned()));
    }
    let unused: Vec<_> = registered.difference(&used).collect();
    assert!(unused.is_empty(), "neither an alarm nor the dashboard shows {unused:?}");
}

#[test]
fn queries_are_checked() {
    let registered = ["bids", "connections", "bid_seconds"].map(str::to_owned).into();
    let check = |query: &str, expected: usize| assert_eq!(wrong_queries(query, &registered).len(), expected, "{query}");
    check("sum(rate(flash_bids_total[1m])) / flash_connections + flash:bids:rate1m", 0);
    check("histogram_quantile(0.99, sum by (le) (rate(flash_bid_seconds_bucket[1m])))", 0);
    check("rate(flash_bid_seconds[1m])", 1);
    check("flash_bid_total", 1);
    check("rate(flash_connections[1m])", 1);
    check("haproxy_backend_active_servers + haproxy_servers", 1);
}

#[test]
fn every_alarm_is_tested_and_in_the_runbook() {
    let (alerts, tests, runbook) =
        (text("nomad/observability/alerts.yml"), text("nomad/observability/alerts_test.yml"), text("nomad/RUNBOOK.md"));
    let alarms: BTreeSet<&str> = alerts.split("- alert: ").skip(1).filter_map(|rest| rest.lines().next()).collect();
    assert!(alarms.len() > 10, "{alarms:?}");
    for alarm in &alarms {
        assert!(tests.contains(&format!("alertname=\"{alarm}\"")), "{alarm} is raised by no test");
    }
    let rows: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("| `Flash")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let alarms: BTreeSet<&str> = alarms.iter().filter_map(|alarm| alarm.strip_prefix("Flash")).collect();
    assert_eq!(rows, alarms, "rows of the runbook, and alarms");
}

/// The job files by name.
fn jobs() -> BTreeMap<String, String> {
    let mut jobs = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("nomad")).expect("nomad/") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(job) = name.strip_suffix(".nomad.hcl") {
            jobs.insert(job.to_owned(), std::fs::read_to_string(&path).expect("a job file"));
        }
    }
    assert!(jobs.len() > 10, "{:?}", jobs.keys());
    jobs
}

fn quoted<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// Without a policy Nomad lets a job read only the variables of its own path.
#[test]
fn each_job_reads_only_its_own_variables() {
    for (job, text) in jobs() {
        let template = if job == "ingress" { self::text("nomad/ingress/haproxy.cfg") } else { String::new() };
        let all = text.clone() + &template;
        let own = format!("nomad/jobs/{job}");
        for path in quoted(&all, "nomadVar \"").into_iter().chain(quoted(&all, "nomadVarExists \"")) {
            assert_eq!(path, own, "{job}");
        }
        assert!(text.contains(&format!("nomad var put {own} ")), "{job} does not say which variables it reads");
        assert!(text.contains(&format!("\njob \"{job}\" {{")), "the file is named as the job: {job}");
    }
}

/// Where the port for clients has no /ready and no /metrics, the ingress and Prometheus ask at the port for operations.
#[test]
fn ingress_and_prometheus_ask_at_the_port_for_operations() {
    let (ingress, targets) = (text("nomad/ingress/haproxy.cfg"), text("nomad/observability/targets.yml.tpl"));
    assert!(targets.contains("-operations$"), "{targets}");
    for (job, text) in jobs().iter().filter(|(_, text)| text.contains("OPERATIONS_ADDRESS")) {
        let name =
            format!("name     = \"{job}-operations\"\n      provider = \"nomad\"\n      port     = \"operations\"");
        assert!(text.contains(&name), "{job} does not register its port for operations");
        let asked = ingress.matches(&format!("nomadService \"{job}\"")).count();
        let checked = ingress.matches(&format!("nomadService \"{job}-operations\"")).count();
        assert_eq!(checked, asked, "{job}");
    }
}

#[test]
fn containers_have_no_rights_that_they_do_not_need() {
    for (job, text) in jobs() {
        let all =
            ["readonly_rootfs = true", "cap_drop        = [\"all\"]", "security_opt    = [\"no-new-privileges\"]"];
        for line in all {
            assert!(text.contains(line), "{job}: {line}");
        }
        // The images of this repository have a user of their own; of the others only HAProxy's does.
        let is_ours = text.contains("image   = var.image");
        assert!(is_ours || job == "ingress" || text.contains("user = \""), "{job} runs as root");
    }
}

#[test]
fn both_files_of_sizes_set_what_the_jobs_declare() {
    let jobs = jobs();
    let declared: BTreeSet<&str> = jobs.values().flat_map(|text| quoted(text, "variable \"")).collect();
    let is_size = |name: &&str| ["_count", "_cpu", "_memory"].iter().any(|ending| name.ends_with(ending));
    let sizes: BTreeSet<&str> = declared.iter().copied().filter(is_size).collect();
    assert!(sizes.len() > 20, "{sizes:?}");
    for file in ["nomad/dev.hcl", "nomad/production.hcl"] {
        let text = text(file);
        let set: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .map(|(name, _)| name.trim())
            .filter(|name| !name.starts_with('#'))
            .collect();
        let unknown: Vec<_> = set.difference(&declared).collect();
        assert!(unknown.is_empty(), "{file}: no job has {unknown:?}");
        let missing: Vec<_> = sizes.difference(&set).collect();
        assert!(missing.is_empty(), "{file} does not set {missing:?}");
    }
}
