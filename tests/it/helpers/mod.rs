//! What every test needs.

pub mod broker;
pub mod bus;
pub mod certificates;
pub mod contract;
pub mod metric;
pub mod ports;
pub mod queue;
pub mod relay;
pub mod signature;

use std::time::Duration;

pub use metric::metric;

/// What `look` finds, looked for until it does.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited {within:?} in vain: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
