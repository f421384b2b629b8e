//! The programs of the production image in one file: the services and `flash-admin`, which share most of their code.
//!
//! It runs the program whose name it was started under. The image has a link for each, so that jobs, logs and process
//! lists show the same names as programs of their own would.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let started = std::env::args_os().next().unwrap_or_default();
    let Some(program) = program(&started) else {
        eprintln!("{}: this file runs the service, or flash-admin, whose name a link to it has", started.display());
        return ExitCode::from(flash_admin::EXIT_USAGE);
    };
    program()
}

/// The program that a link with this path stands for.
fn program(link: &OsString) -> Option<fn() -> ExitCode> {
    Some(match Path::new(link).file_name()?.to_str()? {
        auction_management::NAME => {
            || service::main(auction_management::NAME, auction_management::Config::read, auction_management::run)
        }
        auction_notifications::NAME => || {
            service::main(auction_notifications::NAME, auction_notifications::Config::read, auction_notifications::run)
        },
        bid_persistence::NAME => {
            || service::main(bid_persistence::NAME, bid_persistence::Config::read, bid_persistence::run)
        }
        bid_processing::NAME => {
            || service::main(bid_processing::NAME, bid_processing::Config::read, bid_processing::run)
        }
        timer::NAME => || service::main(timer::NAME, timer::Config::read, timer::run),
        websocket::NAME => || service::main(websocket::NAME, websocket::Config::read, websocket::run),
        "flash-admin" => || flash_admin::main(&flash_admin::Command::parse()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_link_of_the_image_has_its_program() {
        let dockerfile = include_str!("../../../Dockerfile");
        let (_, links) = dockerfile.split_once("for program in ").expect("a list of links");
        let links: Vec<&str> = links.split(';').next().expect("a list").split(' ').collect();
        assert_eq!(links.len(), 7, "{links:?}");
        for link in links {
            assert!(program(&format!("/usr/local/bin/{link}").into()).is_some(), "{link}");
        }
        for other in ["flash-services", "", "/", "timer/..", "flash"] {
            assert!(program(&other.into()).is_none(), "{other}");
        }
    }
}
