//! The modules of the page and of `/client.js` in node: their own tests, and their types.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use testkit::install;
use testkit::scratch::{Scratch, tools};

/// The directory of the edge's sources.
fn edge() -> PathBuf {
    tools().with_file_name("bins/websocket")
}

/// Runs a command to its end; its output if it fails.
async fn run(mut command: Command) -> Result<String> {
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{text}");
    Ok(text)
}

/// A use of every declaration of `client.d.ts`, right and wrong.
const USAGE: &str = "
import { connect, type Client, type Lot, type State } from './client.js';
const watcher: Client = connect({ token: () => undefined });
const person = connect({ token: async () => 'token', url: 'http://127.0.0.1:8001' });
const lot: Lot = person.join('id');
const off: () => void = lot.on('change', (state: State | null) => state?.seq.toFixed());
export const answer = (): Promise<any> => lot.bid('12.50', { bid_id: 'id' });
export const left: number | undefined = lot.remaining()?.ms;
void watcher.renew().then(off);
// @ts-expect-error an amount is a text or a number
void lot.bid(true);
// @ts-expect-error the token is a function
connect({ token: 'token' });
";

const OPTIONS: &str = r#""noEmit": true, "strict": true, "target": "es2022", "module": "esnext",
    "moduleResolution": "bundler", "lib": ["es2023", "dom", "dom.iterable"], "types": []"#;

/// Holds the files of a folder against `tsc`.
async fn check_types(folder: &Path, more: &str, files: &str) -> Result<String> {
    let modules = install::ensure_node(&tools(), &|step| eprintln!("{step} …"))?;
    let configuration = format!(r#"{{"compilerOptions": {{{OPTIONS}{more}}}, "include": [{files}]}}"#);
    std::fs::write(folder.join("tsconfig.json"), configuration)?;
    let mut command = Command::new("node");
    command.arg(modules.join("node_modules/typescript/bin/tsc")).arg("--project").arg(folder);
    run(command).await
}

#[tokio::test]
async fn modules_of_the_page_pass_their_tests() -> Result<()> {
    install::ensure_node(&tools(), &|step| eprintln!("{step} …"))?;
    let mut command = Command::new("node");
    command.args(["--test", "--test-reporter=tap", "tests/"]).current_dir(edge().join("page"));
    let text = run(command).await?;
    let count = text.lines().find_map(|line| line.strip_prefix("# pass ")?.parse::<u32>().ok());
    ensure!(count > Some(40), "the tests were not found: {text}");
    Ok(())
}

#[tokio::test]
async fn types_of_the_client_fit_its_code_and_its_users() -> Result<()> {
    let scratch = Scratch::new("types")?;
    let (declared, written, page) =
        (scratch.path().join("declared"), scratch.path().join("written"), scratch.path().join("page"));
    for folder in [&declared, &written, &page.join("src"), &page.join("page/views")] {
        std::fs::create_dir_all(folder)?;
    }
    for (file, folders) in [("client.js", [&declared, &written]), ("client.d.ts", [&declared, &declared])] {
        for folder in folders {
            std::fs::copy(edge().join("src").join(file), folder.join(file))?;
        }
    }
    std::fs::copy(edge().join("src/client.js"), page.join("src/client.js"))?;
    for folder in ["page", "page/views"] {
        for entry in std::fs::read_dir(edge().join(folder))? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "js") {
                std::fs::copy(entry.path(), page.join(folder).join(entry.file_name()))?;
            }
        }
    }
    std::fs::write(declared.join("usage.ts"), USAGE)?;
    check_types(&declared, "", r#""usage.ts""#).await?;
    let javascript = r#", "allowJs": true, "checkJs": true"#;
    check_types(&written, javascript, r#""client.js""#).await?;
    let with_client = format!(r#"{javascript}, "paths": {{"/client.js": ["./src/client.js"]}}"#);
    check_types(&page, &with_client, r#""page/*.js", "page/views/*.js""#).await?;
    // The checks do find mistakes.
    std::fs::write(declared.join("usage.ts"), "import { connect } from './client.js'; connect(7);")?;
    let mistake = check_types(&declared, "", r#""usage.ts""#).await;
    ensure!(mistake.is_err_and(|mistake| mistake.to_string().contains("TS2345")), "a number is taken for options");
    scratch.remove();
    Ok(())
}
