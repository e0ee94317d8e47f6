//! What to read: of which records, and what of them. It is what `[enrich.*]` says, as far as somebody asks for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::EnrichConfig;
use crate::demand::{Demand, Wanted, WantedProperties};
use crate::event::{Event, ObjectTypeId};

use super::typed::Definitions;

/// The fetch plans of every object type.
#[derive(Clone, Debug, Default)]
pub struct Plans {
    by_type: BTreeMap<ObjectTypeId, Plan>,
    otherwise: Plan,
    demand: Demand,
}

/// What to read of the records of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    properties: Selection,
    /// The types whose associations are read.
    pub associations: Vec<ObjectTypeId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Selection {
    /// What is neither hidden nor calculated, and all of the portal's own.
    #[default]
    Useful,
    All,
    Named(Vec<String>),
}

impl Plans {
    /// The plans that `[enrich.*]` asks for. A type without one is read with its useful properties and
    /// no associations.
    #[must_use]
    pub fn new(configured: &BTreeMap<String, EnrichConfig>) -> Self {
        let by_type = configured
            .iter()
            .map(|(name, config)| (ObjectTypeId::from_name(name), Plan::new(config)))
            .collect();
        Self {
            by_type,
            otherwise: Plan::default(),
            demand: Demand::default(),
        }
    }

    /// The same, for what `demand` asks for and no more. Without it everything is asked for.
    #[must_use]
    pub fn with_demand(self, demand: Demand) -> Self {
        Self { demand, ..self }
    }

    /// What is asked for about `event`.
    #[must_use]
    pub fn wants(&self, event: &Event) -> Wanted {
        self.demand.wants(event)
    }

    /// The names of the properties to read of records of type `of`, each once: those somebody asks for, those that
    /// `changed`, and those that owners and pipelines are found by.
    #[must_use]
    pub fn property_names<'a>(
        &'a self,
        of: &ObjectTypeId,
        definitions: Option<&'a Definitions>,
        changed: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let wanted = self.demand.properties(of);
        self.of(of).property_names(of, definitions, wanted, changed)
    }

    /// The plan for `object_type_id`.
    #[must_use]
    pub fn of(&self, object_type_id: &ObjectTypeId) -> &Plan {
        self.by_type.get(object_type_id).unwrap_or(&self.otherwise)
    }
}

impl Plan {
    fn new(config: &EnrichConfig) -> Self {
        let properties = match config.properties.as_deref() {
            None => Selection::Useful,
            Some([all]) if all == "*" => Selection::All,
            Some(names) => Selection::Named(names.to_vec()),
        };
        let associations: BTreeSet<_> = config
            .associations
            .iter()
            .map(|name| ObjectTypeId::from_name(name))
            .collect();
        Self {
            properties,
            associations: associations.into_iter().collect(),
        }
    }

    /// See [`Plans::property_names`]. The plan's own are read when somebody takes whatever is read. Without
    /// definitions they are what it names.
    fn property_names<'a>(
        &'a self,
        object_type_id: &ObjectTypeId,
        definitions: Option<&'a Definitions>,
        wanted: WantedProperties<'a>,
        changed: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let mut names = wanted.named;
        names.extend(changed);
        names.extend(OWNER_PROPERTIES);
        let (pipeline, stage) = pipeline_properties(object_type_id);
        names.extend([pipeline, stage]);
        match (&self.properties, definitions) {
            _ if !wanted.all => {}
            (Selection::Named(named), _) => names.extend(named.iter().map(String::as_str)),
            (_, None) => {}
            (selection, Some(definitions)) => names.extend(
                definitions
                    .iter()
                    .filter(|definition| {
                        *selection == Selection::All
                            || !definition.hubspot_defined
                            || !(definition.hidden || definition.calculated)
                    })
                    .map(|definition| definition.name.as_str()),
            ),
        }
        if let Some(definitions) = definitions {
            names.retain(|name| definitions.get(name).is_some());
        }
        names.into_iter().map(str::to_owned).collect()
    }
}

/// The property that names a record's owner, on every type that has one.
pub const OWNER_PROPERTIES: [&str; 1] = ["hubspot_owner_id"];

/// The properties that say which pipeline and stage a record stands in.
///
/// # Source
/// HubSpot, "Pipelines": deals have names of their own, every other type `hs_pipeline` and
/// `hs_pipeline_stage`.
#[must_use]
pub fn pipeline_properties(object_type_id: &ObjectTypeId) -> (&'static str, &'static str) {
    match object_type_id.name() {
        "deal" => ("pipeline", "dealstage"),
        _ => ("hs_pipeline", "hs_pipeline_stage"),
    }
}
