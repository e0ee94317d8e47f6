//! What is read once and shared by all records of a portal: definitions, pipelines, owners.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::event::{
    AssociationEvent, AssociationLabel, EnrichmentPart, Millis, ObjectTypeId, Owner, OwnerId,
    ProblemReason,
};
use crate::hubspot::call::{PipelineDefinition, PropertyDefinition};

use super::attachments::Files;
use super::conversations::Actors;
use super::schemas::Schemas;
use super::typed::Definitions;
use super::window::Window;

/// How long property definitions and pipelines are used before they are read again.
pub const DEFINITIONS_TTL: Duration = Duration::from_secs(3_600);
/// How long owners are used before they are read again: HubSpot does not tell of their changes.
pub const OWNERS_TTL: Duration = Duration::from_secs(600);
/// How long a part that may not be read is left alone.
pub const PROBLEM_TTL: Duration = Duration::from_secs(300);
/// An unknown name reads the definitions again, but not sooner than this after the last time.
pub const DEFINITIONS_AGE_MIN: Duration = Duration::from_secs(60);
/// The most names that are remembered as looked for in vain.
const ABSENT_NAMES_MAX: usize = 1_000;
/// What has not been read for so many times its time is read again before it is used: nobody came to need it.
const AGES_MAX: u32 = 2;
/// The most pages of owners that are listed; owners beyond are read singly.
pub const OWNER_PAGES_MAX: u32 = 100;
/// The most owners of a portal that are known without being on the list; those asked for first are forgotten first.
pub const OWNERS_SINGLY_MAX: usize = 1_000;

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

    /// It lacks something: it is read again, unless it was read less than `age` ago.
    pub fn outdate_older_than(&mut self, age: Duration, now: Millis) {
        self.outdated |= !self.loading && now.since(self.read_at) >= age;
    }

    pub fn set(&mut self, value: Result<T, Problem>, now: Millis) {
        self.value = Some(value);
        self.read_at = now;
        self.loading = false;
        self.outdated = false;
    }

    /// Whether it may be used: neither missing nor outdated, and not so old that nobody can have needed it lately.
    pub fn is_usable(&self, ttl: Duration, now: Millis) -> bool {
        let is_old = matches!(self.value, Some(Ok(_))) && now.since(self.read_at) >= ttl * AGES_MAX;
        self.value.is_some() && !self.outdated && !is_old
    }
}

/// Names that were looked for in vain: each has what it should be in read again once, and not again for
/// [`DEFINITIONS_TTL`]. So a name that HubSpot tells of and never defines costs one call an hour.
#[derive(Debug)]
pub struct Absent(Window<String, ()>);

impl Default for Absent {
    fn default() -> Self {
        Self(Window::new(DEFINITIONS_TTL, ABSENT_NAMES_MAX))
    }
}

impl Absent {
    /// Has `cached`, which lacks `name`, read again, unless that was done for this name, or for any other less than
    /// [`DEFINITIONS_AGE_MIN`] ago. Until it is read the old value serves what is under way.
    pub fn look_again<T>(&mut self, cached: &mut Cached<T>, name: String, now: Millis) {
        let is_young = now.since(cached.read_at) < DEFINITIONS_AGE_MIN;
        if cached.loading || cached.outdated || is_young || self.0.get(&name).is_some() {
            return;
        }
        cached.outdated = true;
        self.0.insert(name, (), now);
    }
}

/// Everything shared within one portal.
#[derive(Debug, Default)]
pub struct Shared {
    pub definitions: BTreeMap<ObjectTypeId, Cached<Definitions>>,
    /// Definitions read so far, of a type whose levels of sensitivity are being read one by one, with what may not
    /// be read of them.
    pub gathered: BTreeMap<ObjectTypeId, (Vec<PropertyDefinition>, Option<Problem>)>,
    pub pipelines: BTreeMap<ObjectTypeId, Cached<Vec<PipelineDefinition>>>,
    /// By the types that associations lead from and to.
    pub labels: BTreeMap<(ObjectTypeId, ObjectTypeId), Cached<Vec<AssociationLabel>>>,
    pub absent: Absent,
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
            EnrichmentPart::Definitions => {
                let cached = self.definitions.get(object_type_id)?;
                let known = cached.get()?.as_ref();
                known.map_or_else(Some, Definitions::problem)
            }
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

impl Shared {
    /// What the type of an edge is called; `None` when it has no label or none is known.
    pub fn label_of(&self, edge: &AssociationEvent) -> Option<&str> {
        let pair = (
            edge.from_object_type_id.clone(),
            edge.to_object_type_id.clone(),
        );
        let labels = self.labels.get(&pair)?.get()?.as_ref().ok()?;
        let found = labels.iter().find(|label| is_type_of(label, edge))?;
        found.label.as_deref()
    }
}

/// Whether an edge is of the type that `label` is about.
pub fn is_type_of(label: &AssociationLabel, edge: &AssociationEvent) -> bool {
    edge.association_category.as_deref() == Some(&label.category)
        && edge.association_type_id == Some(label.type_id)
}

fn error<T>(cached: &Cached<T>) -> Option<&Problem> {
    cached.get()?.as_ref().err()
}

/// The owners of a portal: listed whole, and singly where the list did not have one.
#[derive(Debug)]
pub struct Owners {
    /// Whether the list was read.
    pub list: Cached<()>,
    /// Pages of the list read so far, while it is being read.
    pub pages: u32,
    /// What is on these pages.
    arriving: HashMap<OwnerId, Owner>,
    /// What the list had when it was last read to its end.
    listed: HashMap<OwnerId, Owner>,
    /// What was asked for singly: `None` for an id that HubSpot does not know.
    singly: Window<OwnerId, Option<Owner>>,
    /// Ids being asked for singly.
    pub asked: Vec<OwnerId>,
}

impl Default for Owners {
    fn default() -> Self {
        Self {
            list: Cached::default(),
            pages: 0,
            arriving: HashMap::new(),
            listed: HashMap::new(),
            singly: Window::new(OWNERS_TTL, OWNERS_SINGLY_MAX),
            asked: Vec::new(),
        }
    }
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
        match (self.listed.get(id), self.singly.get(id)) {
            (Some(owner), _) | (None, Some(Some(owner))) => OwnerLookup::Known(owner),
            (None, Some(None)) => OwnerLookup::Absent,
            (None, None) => OwnerLookup::Unknown,
        }
    }

    /// A page of the list has `owner`.
    pub fn list_one(&mut self, owner: Owner) {
        self.arriving.insert(owner.id.clone(), owner);
    }

    /// An owner was asked for singly.
    pub fn found_singly(&mut self, id: OwnerId, owner: Option<Owner>, now: Millis) {
        self.singly.insert(id, owner, now);
    }

    /// The list was read, to its end or to a page that may not be read.
    pub fn listed(&mut self, result: Result<(), Problem>, now: Millis) {
        self.pages = 0;
        let arrived = std::mem::take(&mut self.arriving);
        if result.is_ok() || self.listed.is_empty() {
            self.listed = arrived;
        }
        self.list.set(result, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: usize) -> Owner {
        Owner {
            id: id.to_string().into(),
            email: None,
            name: None,
            user_id: None,
            r#type: None,
            archived: false,
            teams: Vec::new(),
        }
    }

    fn is_known(owners: &Owners, owner: &Owner) -> bool {
        !matches!(owners.find(&owner.id), OwnerLookup::Unknown)
    }

    #[test]
    fn a_list_read_again_replaces_the_old_one_and_serves_until_then() {
        let mut owners = Owners::default();
        let known = |owners: &Owners, id: usize| is_known(owners, &owner(id));
        owners.list_one(owner(1));
        owners.listed(Ok(()), Millis::default());
        owners.list_one(owner(2));
        assert!(known(&owners, 1) && !known(&owners, 2));
        owners.listed(Ok(()), Millis::default());
        assert!(!known(&owners, 1) && known(&owners, 2));
    }

    #[test]
    fn owners_asked_for_singly_are_bounded() {
        let mut owners = Owners::default();
        for id in 0..2 * OWNERS_SINGLY_MAX {
            owners.found_singly(owner(id).id, Some(owner(id)), Millis::default());
        }
        let ids = 0..2 * OWNERS_SINGLY_MAX;
        let known = ids.filter(|id| is_known(&owners, &owner(*id)));
        assert_eq!(known.count(), OWNERS_SINGLY_MAX);
    }
}
