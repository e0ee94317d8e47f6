//! A small file system that can be full. Only root can have one.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file system of its own at a folder, until it is dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// `None` where none can be had.
    pub fn mount(folder: &Path, bytes: u64) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(folder)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(folder.to_owned()))
    }

    /// Leaves no room.
    pub fn fill(&self) {
        self.take(u64::MAX);
    }

    /// Takes so many bytes away, or what there is.
    pub fn take(&self, bytes: u64) {
        let mut file = File::create(self.ballast()).unwrap();
        // Ends with an error when the disk is full, as is wanted.
        let _ = io::copy(&mut io::repeat(0).take(bytes), &mut file);
    }

    /// Gives the room back.
    pub fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
