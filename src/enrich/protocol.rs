//! What the engine is told and what it says: plain data, so that any shell can drive it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::{DeadLetter, EnrichedEvent, Erasure, Event, EventId, Millis, PortalId};
use crate::hubspot::call::{Answered, Call};

use super::changelog::Note;

/// A delivery of the bus, as the shell numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(pub u64);

/// A call under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// A message under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublishId(pub u64);

/// A note under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NoteId(pub u64);

/// The queue that a delivery came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The partition.
    Intake,
    /// The partition's backlog.
    Backlog,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A batch was delivered.
    Batch {
        /// The delivery, to be settled when all its events have ended.
        delivery: DeliveryId,
        /// Its events, of one portal.
        events: Vec<Event>,
        /// Which queue it came from.
        from: Source,
    },
    /// A lot is to be tried, since an event of it may have killed its worker. Nothing else is under way. Each delivery stands for
    /// events of one portal, and is settled when these have ended.
    Suspects(Vec<(DeliveryId, Vec<Event>)>),
    /// A call was answered, or failed.
    Answered {
        /// Which call.
        call: CallId,
        /// What came.
        answered: Answered,
    },
    /// The token of a portal was read again.
    TokenRefreshed {
        /// Which portal.
        portal_id: PortalId,
        /// Whether it is another one now.
        changed: bool,
    },
    /// A portal's token was changed, or it was paused, resumed or removed: whatever kept it from being asked may be over.
    PortalChanged(PortalId),
    /// A message, a plain event or a dead letter is where it should be: every copy confirmed.
    Published {
        /// Which one.
        publish: PublishId,
        /// For whom, and what of it.
        outcome: Published,
    },
    /// A delivery stands in the backlog, without these of its events, whose records are erased: nothing is lost with them.
    PutAside {
        /// Which delivery.
        delivery: DeliveryId,
        /// The events that are not in the backlog.
        purged: Vec<Event>,
    },
    /// A note is in the changelog, durably.
    Noted(NoteId),
    /// The bus lost its session: all deliveries are void and come again.
    Lost,
    /// Time passed; see [`next_wake`](super::Engine::next_wake).
    Tick,
}

/// What was published, and is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// The copies that destinations get of a message. An event that none of them lists was wanted by nobody.
    Copies(Vec<Copied>),
    /// A dead letter that holds the events themselves.
    Buried,
    /// That the dead letters are to be searched.
    Searched,
}

/// A destination's copy of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The destination's place in the configuration; see [`Plans::destinations`](super::Plans::destinations).
    pub destination: usize,
    /// The events that the copy lists, the first of which it is named for.
    pub listed: Vec<EventId>,
    /// Whether the destination did not take it, and a dead letter holds it.
    pub is_dead: bool,
}

impl Copied {
    /// How an event ended by it; `None` when it does not list that.
    #[must_use]
    pub fn ending_of(&self, id: &EventId) -> Option<Ending> {
        let place = self.listed.iter().position(|listed| listed == id)?;
        Some(match place {
            _ if self.is_dead => Ending::Dead,
            0 => Ending::Delivered,
            _ => Ending::Merged,
        })
    }
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Call HubSpot; answer with [`Input::Answered`].
    Call {
        /// Which call.
        call_id: CallId,
        /// For whom.
        portal_id: PortalId,
        /// What.
        call: Call,
    },
    /// Read the portal's token again; answer with [`Input::TokenRefreshed`].
    RefreshToken(PortalId),
    /// Publish to all destinations that want it; answer with [`Input::Published`].
    Publish {
        /// Which message.
        publish: PublishId,
        /// The message.
        event: Box<EnrichedEvent>,
    },
    /// Publish an event as it is to all destinations that want that; answer with [`Input::Published`].
    PublishPlain {
        /// Which message.
        publish: PublishId,
        /// The event.
        event: Box<Event>,
    },
    /// Publish a dead letter; answer with [`Input::Published`].
    Bury {
        /// Which one.
        publish: PublishId,
        /// The dead letter.
        letter: Box<DeadLetter>,
    },
    /// Have the dead letters searched for an erased record; answer with [`Input::Published`], [`Published::Searched`],
    /// when that is sure to be done. What is on its way of the record, or of one that was merged into it, is searched for
    /// again when that is confirmed.
    Search {
        /// Which one.
        publish: PublishId,
        /// The record.
        erasure: Erasure,
    },
    /// Append a note to the partition's changelog; answer with [`Input::Noted`].
    Note {
        /// Which one.
        id: NoteId,
        /// The note.
        note: Note,
    },
    /// Acknowledge a delivery: all its events have ended, and that is noted.
    Ack(DeliveryId),
    /// Move a delivery to the end of the partition's backlog, and acknowledge it when it is there; where events were left
    /// out, say [`Input::PutAside`] instead, and wait for [`Self::Ack`].
    SetAside(DeliveryId),
    /// An event ended; for the metrics.
    Ended(Ending),
}

/// How an event ended, as a whole or for one destination. Of two the greater is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ending {
    /// No destination wanted it.
    Unwanted,
    /// It went out in a message that another event of its record comes first in. For one destination; as a whole such an event
    /// is delivered.
    Merged,
    /// It went out, in a message of its own or with others of its record.
    Delivered,
    /// It was seen before.
    Duplicate,
    /// Its record was erased for privacy.
    Purged,
    /// It is a dead letter.
    Dead,
}

impl Ending {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unwanted => "unwanted",
            Self::Merged => "merged",
            Self::Delivered => "delivered",
            Self::Duplicate => "duplicate",
            Self::Purged => "purged",
            Self::Dead => "dead",
        }
    }
}

/// Figures for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Events that have not ended.
    pub waiting_events: usize,
    /// Events, and halves of events, of which is remembered that they came or ended.
    pub remembered_events: usize,
    /// Versions, merges and erasures of records that are remembered.
    pub remembered_records: usize,
    /// Batches that were moved to the backlog since the last figures.
    pub set_aside: u64,
    /// Portals with waiting events that may be asked.
    pub portals_ready: usize,
    /// Portals with waiting events whose budget is used up.
    pub portals_waiting: usize,
    /// Portals with waiting events that failed.
    pub portals_backing_off: usize,
    /// Portals with waiting events whose token is refused.
    pub portals_paused: usize,
    /// When the oldest event that has not ended was received; without what waits in the backlog for a portal that cannot be asked.
    pub oldest_received_at: Option<Millis>,
    /// The least left in any portal's ten-second window.
    pub burst: Option<BudgetLeft>,
    /// The least left in any portal's association window.
    pub associations: Option<BudgetLeft>,
    /// The least left today in any portal.
    pub daily: Option<BudgetLeft>,
    /// How long today's calls of the portal that runs out first last at the pace of the last hour; `None`
    /// when every portal's last until they are reset.
    pub daily_lasts: Option<Duration>,
}

/// What is left of a limit of HubSpot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLeft {
    /// In calls.
    pub calls: u32,
    /// In thousandths of the limit.
    pub permille: u32,
}

impl BudgetLeft {
    /// `calls` of `max`.
    #[must_use]
    pub fn of(calls: u32, max: u32) -> Self {
        let permille = u64::from(calls) * 1_000 / u64::from(max.max(1));
        Self {
            calls,
            permille: u32::try_from(permille).unwrap_or(u32::MAX),
        }
    }

    /// The smaller of the calls and the smaller of the shares, which may be of different portals.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        Self {
            calls: self.calls.min(other.calls),
            permille: self.permille.min(other.permille),
        }
    }

    /// The least of all.
    #[must_use]
    pub fn least_of(lefts: impl Iterator<Item = Self>) -> Option<Self> {
        lefts.reduce(Self::least)
    }
}
