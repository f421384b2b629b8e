//! A disk that can lose power: a file system in a file, which loses all writes that were not synced.
//!
//! Written bytes stay in the kernel's memory until they are synced or the kernel writes them back, by default after
//! half a minute. Only then do they reach the file that holds the file system. A copy of that file, taken while no
//! process writes, equals the disk after a power cut. Mounting needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run_quietly;

/// Size of the file system. The file is sparse, and large enough for the space that the streams reserve.
const SIZE: &str = "12G";

/// A mounted disk. Dropping it unmounts it.
pub struct Disk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl Disk {
    /// Creates an empty file system in the file `image` and mounts it at `at`.
    ///
    /// # Errors
    /// When the file system cannot be made or mounted.
    pub fn mount(image: &Path, at: &Path) -> Result<Self> {
        run_quietly(Command::new("truncate").args(["--size", SIZE]).arg(image))?;
        // No blocks are reserved for root, because the servers may run as root.
        run_quietly(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))?;
        let disk = Self { image: image.to_owned(), mounted_at: at.to_owned() };
        fs::create_dir_all(at)?;
        disk.attach().context("mounting a disk needs root")?;
        Ok(disk)
    }

    fn attach(&self) -> Result<()> {
        run_quietly(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mounted_at))
    }

    /// Syncs all writes so far.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn sync(&self) -> Result<()> {
        run_quietly(Command::new("sync").arg("--file-system").arg(&self.mounted_at))
    }

    /// Copies the disk without the writes that were not synced. The caller stops all processes that write.
    /// [`Disk::lose_power`] puts the copy in place.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy_synced(&self) -> Result<PathBuf> {
        let copy = self.image.with_extension("after");
        run_quietly(Command::new("cp").args(["--sparse=always"]).arg(&self.image).arg(&copy))?;
        Ok(copy)
    }

    /// Allocates all free space, until [`Disk::free`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn fill(&self) -> Result<()> {
        let ballast = self.ballast();
        // Allocating does not write. At most a few pages stay free, which other processes may take.
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

    /// Frees the space that [`Disk::fill`] allocated.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_dir_all(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.mounted_at.join("ballast")
    }

    /// Replaces the disk by the copy, as after a power cut. No process may have files open on it.
    ///
    /// # Errors
    /// When the copy cannot be mounted.
    pub fn lose_power(&self, copy: &Path) -> Result<()> {
        self.detach()?;
        fs::rename(copy, &self.image)?;
        self.attach()
    }

    fn detach(&self) -> Result<()> {
        // Lazily: running processes may still have their logs open.
        run_quietly(Command::new("umount").arg("--lazy").arg(&self.mounted_at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(error = %errors::chain(&*error), "failed to unmount the disk");
        }
    }
}
