//! Dependencies between crates: `domain` ← `protocol` ← adapters ← `bins`, and no others.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Crates of this workspace that each crate may depend on directly.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    const ADAPTER: &[&str] = &["domain", "errors", "protocol"];
    const SERVICE: &[&str] = &[
        "admission",
        "bus",
        "cloud",
        "domain",
        "errors",
        "hotstate",
        "identity",
        "protocol",
        "service",
        "store",
        "traces",
    ];
    BTreeMap::from([
        ("domain", &[] as &[&str]),
        ("errors", &[]),
        ("traces", &["errors"]),
        ("service", &["errors", "traces"]),
        // It judges the other crates, so that their mistakes must not reach it.
        ("checker", &[]),
        ("protocol", &["domain"]),
        ("admission", &["domain", "protocol"]),
        ("bus", &["domain", "errors", "protocol", "traces"]),
        ("hotstate", ADAPTER),
        ("store", ADAPTER),
        ("cloud", ADAPTER),
        ("identity", ADAPTER),
        ("fuzz", &["domain", "identity", "protocol"]),
        (
            "testkit",
            &["domain", "errors", "protocol", "admission", "bus", "hotstate", "store", "cloud", "identity", "service"],
        ),
        ("auction-management", SERVICE),
        ("auction-notifications", SERVICE),
        ("bid-processing", SERVICE),
        ("flash-admin", SERVICE),
        (
            "flash-services",
            &[
                "auction-management",
                "auction-notifications",
                "bid-persistence",
                "bid-processing",
                "flash-admin",
                "service",
                "timer",
                "websocket",
            ],
        ),
        ("timer", SERVICE),
        ("websocket", SERVICE),
        ("bid-persistence", SERVICE),
    ])
}

/// The packages of this workspace, from cargo's metadata.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo).args(["metadata", "--no-deps", "--format-version", "1"]).output();
    let metadata: Value = serde_json::from_slice(&output.expect("cargo metadata").stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

#[test]
fn crates_depend_only_on_allowed_crates() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().map(|package| text(package, "name")).collect();
    let allowed = allowed();
    let mut wrong = Vec::new();
    for package in &packages {
        let name = text(package, "name");
        // Only the tool may use every crate.
        if name == "flash" {
            continue;
        }
        let Some(may_use) = allowed.get(name) else {
            wrong.push(format!("{name} has no place in the architecture: give it one here and in the README"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = text(dependency, "name");
            // Tests of any crate may use real servers.
            let in_tests = text(dependency, "kind") == "dev" && used == "testkit";
            if ours.contains(used) && !may_use.contains(&used) && !in_tests {
                wrong.push(format!("{name} must not use {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ours.contains("flash") && ours.contains("domain"), "the crates were not found: {ours:?}");
}

#[test]
fn domain_is_pure() {
    let packages = packages();
    let domain = packages.iter().find(|package| text(package, "name") == "domain").expect("domain");
    let dependencies = domain["dependencies"].as_array().expect("dependencies");
    let used: BTreeSet<&str> =
        dependencies.iter().filter(|used| used["kind"].is_null()).map(|used| text(used, "name")).collect();
    assert_eq!(used, BTreeSet::from(["sha1", "thiserror", "uuid"]));
}
