//! What a portal defines: properties, and pipelines with their stages. Neither list is paged.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Results, id, parse, text};
use crate::hubspot::call::{
    Answer, CallError, PipelineDefinition, PropertyDefinition, Sensitivity, StageDefinition,
};

/// `Property`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireProperty<'a> {
    name: String,
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    field_type: Option<&'a RawValue>,
    #[serde(borrow)]
    options: Option<Vec<WireOption<'a>>>,
    #[serde(borrow)]
    referenced_object_type: Option<&'a RawValue>,
    has_unique_value: Option<bool>,
    hubspot_defined: Option<bool>,
    hidden: Option<bool>,
    calculated: Option<bool>,
    modification_metadata: Option<WireModification>,
    #[serde(borrow)]
    data_sensitivity: Option<&'a RawValue>,
}

/// `PropertyModificationMetadata`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireModification {
    read_only_value: Option<bool>,
}

/// `Option`.
#[derive(Deserialize)]
struct WireOption<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    label: Option<&'a RawValue>,
}

/// `Pipeline`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePipeline<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    label: Option<&'a RawValue>,
    #[serde(borrow)]
    display_order: Option<&'a RawValue>,
    #[serde(borrow)]
    stages: Option<Vec<WireStage<'a>>>,
}

/// `PipelineStage`; its metadata are texts, whatever they say.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireStage<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    label: Option<&'a RawValue>,
    #[serde(borrow)]
    display_order: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<BTreeMap<String, &'a RawValue>>,
}

/// All property definitions of a type that are `asked` for.
pub(super) fn properties(body: &[u8], asked: Sensitivity) -> Result<Answer, CallError> {
    let list: Results<WireProperty<'_>> = parse(body)?;
    let read = |wire| property(wire, asked);
    Ok(Answer::Properties(
        list.results.into_iter().map(read).collect(),
    ))
}

/// All pipelines of a type.
pub(super) fn pipelines(body: &[u8]) -> Result<Answer, CallError> {
    let list: Results<WirePipeline<'_>> = parse(body)?;
    let pipelines = list.results.into_iter().map(pipeline);
    pipelines.collect::<Result<_, _>>().map(Answer::Pipelines)
}

fn property(property: WireProperty<'_>, asked: Sensitivity) -> PropertyDefinition {
    let options = property.options.unwrap_or_default();
    PropertyDefinition {
        name: property.name,
        value_type: text(property.r#type).unwrap_or_default(),
        field_type: text(property.field_type).unwrap_or_default(),
        options: options.into_iter().filter_map(option).collect(),
        referenced_object_type: text(property.referenced_object_type),
        has_unique_value: property.has_unique_value.unwrap_or(false),
        hubspot_defined: property.hubspot_defined.unwrap_or(false),
        hidden: property.hidden.unwrap_or(false),
        calculated: property.calculated.unwrap_or(false),
        read_only: property
            .modification_metadata
            .and_then(|modification| modification.read_only_value)
            .unwrap_or(false),
        sensitivity: sensitivity(text(property.data_sensitivity).as_deref()).unwrap_or(asked),
    }
}

fn sensitivity(word: Option<&str>) -> Option<Sensitivity> {
    let all = [
        Sensitivity::NonSensitive,
        Sensitivity::Sensitive,
        Sensitivity::HighlySensitive,
    ];
    all.into_iter().find(|level| Some(level.as_str()) == word)
}

fn option(option: WireOption<'_>) -> Option<(String, String)> {
    Some((text(option.value)?, text(option.label)?))
}

fn pipeline(pipeline: WirePipeline<'_>) -> Result<PipelineDefinition, CallError> {
    let stages = pipeline.stages.unwrap_or_default().into_iter().map(stage);
    Ok(PipelineDefinition {
        id: id(pipeline.id, "a pipeline's id")?,
        label: text(pipeline.label).unwrap_or_default(),
        display_order: whole(pipeline.display_order),
        stages: stages.collect::<Result<_, _>>()?,
    })
}

fn stage(stage: WireStage<'_>) -> Result<StageDefinition, CallError> {
    let metadata = stage.metadata.unwrap_or_default();
    let value = |key: &str| text(metadata.get(key).copied());
    Ok(StageDefinition {
        id: id(stage.id, "a stage's id")?,
        label: text(stage.label).unwrap_or_default(),
        display_order: whole(stage.display_order),
        closed: closed(value("isClosed"), value("ticketState")),
        probability: value("probability"),
        ticket_state: value("ticketState"),
    })
}

fn whole(number: Option<&RawValue>) -> Option<i64> {
    text(number)?.parse().ok()
}

fn closed(is_closed: Option<String>, ticket_state: Option<String>) -> Option<bool> {
    match (is_closed.as_deref(), ticket_state.as_deref()) {
        (Some("true"), _) | (None, Some("CLOSED")) => Some(true),
        (Some("false"), _) | (None, Some("OPEN")) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_read_with_its_options() {
        let body = br#"{"results":[{"name":"lifecyclestage","label":"Lifecycle","type":"enumeration","fieldType":"radio","groupName":"g","description":"","options":[{"label":"Lead","value":"lead","hidden":false},{"label":"Seven","value":7},{"label":null,"value":"x"}],"hasUniqueValue":false,"hubspotDefined":true,"hidden":false,"calculated":false,"modificationMetadata":{"archivable":true,"readOnlyDefinition":true,"readOnlyValue":true}},{"name":"hubspot_owner_id","type":"enumeration","fieldType":"select","options":[],"externalOptions":true,"referencedObjectType":"OWNER","hidden":null},{"name":"diagnosis","type":"string","fieldType":"text","dataSensitivity":"highly_sensitive"}]}"#;
        let read = properties(body, Sensitivity::Sensitive).unwrap();
        let Answer::Properties(properties) = read else {
            panic!("properties were sent")
        };
        let pair = |value: &str, label: &str| (value.to_owned(), label.to_owned());
        let expected = PropertyDefinition {
            name: "lifecyclestage".into(),
            value_type: "enumeration".into(),
            field_type: "radio".into(),
            options: [pair("lead", "Lead"), pair("7", "Seven")].into(),
            referenced_object_type: None,
            has_unique_value: false,
            hubspot_defined: true,
            hidden: false,
            calculated: false,
            read_only: true,
            sensitivity: Sensitivity::Sensitive,
        };
        assert_eq!(properties[0], expected, "of the level that was asked for");
        assert_eq!(
            properties[1].referenced_object_type.as_deref(),
            Some("OWNER")
        );
        assert!(!properties[1].read_only);
        assert_eq!(properties[2].sensitivity, Sensitivity::HighlySensitive);
        assert_eq!(properties.len(), 3);
    }

    #[test]
    fn stages_tell_whether_they_are_closed() {
        let body = br#"{"results":[{"id":"default","label":"Sales","displayOrder":0,"archived":false,"stages":[
            {"id":"won","label":"Won","metadata":{"isClosed":"true","probability":"1.0"}},
            {"id":1,"label":"New","metadata":{"isClosed":false,"probability":0.20}},
            {"id":"3","label":"Waiting","displayOrder":2,"metadata":{"ticketState":"OPEN","isClosed":null}},
            {"id":"4","label":"Done","metadata":{"ticketState":"CLOSED"}},
            {"id":"5","metadata":{}},
            {"id":"6","label":"Bare"}]},{"id":7}]}"#;
        let Answer::Pipelines(pipelines) = pipelines(body).unwrap() else {
            panic!("pipelines were sent")
        };
        let stages = &pipelines[0].stages;
        let closed: Vec<_> = stages.iter().map(|stage| stage.closed).collect();
        assert_eq!(
            closed,
            [Some(true), Some(false), Some(false), Some(true), None, None]
        );
        let chances: Vec<_> = stages
            .iter()
            .map(|stage| stage.probability.as_deref())
            .collect();
        assert_eq!(chances, [Some("1.0"), Some("0.20"), None, None, None, None]);
        let states: Vec<_> = stages
            .iter()
            .map(|stage| stage.ticket_state.as_deref())
            .collect();
        assert_eq!(
            states,
            [None, None, Some("OPEN"), Some("CLOSED"), None, None]
        );
        assert_eq!(
            (stages[2].display_order, stages[0].display_order),
            (Some(2), None)
        );
        assert_eq!(pipelines[0].display_order, Some(0));
        assert_eq!(
            (stages[1].id.as_str(), stages[1].label.as_str()),
            ("1", "New")
        );
        assert_eq!(
            (pipelines[1].id.as_str(), pipelines[1].stages.len()),
            ("7", 0)
        );
    }

    #[test]
    fn a_definition_without_a_name_is_unreadable() {
        for body in [
            r#"{"results":[{"type":"string"}]}"#,
            r#"{"results":null}"#,
            "null",
        ] {
            let error = properties(body.as_bytes(), Sensitivity::default()).unwrap_err();
            assert!(matches!(error, CallError::Unreadable { .. }), "{body}");
            assert!(pipelines(body.as_bytes()).is_err());
        }
    }
}
