//! Deliveries that may have killed a worker, and what is held back while they are tried.
//!
//! A delivery that came twice before, and of which no process lived to tell, is a *suspect*. While a partition has some, it
//! takes up nothing else, and only one partition of a process does so at a time. When all that was under way has ended, a
//! few suspects are tried together; most were only there when something else died. Those that come once more are tried
//! singly: their events go to the engine one by one, with nothing else under way, and the engine notes each try before it. So
//! a worker that dies by an event dies with no other to blame.
//!
//! A session that breaks says nothing against what was in hand, if the process lives: that is remembered.

use std::collections::{HashSet, VecDeque};

use tokio::sync::OwnedSemaphorePermit;

use crate::bus::{Delivery, Message, Unsettled};
use crate::enrich::{DeliveryId, Source};
use crate::event::Event;

/// From so many deliveries before on, one is a suspect.
const SUSPECT_FROM: u32 = 2;
/// From so many on, its events are tried one by one. Each costs a call of its own then, and a partition that goes from worker
/// to worker under load counts as well: what was not taken up comes again.
const SINGLY_FROM: u32 = 4;
/// The most suspects that are tried together. What they lead to shares a note, which takes a second.
const GROUP_MAX: usize = 16;
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

/// A delivery that is to be tried.
#[derive(Debug)]
struct Suspect {
    delivery: Delivery,
    from: Source,
    /// Its events, where they are to be tried one by one.
    singly: Option<VecDeque<Event>>,
}

/// What is being tried.
#[derive(Debug)]
struct Trial {
    /// Suspects that are still to be handed to the engine, as they are.
    group: Vec<Suspect>,
    /// One whose events are tried one by one.
    singly: Option<Suspect>,
    /// What the engine has of them.
    under_way: HashSet<DeliveryId>,
    /// Nobody else tries one.
    _permit: OwnedSemaphorePermit,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Step {
    /// Hand this event to the engine. It came in this message, from there.
    Try(Box<Event>, Message, Source),
    /// Settle this: all events of the suspect have ended.
    Settle(Unsettled),
    /// Hand this to the engine as it is.
    TryWhole(Delivery, Source),
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

    /// A suspect came. Its `events` are tried one by one if it came often enough, or one of them `was_tried` so.
    pub(super) fn add(
        &mut self,
        delivery: Delivery,
        from: Source,
        events: Vec<Event>,
        was_tried: bool,
    ) {
        let singly = was_tried || delivery.delivery_count >= SINGLY_FROM;
        self.waiting.push_back(Suspect {
            delivery,
            from,
            singly: singly.then(|| events.into()),
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
        let is_whole = |suspect: &Suspect| suspect.singly.is_none();
        let mut group = Vec::new();
        while group.len() < GROUP_MAX
            && let Some(place) = self.waiting.iter().position(is_whole)
        {
            group.extend(self.waiting.remove(place));
        }
        let singly = match group.is_empty() {
            true => self.waiting.pop_front(),
            false => None,
        };
        if singly.is_some() || !group.is_empty() {
            self.trial = Some(Trial {
                group,
                singly,
                under_way: HashSet::new(),
                _permit: permit,
            });
        }
    }

    /// What can be done now; `None` when nothing.
    pub(super) fn next(&mut self) -> Option<Step> {
        if let Some(trial) = &mut self.trial {
            if let Some(Suspect { delivery, from, .. }) = trial.group.pop() {
                return Some(Step::TryWhole(delivery, from));
            }
            if !trial.under_way.is_empty() {
                return None;
            }
            let events = trial.singly.as_mut().and_then(|one| one.singly.as_mut());
            if let Some(event) = events.and_then(VecDeque::pop_front) {
                let suspect = trial.singly.as_ref()?;
                let message = suspect.delivery.message.clone();
                return Some(Step::Try(Box::new(event), message, suspect.from));
            }
            if let Some(suspect) = self.trial.take()?.singly {
                return Some(Step::Settle(suspect.delivery.unsettled));
            }
        }
        if !self.waiting.is_empty() {
            return None;
        }
        let (delivery, from) = self.held.pop_front()?;
        Some(Step::Take(delivery, from))
    }

    /// The engine has `delivery`, which stands for what is being tried.
    pub(super) fn tries(&mut self, delivery: DeliveryId) {
        if let Some(trial) = &mut self.trial {
            trial.under_way.insert(delivery);
        }
    }

    /// What stood for something that was tried is settled, or void.
    pub(super) fn settled(&mut self, delivery: DeliveryId) {
        if let Some(trial) = &mut self.trial {
            trial.under_way.remove(&delivery);
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

    /// The messages that wait here or are being tried one by one.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        let trial = self.trial.iter();
        let tried = trial.flat_map(|trial| trial.group.iter().chain(&trial.singly));
        let suspects = tried.chain(&self.waiting);
        let suspects = suspects.map(|suspect| &suspect.delivery.message);
        suspects.chain(self.held.iter().map(|(delivery, _)| &delivery.message))
    }

    /// Lets go of what came `from` there, or of all; it comes again.
    pub(super) fn abandon(&mut self, only: Option<Source>) {
        let is_meant = |from: Source| only.is_none_or(|only| only == from);
        if let Some(trial) = &mut self.trial {
            let group = trial.group.drain(..);
            let singly = trial.singly.take_if(|suspect| is_meant(suspect.from));
            let all = group.chain(singly);
            all.for_each(|suspect| suspect.delivery.unsettled.abandon());
            if only.is_none() {
                self.trial = None;
            }
        }
        for suspect in std::mem::take(&mut self.waiting) {
            if is_meant(suspect.from) {
                suspect.delivery.unsettled.abandon();
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
        suspects.add(delivery("a", 4, &sender), Source::Intake, events(), false);
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
        assert_eq!(settled.try_recv(), Ok((4, Settlement::Ack)));
        assert_eq!(semaphore.available_permits(), 1);
        let Some(Step::Take(held, _)) = suspects.next() else {
            panic!("there was another");
        };
        held.unsettled.abandon();
        assert!(suspects.next().is_none() && !suspects.are_there());
    }

    #[test]
    fn suspects_that_came_no_more_than_thrice_are_tried_together() {
        let (sender, _settled) = mpsc::unbounded_channel();
        let mut suspects = Suspects::default();
        suspects.add(
            delivery("often", 4, &sender),
            Source::Intake,
            events(),
            false,
        );
        for _ in 0..=GROUP_MAX {
            suspects.add(
                delivery("twice", 2, &sender),
                Source::Intake,
                events(),
                false,
            );
        }
        suspects.add(
            delivery("tried", 2, &sender),
            Source::Intake,
            events(),
            true,
        );
        let semaphore = Arc::new(Semaphore::new(1));
        for expected in [GROUP_MAX, 1] {
            suspects.begin(semaphore.clone().try_acquire_owned().unwrap());
            let mut tried = 0;
            while let Some(Step::TryWhole(one, _)) = suspects.next() {
                assert_eq!(one.message.id, "twice");
                one.unsettled.abandon();
                tried += 1;
                suspects.tries(DeliveryId(tried));
            }
            assert_eq!(tried, expected as u64);
            (1..=tried).for_each(|tag| suspects.settled(DeliveryId(tag)));
            assert!(suspects.next().is_none(), "there is no permit");
        }
        for _ in ["often", "tried"] {
            suspects.begin(semaphore.clone().try_acquire_owned().unwrap());
            assert!(matches!(suspects.next(), Some(Step::Try(..))));
            assert!(matches!(suspects.next(), Some(Step::Try(..))));
            let Some(Step::Settle(unsettled)) = suspects.next() else {
                panic!("its events were tried");
            };
            unsettled.abandon();
        }
        assert!(!suspects.are_there());
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
        suspects.add(delivery("a", 2, &sender), Source::Backlog, events(), false);
        suspects.hold(delivery("b", 0, &sender), Source::Intake);
        suspects.abandon(Some(Source::Backlog));
        assert_eq!(suspects.messages().count(), 1);
        suspects.abandon(None);
        assert_eq!(suspects.messages().count(), 0);
        assert!(settled.try_recv().is_err());
    }
}
