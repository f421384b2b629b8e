//! The six services by name: their ports, their order at the end, their `main`, their settings.

use std::process::ExitCode;

use anyhow::Result;
use service::{Environment, Listen, Mistakes, Stop};
use tokio::task::JoinHandle;

/// A service of this system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Name {
    AuctionManagement,
    Websocket,
    BidProcessing,
    Timer,
    BidPersistence,
    AuctionNotifications,
}

impl Name {
    /// Every service, in the order in which the stack starts them.
    pub const ALL: [Self; 6] = [
        Self::AuctionManagement,
        Self::Websocket,
        Self::BidProcessing,
        Self::Timer,
        Self::BidPersistence,
        Self::AuctionNotifications,
    ];

    /// The name of its binary.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::AuctionManagement => auction_management::NAME,
            Self::Websocket => websocket::NAME,
            Self::BidProcessing => bid_processing::NAME,
            Self::Timer => timer::NAME,
            Self::BidPersistence => bid_persistence::NAME,
            Self::AuctionNotifications => auction_notifications::NAME,
        }
    }

    /// Offset of its port from the base N: N to N+3 for the four services that clients reach, N+1004 and N+1005
    /// for health and metrics of the other two.
    #[must_use]
    pub const fn port_offset(self) -> u16 {
        match self {
            Self::AuctionManagement => 0,
            Self::Websocket => 1,
            Self::BidProcessing => 2,
            Self::Timer => 3,
            Self::BidPersistence => 1004,
            Self::AuctionNotifications => 1005,
        }
    }

    /// Whether it stops first. Services that clients talk to stop before those that finish their work.
    pub(super) const fn ends_first(self) -> bool {
        matches!(self, Self::AuctionManagement | Self::Websocket | Self::Timer)
    }

    /// Does what its own binary does.
    pub fn main(self) -> ExitCode {
        match self {
            Self::AuctionManagement => {
                service::main(self.text(), auction_management::Config::read, auction_management::run)
            }
            Self::Websocket => service::main(self.text(), websocket::Config::read, websocket::run),
            Self::BidProcessing => service::main(self.text(), bid_processing::Config::read, bid_processing::run),
            Self::Timer => service::main(self.text(), timer::Config::read, timer::run),
            Self::BidPersistence => service::main(self.text(), bid_persistence::Config::read, bid_persistence::run),
            Self::AuctionNotifications => {
                service::main(self.text(), auction_notifications::Config::read, auction_notifications::run)
            }
        }
    }

    /// Reads its settings and drops them: [`Environment::asked`] then names them.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read_settings(self, environment: &Environment) -> Result<(), Mistakes> {
        match self {
            Self::AuctionManagement => auction_management::Config::read(environment).map(drop),
            Self::Websocket => websocket::Config::read(environment).map(drop),
            Self::BidProcessing => bid_processing::Config::read(environment).map(drop),
            Self::Timer => timer::Config::read(environment).map(drop),
            Self::BidPersistence => bid_persistence::Config::read(environment).map(drop),
            Self::AuctionNotifications => auction_notifications::Config::read(environment).map(drop),
        }
    }

    /// Starts the service in this process, on a socket that is bound already.
    pub(super) fn spawn(self, environment: &Environment, listen: Listen, stop: Stop) -> Result<JoinHandle<Result<()>>> {
        macro_rules! spawn {
            ($service:ident) => {{
                let mut config = $service::Config::read(environment)?;
                config.listen = listen;
                tokio::spawn($service::run(config, stop))
            }};
        }
        Ok(match self {
            Self::AuctionManagement => spawn!(auction_management),
            Self::Websocket => spawn!(websocket),
            Self::BidProcessing => spawn!(bid_processing),
            Self::Timer => spawn!(timer),
            Self::BidPersistence => spawn!(bid_persistence),
            Self::AuctionNotifications => spawn!(auction_notifications),
        })
    }
}
