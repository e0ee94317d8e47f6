//! A private RabbitMQ node: own name, ports, data and epmd, on loopback only.
//!
//! [`shared`] is started once per test process; tests keep apart by [`unique_prefix`]. Tests that kill or
//! restart start a node of their own. A small shell script stands between: it waits on a pipe from this
//! process, and when that closes, however this process ended, it kills the node and removes its data.
//!
//! Nodes of one cluster share an epmd, by which they find each other, and a cookie.
//!
//! `RELAY_RABBITMQ=path` runs the tests against another version: a `rabbitmq-server`, or the folder it is in.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::ports::free_port;

/// How long a node may take to answer. It takes 5 to 10 seconds on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a node is started that gives up while it does.
const STARTS_MAX: usize = 5;
/// How long between two looks whether it answers.
const START_INTERVAL: Duration = Duration::from_millis(100);
/// Where `rabbitmq-server` is usually found. Debian's `/usr/sbin` has a wrapper that changes the user.
const USUAL_FOLDERS: &[&str] = &[
    "/usr/lib/rabbitmq/bin",
    "/opt/rabbitmq/sbin",
    "/usr/local/sbin",
    "/opt/homebrew/sbin",
];
/// Runs epmd in a process group of its own until the end of its input comes.
const EPMD_WATCHDOG: &str = r#"
trap '' INT TERM HUP
setsid epmd -port "$1" -address 127.0.0.1 </dev/null >/dev/null 2>&1 &
epmd=$!
read -r _
kill -KILL "-$epmd" 2>/dev/null || kill -KILL "$epmd"
wait
"#;
/// Runs the node in a process group of its own, whose number it writes down, until a line or the end of its input
/// comes; then kills it, and after the end of its input removes the folder too.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
setsid "$1/rabbitmq-server" </dev/null >"$2/console.log" 2>&1 &
node=$!
echo "$node" >"$2/group"
keep=
if read -r _; then keep=yes; fi
kill -KILL "-$node" 2>/dev/null || kill -KILL "$node"
wait
[ -n "$keep" ] || rm -rf "$2"
"#;

/// A RabbitMQ node.
pub struct Broker {
    bin: PathBuf,
    dir: PathBuf,
    name: String,
    port: u16,
    dist_port: u16,
    epmd: Arc<Epmd>,
    tls_port: Option<u16>,
    watchdog: Mutex<Option<Child>>,
}

/// Erlang's register of nodes, for one node or the nodes of a cluster.
struct Epmd {
    port: u16,
    watchdog: Child,
}

impl Epmd {
    fn start() -> Self {
        let port = free_port();
        let watchdog = Command::new("sh")
            .args(["-c", EPMD_WATCHDOG, "watchdog", &port.to_string()])
            .env("HOME", "/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { port, watchdog }
    }
}

impl Drop for Epmd {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The node that tests share. Started by whoever asks first.
pub fn shared() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(Broker::start)
}

/// Begins the names of one test's queues.
pub fn unique_prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("test-{}-{count}", std::process::id())
}

impl Broker {
    /// Starts a node and waits until it answers.
    ///
    /// # Panics
    /// When RabbitMQ is not installed, or does not answer in time.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same with a TLS listener, which shows `server.crt` of `certificates` and demands one that leads to `ca.crt`;
    /// who shows one may log in by it, as the user of its common name.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_with_tls(certificates: &Path) -> Self {
        Self::start_with(Some(certificates))
    }

    fn start_with(tls: Option<&Path>) -> Self {
        let broker = Self {
            tls_port: tls.map(|_| free_port()),
            ..Self::new(Arc::new(Epmd::start()))
        };
        broker.write_config(tls, "");
        broker.resume();
        broker
    }

    /// Starts a node that joins the cluster of `first`, with the same epmd and cookie, and waits until it answers.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_beside(first: &Self) -> Self {
        let broker = Self::new(Arc::clone(&first.epmd));
        let cookie = fs::read(first.cookie()).unwrap();
        let mut private = fs::OpenOptions::new();
        private.create_new(true).write(true).mode(0o400);
        let mut file = private.open(broker.cookie()).unwrap();
        file.write_all(&cookie).unwrap();
        let peer = format!(
            "cluster_formation.classic_config.nodes.1 = {}\n",
            first.name
        );
        broker.write_config(None, &peer);
        broker.resume();
        broker
    }

    fn new(epmd: Arc<Epmd>) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("crm-relay-broker-")
            .tempdir()
            .unwrap()
            .keep();
        let port = free_port();
        Self {
            bin: find_bin(),
            name: format!("relay-{}-{port}@localhost", std::process::id()),
            port,
            dist_port: free_port(),
            epmd,
            tls_port: None,
            dir,
            watchdog: Mutex::new(None),
        }
    }

    /// Its name among the nodes of a cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn cookie(&self) -> PathBuf {
        self.dir.join(".erlang.cookie")
    }

    /// Where to connect to, as the default user, on the default vhost.
    pub fn url(&self) -> String {
        self.url_as("guest", "guest", "%2f")
    }

    /// Where to connect to as somebody else.
    pub fn url_as(&self, user: &str, password: &str, vhost: &str) -> String {
        format!("amqp://{user}:{password}@{}/{vhost}", self.address())
    }

    /// Where to connect to by TLS, by a name that stands in the certificate; `login` is `user:password@` or nothing.
    pub fn tls_url(&self, login: &str) -> String {
        let port = self.tls_port.expect("it was started with TLS");
        format!("amqps://{login}localhost:{port}/%2f")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Waits until the node's registries name all of the quorum queues `queues`, and the coordinator of streams, on disk.
    ///
    /// A registry (`names.dets` of `ra`) is flushed only some time after a declaration, up to a second as
    /// seen on 3.10.8. A node killed before that gives the queue a new identity when it comes back: an empty
    /// log without a leader, while the old log, confirmed messages and all, lies abandoned beside it. Its streams
    /// then are "down or inaccessible" for ever. That is the broker's to mend, so a test that kills waits for this
    /// first.
    ///
    /// # Panics
    /// When they are not there in time.
    pub fn await_registered(&self, queues: &[String]) {
        // `%2F_` stands for the default vhost; `m` tags the binary that follows a name.
        let queues = queues.iter().map(|queue| format!("%2F_{queue}m"));
        self.await_names("quorum", &queues.collect::<Vec<_>>());
        self.await_names("coordination", &["rabbit_stream_coordinatorm".to_owned()]);
    }

    fn await_names(&self, system: &str, names: &[String]) {
        let node = &self.name;
        let registry = format!("data/{node}/{system}/{node}/names.dets");
        let registry = self.dir.join(registry);
        let deadline = Instant::now() + START_TIMEOUT;
        while !names_all(&fs::read(&registry).unwrap_or_default(), names) {
            assert!(
                Instant::now() < deadline,
                "the node does not write {names:?} into its registry"
            );
            std::thread::sleep(START_INTERVAL);
        }
    }

    /// Ends the node by SIGKILL. Its data stays.
    pub fn kill(&self) {
        let watchdog = self.watchdog.lock().unwrap().take();
        if let Some(mut watchdog) = watchdog {
            let mut input = watchdog.stdin.take().unwrap();
            input.write_all(b"kill\n").unwrap();
            watchdog.wait().unwrap();
        }
    }

    /// Sends a signal to all processes of the node: `STOP` freezes it, `CONT` lets it go on.
    pub fn signal(&self, signal: &str) {
        let group = fs::read_to_string(self.dir.join("group")).unwrap();
        let status = Command::new("kill")
            .args([&format!("-{signal}"), "--", &format!("-{}", group.trim())])
            .status();
        assert!(
            status.unwrap().success(),
            "no node gets the signal {signal}"
        );
    }

    /// Ends the node in order. Its data stays.
    pub fn stop(&self) {
        self.ctl(&["stop"]);
        self.kill();
    }

    /// Starts the node again on its data, and waits until it answers. One that gives up, as those of a cluster do now and then that
    /// start at once, is started again, as its supervisor would.
    pub fn resume(&self) {
        for _ in 0..STARTS_MAX {
            self.spawn();
            if self.waits_until_it_answers() {
                return;
            }
            self.kill();
        }
        panic!("{}", self.does_not_answer());
    }

    fn spawn(&self) {
        // What an earlier start said is not to be taken for what this one says.
        let _ = fs::remove_file(self.dir.join("console.log"));
        let mut command = self.command("sh");
        command
            .args(["-c", WATCHDOG, "watchdog"])
            .args([&self.bin, &self.dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        *self.watchdog.lock().unwrap() = Some(command.spawn().unwrap());
    }

    /// [`Self::kill`], then [`Self::resume`].
    pub fn restart(&self) {
        self.kill();
        self.resume();
    }

    /// What `rabbitmqctl` answers.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, args: &[&str]) -> String {
        let mut command = self.command(self.bin.join("rabbitmqctl"));
        let output = command
            .args(["--quiet", "--node", &self.name])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "rabbitmqctl {args:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", &self.dir)
            .env("ERL_CRASH_DUMP", self.dir.join("erl_crash.dump"))
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.epmd.port.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_CONFIG_FILE", self.dir.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.dir.join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", self.dir.join("data"))
            .env("RABBITMQ_LOG_BASE", self.dir.join("log"))
            .env("RABBITMQ_PID_FILE", self.dir.join("pid"))
            .env("RABBITMQ_SCHEDULER_BIND_TYPE", "u")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
            );
        command
    }

    /// Half of a cluster that is cut in two stops, as is advised.
    fn write_config(&self, tls: Option<&Path>, more: &str) {
        let mut config = format!(
            "listeners.tcp.1 = {}\ndisk_free_limit.absolute = 1MB\nlog.file.level = warning\n\
             cluster_partition_handling = pause_minority\n{more}",
            self.address()
        );
        let mut plugins = "[].\n";
        if let (Some(certificates), Some(port)) = (tls, self.tls_port) {
            let path = |file| certificates.join(file).display().to_string();
            config += &format!(
                "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n\
                 ssl_cert_login_from = common_name\nauth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\n",
                path("ca.crt"),
                path("server.crt"),
                path("server.key"),
            );
            plugins = "[rabbitmq_auth_mechanism_ssl].\n";
        }
        fs::write(self.dir.join("rabbitmq.conf"), config).unwrap();
        fs::write(self.dir.join("plugins"), plugins).unwrap();
    }

    /// False when the node gives up.
    fn waits_until_it_answers(&self) -> bool {
        let deadline = Instant::now() + START_TIMEOUT;
        let is_there = || {
            let tls = self.tls_port;
            let listens = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
            answers(self.address()) && tls.is_none_or(listens)
        };
        while !is_there() {
            if self.console().contains("BOOT FAILED") {
                return false;
            }
            assert!(Instant::now() < deadline, "{}", self.does_not_answer());
            std::thread::sleep(START_INTERVAL);
        }
        true
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console.log")).unwrap_or_default()
    }

    fn does_not_answer(&self) -> String {
        let (bin, console) = (self.bin.display(), self.console());
        format!("RabbitMQ at {bin} does not answer; its console says: {console}")
    }
}

/// Whether a broker there begins AMQP's handshake.
fn answers(address: SocketAddr) -> bool {
    let begin = || -> std::io::Result<u8> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0])
    };
    // 1 is a method frame: `connection.start`.
    begin().is_ok_and(|first| first == 1)
}

/// Whether `registry` holds every name.
fn names_all(registry: &[u8], names: &[String]) -> bool {
    let holds = |name: &[u8]| registry.windows(name.len()).any(|part| part == name);
    names.iter().all(|name| holds(name.as_bytes()))
}

fn find_bin() -> PathBuf {
    if let Some(path) = std::env::var_os("RELAY_RABBITMQ") {
        let path = PathBuf::from(path);
        let folder = if path.is_dir() {
            path
        } else {
            path.parent().unwrap_or(Path::new("/")).to_owned()
        };
        assert!(
            folder.join("rabbitmq-server").exists(),
            "RELAY_RABBITMQ names no rabbitmq-server and no folder that has one"
        );
        return folder;
    }
    let found = USUAL_FOLDERS
        .iter()
        .map(PathBuf::from)
        .find(|folder| folder.join("rabbitmq-server").exists());
    found.expect(
        "these tests need RabbitMQ: install the package rabbitmq-server (3.10 or later), or set \
         RELAY_RABBITMQ to the path of a rabbitmq-server",
    )
}
