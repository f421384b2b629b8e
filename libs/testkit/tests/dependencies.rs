//! Every dependency that a package of this workspace declares is used by it: its crate's name occurs in the package's
//! code. Unused ones cost build time and mislead readers.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// Dependencies whose name no code contains, each with the reason to declare it.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Dependencies whose crate has another name than their package.
const RENAMED: &[(&str, &str)] = &[("hcl-rs", "hcl")];

#[test]
fn every_declared_dependency_is_used() {
    let mut unused = Vec::new();
    for package in packages() {
        let name = text(&package, "name");
        let folder = Path::new(text(&package, "manifest_path")).parent().expect("a folder").to_owned();
        let mut used = BTreeSet::new();
        for code in ["src", "tests", "benches", "examples"] {
            identifiers(&folder.join(code), &mut used);
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let wanted = text(dependency, "name");
            let renamed = RENAMED.iter().find(|(package, _)| *package == wanted).map(|(_, name)| (*name).to_owned());
            let identifier = renamed.unwrap_or_else(|| wanted.replace('-', "_"));
            if !used.contains(&identifier)
                && !EXCEPTIONS.iter().any(|(package, allowed, _)| *package == name && *allowed == wanted)
            {
                unused.push(format!("{name} declares {wanted} and does not use it"));
            }
        }
    }
    assert!(unused.is_empty(), "remove these dependencies, or name them in EXCEPTIONS:\n{}", unused.join("\n"));
}

#[test]
fn every_exception_is_declared() {
    let packages = packages();
    for (package, dependency, reason) in EXCEPTIONS {
        let found = packages.iter().find(|found| text(found, "name") == *package);
        let declared = found.and_then(|found| found["dependencies"].as_array());
        let is_declared = declared.is_some_and(|all| all.iter().any(|one| text(one, "name") == *dependency));
        assert!(is_declared && !reason.is_empty(), "{package} no longer declares {dependency}");
    }
}

/// The packages of this workspace, from `cargo metadata`.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo).args(["metadata", "--no-deps", "--format-version", "1"]).output();
    let metadata: Value = serde_json::from_slice(&output.expect("cargo metadata").stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Adds the identifiers in all Rust files below `folder`, leaving out comment lines.
fn identifiers(folder: &Path, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            identifiers(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let code = std::fs::read_to_string(&path).expect("a readable file");
            for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
                let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                found.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
            }
        }
    }
}
