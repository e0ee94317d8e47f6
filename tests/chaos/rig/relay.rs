//! One process of the relay, as its operator runs it, which may be killed, frozen, told to stop and started again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::deployment::ADMIN_TOKEN;
use super::{becomes, http};
use crate::helpers::metric::metric;

/// How long a process may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Receiver,
    Worker,
}

pub struct Relay {
    pub admin: SocketAddr,
    role: Role,
    folder: PathBuf,
    /// Whose clock jumps: the file that says by how much.
    clock: Option<Clock>,
    child: Option<Child>,
}

/// A wall clock that may be set: libfaketime, and the file that it reads.
#[derive(Clone)]
pub struct Clock {
    pub library: PathBuf,
    pub file: PathBuf,
}

impl Clock {
    /// `+3600` is an hour ahead; `+0` is right.
    pub fn set(&self, offset: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, &self.file).unwrap();
    }
}

impl Relay {
    /// Writes its configuration into `folder` and starts it.
    pub fn start(
        role: Role,
        admin: SocketAddr,
        folder: PathBuf,
        config: &str,
        clock: Option<Clock>,
    ) -> Self {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("relay.toml"), config).unwrap();
        let mut relay = Self {
            admin,
            role,
            folder,
            clock,
            child: None,
        };
        relay.resume();
        relay
    }

    /// Starts it, or starts it again.
    pub fn resume(&mut self) {
        let mut log = fs::OpenOptions::new();
        let log = log.create(true).append(true).open(self.log_path()).unwrap();
        let role = match self.role {
            Role::Receiver => "receiver",
            Role::Worker => "worker",
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_crm-relay"));
        command
            .args([role, "--config"])
            .arg(self.config_path())
            .envs(allocator())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(clock) = &self.clock {
            command
                .env("LD_PRELOAD", &clock.library)
                .env("FAKETIME_TIMESTAMP_FILE", &clock.file)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self.child = Some(command.spawn().unwrap());
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.join("relay.toml")
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `STOP`, `CONT` or `TERM`.
    pub fn signal(&self, signal: &str) {
        let id = self.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &id])
            .status();
        assert!(status.unwrap().success(), "no {signal} for {id}");
    }

    /// SIGTERM, and waits for the end, which must be a good one.
    pub async fn stop(&mut self) {
        self.signal("TERM");
        let mut child = self.child.take().expect("it runs");
        let mut status = None;
        let ended = becomes(PATIENCE, async || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ended.await, "{:?} does not end", self.folder);
        assert!(status.unwrap().success(), "{:?}: {status:?}", self.folder);
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&self) {
        let url = format!("http://{}/readyz", self.admin);
        let ready = becomes(PATIENCE, async || {
            let answer = http().get(&url).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        });
        assert!(ready.await, "{:?} is not ready", self.folder);
    }

    /// Descriptors that are open.
    pub fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.id()));
        open.map_or(0, Iterator::count)
    }

    /// The value of a series of its metrics.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let request = http().get(format!("http://{}/metrics", self.admin));
        let answer = request.bearer_auth(ADMIN_TOKEN).send().await.ok()?;
        metric(&answer.text().await.ok()?, series)
    }

    /// Resident memory, in MB.
    pub fn memory_mb(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes =
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kilobytes.unwrap_or(0.0) * 1_024.0 / 1e6
    }

    /// Allows so many open descriptors; `None` for as many as at the start.
    pub fn limit_descriptors(&self, most: Option<usize>) {
        let id = self.id().to_string();
        let limits = fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let hard = line.unwrap().split_whitespace().nth(4).unwrap().to_owned();
        let soft = most.map_or(hard, |most| most.to_string());
        let status = Command::new("prlimit")
            .args(["--pid", &id, &format!("--nofile={soft}:")])
            .status();
        assert!(status.unwrap().success(), "prlimit of {id}");
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("relay.log")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the image tells the allocator.
fn allocator() -> impl Iterator<Item = (&'static str, &'static str)> {
    let words = include_str!("../../../Dockerfile").split_whitespace();
    let settings = words.filter_map(|word| word.split_once('='));
    settings.filter(|(name, _)| name.starts_with("MALLOC_"))
}
