//! Posts notifications as HubSpot does: signed, in batches, a bounded number at once, retried on anything but success.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::options::{Signatures, WebhookOptions};
use super::outbox::{Parcel, with_attempt};
use super::portal::{Portal, Shared};
use super::signature;
use crate::event::Millis;

/// How long an idle dispatcher sleeps when nothing is due: it is woken by every change.
const IDLE: Duration = Duration::from_secs(60);

/// Sends a portal's notifications until the simulator stops.
pub(crate) async fn dispatch(shared: Arc<Shared>, index: usize, client: reqwest::Client) {
    let portal = &shared.portals[index];
    let mut deliveries = JoinSet::new();
    loop {
        while let Some((parcel, webhook)) = next(&shared, portal) {
            deliveries.spawn(deliver(
                Arc::clone(&shared),
                index,
                client.clone(),
                parcel,
                webhook,
            ));
        }
        tokio::select! {
            () = shared.stopping.cancelled() => break,
            () = portal.wake.notified() => {}
            Some(_) = deliveries.join_next() => {}
            () = tokio::time::sleep(wait(&shared, portal)) => {}
        }
    }
    deliveries.shutdown().await;
}

/// The next batch, if one is due and may go.
fn next(shared: &Shared, portal: &Portal) -> Option<(Parcel, Arc<WebhookOptions>)> {
    let mut data = portal.lock();
    let mut settings = shared.settings();
    let webhook = settings.webhook.clone().filter(|_| !settings.paused)?;
    if data.outbox.in_flight >= webhook.concurrency.max(1) {
        return None;
    }
    let mut parcel = data.outbox.take(shared.uptime(), webhook.batch_max)?;
    if settings.dials.reordering > 0.0 && parcel.attempt == 0 {
        settings.random.shuffle(&mut parcel.notifications);
    }
    Some((parcel, webhook))
}

/// Until the next one is due; where one is due already, a slot or a target is missing and its coming wakes us.
fn wait(shared: &Shared, portal: &Portal) -> Duration {
    let due = portal.lock().outbox.next_due();
    let wait = due
        .map(|due| due.saturating_sub(shared.uptime()))
        .filter(|wait| !wait.is_zero());
    wait.unwrap_or(IDLE).min(IDLE)
}

async fn deliver(
    shared: Arc<Shared>,
    index: usize,
    client: reqwest::Client,
    parcel: Parcel,
    webhook: Arc<WebhookOptions>,
) {
    let accepted = post(&client, &parcel, &webhook).await;
    let portal = &shared.portals[index];
    {
        let mut data = portal.lock();
        let delay = data.dice.duration(&webhook.retry_delay());
        if accepted {
            data.outbox.succeed(parcel);
        } else {
            data.outbox
                .fail(parcel, shared.uptime() + delay, webhook.retries_max);
        }
    }
    portal.ended.notify_waiters();
    portal.wake.notify_one();
}

/// Whether the target answered with 2xx in time. Anything else is retried: HubSpot documents no exception.
async fn post(client: &reqwest::Client, parcel: &Parcel, webhook: &WebhookOptions) -> bool {
    let notifications = parcel
        .notifications
        .iter()
        .map(|made| with_attempt(made.body.clone(), parcel.attempt));
    let body = Value::from_iter(notifications).to_string().into_bytes();
    let signed_url = webhook.signed_url.as_deref().unwrap_or(&webhook.target_url);
    let mut request = client
        .post(&webhook.target_url)
        .timeout(webhook.timeout)
        .header("Content-Type", "application/json");
    for (name, value) in headers(webhook, signed_url, &body, Millis::now()) {
        request = request.header(name, value);
    }
    let answer = request.body(body).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

/// A fresh timestamp per attempt: retries come hours later and must still pass.
fn headers(
    webhook: &WebhookOptions,
    url: &str,
    body: &[u8],
    now: Millis,
) -> Vec<(&'static str, String)> {
    let secret = &webhook.client_secret;
    let timestamp = now.as_i64().to_string();
    let v3 = signature::v3(secret, url, body, &timestamp);
    let older = match webhook.signatures {
        Signatures::V1AndV3 | Signatures::V1 => [
            ("X-HubSpot-Signature", signature::v1(secret, body)),
            ("X-HubSpot-Signature-Version", "v1".to_owned()),
        ],
        Signatures::V2AndV3 | Signatures::V2 => [
            ("X-HubSpot-Signature", signature::v2(secret, url, body)),
            ("X-HubSpot-Signature-Version", "v2".to_owned()),
        ],
    };
    let newer = [
        ("X-HubSpot-Signature-v3", v3),
        ("X-HubSpot-Request-Timestamp", timestamp),
    ];
    let with_v3 = matches!(
        webhook.signatures,
        Signatures::V1AndV3 | Signatures::V2AndV3
    );
    older
        .into_iter()
        .chain(newer.into_iter().filter(|_| with_v3))
        .collect()
}
