//! What to read: of which records, and what of them. It is what `[enrich.*]` says, as far as somebody asks for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{
    AttachmentsConfig, DestinationContent, EnrichConfig, PortalConfig, SensitivityLevel,
};
use crate::demand::{Demand, Wanted, WantedProperties};
use crate::event::{Event, ObjectSchema, ObjectTypeId, PortalId, StandardObjectType};
use crate::hubspot::call::{READ_RECORDS_MAX, READ_RECORDS_WITH_HISTORY_MAX, Sensitivity};

use super::attachments::{ATTACHMENTS_PROPERTY, Reads};
use super::identifiers;
use super::typed::Definitions;

/// The fetch plans of every object type.
#[derive(Clone, Debug, Default)]
pub struct Plans {
    by_type: BTreeMap<ObjectTypeId, Plan>,
    engagements: Plan,
    otherwise: Plan,
    /// The properties that a portal's other systems know records by, where it has a word of its own.
    external_ids: BTreeMap<PortalId, BTreeMap<ObjectTypeId, String>>,
    demand: Demand,
}

/// What an engagement may be attached to, and is read with unless the configuration says otherwise: without it a call
/// or a note is about nobody. Associations have a limit of their own, so that takes nothing from the reads of records.
const ENGAGEMENT_ASSOCIATIONS: [&str; 4] = ["contact", "company", "deal", "ticket"];

/// What to read of the records of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    properties: Selection,
    /// The types whose associations are read.
    pub associations: Vec<ObjectTypeId>,
    /// What is read of the files attached to a record.
    pub attachments: Option<Reads>,
    /// Whether threads are read; of conversations alone.
    pub thread: bool,
    /// Whether messages hold HubSpot's own texts as well.
    pub raw: bool,
    /// Whether messages say what changed properties held before.
    pub previous_values: bool,
    /// The levels of sensitivity whose definitions are read, the plain one first.
    pub sensitivity: BTreeSet<Sensitivity>,
    external_id: Option<String>,
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
    /// The plans that `[enrich.*]` asks for. A type without one is read with its useful properties, and without
    /// associations unless it is an engagement.
    #[must_use]
    pub fn new(configured: &BTreeMap<String, EnrichConfig>) -> Self {
        let by_type = configured
            .iter()
            .map(|(name, config)| {
                let of = ObjectTypeId::from_name(name);
                let plan = Plan::new(config, is_engagement(&of));
                (of, plan)
            })
            .collect();
        Self {
            by_type,
            engagements: Plan::new(&EnrichConfig::default(), true),
            otherwise: Plan::default(),
            external_ids: BTreeMap::new(),
            demand: Demand::default(),
        }
    }

    /// The same, for what `demand` asks for and no more. Without it everything is asked for.
    #[must_use]
    pub fn with_demand(self, demand: Demand) -> Self {
        Self { demand, ..self }
    }

    /// The destinations' names in order, and how each takes events.
    pub fn destinations(&self) -> impl Iterator<Item = (&str, DestinationContent)> {
        self.demand.destinations()
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
        schema: Option<&ObjectSchema>,
        definitions: Option<&'a Definitions>,
        changed: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let wanted = self.demand.properties(of);
        self.of(of, schema)
            .property_names(of, definitions, wanted, changed)
    }

    /// The same, with what `[portal.*]` says of external ids over it.
    #[must_use]
    pub fn with_portals(self, configured: &BTreeMap<String, PortalConfig>) -> Self {
        let of_portal = |portal: &PortalConfig| {
            let by_name = portal.external_id.iter();
            let by_type = by_name.map(|(name, to)| (ObjectTypeId::from_name(name), to.clone()));
            by_type.collect()
        };
        let external_ids = configured
            .iter()
            .map(|(id, portal)| (id.as_str().into(), of_portal(portal)))
            .collect();
        Self {
            external_ids,
            ..self
        }
    }

    /// The property that a portal's other systems know records of a type by.
    #[must_use]
    pub fn external_id(
        &self,
        portal_id: &PortalId,
        object_type_id: &ObjectTypeId,
        schema: Option<&ObjectSchema>,
    ) -> Option<&str> {
        let own = self
            .external_ids
            .get(portal_id)
            .and_then(|by_type| by_type.get(object_type_id));
        own.or(self.of(object_type_id, schema).external_id.as_ref())
            .map(String::as_str)
    }

    /// The plan for `object_type_id`. That of a custom object may go by its name: of several the id's comes first, then
    /// that of the full name.
    #[must_use]
    pub fn of(&self, object_type_id: &ObjectTypeId, schema: Option<&ObjectSchema>) -> &Plan {
        let by_name = |name: String| self.by_type.get(&ObjectTypeId::from_name(&name));
        let by_id = self.by_type.get(object_type_id);
        by_id
            .or_else(|| schema?.names().find_map(by_name))
            .unwrap_or(if is_engagement(object_type_id) {
                &self.engagements
            } else {
                &self.otherwise
            })
    }
}

fn is_engagement(object_type_id: &ObjectTypeId) -> bool {
    let standard = object_type_id.standard();
    standard.is_some_and(StandardObjectType::is_engagement)
}

impl Plan {
    fn new(config: &EnrichConfig, is_engagement: bool) -> Self {
        let properties = match config.properties.as_deref() {
            None => Selection::Useful,
            Some([all]) if all == "*" => Selection::All,
            Some(names) => Selection::Named(names.to_vec()),
        };
        let by_default: &[&str] = if is_engagement {
            &ENGAGEMENT_ASSOCIATIONS
        } else {
            &[]
        };
        let associations: BTreeSet<_> = match &config.associations {
            Some(names) => names
                .iter()
                .map(|name| ObjectTypeId::from_name(name))
                .collect(),
            None => by_default
                .iter()
                .map(|name| ObjectTypeId::from_name(name))
                .collect(),
        };
        Self {
            properties,
            associations: associations.into_iter().collect(),
            attachments: config.attachments.map(|attachments| match attachments {
                AttachmentsConfig::Metadata => Reads::Metadata,
                AttachmentsConfig::SignedUrls => Reads::SignedUrls,
            }),
            thread: config.thread,
            raw: config.raw,
            previous_values: config.previous_values,
            sensitivity: levels(&config.sensitivity),
            external_id: config.external_id.clone(),
        }
    }

    /// The most records that one call reads.
    #[must_use]
    pub fn batch_max(&self) -> usize {
        if self.previous_values {
            READ_RECORDS_WITH_HISTORY_MAX
        } else {
            READ_RECORDS_MAX
        }
    }

    /// The level of sensitivity whose definitions are read after those of `level`.
    #[must_use]
    pub fn sensitivity_after(&self, level: Sensitivity) -> Option<Sensitivity> {
        self.sensitivity.iter().find(|next| **next > level).copied()
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
        names.extend(self.attachments.map(|_| ATTACHMENTS_PROPERTY));
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
        names.extend(identifiers::names(object_type_id, definitions));
        if let Some(definitions) = definitions {
            let owners = definitions
                .iter()
                .filter(|of| of.references_owners() && !of.hidden);
            names.extend(owners.map(|definition| definition.name.as_str()));
            names.retain(|name| definitions.get(name).is_some());
        }
        names.into_iter().map(str::to_owned).collect()
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self::new(&EnrichConfig::default(), false)
    }
}

/// The levels that definitions are read of: the plain one always.
fn levels(configured: &[SensitivityLevel]) -> BTreeSet<Sensitivity> {
    let level = |level: &SensitivityLevel| match level {
        SensitivityLevel::Sensitive => Sensitivity::Sensitive,
        SensitivityLevel::HighlySensitive => Sensitivity::HighlySensitive,
    };
    let asked = configured.iter().map(level);
    std::iter::once(Sensitivity::NonSensitive)
        .chain(asked)
        .collect()
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
