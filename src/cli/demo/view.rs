//! One enriched event, for a person to read.

use std::fmt::Write as _;

use crate::event::{
    AssociationChange, EnrichedData, EnrichedEvent, EnrichmentStatus, Event, EventBody,
    ObjectChange, PropertyValue, Record, TombstoneReason,
};

/// Properties that name a record, best first.
const NAMES: [&str; 5] = [
    "name",
    "dealname",
    "subject",
    "hs_call_title",
    "hs_task_subject",
];
/// Changes listed of one event; the rest is counted.
const CHANGES_MAX: usize = 4;

/// A few lines that end with a line break: what, what changed, and what stands around it.
pub(super) fn render(event: &EnrichedEvent, colours: bool) -> String {
    let paint = Paint(colours);
    let data = &event.data;
    let time = event.time.to_string();
    let mut text = format!(
        "{} {} {}",
        paint.dim(&time[11..23]),
        paint.bold(&event.subject),
        title(data)
    );
    text.push_str(&paint.yellow(&status(data)));
    text.push('\n');
    for change in changes(data) {
        let _ = writeln!(text, "             {} {change}", paint.cyan("·"));
    }
    let around = around(data);
    if !around.is_empty() {
        let _ = writeln!(text, "             {}", paint.dim(&around.join("  ·  ")));
    }
    text
}

fn title(data: &EnrichedData) -> String {
    let Some(record) = &data.record else {
        return String::new();
    };
    let person = [text(record, "firstname"), text(record, "lastname")];
    let person: Vec<&str> = person.into_iter().flatten().collect();
    let name = NAMES.iter().find_map(|name| text(record, name));
    match (person.is_empty(), name) {
        (false, _) => person.join(" "),
        (true, Some(name)) => name.to_owned(),
        (true, None) => String::new(),
    }
}

fn text<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    match record.properties.get(name) {
        Some(PropertyValue::Text(text)) => Some(text),
        _ => None,
    }
}

/// What is not as usual.
fn status(data: &EnrichedData) -> String {
    let tombstone = data
        .tombstone
        .as_ref()
        .map(|tombstone| match tombstone.reason {
            TombstoneReason::Deleted => "deleted".to_owned(),
            TombstoneReason::PrivacyDeleted => "deleted for privacy".to_owned(),
            TombstoneReason::Merged => match &tombstone.merged_into {
                Some(survivor) => format!("merged into {survivor}"),
                None => "merged".to_owned(),
            },
        });
    let incomplete = match data.enrichment.status {
        EnrichmentStatus::Complete | EnrichmentStatus::NotRead => None,
        EnrichmentStatus::Partial => Some("partial".to_owned()),
        EnrichmentStatus::Stale => Some("stale".to_owned()),
        EnrichmentStatus::Missing => Some("not found".to_owned()),
        EnrichmentStatus::Forbidden => Some("forbidden".to_owned()),
    };
    let words = tombstone.or(incomplete);
    words
        .map(|words| format!("  [{words}]"))
        .unwrap_or_default()
}

fn changes(data: &EnrichedData) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for event in &data.events {
        let line = change(event, data.record.as_ref());
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    if lines.len() > CHANGES_MAX {
        let more = lines.len() - CHANGES_MAX;
        lines.truncate(CHANGES_MAX);
        lines.push(format!("and {more} more"));
    }
    lines
}

fn change(event: &Event, record: Option<&Record>) -> String {
    match &event.body {
        EventBody::Object(object) => match &object.change {
            ObjectChange::PropertyChanged {
                property_name,
                property_value,
                ..
            } => {
                let value = label(record, property_name)
                    .or(property_value.as_deref().map(str::to_owned))
                    .unwrap_or_else(|| "(empty)".to_owned());
                format!("{property_name} = {}", shortened(&value))
            }
            ObjectChange::Merged {
                merged_object_ids, ..
            } => {
                let ids: Vec<&str> = merged_object_ids.iter().map(|id| id.as_str()).collect();
                format!("took in {}", ids.join(", "))
            }
            _ => event.kind().replace('_', " "),
        },
        EventBody::Association(edge) => {
            let to = format!("{}/{}", edge.to_object_type_id.name(), edge.to_object_id);
            match edge.change {
                AssociationChange::Added => format!("associated with {to}"),
                AssociationChange::Removed => format!("no longer associated with {to}"),
            }
        }
        EventBody::Conversation(_) | EventBody::Unknown(_) => event.kind().replace('_', " "),
    }
}

fn label(record: Option<&Record>, name: &str) -> Option<String> {
    match record?.labels.get(name)? {
        PropertyValue::Text(label) => Some(label.clone()),
        PropertyValue::List(labels) => Some(labels.join(", ")),
        _ => None,
    }
}

fn shortened(value: &str) -> String {
    const CHARS_MAX: usize = 60;
    let one_line: String = value
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if one_line.chars().count() <= CHARS_MAX {
        return one_line;
    }
    one_line.chars().take(CHARS_MAX).chain(['…']).collect()
}

/// Owner, pipeline stage, associations.
fn around(data: &EnrichedData) -> Vec<String> {
    let owner = data
        .owners
        .get("hubspot_owner_id")
        .and_then(|owner| owner.name.as_ref());
    let stage = data.pipeline.as_ref().and_then(|pipeline| {
        let stage = pipeline.stage.as_ref()?.label.as_ref()?;
        Some(format!(
            "{} › {stage}",
            pipeline.label.as_deref().unwrap_or(&pipeline.id)
        ))
    });
    let associated = data
        .associations
        .iter()
        .filter(|(_, records)| !records.is_empty())
        .map(|(name, records)| match records.as_slice() {
            [one] => format!("{name}/{}", one.id),
            many => format!("{} × {name}", many.len()),
        });
    owner
        .map(|name| format!("owner {name}"))
        .into_iter()
        .chain(stage)
        .chain(associated)
        .collect()
}

/// Colours, where the terminal has them.
struct Paint(bool);

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn dim(&self, text: &str) -> String {
        self.with("2", text)
    }

    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn cyan(&self, text: &str) -> String {
        self.with("36", text)
    }

    fn yellow(&self, text: &str) -> String {
        self.with("33", text)
    }
}
