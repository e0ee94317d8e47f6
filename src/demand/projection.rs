//! What of an enriched event a destination gets: which parts, and which properties of the record.

use std::collections::BTreeSet;

use crate::config::{DestinationConfig, DestinationPart};
use crate::event::{EnrichedData, Enrichment, EnrichmentPart, EnrichmentStatus};

/// Parts of an enriched event beside what always is in it: names, version, events, tombstone, status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// `record`.
    pub record: bool,
    /// `owners`.
    pub owners: bool,
    /// `associations`.
    pub associations: bool,
    /// `pipeline`.
    pub pipeline: bool,
    /// `attachments`.
    pub attachments: bool,
}

impl Parts {
    /// Every part.
    pub const ALL: Self = Self {
        record: true,
        owners: true,
        associations: true,
        pipeline: true,
        attachments: true,
    };
    /// No part.
    pub const NONE: Self = Self {
        record: false,
        owners: false,
        associations: false,
        pipeline: false,
        attachments: false,
    };
    /// The record alone.
    const RECORD: Self = Self {
        record: true,
        ..Self::NONE
    };

    /// The parts of either.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            record: self.record || other.record,
            owners: self.owners || other.owners,
            associations: self.associations || other.associations,
            pipeline: self.pipeline || other.pipeline,
            attachments: self.attachments || other.attachments,
        }
    }

    fn of_config(parts: &[DestinationPart]) -> Self {
        Self {
            record: parts.contains(&DestinationPart::Record),
            owners: parts.contains(&DestinationPart::Owners),
            associations: parts.contains(&DestinationPart::Associations),
            pipeline: parts.contains(&DestinationPart::Pipeline),
            attachments: parts.contains(&DestinationPart::Attachments),
        }
    }

    /// Whether a problem with `part` concerns somebody who gets these. That the record itself cannot be read
    /// concerns everybody.
    fn concern(self, part: EnrichmentPart) -> bool {
        match part {
            EnrichmentPart::Record => true,
            EnrichmentPart::Definitions | EnrichmentPart::Messages | EnrichmentPart::Actors => {
                self.record
            }
            EnrichmentPart::Schema => true,
            EnrichmentPart::Attachments => self.attachments,
            EnrichmentPart::Associations => self.associations,
            EnrichmentPart::Owners => self.owners,
            EnrichmentPart::Pipeline => self.pipeline,
        }
    }
}

/// Which parts, and which properties of the record. The default is the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    parts: Parts,
    /// `None` for all that was read.
    properties: Option<BTreeSet<String>>,
}

impl Default for Projection {
    fn default() -> Self {
        Self {
            parts: Parts::ALL,
            properties: None,
        }
    }
}

impl Projection {
    /// What `[destination.<name>]` asks for.
    #[must_use]
    pub fn of_destination(config: &DestinationConfig) -> Self {
        let parts = config.parts.as_deref();
        let properties = config.properties.clone();
        Self {
            parts: parts.map_or(Parts::ALL, Parts::of_config),
            properties: properties.map(|names| names.into_iter().collect()),
        }
    }

    /// What such a destination gets of a record that may have just stopped to match its `where`: enough to see that it
    /// does not match, and no more of a record that was not asked for.
    #[must_use]
    pub fn farewell(config: &DestinationConfig) -> Self {
        let shows_record = Self::of_destination(config).parts.record;
        Self {
            parts: if shows_record {
                Parts::RECORD
            } else {
                Parts::NONE
            },
            properties: Some(config.values.keys().cloned().collect()),
        }
    }

    /// The parts.
    #[must_use]
    pub fn parts(&self) -> Parts {
        self.parts
    }

    /// The properties by name; `None` for all that was read.
    #[must_use]
    pub fn properties(&self) -> Option<impl Iterator<Item = &str>> {
        let names = self.properties.as_ref();
        names.map(|names| names.iter().map(String::as_str))
    }

    /// Whether it leaves everything in.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.parts == Parts::ALL && self.properties.is_none()
    }

    /// What is left of `data`. Problems of parts that are left out go with them.
    #[must_use]
    pub fn apply(&self, mut data: EnrichedData) -> EnrichedData {
        let parts = self.parts;
        data.record = data.record.filter(|_| parts.record);
        data.conversation = data.conversation.filter(|_| parts.record);
        if !parts.record {
            data.identifiers.clear();
            data.previous_values.clear();
        }
        self.reduce(&mut data);
        if !parts.owners {
            data.owners.clear();
            data.owner_lists.clear();
        }
        data.attachments = data.attachments.filter(|_| parts.attachments);
        if !parts.associations {
            data.associations.clear();
        }
        data.pipeline = data.pipeline.filter(|_| parts.pipeline);
        data.enrichment = without_problems_of_others(data.enrichment, parts);
        data
    }

    /// Leaves the properties that are asked for, wherever something is said of them.
    fn reduce(&self, data: &mut EnrichedData) {
        let Some(names) = &self.properties else {
            return;
        };
        data.identifiers.retain(|name, _| names.contains(name));
        data.previous_values.retain(|name, _| names.contains(name));
        let Some(record) = &mut data.record else {
            return;
        };
        record.properties.retain(|name, _| names.contains(name));
        record.labels.retain(|name, _| names.contains(name));
        record.references.retain(|name, _| names.contains(name));
        if let Some(raw) = &mut record.raw {
            raw.retain(|name, _| names.contains(name));
        }
        for list in [
            &mut record.calculated,
            &mut record.read_only,
            &mut record.sensitive,
        ] {
            list.retain(|name| names.contains(name));
        }
    }
}

fn without_problems_of_others(mut enrichment: Enrichment, parts: Parts) -> Enrichment {
    let had_problems = !enrichment.problems.is_empty();
    enrichment
        .problems
        .retain(|problem| parts.concern(problem.part));
    let has_none_left = had_problems && enrichment.problems.is_empty();
    if has_none_left && enrichment.status == EnrichmentStatus::Partial {
        enrichment.status = EnrichmentStatus::Complete;
    }
    enrichment
}
