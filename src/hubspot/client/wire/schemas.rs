//! Custom objects: all schemas of a portal, which are not paged.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Results, parse, text, unreadable};
use crate::event::{ObjectSchema, ObjectTypeId, SchemaLabels};
use crate::hubspot::call::{Answer, CallError};

/// `ObjectSchema`. `id` is the number alone in live replies and in the specification's sample; `objectTypeId` is what
/// notifications and paths have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSchema<'a> {
    #[serde(borrow)]
    object_type_id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    fully_qualified_name: Option<&'a RawValue>,
    #[serde(borrow)]
    labels: Option<WireLabels<'a>>,
    #[serde(borrow)]
    primary_display_property: Option<&'a RawValue>,
}

/// `ObjectTypeDefinitionLabels`.
#[derive(Deserialize)]
struct WireLabels<'a> {
    #[serde(borrow)]
    singular: Option<&'a RawValue>,
    #[serde(borrow)]
    plural: Option<&'a RawValue>,
}

/// All custom objects.
pub(super) fn list(body: &[u8]) -> Result<Answer, CallError> {
    let list: Results<WireSchema<'_>> = parse(body)?;
    let schemas = list.results.into_iter().map(schema);
    schemas
        .collect::<Result<BTreeMap<_, _>, _>>()
        .map(Answer::Schemas)
}

fn schema(schema: WireSchema<'_>) -> Result<(ObjectTypeId, ObjectSchema), CallError> {
    let id = text(schema.object_type_id);
    let id = id.ok_or_else(|| unreadable("a schema has no objectTypeId"))?;
    let labels = schema.labels.map(|labels| SchemaLabels {
        singular: text(labels.singular),
        plural: text(labels.plural),
    });
    let schema = ObjectSchema {
        name: text(schema.name).ok_or_else(|| unreadable("a schema has no name"))?,
        fully_qualified_name: text(schema.fully_qualified_name),
        labels: labels.unwrap_or_default(),
        primary_display_property: text(schema.primary_display_property),
    };
    Ok((ObjectTypeId::from_name(&id), schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_read_by_its_type_id() {
        let body = br#"{"results":[{"id":"1234567","objectTypeId":"2-1234567","name":"car","fullyQualifiedName":"p8241_car","labels":{"singular":"Car","plural":"Cars"},"primaryDisplayProperty":"plate","requiredProperties":["plate"],"properties":[],"associations":[],"archived":false},{"objectTypeId":"2-7","name":"boat","labels":null}]}"#;
        let Answer::Schemas(schemas) = list(body).unwrap() else {
            panic!("schemas were sent")
        };
        let car = &schemas[&ObjectTypeId::from_name("2-1234567")];
        let expected = ObjectSchema {
            name: "car".into(),
            fully_qualified_name: Some("p8241_car".into()),
            labels: SchemaLabels {
                singular: Some("Car".into()),
                plural: Some("Cars".into()),
            },
            primary_display_property: Some("plate".into()),
        };
        assert_eq!(*car, expected);
        let boat = &schemas[&ObjectTypeId::from_name("2-7")];
        assert_eq!(
            (boat.name.as_str(), &boat.labels),
            ("boat", &SchemaLabels::default())
        );
        for body in [
            r#"{"results":[{"name":"car"}]}"#,
            r#"{"results":[{"objectTypeId":"2-7"}]}"#,
        ] {
            assert!(list(body.as_bytes()).is_err(), "{body}");
        }
    }
}
