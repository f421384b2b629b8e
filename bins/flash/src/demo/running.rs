//! The running stack that the demo uses.

use anyhow::Result;
use serde_json::Value;

use crate::checkout;
use crate::stack::Issuer;
use crate::stack::description;

/// Addresses and logins of the running stack.
pub struct Running {
    /// The address of auction-management.
    pub management: String,
    /// The address of the edge.
    pub edge: String,
    /// The whole description.
    pub stack: Value,
    issuer: Issuer,
}

impl Running {
    /// Reads the description of the running stack.
    ///
    /// # Errors
    /// When no stack is running.
    pub fn find() -> Result<Self> {
        let directory = checkout::directory();
        let stack = description::read(&directory)?;
        let url = |name: &str| description::text(&stack["services"][name]["url"]);
        let issuer = description::issuer(&directory, &stack)?;
        Ok(Self { management: url("auction-management")?, edge: url("websocket")?, issuer, stack })
    }

    /// A token of the user with this name.
    ///
    /// # Errors
    /// When the development key is damaged.
    pub fn token(&self, name: &str) -> Result<String> {
        self.issuer.token(name)
    }
}
