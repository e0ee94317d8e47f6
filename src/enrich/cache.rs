//! What is read once and shared by all records of a portal: definitions, pipelines, owners.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::event::{EnrichmentPart, Millis, ObjectTypeId, Owner, OwnerId, ProblemReason};
use crate::hubspot::call::PipelineDefinition;

use super::attachments::Files;
use super::conversations::Actors;
use super::schemas::Schemas;
use super::typed::Definitions;

/// How long property definitions and pipelines are used before they are read again.
pub const DEFINITIONS_TTL: Duration = Duration::from_secs(3_600);
/// How long owners are used before they are read again: HubSpot does not tell of their changes.
pub const OWNERS_TTL: Duration = Duration::from_secs(600);
/// How long a part that may not be read is left alone.
pub const PROBLEM_TTL: Duration = Duration::from_secs(300);
/// An unknown name reads the definitions again, but not sooner than this after the last time.
pub const DEFINITIONS_AGE_MIN: Duration = Duration::from_secs(60);
/// The most pages of owners that are listed; owners beyond are read singly.
pub const OWNER_PAGES_MAX: u32 = 100;

/// Why a shared part is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: ProblemReason,
    pub missing_scopes: Vec<String>,
}

impl Problem {
    /// One that no scope would help against.
    pub fn of(reason: ProblemReason) -> Self {
        Self {
            reason,
            missing_scopes: Vec::new(),
        }
    }
}

/// A shared value, or that it may not be read.
#[derive(Debug)]
pub struct Cached<T> {
    value: Option<Result<T, Problem>>,
    read_at: Millis,
    pub loading: bool,
    /// Whether it is known to lack something, whatever its age.
    outdated: bool,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self {
            value: None,
            read_at: Millis::default(),
            loading: false,
            outdated: false,
        }
    }
}

impl<T> Cached<T> {
    /// What is known, be it old.
    pub fn get(&self) -> Option<&Result<T, Problem>> {
        self.value.as_ref()
    }

    /// Whether it should be read (again) and nobody is at it.
    pub fn is_due(&self, ttl: Duration, now: Millis) -> bool {
        let age = now.since(self.read_at);
        !self.loading
            && match &self.value {
                None => true,
                Some(Ok(_)) => self.outdated || age >= ttl,
                Some(Err(_)) => age >= PROBLEM_TTL,
            }
    }

    pub fn set(&mut self, value: Result<T, Problem>, now: Millis) {
        self.value = Some(value);
        self.read_at = now;
        self.loading = false;
        self.outdated = false;
    }

    /// Has the value read again, if it is at least `age` old. Until then the old one serves what is under way.
    pub fn outdate_older_than(&mut self, age: Duration, now: Millis) {
        if !self.loading && now.since(self.read_at) >= age {
            self.outdated = true;
        }
    }

    /// What new reads may begin with: neither missing nor outdated.
    pub fn is_usable(&self) -> bool {
        self.value.is_some() && !self.outdated
    }
}

/// Everything shared within one portal.
#[derive(Debug, Default)]
pub struct Shared {
    pub definitions: BTreeMap<ObjectTypeId, Cached<Definitions>>,
    pub pipelines: BTreeMap<ObjectTypeId, Cached<Vec<PipelineDefinition>>>,
    pub owners: Owners,
    pub schemas: Schemas,
    pub files: Files,
    pub actors: Actors,
}

impl Shared {
    /// The definitions of a type, if they are known.
    pub fn definitions_of(&self, object_type_id: &ObjectTypeId) -> Option<&Definitions> {
        self.definitions.get(object_type_id)?.get()?.as_ref().ok()
    }

    /// What a message about this type lacks because a shared part may not be read.
    pub fn problem_of(
        &self,
        part: EnrichmentPart,
        object_type_id: &ObjectTypeId,
    ) -> Option<&Problem> {
        match part {
            EnrichmentPart::Definitions => error(self.definitions.get(object_type_id)?),
            EnrichmentPart::Pipeline => error(self.pipelines.get(object_type_id)?),
            EnrichmentPart::Owners => error(&self.owners.list),
            EnrichmentPart::Schema => self.schemas.problem(),
            EnrichmentPart::Record
            | EnrichmentPart::Associations
            | EnrichmentPart::Attachments
            | EnrichmentPart::Messages
            | EnrichmentPart::Actors => None,
        }
    }
}

fn error<T>(cached: &Cached<T>) -> Option<&Problem> {
    cached.get()?.as_ref().err()
}

/// The owners of a portal: listed whole, and singly where the list did not have one.
#[derive(Debug, Default)]
pub struct Owners {
    /// Whether the list was read.
    pub list: Cached<()>,
    /// Pages of the list read so far, while it is being read.
    pub pages: u32,
    /// `None` for an id that HubSpot does not know.
    by_id: HashMap<OwnerId, Option<Owner>>,
    /// Ids being asked for singly.
    pub asked: Vec<OwnerId>,
}

/// What is known of an owner.
pub enum OwnerLookup<'a> {
    Known(&'a Owner),
    /// HubSpot has no such owner.
    Absent,
    /// Not looked for yet.
    Unknown,
}

impl Owners {
    pub fn find(&self, id: &OwnerId) -> OwnerLookup<'_> {
        match self.by_id.get(id) {
            Some(Some(owner)) => OwnerLookup::Known(owner),
            Some(None) => OwnerLookup::Absent,
            None => OwnerLookup::Unknown,
        }
    }

    pub fn insert(&mut self, owner: Owner) {
        self.by_id.insert(owner.id.clone(), Some(owner));
    }

    pub fn insert_absent(&mut self, id: OwnerId) {
        self.by_id.insert(id, None);
    }

    /// The list was read to its end: ids that were absent may be asked for again.
    pub fn listed(&mut self, result: Result<(), Problem>, now: Millis) {
        self.pages = 0;
        self.by_id.retain(|_, owner| owner.is_some());
        self.list.set(result, now);
    }
}
