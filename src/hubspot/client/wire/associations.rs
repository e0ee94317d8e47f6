//! Associations: the batch read of the v4 API and its dated successors.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{BatchReply, Paging, Results, after, id, parse, text, unreadable};
use crate::event::{AssociationLabel, ObjectId};
use crate::hubspot::call::{Answer, AssociationPage, CallError};

/// `PublicAssociationMultiWithLabel`.
#[derive(Deserialize)]
struct WirePage<'a> {
    #[serde(borrow)]
    from: From<'a>,
    #[serde(borrow)]
    to: Option<Vec<To<'a>>>,
    #[serde(borrow)]
    paging: Option<Paging<'a>>,
}

#[derive(Deserialize)]
struct From<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
}

/// `MultiAssociatedObjectWithLabel`; live replies have a number where the specification has a string.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct To<'a> {
    #[serde(borrow)]
    to_object_id: &'a RawValue,
    #[serde(borrow)]
    association_types: Option<Vec<Type<'a>>>,
}

/// `AssociationSpecWithLabel`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Type<'a> {
    #[serde(borrow)]
    category: Option<&'a RawValue>,
    #[serde(borrow)]
    type_id: &'a RawValue,
    #[serde(borrow)]
    label: Option<&'a RawValue>,
}

/// `BatchResponsePublicAssociationMultiWithLabel`, with and without errors.
pub(super) fn batch(status: u16, body: &[u8]) -> Result<Answer, CallError> {
    let mut reply: BatchReply<WirePage<'_>> = parse(body)?;
    reply.check(status)?;
    let pages = reply.results.into_iter().map(page);
    pages.collect::<Result<_, _>>().map(Answer::Associations)
}

/// All association types of a pair, of whatever category.
pub(super) fn labels(body: &[u8]) -> Result<Answer, CallError> {
    let list: Results<Type<'_>> = parse(body)?;
    let labels = list.results.into_iter().map(label);
    let labels = labels.collect::<Result<_, _>>();
    labels.map(Answer::AssociationLabels)
}

fn page(page: WirePage<'_>) -> Result<AssociationPage, CallError> {
    let to = page.to.unwrap_or_default().into_iter().map(edge);
    Ok(AssociationPage {
        from: ObjectId::from(id(page.from.id, "from.id")?),
        to: to.collect::<Result<_, _>>()?,
        after: after(page.paging),
    })
}

fn edge(to: To<'_>) -> Result<(ObjectId, Vec<AssociationLabel>), CallError> {
    let object_id = ObjectId::from(id(to.to_object_id, "toObjectId")?);
    let types = to.association_types.unwrap_or_default();
    let labels = types.into_iter().map(label);
    Ok((object_id, labels.collect::<Result<_, _>>()?))
}

fn label(wire: Type<'_>) -> Result<AssociationLabel, CallError> {
    let type_id = id(wire.type_id, "typeId")?
        .parse()
        .map_err(|_| unreadable("typeId is no number"))?;
    Ok(AssociationLabel {
        category: text(wire.category).unwrap_or_default(),
        type_id,
        label: text(wire.label),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REPLY: &str = r#"{"status":"COMPLETE","results":[{"from":{"id":"123"},"to":[{"toObjectId":456,"associationTypes":[{"category":"HUBSPOT_DEFINED","typeId":1,"label":"Primary"},{"category":"HUBSPOT_DEFINED","typeId":279,"label":null}]},{"toObjectId":"457","associationTypes":[{"category":"USER_DEFINED","typeId":"28","label":"Employer"}]}],"paging":{"next":{"after":"789","link":"/crm/v4/x"}}},{"from":{"id":124},"to":[]}],"numErrors":1,"errors":[{"status":"error","category":"OBJECT_NOT_FOUND","subCategory":"crm.associations.NO_ASSOCIATIONS_FOUND","message":"No company is associated with deal 125.","context":{"fromObjectId":["125"],"fromObjectType":["deal"],"toObjectType":["company"]}}],"startedAt":"2026-01-02T03:04:07.000Z","completedAt":"2026-01-02T03:04:07.010Z"}"#;

    fn type_of(category: &str, type_id: u64, label: Option<&str>) -> AssociationLabel {
        AssociationLabel {
            category: category.into(),
            type_id,
            label: label.map(str::to_owned),
        }
    }

    #[test]
    fn edges_carry_every_type_and_a_record_without_any_is_no_error() {
        let primary = type_of("HUBSPOT_DEFINED", 1, Some("Primary"));
        let unlabelled = type_of("HUBSPOT_DEFINED", 279, None);
        let employer = type_of("USER_DEFINED", 28, Some("Employer"));
        let expected = vec![
            AssociationPage {
                from: "123".into(),
                to: vec![
                    ("456".into(), vec![primary, unlabelled]),
                    ("457".into(), vec![employer]),
                ],
                after: Some("789".into()),
            },
            AssociationPage {
                from: "124".into(),
                to: vec![],
                after: None,
            },
        ];
        for status in [200, 207] {
            let answer = batch(status, REPLY.as_bytes()).unwrap();
            assert_eq!(answer, Answer::Associations(expected.clone()));
        }
    }

    #[test]
    fn the_labels_of_a_pair_are_its_association_types() {
        let body = br#"{"results":[{"category":"HUBSPOT_DEFINED","typeId":279,"label":null},{"category":"USER_DEFINED","typeId":"28","label":"Employer"}]}"#;
        let expected = vec![
            type_of("HUBSPOT_DEFINED", 279, None),
            type_of("USER_DEFINED", 28, Some("Employer")),
        ];
        assert_eq!(labels(body).unwrap(), Answer::AssociationLabels(expected));
        assert!(labels(br#"{"results":[{"category":"USER_DEFINED"}]}"#).is_err());
    }

    #[test]
    fn an_error_that_is_not_absence_fails_the_call() {
        let body = REPLY.replace("OBJECT_NOT_FOUND", "VALIDATION_ERROR");
        let category = Some("VALIDATION_ERROR".to_owned());
        let expected = CallError::Refused {
            status: 207,
            category,
        };
        assert_eq!(batch(207, body.as_bytes()).unwrap_err(), expected);
    }

    #[test]
    fn an_edge_without_an_end_is_unreadable() {
        for (part, broken) in [
            ("456", "null"),
            ("\"typeId\":1,", "\"typeId\":-1,"),
            ("\"123\"", "[]"),
        ] {
            let body = REPLY.replace(part, broken);
            let error = batch(207, body.as_bytes()).unwrap_err();
            assert!(matches!(error, CallError::Unreadable { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_change_of_a_reply_makes_it_panic(at in 0..REPLY.len(), byte: u8, cut in 0..REPLY.len()) {
            let mut body = REPLY.as_bytes().to_vec();
            body[at] = byte;
            let _ = batch(200, &body);
            let _ = batch(200, &body[..cut]);
        }
    }
}
