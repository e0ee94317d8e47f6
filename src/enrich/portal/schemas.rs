//! Custom objects: when their schemas are read, and what waits for them.

use crate::enrich::assemble::associations_problem;
use crate::enrich::attachments;
use crate::enrich::job::{Job, Key, Reading, RecordOutcome};
use crate::enrich::plan::{Plan, Plans};
use crate::enrich::request::Request;
use crate::enrich::schemas::Standing;
use crate::event::{EnrichmentProblem, ObjectTypeId, ProblemReason};
use crate::hubspot::call::RecordRead;

use super::{Context, Portal};

impl Portal {
    /// What to read of a type: a plan may name a custom object by its name.
    pub(super) fn plan_of<'a>(&self, of: &ObjectTypeId, plans: &'a Plans) -> &'a Plan {
        plans.of(of, self.shared.schemas.of(of))
    }

    /// Whether a read of the type needs to know the portal's custom objects: it is one, or its plan names one.
    pub(super) fn needs_schemas(&self, of: &ObjectTypeId, plans: &Plans) -> bool {
        let plan = self.plan_of(of, plans);
        let names_one = |to: &ObjectTypeId| {
            let name = to.custom_name();
            name.is_some_and(|name| !name.is_elsewhere(&self.id))
        };
        of.is_custom() || plan.associations.iter().any(names_one)
    }

    /// The types whose associations are read: the plan's, but for names of custom objects that other portals have. A name
    /// that nobody has is a problem of the message.
    pub(super) fn associated_types<'a>(
        &self,
        plan: &'a Plan,
        problems: &mut Vec<EnrichmentProblem>,
    ) -> Vec<&'a ObjectTypeId> {
        let mut types = Vec::new();
        for to in &plan.associations {
            let name = to.custom_name();
            match name.map(|name| self.shared.schemas.standing(name, &self.id)) {
                None | Some(Standing::Here) => types.push(to),
                Some(Standing::Elsewhere) => {}
                Some(Standing::Absent) => {
                    problems.push(associations_problem(to, ProblemReason::NotFound, &[]));
                }
            }
        }
        types
    }

    /// Holds a job that reads nothing until the name of its type is known, since destinations may choose by it. `None`
    /// when it was held.
    pub(super) fn hold_for_schema(
        &mut self,
        key: &Key,
        job: Job,
        ctx: &mut Context<'_>,
    ) -> Option<Job> {
        if !job.is_held() || !key.0.is_custom() || self.shared.schemas.is_usable(ctx.now) {
            return Some(job);
        }
        if self.shared.schemas.begin_reading(ctx.now) {
            self.ready.push_back(Request::Schemas);
        }
        self.lanes.entry(key.clone()).or_default().active = Some(job);
        self.assembling.insert(key.clone());
        None
    }

    /// Sends the job at `key` that reads nothing and was held, if it is one.
    pub(super) fn release_held(&mut self, key: &Key, ctx: &mut Context<'_>) {
        let lane = self.lanes.get_mut(key);
        let held = lane.and_then(|lane| lane.active.take_if(|job| job.is_held()));
        if let Some(job) = held {
            self.send_unread(key, job, ctx);
        }
    }

    /// Takes what is known of the files attached to a record that was read, where that is wanted.
    pub(super) fn attach(&self, key: &Key, reading: &mut Reading, plans: &Plans) {
        let reads = self.plan_of(&key.0, plans).attachments;
        if let (Some(RecordOutcome::Found(record)), Some(reads)) = (&reading.record, reads) {
            let ids = attachments::ids(record);
            let (attached, problems) = self.shared.files.attach(&ids, reads);
            reading.attachments = Some(attached);
            reading.problems.extend(problems);
        }
    }

    /// Asks for what is attached to the record, where that is wanted. `false` when all is known.
    pub(super) fn lacks_attachments(
        &mut self,
        key: &Key,
        record: &RecordRead,
        ctx: &mut Context<'_>,
    ) -> bool {
        let Some(reads) = self.plan_of(&key.0, ctx.plans).attachments else {
            return false;
        };
        let ids = attachments::ids(record);
        let (requests, lacks) = self.shared.files.lack(&ids, reads, ctx.now);
        self.ready.extend(requests);
        lacks
    }
}
