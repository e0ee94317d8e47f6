//! What the portals want done, until the engine hands it out.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::event::{DeadLetter, EnrichedEvent, Erasure, Event, EventId, Millis, PortalId};

use super::batch_max::SplitId;
use super::job::{JobId, Key};
use super::ledger::Fate;
use super::protocol::{Output, PublishId};
use super::request::Request;

/// A call under way.
#[derive(Debug)]
pub struct CallUnderWay {
    pub portal_id: PortalId,
    pub request: Request,
    pub sent_at: Millis,
}

/// What is on its way to the destinations.
#[derive(Debug)]
pub enum Publishing {
    /// A record's message, or its dead letter.
    Record(Key),
    /// An event as it is.
    Plain(EventId),
    /// The dead letter of an event that killed its worker.
    Suspect(EventId),
}

/// What the portals want done, gathered until the engine hands it out.
#[derive(Debug)]
pub struct Effects {
    pub outputs: VecDeque<Output>,
    pub calls: Vec<CallUnderWay>,
    pub publishes: Vec<(PublishId, PortalId, Publishing)>,
    pub ended: Vec<(EventId, Fate)>,
    pub plain_ended: Vec<(PortalId, EventId, Fate)>,
    /// Events whose plain half does not go out, since their record is erased.
    pub plain_purged: Vec<EventId>,
    last_id: u64,
    random: ChaCha8Rng,
}

impl Effects {
    pub fn new(seed: u64) -> Self {
        Self {
            outputs: VecDeque::new(),
            calls: Vec::new(),
            publishes: Vec::new(),
            ended: Vec::new(),
            plain_ended: Vec::new(),
            plain_purged: Vec::new(),
            last_id: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn next_job(&mut self) -> JobId {
        JobId(self.next_id())
    }

    pub fn next_split(&mut self) -> SplitId {
        SplitId(self.next_id())
    }

    /// Between 0 and 1.
    pub fn jitter(&mut self) -> f64 {
        f64::from(self.random.next_u32()) / f64::from(u32::MAX)
    }

    pub fn call(&mut self, portal_id: &PortalId, request: Request, sent_at: Millis) {
        self.calls.push(CallUnderWay {
            portal_id: portal_id.clone(),
            request,
            sent_at,
        });
    }

    pub fn refresh_token(&mut self, portal_id: &PortalId) {
        self.outputs
            .push_back(Output::RefreshToken(portal_id.clone()));
    }

    pub fn publish(&mut self, portal_id: &PortalId, key: &Key, event: EnrichedEvent) {
        let publish = PublishId(self.next_id());
        self.publishes
            .push((publish, portal_id.clone(), Publishing::Record(key.clone())));
        self.outputs.push_back(Output::Publish {
            publish,
            event: Box::new(event),
        });
    }

    pub fn publish_plain(&mut self, portal_id: &PortalId, event: Event) {
        let publish = PublishId(self.next_id());
        let publishing = Publishing::Plain(event.known_as().into_owned());
        self.publishes
            .push((publish, portal_id.clone(), publishing));
        self.outputs.push_back(Output::PublishPlain {
            publish,
            event: Box::new(event),
        });
    }

    pub fn bury(&mut self, portal_id: &PortalId, key: &Key, letter: DeadLetter) {
        let publish = PublishId(self.next_id());
        self.publishes
            .push((publish, portal_id.clone(), Publishing::Record(key.clone())));
        self.outputs.push_back(Output::Bury {
            publish,
            letter: Box::new(letter),
        });
    }

    /// Has the dead letters searched; `waits` for that to be sure.
    pub fn search(&mut self, portal_id: &PortalId, waits: Publishing, erasure: Erasure) {
        let publish = PublishId(self.next_id());
        self.publishes.push((publish, portal_id.clone(), waits));
        self.outputs.push_back(Output::Search { publish, erasure });
    }

    /// A part of an event that is wanted enriched ended so.
    pub fn end(&mut self, id: &EventId, fate: Fate) {
        self.ended.push((id.clone(), fate));
    }

    /// An event ended as far as it goes out as it is.
    pub fn end_plain(&mut self, portal_id: &PortalId, id: &EventId, fate: Fate) {
        self.plain_ended.push((portal_id.clone(), id.clone(), fate));
    }

    /// An event that is wanted as it is does not go out.
    pub fn purge_plain(&mut self, id: &EventId) {
        self.plain_purged.push(id.clone());
    }
}
