//! What the tasks of a simulator share: portals behind one lock each, and the settings that may change at run time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::change::{Applied, Change, ChangeError, Fact};
use super::inbox::ThreadFact;
use super::limits::Meter;
use super::notification::{self, Context};
use super::oauth::Installation;
use super::options::{Dials, Faults, Latency, Limits, SimulatorOptions, WebhookOptions};
use super::outbox::Outbox;
use super::random::Random;
use super::record::Source;
use super::seed;
use super::state::State;
use crate::event::Millis;

/// Streams of the seeded generators that belong to no portal; portal ids are far above.
const FAULT_STREAM: u64 = 1;

/// Settings that may change at run time.
pub(crate) struct Settings {
    pub(crate) latency: Latency,
    pub(crate) faults: Faults,
    pub(crate) dials: Dials,
    pub(crate) webhook: Option<Arc<WebhookOptions>>,
    pub(crate) paused: bool,
    pub(crate) random: Random,
}

/// One portal.
pub(crate) struct Portal {
    pub(crate) id: u64,
    pub(crate) access_token: String,
    data: Mutex<PortalData>,
    /// Wakes the dispatcher when there may be something to send.
    pub(crate) wake: Notify,
    /// Tells that a delivery ended.
    pub(crate) ended: Notify,
}

/// What a portal's lock guards.
pub(crate) struct PortalData {
    pub(crate) state: State,
    /// Draws what may depend on timing: event ids, delays, the order of replies.
    pub(crate) dice: Random,
    pub(crate) meter: Meter,
    pub(crate) limits: Limits,
    pub(crate) outbox: Outbox,
    pub(crate) missing_scopes: BTreeSet<String>,
    pub(crate) revoked: bool,
    pub(crate) installation: Option<Installation>,
    /// Calls by endpoint, refused ones included.
    pub(crate) calls: BTreeMap<&'static str, u64>,
    /// Replies by status.
    pub(crate) replies: BTreeMap<u16, u64>,
    /// 429s sent because a limit was reached; injected ones are not among them.
    pub(crate) rate_limited: u64,
}

/// Everything.
pub(crate) struct Shared {
    started: Instant,
    settings: Mutex<Settings>,
    pub(crate) portals: Vec<Portal>,
    pub(crate) stopping: CancellationToken,
    /// Events per second that traffic makes.
    pub(crate) traffic_rate: Mutex<f64>,
    pub(crate) seed: u64,
}

impl Shared {
    pub(crate) fn new(options: SimulatorOptions, now: Millis) -> Self {
        let portals = options.portals.into_iter().map(|portal| {
            let mut state = State::new(portal.id, options.seed, now);
            seed::fill(&mut state, portal.contacts, now);
            let data = PortalData {
                state,
                dice: Random::new(options.seed, !portal.id),
                meter: Meter::default(),
                limits: portal.limits,
                outbox: Outbox::default(),
                missing_scopes: portal.missing_scopes,
                revoked: false,
                installation: portal
                    .oauth
                    .map(|oauth| Installation::new(portal.id, oauth)),
                calls: BTreeMap::new(),
                replies: BTreeMap::new(),
                rate_limited: 0,
            };
            Portal {
                id: portal.id,
                access_token: portal.access_token,
                data: Mutex::new(data),
                wake: Notify::new(),
                ended: Notify::new(),
            }
        });
        let settings = Settings {
            latency: options.latency,
            faults: options.faults,
            dials: options.dials,
            webhook: options.webhook.map(Arc::new),
            paused: false,
            random: Random::new(options.seed, FAULT_STREAM),
        };
        Self {
            started: Instant::now(),
            portals: portals.collect(),
            settings: Mutex::new(settings),
            stopping: CancellationToken::new(),
            traffic_rate: Mutex::new(0.0),
            seed: options.seed,
        }
    }

    /// Monotonic time since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn portal(&self, id: u64) -> Option<&Portal> {
        self.portals.iter().find(|portal| portal.id == id)
    }

    pub(crate) fn wake_all(&self) {
        self.portals
            .iter()
            .for_each(|portal| portal.wake.notify_one());
    }

    /// Makes a change and its notifications.
    pub(crate) fn apply(
        &self,
        portal: &Portal,
        change: Change,
        source: &Source,
    ) -> Result<Applied, ChangeError> {
        let mut data = portal.lock();
        let now = Millis::now();
        let applied = data.state.apply(change, source, now)?;
        self.notify(portal, &mut data, &applied.facts, source, now);
        Ok(applied)
    }

    /// Queues the notifications of facts.
    pub(crate) fn notify(
        &self,
        portal: &Portal,
        data: &mut PortalData,
        facts: &[Fact],
        source: &Source,
        now: Millis,
    ) {
        let (webhook, dials) = self.webhook();
        let context = Context {
            webhook: &webhook,
            portal_id: portal.id,
            occurred_at: now,
            source,
        };
        let random = &mut data.dice;
        for body in facts
            .iter()
            .flat_map(|fact| notification::notifications(fact, &context, random))
            .collect::<Vec<_>>()
        {
            data.outbox.add(body, self.uptime(), &dials, &mut data.dice);
        }
        portal.wake.notify_one();
    }

    /// Begins a thread, or changes one; its id, and what that made. `None` when there is no such thread.
    pub(crate) fn talk(
        &self,
        portal: &Portal,
        act: impl FnOnce(&mut State, Millis) -> Option<(u64, ThreadFact)>,
    ) -> Option<(u64, ThreadFact)> {
        let data = &mut *portal.lock();
        let now = Millis::now();
        let (thread, fact) = act(&mut data.state, now)?;
        let (webhook, dials) = self.webhook();
        let source = Source {
            kind: "CONVERSATIONS".to_owned(),
            id: None,
        };
        let context = Context {
            webhook: &webhook,
            portal_id: portal.id,
            occurred_at: now,
            source: &source,
        };
        let body = notification::of_thread(thread, &fact, &context, &mut data.dice);
        if let Some(body) = body {
            data.outbox.add(body, self.uptime(), &dials, &mut data.dice);
        }
        portal.wake.notify_one();
        Some((thread, fact))
    }

    /// Presses the Test button.
    pub(crate) fn test_button(&self, portal: &Portal, subscription_type: &str) {
        let (webhook, _) = self.webhook();
        let source = Source {
            kind: "CRM".to_owned(),
            id: None,
        };
        let context = Context {
            webhook: &webhook,
            portal_id: portal.id,
            occurred_at: Millis::now(),
            source: &source,
        };
        let body = notification::of_test_button(&context, subscription_type);
        let data = &mut *portal.lock();
        data.outbox
            .add(body, self.uptime(), &Dials::default(), &mut data.dice);
        portal.wake.notify_one();
    }

    /// Without a target the default subscriptions are told to whoever comes later.
    fn webhook(&self) -> (Arc<WebhookOptions>, Dials) {
        let settings = self.settings();
        let webhook = settings
            .webhook
            .clone()
            .unwrap_or_else(|| Arc::new(WebhookOptions::new("", "")));
        (webhook, settings.dials)
    }
}

impl Portal {
    /// Lock order: a portal first, then the settings.
    pub(crate) fn lock(&self) -> MutexGuard<'_, PortalData> {
        self.data.lock().expect("no holder of this lock panics")
    }
}
