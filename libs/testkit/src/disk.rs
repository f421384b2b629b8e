//! A disk that can lose power: a file system of its own in a file, of which what was not synced is dropped.
//!
//! What a program writes stays in the kernel's memory until it is synced (or the kernel finds the time, by
//! default after half a minute); only then does it reach the file that stands for the disk. A copy of that
//! file, taken while nothing writes, is the disk as a power cut would leave it. Needs root, for mounting.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run_quietly;

/// Sparse: what is not written takes no room. Large enough for what the streams reserve.
const SIZE: &str = "12G";

/// A mounted disk. Dropping it unmounts it.
pub struct Disk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl Disk {
    /// Makes an empty one in the file `image` and mounts it.
    ///
    /// # Errors
    /// When the file system cannot be made or mounted.
    pub fn mount(image: &Path, at: &Path) -> Result<Self> {
        run_quietly(Command::new("truncate").args(["--size", SIZE]).arg(image))?;
        // Nothing is kept back for root, which the servers may run as: full is full.
        run_quietly(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))?;
        let disk = Self { image: image.to_owned(), mounted_at: at.to_owned() };
        fs::create_dir_all(at)?;
        disk.attach().context("mounting a disk needs root")?;
        Ok(disk)
    }

    fn attach(&self) -> Result<()> {
        run_quietly(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mounted_at))
    }

    /// Syncs everything: what was installed before the run is on the disk.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sync(&self) -> Result<()> {
        run_quietly(Command::new("sync").arg("--file-system").arg(&self.mounted_at))
    }

    /// The disk as it is now, without what was not synced. Nothing may write meanwhile: whoever does stands
    /// still. [`Disk::lose_power`] puts it in place.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy_synced(&self) -> Result<PathBuf> {
        let copy = self.image.with_extension("after");
        run_quietly(Command::new("cp").args(["--sparse=always"]).arg(&self.image).arg(&copy))?;
        Ok(copy)
    }

    /// Takes all the room that is left, until [`Disk::free`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn fill(&self) -> Result<()> {
        let ballast = self.ballast();
        // Allocating does not write. The last blocks go to whoever is quickest: a few pages stay free at most.
        for size in ["1G", "64M", "4M", "256K", "4K"] {
            let more =
                |nth| Command::new("fallocate").args(["-l", size]).arg(ballast.join(format!("{size}-{nth}"))).output();
            fs::create_dir_all(&ballast)?;
            for nth in 0.. {
                if !more(nth)?.status.success() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Gives back what [`Disk::fill`] took.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_dir_all(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.mounted_at.join("ballast")
    }

    /// The power is back: the disk has what the copy has. Whoever had files open on it must be dead.
    ///
    /// # Errors
    /// When the copy cannot be mounted.
    pub fn lose_power(&self, copy: &Path) -> Result<()> {
        self.detach()?;
        fs::rename(copy, &self.image)?;
        self.attach()
    }

    fn detach(&self) -> Result<()> {
        // Lazily: logs of processes that live on may still be open.
        run_quietly(Command::new("umount").arg("--lazy").arg(&self.mounted_at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(%error, "a disk stays mounted");
        }
    }
}
