//! The custom objects of a portal: which type id has which name.
//!
//! Read once, when a custom object is first needed, and again when an id appears that was not among them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{CustomName, Millis, ObjectSchema, ObjectTypeId, PortalId};

use super::cache::{Cached, Problem};

/// How long schemas are used before they are read again.
pub const SCHEMAS_TTL: Duration = Duration::from_secs(3_600);
/// An unknown id reads the schemas again, but not sooner than this after the last time.
pub const SCHEMAS_AGE_MIN: Duration = Duration::from_secs(60);

/// The custom objects of one portal.
#[derive(Debug, Default)]
pub struct Schemas(Cached<BTreeMap<ObjectTypeId, ObjectSchema>>);

/// What is known of a custom object's name in a portal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The portal has it, or may have it: its schemas may not be read.
    Here,
    /// The portal has none of that name.
    Absent,
    /// It is the full name of another portal's.
    Elsewhere,
}

impl Schemas {
    /// The schema of a type; `None` for HubSpot's types, and for what was not among the schemas when they were read.
    pub fn of(&self, object_type_id: &ObjectTypeId) -> Option<&ObjectSchema> {
        self.0.get()?.as_ref().ok()?.get(object_type_id)
    }

    /// Why they may not be read.
    pub fn problem(&self) -> Option<&Problem> {
        self.0.get()?.as_ref().err()
    }

    /// What `name` is in the portal.
    pub fn standing(&self, name: CustomName<'_>, portal_id: &PortalId) -> Standing {
        if name.is_elsewhere(portal_id) {
            return Standing::Elsewhere;
        }
        match self.0.get() {
            Some(Ok(known)) if !known.values().any(|schema| schema.name == name.name) => {
                Standing::Absent
            }
            _ => Standing::Here,
        }
    }

    /// An id came that may be newer than what is known.
    pub fn note(&mut self, object_type_id: &ObjectTypeId, now: Millis) {
        let is_unknown = object_type_id.is_custom() && self.of(object_type_id).is_none();
        if is_unknown && self.0.get().is_some_and(Result::is_ok) {
            self.0.outdate_older_than(SCHEMAS_AGE_MIN, now);
        }
    }

    /// Whether they should be read now and nobody is at it; whoever asks is at it from now on.
    pub fn begin_reading(&mut self, now: Millis) -> bool {
        let is_due = self.0.is_due(SCHEMAS_TTL, now);
        self.0.loading |= is_due;
        is_due
    }

    /// Whether what is known, be it that they may not be read, will do.
    pub fn is_usable(&self, now: Millis) -> bool {
        self.0.is_usable(SCHEMAS_TTL, now)
    }

    /// What came of reading them.
    pub fn set(
        &mut self,
        result: Result<BTreeMap<ObjectTypeId, ObjectSchema>, Problem>,
        now: Millis,
    ) {
        self.0.set(result, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ProblemReason, SchemaLabels};

    fn at(seconds: u64) -> Millis {
        Millis::new(0).unwrap().after(Duration::from_secs(seconds))
    }

    fn id(text: &str) -> ObjectTypeId {
        ObjectTypeId::from_name(text)
    }

    fn with_car(seconds: u64) -> Schemas {
        let car = ObjectSchema {
            name: "car".into(),
            fully_qualified_name: Some("p8241_car".into()),
            labels: SchemaLabels::default(),
            primary_display_property: None,
        };
        let mut schemas = Schemas::default();
        assert!(schemas.begin_reading(at(seconds)));
        schemas.set(Ok(BTreeMap::from([(id("2-7"), car)])), at(seconds));
        schemas
    }

    #[test]
    fn an_unknown_id_has_them_read_again_but_not_at_once_and_by_one_alone() {
        let mut schemas = with_car(0);
        for (known, seconds) in [("2-7", 1_000), ("0-1", 1_000), ("2-8", 59)] {
            schemas.note(&id(known), at(seconds));
            assert!(schemas.is_usable(at(seconds)), "{known}");
        }
        schemas.note(&id("2-8"), at(60));
        assert!(!schemas.is_usable(at(60)));
        assert!(schemas.begin_reading(at(60)));
        assert!(!schemas.begin_reading(at(60)), "somebody is at it");
    }

    #[test]
    fn a_name_is_the_portals_own_or_another_ones_or_nobodys() {
        let schemas = with_car(0);
        let standing = |name: &str| {
            let name = id(name);
            schemas.standing(name.custom_name().unwrap(), &"8241".into())
        };
        assert_eq!(standing("p_car"), Standing::Here);
        assert_eq!(standing("p8241_car"), Standing::Here);
        assert_eq!(standing("p1_car"), Standing::Elsewhere);
        assert_eq!(standing("p_boat"), Standing::Absent);
    }

    #[test]
    fn what_may_not_be_read_may_be_anything() {
        let mut schemas = Schemas::default();
        let forbidden = Problem {
            reason: ProblemReason::Forbidden,
            missing_scopes: Vec::new(),
        };
        schemas.set(Err(forbidden), at(0));
        let boat = id("p_boat");
        let standing = schemas.standing(boat.custom_name().unwrap(), &"8241".into());
        assert_eq!(standing, Standing::Here);
        schemas.note(&id("2-8"), at(100));
        assert!(schemas.is_usable(at(100)));
    }
}
