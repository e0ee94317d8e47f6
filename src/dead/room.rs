//! What a full destination did not take goes back to it when its queue has room.
//!
//! One worker looks, that of the first partition. A broker does not say how much room a queue has. But a queue that refused
//! was full, so when it holds half of the most that was seen in it there is room. A few letters go first, then more as long
//! as none is refused; what is refused again waits longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kept::{Filter, Kept};
use super::walk::{Walk, WalkError};
use super::{DeadLetters, PATIENCE};
use crate::bus::{Bus, Queue};
use crate::config::{Config, DestinationKind};
use crate::event::{DeadLetterReason, Millis};
use crate::metrics::Metrics;

/// How often the queues are looked at, give or take half of it.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// A walk through the letters is followed by a rest of so many times its length.
const REST_FACTOR: u32 = 20;
/// Letters that go back first, and after one was refused again.
const STEP_MIN: usize = 10;
/// The most that go back at once.
const STEP_MAX: usize = 500;
/// How long a destination that refused again is left alone: doubled each time, up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_secs(30);
/// See [`WAIT_MIN`]. A queue of which nobody has seen that it was ever fuller gets a try as often.
const WAIT_MAX: Duration = Duration::from_secs(3_600);
/// The worker that has this partition looks.
const PARTITION: u16 = 0;

/// What is known of the destinations that may have refused copies. Pure.
#[derive(Debug)]
struct Rooms {
    known: BTreeMap<String, Room>,
    /// Dead letters in the queue after the last walk through them.
    letters: u64,
}

/// What is known of one destination.
#[derive(Debug)]
struct Room {
    /// The most messages that were seen in its queue.
    most: u64,
    /// Letters of it that the last walk left.
    left: usize,
    /// When copies went back last, if some did.
    tried_at: Option<Millis>,
    /// Not before.
    next_at: Millis,
    /// When it gets a try though no room was seen.
    anyway_at: Millis,
    step: usize,
    wait: Duration,
}

/// What a destination refused, as it lies among the dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Refused {
    letters: usize,
    last_at: Millis,
}

impl Rooms {
    fn new(names: impl IntoIterator<Item = String>, now: Millis) -> Self {
        let room = |name| {
            let room = Room {
                most: 0,
                left: 0,
                tried_at: None,
                next_at: now,
                anyway_at: now.after(WAIT_MAX),
                step: STEP_MIN,
                wait: WAIT_MIN,
            };
            (name, room)
        };
        Self {
            known: names.into_iter().map(room).collect(),
            letters: 0,
        }
    }

    /// The destinations for which a walk is worth it, by how many messages their queues hold, and how many `letters` there are.
    fn due(&mut self, depths: &BTreeMap<String, u64>, letters: u64, now: Millis) -> Vec<String> {
        let has_news = letters > self.letters;
        self.letters = self.letters.min(letters);
        let mut due = Vec::new();
        for (name, room) in &mut self.known {
            let Some(&depth) = depths.get(name) else {
                continue;
            };
            room.most = room.most.max(depth);
            let has_room = depth <= room.most / 2 || now >= room.anyway_at;
            if has_room && now >= room.next_at && (has_news || room.left > 0) {
                due.push(name.clone());
            }
        }
        due
    }

    /// How many of the copies that a destination `refused` go back to it now. `jitter` is from 0.5 to 1.5.
    fn step(&mut self, name: &str, refused: Refused, now: Millis, jitter: f64) -> usize {
        let Some(room) = self.known.get_mut(name).filter(|_| refused.letters > 0) else {
            return 0;
        };
        let again = room
            .tried_at
            .is_some_and(|tried_at| refused.last_at > tried_at);
        if again {
            room.step = STEP_MIN;
            room.wait = (room.wait * 2).min(WAIT_MAX);
            room.next_at = now.after(room.wait.mul_f64(jitter));
        } else if room.tried_at.is_some() {
            room.step = (room.step * 2).min(STEP_MAX);
            room.wait = WAIT_MIN;
        }
        room.tried_at = Some(now);
        room.anyway_at = now.after(WAIT_MAX.mul_f64(jitter));
        room.step
    }

    /// A walk is over: what each destination has `left`, among so many `letters`.
    fn walked(&mut self, left: &BTreeMap<String, Refused>, letters: u64) {
        self.letters = letters;
        for (name, room) in &mut self.known {
            room.left = left.get(name).map_or(0, |refused| refused.letters);
        }
    }
}

/// Gives back what full destinations did not take.
pub(crate) struct GiveBack {
    letters: DeadLetters,
    rooms: Rooms,
    random: ChaCha8Rng,
}

impl GiveBack {
    /// For the destinations of `config` that have a queue; `None` where there is none.
    pub(crate) fn new(config: &Config, bus: Arc<dyn Bus>, metrics: Arc<Metrics>) -> Option<Self> {
        let destinations = config.destination.iter();
        let queues = destinations.filter(|(_, one)| one.kind == DestinationKind::Queue);
        let names: Vec<String> = queues.map(|(name, _)| name.clone()).collect();
        let now = Millis::now();
        (!names.is_empty()).then(|| Self {
            letters: DeadLetters::new(config, bus, metrics),
            rooms: Rooms::new(names, now),
            random: ChaCha8Rng::seed_from_u64(now.as_i64().unsigned_abs()),
        })
    }

    /// Looks now and then, as long as `shared_out` says that it is this worker's to do.
    pub(crate) async fn run(
        mut self,
        shared_out: watch::Receiver<BTreeSet<u16>>,
        stopping: CancellationToken,
    ) {
        let mut rest = LOOK_INTERVAL;
        loop {
            let pause = tokio::time::sleep(rest.mul_f64(self.jitter()));
            if stopping.run_until_cancelled(pause).await.is_none() {
                return;
            }
            if !shared_out.borrow().contains(&PARTITION) {
                continue;
            }
            let (begun, jitter) = (Instant::now(), self.jitter());
            let looked = self.letters.give_back(&mut self.rooms, jitter);
            match stopping.run_until_cancelled(looked).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "what full destinations refused is looked at later");
                }
            }
            rest = LOOK_INTERVAL.max(begun.elapsed() * REST_FACTOR);
        }
    }

    /// From 0.5 to 1.5.
    fn jitter(&mut self) -> f64 {
        0.5 + f64::from(self.random.next_u32()) / f64::from(u32::MAX)
    }
}

impl DeadLetters {
    async fn give_back(&self, rooms: &mut Rooms, jitter: f64) -> Result<(), WalkError> {
        let now = Millis::now();
        let mut depths = BTreeMap::new();
        for name in rooms.known.keys() {
            // One that cannot be asked for is left alone.
            if let Ok(depth) = self.bus.depth(Queue::Destination(name.clone())).await {
                depths.insert(name.clone(), depth);
            }
        }
        let letters = self.bus.depth(Queue::DeadLetters).await?;
        let due = rooms.due(&depths, letters, now);
        if due.is_empty() {
            return Ok(());
        }
        let mut refused = self.refused().await?;
        for name in due {
            let of = refused.get(&name).copied().unwrap_or_default();
            let step = rooms.step(&name, of, now, jitter);
            if step == 0 {
                continue;
            }
            let replayed = self
                .replay(&refused_by(Some(&name)), step, false)
                .await?
                .done;
            let left = of.letters.saturating_sub(replayed);
            refused.entry(name.clone()).or_default().letters = left;
            tracing::info!(destination = %name, replayed, left, "copies go back to a destination that has room");
        }
        rooms.walked(&refused, self.bus.depth(Queue::DeadLetters).await?);
        Ok(())
    }

    /// What each destination refused since it was full.
    async fn refused(&self) -> Result<BTreeMap<String, Refused>, WalkError> {
        let filter = refused_by(None);
        let mut walk = Walk::begin(&*self.bus, PATIENCE).await?;
        let mut refused: BTreeMap<String, Refused> = BTreeMap::new();
        while let Some((_, message)) = walk.next().await? {
            let kept = Kept::read(&message);
            if filter.matches(&kept)
                && let Some(name) = kept.destination()
            {
                let of = refused.entry(name.to_owned()).or_default();
                of.letters += 1;
                of.last_at = of.last_at.max(kept.at().unwrap_or_default());
            }
        }
        walk.end(&BTreeSet::new()).await;
        Ok(refused)
    }
}

/// The letters that hold what one destination, or any, refused since it was full.
fn refused_by(name: Option<&str>) -> Filter {
    Filter {
        reason: Some(DeadLetterReason::DestinationFull.as_str().to_owned()),
        destination: name.map(str::to_owned),
        ..Filter::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "billing";

    fn at(seconds: i64) -> Millis {
        Millis::new(seconds * 1_000).unwrap()
    }

    fn rooms() -> Rooms {
        Rooms::new([NAME.to_owned()], at(0))
    }

    fn refused(letters: usize, last_at: i64) -> Refused {
        Refused {
            letters,
            last_at: at(last_at),
        }
    }

    fn is_due(rooms: &mut Rooms, depth: u64, letters: u64, now: i64) -> bool {
        let depths = BTreeMap::from([(NAME.to_owned(), depth)]);
        !rooms.due(&depths, letters, at(now)).is_empty()
    }

    #[test]
    fn a_queue_has_room_when_it_holds_half_of_what_it_held() {
        let mut rooms = rooms();
        assert!(!is_due(&mut rooms, 100, 5, 1));
        assert!(!is_due(&mut rooms, 51, 5, 2));
        assert!(is_due(&mut rooms, 50, 5, 3));
        assert!(is_due(&mut rooms, 0, 5, 3));
        // Nobody saw that it was ever fuller: after an hour it is tried all the same.
        let mut rooms = self::rooms();
        assert!(!is_due(&mut rooms, 100, 5, 3_599));
        assert!(is_due(&mut rooms, 100, 5, 3_601));
    }

    #[test]
    fn nothing_is_looked_for_where_a_walk_found_nothing_and_nothing_came() {
        let mut rooms = rooms();
        assert!(is_due(&mut rooms, 0, 5, 1));
        rooms.walked(&BTreeMap::new(), 5);
        assert!(!is_due(&mut rooms, 0, 5, 2));
        assert!(!is_due(&mut rooms, 0, 3, 3));
        assert!(is_due(&mut rooms, 0, 4, 4), "one has come");
        let left = BTreeMap::from([(NAME.to_owned(), refused(2, 0))]);
        rooms.walked(&left, 4);
        assert!(is_due(&mut rooms, 0, 4, 5), "some were left");
    }

    #[test]
    fn more_go_back_each_time_and_after_a_refusal_few_and_later() {
        let mut rooms = rooms();
        assert_eq!(rooms.step(NAME, refused(0, 0), at(1), 1.0), 0);
        let steps: Vec<_> = (1..9)
            .map(|n| rooms.step(NAME, refused(1_000, 0), at(n), 1.0))
            .collect();
        assert_eq!(steps, [10, 20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(rooms.step(NAME, refused(9, 9), at(10), 1.0), 10);
        assert!(!is_due(&mut rooms, 0, 9, 69));
        assert!(is_due(&mut rooms, 0, 9, 70));
        let mut waits = Vec::new();
        for _ in 0..9 {
            let now = rooms.known[NAME].next_at;
            rooms.step(NAME, refused(9, now.as_i64() / 1_000), now, 1.0);
            waits.push(rooms.known[NAME].next_at.since(now).as_secs());
        }
        assert_eq!(
            waits,
            [120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600, 3_600]
        );
    }
}
