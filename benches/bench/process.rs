//! What a process costs, as Linux accounts for it: processor time and peak memory.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything that is waited for may take.
pub const WAIT_MAX: Duration = Duration::from_secs(120);
/// How long between two looks whether it is so.
pub const WAIT_INTERVAL: Duration = Duration::from_millis(20);
/// `/proc` counts processor time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// A process of ours, killed when dropped.
pub struct Process(Child);

impl Process {
    /// Starts it, with neither input nor output.
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time, user and system, of process `id` since it began.
pub fn cpu(id: u32) -> Duration {
    let stat = read(id, "stat");
    // After the name, which may hold anything, `utime` and `stime` are the 12th and 13th fields.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().skip(11).take(2);
    TICK * ticks
        .map(|field| field.parse::<u32>().expect("a count"))
        .sum::<u32>()
}

/// The most memory that process `id` ever held, in MB.
pub fn peak_memory_mb(id: u32) -> f64 {
    status_mb(id, "VmHWM:")
}

/// The memory that process `id` holds, in MB.
pub fn memory_mb(id: u32) -> f64 {
    status_mb(id, "VmRSS:")
}

fn status_mb(id: u32, key: &str) -> f64 {
    let status = read(id, "status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .expect("a process with memory");
    let kilobytes = line.trim().trim_end_matches(" kB").parse::<f64>();
    kilobytes.expect("a size") * 1_024.0 / 1e6
}

fn read(id: u32, file: &str) -> String {
    let path = format!("/proc/{id}/{file}");
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{path}: {error}; is the process alive?"))
}

/// The Erlang machine of the RabbitMQ node that listens at `address`, which the tests' helper started.
pub fn broker_process(address: SocketAddr) -> u32 {
    let node = format!(
        "RABBITMQ_NODENAME=relay-{}-{}@localhost",
        std::process::id(),
        address.port()
    );
    let ids = fs::read_dir("/proc").expect("/proc").flatten();
    let mut ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| {
        let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        name == "beam.smp\n" && variables.any(|variable| variable == node.as_bytes())
    })
    .expect("the node's process")
}

/// Waits until something listens at `address`.
pub fn wait_for_listener(address: SocketAddr) {
    wait("a listener", || TcpStream::connect(address).is_ok());
}

/// Waits until `is_so`.
pub fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < WAIT_MAX, "waited in vain for {what}");
        std::thread::sleep(WAIT_INTERVAL);
    }
}
