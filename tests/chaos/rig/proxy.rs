//! A TCP proxy that may cut, hold, slow or refuse what goes through it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How long a target may take to accept a connection before the next is tried.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// What is read at once; of a slow connection a tenth of a second's worth.
const CHUNK_BYTES: usize = 64 * 1024;

/// How bytes of one direction fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Pass,
    /// They stay where they are.
    Hold,
    /// So many a second.
    Slow(usize),
}

/// How connections fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// From who connected.
    pub up: Flow,
    /// To who connected.
    pub down: Flow,
    /// New connections are reset at once.
    pub refuses: bool,
}

impl Mode {
    pub const PASS: Self = Self::both(Flow::Pass);
    /// Nothing comes back: confirms, answers, heartbeats.
    pub const DEAF: Self = Self {
        up: Flow::Pass,
        down: Flow::Hold,
        refuses: false,
    };
    pub const REFUSE: Self = Self {
        up: Flow::Pass,
        down: Flow::Pass,
        refuses: true,
    };

    pub const fn both(flow: Flow) -> Self {
        Self {
            up: flow,
            down: flow,
            refuses: false,
        }
    }
}

/// Where connections go: the first of them that accepts.
type Route = Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>;

/// A proxy on a port of its own.
pub struct Proxy {
    pub address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counts the cuts.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    /// Begins to listen.
    pub async fn start(route: impl Fn() -> Vec<SocketAddr> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, cuts) = (watch::Sender::new(Mode::PASS), watch::Sender::new(0));
        let (modes, cut) = (mode.subscribe(), cuts.subscribe());
        tokio::spawn(accept(listener, Arc::new(route), modes, cut));
        Self {
            address,
            mode,
            cuts,
        }
    }

    /// Treats all connections so from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Resets all connections.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(
    listener: TcpListener,
    route: Route,
    modes: watch::Receiver<Mode>,
    cuts: watch::Receiver<u64>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, say: a moment later there may be some.
            tokio::time::sleep(CONNECT_MAX).await;
            continue;
        };
        if modes.borrow().refuses {
            reset(&client);
            continue;
        }
        tokio::spawn(carry(client, route(), modes.clone(), cuts.clone()));
    }
}

async fn carry(
    mut client: TcpStream,
    targets: Vec<SocketAddr>,
    modes: watch::Receiver<Mode>,
    mut cuts: watch::Receiver<u64>,
) {
    cuts.mark_unchanged();
    let Some(mut server) = connect(&targets).await else {
        reset(&client);
        return;
    };
    for stream in [&client, &server] {
        // Latency is not what is tested, but batches of small writes would be held for 40 ms.
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let both = async {
        tokio::join!(
            pump(from_client, to_server, modes.clone(), |mode| mode.up),
            pump(from_server, to_client, modes, |mode| mode.down)
        )
    };
    tokio::select! {
        _ = both => {}
        _ = cuts.changed() => {
            reset(&client);
            reset(&server);
        }
    }
}

async fn connect(targets: &[SocketAddr]) -> Option<TcpStream> {
    for target in targets {
        let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(target)).await;
        if let Ok(Ok(stream)) = connected {
            return Some(stream);
        }
    }
    None
}

/// Carries one direction to its end, which it hands on.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut modes: watch::Receiver<Mode>,
    of: fn(&Mode) -> Flow,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let most = match of(&modes.borrow()) {
            Flow::Slow(rate) => (rate / 10).clamp(1, CHUNK_BYTES),
            Flow::Pass | Flow::Hold => CHUNK_BYTES,
        };
        let count = from.read(&mut buffer[..most]).await.unwrap_or(0);
        let passes = modes.wait_for(|mode| of(mode) != Flow::Hold);
        let Ok(flow) = passes.await.map(|mode| of(&mode)) else {
            return;
        };
        let pause = match flow {
            Flow::Slow(rate) => Duration::from_secs_f64(count as f64 / rate as f64),
            Flow::Pass | Flow::Hold => Duration::ZERO,
        };
        if count == 0 {
            let _ = to.shutdown().await;
            return;
        }
        tokio::time::sleep(pause).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Has a connection end with a reset when it is dropped.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
