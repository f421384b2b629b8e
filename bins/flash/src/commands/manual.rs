//! `cargo flash completions` and `man`: what shells and manuals need, of `flash` and `flash-admin`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{Shell, generate};

/// The arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
    /// The tool: shells look for its completions in a file of its name
    #[arg(value_parser = ["flash", "flash-admin"], default_value = "flash")]
    tool: String,
}

/// The arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Pages {
    /// Directory for the pages; it is made if it does not exist
    directory: PathBuf,
}

/// Both tools, under the names of their programs.
fn tools() -> [clap::Command; 2] {
    [crate::Command::command().name("flash").bin_name("flash"), flash_admin::Command::command()]
}

/// Prints the completions of a tool for a shell.
pub fn completions(arguments: &Completions) -> Result<ExitCode> {
    let mut text = Vec::new();
    for mut tool in tools().into_iter().filter(|tool| tool.get_name() == arguments.tool) {
        generate(arguments.shell, &mut tool, &arguments.tool, &mut text);
    }
    std::io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for each tool and each of their commands.
pub fn pages(arguments: &Pages) -> Result<ExitCode> {
    let directory = &arguments.directory;
    let failed = || format!("failed to write manual pages to {}", directory.display());
    std::fs::create_dir_all(directory).with_context(failed)?;
    for tool in tools() {
        clap_mangen::generate_to(tool, directory).with_context(failed)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_of_each_shell_know_the_commands_of_both_tools() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let texts = tools().map(|mut tool| {
                let (name, mut text) = (tool.get_name().to_owned(), Vec::new());
                generate(shell, &mut tool, name, &mut text);
                String::from_utf8(text).expect("text")
            });
            for (text, command) in texts.iter().zip(["watch", "rebuild"]) {
                assert!(text.contains(command), "{shell}: {command}");
            }
            assert!(!texts[0].contains("cargo flash "), "{shell}");
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let directory = std::env::temp_dir().join(format!("flash-man-{}", std::process::id()));
        pages(&Pages { directory: directory.join("man1") }).expect("pages");
        let page = |name: &str| std::fs::read_to_string(directory.join("man1").join(name)).expect(name);
        assert!(page("flash-watch.1").contains(".TH flash") && page("flash-watch.1").contains("auction"));
        assert!(page("flash.1").contains("completions") && page("flash-admin.1").contains("migrate"));
        for tool in tools() {
            for command in tool.get_subcommands().filter(|command| !command.is_hide_set()) {
                let name = format!("{}-{}.1", tool.get_name(), command.get_name());
                assert!(page(&name).contains(".SH"), "{name}");
            }
        }
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
