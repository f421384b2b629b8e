//! Where a test keeps its data: a directory of its own, which a test that failed leaves behind.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::install::{self, Programs};

/// A directory that stays until [`Scratch::remove`], which only a test that passed calls.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// # Errors
    /// When it cannot be made.
    pub fn new(test: &str) -> Result<Self> {
        let path = target().join("tests").join(format!("{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The test has passed and its servers have ended.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.path.exists() {
            eprintln!("what is left of this test lies in {}", self.path.display());
        }
    }
}

fn root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).map_or(package.clone(), PathBuf::from)
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where the checkout keeps the Python environment.
#[must_use]
pub fn tools() -> PathBuf {
    root().join(".flash")
}

/// The servers' programs, installed if need be.
///
/// # Errors
/// When something is missing and cannot be installed.
pub fn programs() -> Result<Programs> {
    install::ensure(&tools(), &|step| eprintln!("{step} …"))
}
