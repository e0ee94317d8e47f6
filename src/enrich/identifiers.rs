//! The properties that tell a record from all others of its type, and what other systems know it by.

use std::collections::BTreeMap;

use crate::event::{ObjectTypeId, PropertyValue, Record};

use super::typed::Definitions;

/// The record's own id, which every message has anyway.
const OWN_ID: &str = "hs_object_id";

/// The names of the unique properties of a type, each once or more: those that HubSpot itself finds duplicates by,
/// and all whose definition says that values are unique.
///
/// # Source
/// HubSpot's specification of properties, `hasUniqueValue`. It is not said of a company's domain, though
/// HubSpot finds duplicate companies by it.
pub fn names<'n>(
    object_type_id: &ObjectTypeId,
    definitions: Option<&'n Definitions>,
) -> impl Iterator<Item = &'n str> {
    let by_type: Option<&'n str> = match object_type_id.name() {
        "contact" => Some("email"),
        "company" => Some("domain"),
        _ => None,
    };
    let defined = definitions.into_iter().flat_map(Definitions::iter);
    let unique = defined.filter(|definition| definition.has_unique_value);
    let unique = unique.map(|definition| definition.name.as_str());
    by_type
        .into_iter()
        .chain(unique)
        .filter(|name| *name != OWN_ID)
}

/// The unique values of a record, by property.
pub fn of(
    object_type_id: &ObjectTypeId,
    record: &Record,
    definitions: Option<&Definitions>,
) -> BTreeMap<String, PropertyValue> {
    let value = |name: &str| {
        let value = record.properties.get(name)?;
        (*value != PropertyValue::Null).then(|| (name.to_owned(), value.clone()))
    };
    names(object_type_id, definitions)
        .filter_map(value)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hubspot::call::PropertyDefinition;

    fn unique(name: &str, has_unique_value: bool) -> PropertyDefinition {
        PropertyDefinition {
            name: name.to_owned(),
            has_unique_value,
            ..PropertyDefinition::default()
        }
    }

    fn names_of(object_type: &str, definitions: Option<&Definitions>) -> Vec<String> {
        let object_type_id = ObjectTypeId::from_name(object_type);
        names(&object_type_id, definitions)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn email_domain_and_what_is_defined_as_unique_identify_but_the_own_id_does_not() {
        let definitions: Definitions = [
            unique("customer_number", true),
            unique("hs_object_id", true),
            unique("city", false),
        ]
        .into_iter()
        .map(std::sync::Arc::new)
        .collect();
        assert_eq!(
            names_of("contact", Some(&definitions)),
            ["email", "customer_number"]
        );
        assert_eq!(
            names_of("0-2", Some(&definitions)),
            ["domain", "customer_number"]
        );
        assert_eq!(names_of("deal", Some(&definitions)), ["customer_number"]);
        assert_eq!(names_of("contact", None), ["email"]);
    }
}
