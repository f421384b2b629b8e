use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    flash::run(flash::Command::parse())
}
