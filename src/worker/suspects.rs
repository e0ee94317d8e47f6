//! Deliveries that may have killed a worker, and what is held back while they are tried.
//!
//! A delivery that came twice before, and of which no process lived to tell, is a *suspect*. While a partition has some, it
//! takes up nothing else: when all that was under way has ended, the events of one suspect go to the engine, one by one,
//! and only one in the whole process at a time. So a worker that dies by an event does so with no other in its hands to
//! blame; the engine notes each try before it.
//!
//! A session that breaks says nothing against what was in hand, if the process lives: that is remembered.

use std::collections::{HashSet, VecDeque};

use tokio::sync::OwnedSemaphorePermit;

use crate::bus::{Delivery, Message, Unsettled};
use crate::enrich::{DeliveryId, Source};
use crate::event::Event;

/// From so many deliveries before on, one is a suspect.
const SUSPECT_FROM: u32 = 2;
/// Messages that are remembered to have been in hand when a session broke. At the bound all are forgotten, and some may be
/// tried alone without need.
const SURVIVED_MAX: usize = 10_000;

/// What a shell knows of suspects.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// By message id.
    survived: HashSet<String>,
    waiting: VecDeque<Suspect>,
    /// What else came meanwhile: at most what the two queues have of unsettled deliveries.
    held: VecDeque<(Delivery, Source)>,
    /// Whether a permit was asked for.
    asks: bool,
    trial: Option<Trial>,
}

/// A delivery whose events are to be tried one by one.
#[derive(Debug)]
struct Suspect {
    unsettled: Unsettled,
    from: Source,
    message: Message,
    events: VecDeque<Event>,
}

/// A suspect that is being tried.
#[derive(Debug)]
struct Trial {
    suspect: Suspect,
    /// What stands for the event that is being tried.
    event: Option<DeliveryId>,
    /// Nobody else tries one.
    _permit: OwnedSemaphorePermit,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Step {
    /// Hand this event to the engine. It came in this message, from there.
    Try(Event, Message, Source),
    /// Settle this: all events of the suspect have ended.
    Settle(Unsettled),
    /// Take this up, which was held back.
    Take(Delivery, Source),
}

impl Suspects {
    /// Whether something is held back, or is to be.
    pub(super) fn are_there(&self) -> bool {
        self.trial.is_some() || !self.waiting.is_empty()
    }

    /// Whether a delivery came too often to be taken up with others.
    pub(super) fn came_too_often(&self, delivery: &Delivery) -> bool {
        delivery.delivery_count >= SUSPECT_FROM && !self.survived.contains(&delivery.message.id)
    }

    /// A suspect came.
    pub(super) fn add(&mut self, delivery: Delivery, from: Source, events: Vec<Event>) {
        self.waiting.push_back(Suspect {
            unsettled: delivery.unsettled,
            from,
            message: delivery.message,
            events: events.into(),
        });
    }

    /// Something else came.
    pub(super) fn hold(&mut self, delivery: Delivery, from: Source) {
        self.held.push_back((delivery, from));
    }

    /// Whether a permit to try the next suspect is to be asked for, now that nothing else is under way.
    pub(super) fn ask(&mut self) -> bool {
        let asks = self.trial.is_none() && !self.waiting.is_empty() && !self.asks;
        self.asks |= asks;
        asks
    }

    /// The permit came.
    pub(super) fn begin(&mut self, permit: OwnedSemaphorePermit) {
        self.asks = false;
        self.trial = self.waiting.pop_front().map(|suspect| Trial {
            suspect,
            event: None,
            _permit: permit,
        });
    }

    /// What can be done now; `None` when nothing.
    pub(super) fn next(&mut self) -> Option<Step> {
        let Some(trial) = &mut self.trial else {
            if !self.waiting.is_empty() {
                return None;
            }
            let (delivery, from) = self.held.pop_front()?;
            return Some(Step::Take(delivery, from));
        };
        if trial.event.is_some() {
            return None;
        }
        match trial.suspect.events.pop_front() {
            Some(event) => {
                let message = trial.suspect.message.clone();
                Some(Step::Try(event, message, trial.suspect.from))
            }
            None => {
                let trial = self.trial.take()?;
                Some(Step::Settle(trial.suspect.unsettled))
            }
        }
    }

    /// `delivery` stands for the event that is being tried.
    pub(super) fn tries(&mut self, delivery: DeliveryId) {
        if let Some(trial) = &mut self.trial {
            trial.event = Some(delivery);
        }
    }

    /// What stood for an event is settled.
    pub(super) fn settled(&mut self, delivery: DeliveryId) {
        if let Some(trial) = &mut self.trial {
            trial.event.take_if(|event| *event == delivery);
        }
    }

    /// The process lives, though the session that made a delivery of this message is gone.
    pub(super) fn survived<'m>(&mut self, messages: impl Iterator<Item = &'m Message>) {
        if self.survived.len() >= SURVIVED_MAX {
            self.survived.clear();
        }
        self.survived
            .extend(messages.map(|message| message.id.clone()));
    }

    /// The messages that wait here or are being tried.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        let trial = self.trial.iter().map(|trial| &trial.suspect.message);
        let waiting = self.waiting.iter().map(|suspect| &suspect.message);
        let held = self.held.iter().map(|(delivery, _)| &delivery.message);
        trial.chain(waiting).chain(held)
    }

    /// Lets go of what came `from` there, or of all; it comes again.
    pub(super) fn abandon(&mut self, only: Option<Source>) {
        let is_meant = |from: Source| only.is_none_or(|only| only == from);
        if let Some(trial) = self.trial.take_if(|trial| is_meant(trial.suspect.from)) {
            trial.suspect.unsettled.abandon();
        }
        for suspect in std::mem::take(&mut self.waiting) {
            if is_meant(suspect.from) {
                suspect.unsettled.abandon();
            } else {
                self.waiting.push_back(suspect);
            }
        }
        for (delivery, from) in std::mem::take(&mut self.held) {
            if is_meant(from) {
                delivery.unsettled.abandon();
            } else {
                self.held.push_back((delivery, from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Semaphore, mpsc};

    use super::*;
    use crate::bus::Settlement;

    fn delivery(
        id: &str,
        delivery_count: u32,
        settlements: &mpsc::UnboundedSender<(u64, Settlement)>,
    ) -> Delivery {
        Delivery {
            message: Message {
                id: id.to_owned(),
                content_type: String::new(),
                kind: String::new(),
                headers: Vec::new(),
                body: bytes::Bytes::new(),
            },
            routing_key: String::new(),
            delivery_count,
            unsettled: Unsettled::new(u64::from(delivery_count), settlements.clone()),
        }
    }

    fn events() -> Vec<Event> {
        let event = |n| crate::enrich::tests::created(n, 0);
        vec![event("1"), event("2")]
    }

    #[test]
    fn a_suspect_is_tried_event_by_event_and_the_rest_waits() {
        let (sender, mut settled) = mpsc::unbounded_channel();
        let mut suspects = Suspects::default();
        suspects.add(delivery("a", 2, &sender), Source::Intake, events());
        suspects.hold(delivery("b", 0, &sender), Source::Intake);
        assert!(suspects.are_there());
        assert!(suspects.next().is_none(), "there is no permit yet");
        assert!(suspects.ask() && !suspects.ask());
        let semaphore = Arc::new(Semaphore::new(1));
        suspects.begin(semaphore.clone().try_acquire_owned().unwrap());
        for n in 1..=2 {
            assert!(matches!(suspects.next(), Some(Step::Try(..))));
            suspects.tries(DeliveryId(n));
            assert!(suspects.next().is_none(), "one at a time");
            suspects.settled(DeliveryId(9));
            assert!(suspects.next().is_none());
            assert_eq!(semaphore.available_permits(), 0);
            suspects.settled(DeliveryId(n));
        }
        let Some(Step::Settle(unsettled)) = suspects.next() else {
            panic!("all were tried");
        };
        unsettled.ack();
        assert_eq!(settled.try_recv(), Ok((2, Settlement::Ack)));
        assert_eq!(semaphore.available_permits(), 1);
        let Some(Step::Take(held, _)) = suspects.next() else {
            panic!("there was another");
        };
        held.unsettled.abandon();
        assert!(suspects.next().is_none() && !suspects.are_there());
    }

    #[test]
    fn what_the_process_survived_is_no_suspect() {
        let (sender, _settled) = mpsc::unbounded_channel();
        let mut suspects = Suspects::default();
        let often = delivery("a", 2, &sender);
        assert!(suspects.came_too_often(&often));
        suspects.survived(std::iter::once(&often.message));
        assert!(!suspects.came_too_often(&often));
        let young = delivery("b", 1, &sender);
        assert!(!suspects.came_too_often(&young));
        often.unsettled.abandon();
        young.unsettled.abandon();
    }

    #[test]
    fn only_what_came_from_there_is_let_go() {
        let (sender, mut settled) = mpsc::unbounded_channel();
        let mut suspects = Suspects::default();
        suspects.add(delivery("a", 2, &sender), Source::Backlog, events());
        suspects.hold(delivery("b", 0, &sender), Source::Intake);
        suspects.abandon(Some(Source::Backlog));
        assert_eq!(suspects.messages().count(), 1);
        suspects.abandon(None);
        assert_eq!(suspects.messages().count(), 0);
        assert!(settled.try_recv().is_err());
    }
}
