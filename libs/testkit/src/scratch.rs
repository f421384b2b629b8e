//! The data directory of a test. Tests that pass remove it; after a failure it is kept.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::install::{self, Programs};

/// A directory that is kept until [`Scratch::remove`], which only tests that passed call.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Creates a directory with the name of the test.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn new(test: &str) -> Result<Self> {
        let path = target().join("tests").join(format!("{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory. The test has passed, and its servers have ended.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("failed to remove {}: {error}", self.path.display());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.path.exists() {
            eprintln!("the data of this test is kept in {}", self.path.display());
        }
    }
}

fn root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).map_or(package.clone(), PathBuf::from)
}

/// The directory of what is built and of what tests leave behind.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The directory of this checkout with the installed programs.
#[must_use]
pub fn tools() -> PathBuf {
    root().join(".flash")
}

/// The servers' programs, installed if they are missing.
///
/// # Errors
/// When a program is missing and cannot be installed.
pub fn programs() -> Result<Programs> {
    install::ensure(&tools(), &|step| eprintln!("{step} …"))
}
