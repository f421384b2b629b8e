use clap::Parser;

fn main() -> std::process::ExitCode {
    flash_admin::main(&flash_admin::Command::parse())
}
