//! A whole deployment on one machine that may be broken anywhere: HubSpot, receivers, broker, workers, and a proxy
//! between any two of them; the load it gets, and who checks what comes out.
//!
//! ```text
//! people ─▶ load ─▶ balancer ─▶ proxy ─▶ receiver ─▶ proxy ─▶ broker ─▶ proxy ─▶ worker ─▶ proxy ─▶ simulated HubSpot
//!            └─▶ ledger ◀─────────────────────────── checker ◀──┘
//! ```

pub mod checker;
pub mod cluster;
pub mod deployment;
#[path = "../../histories/dice.rs"]
pub mod dice;
pub mod disk;
pub mod ledger;
pub mod load;
pub mod people;
pub mod proxy;
pub mod relay;

use std::time::{Duration, Instant};

/// How long between two looks at anything that is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A client for loopback. It reads no certificates of the system's, which costs more than a request.
pub fn http() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    client.build().expect("its settings are right")
}

/// Waits until `look` is true, or `within` is over; whether it became true.
pub async fn becomes(within: Duration, mut look: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if look().await {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
