//! stub
use crate::event::{PropertyValue, Record};
use crate::hubspot::call::{PropertyDefinition, RecordRead};
use std::collections::BTreeMap;
/// stub
#[derive(Clone, Debug, Default)]
pub struct Definitions(BTreeMap<String, PropertyDefinition>);
impl Definitions {
    /// stub
    pub fn new(d: Vec<PropertyDefinition>) -> Self {
        Self(d.into_iter().map(|d| (d.name.clone(), d)).collect())
    }
    /// stub
    pub fn get(&self, name: &str) -> Option<&PropertyDefinition> {
        self.0.get(name)
    }
    /// stub
    pub fn iter(&self) -> impl Iterator<Item = &PropertyDefinition> {
        self.0.values()
    }
}
/// stub
pub fn record(read: &RecordRead, _d: Option<&Definitions>) -> Record {
    Record {
        properties: read
            .properties
            .iter()
            .map(|(k, v)| (k.clone(), PropertyValue::Text(v.clone())))
            .collect(),
        labels: BTreeMap::new(),
        created_at: read.created_at,
        updated_at: read.updated_at,
        archived: read.archived,
    }
}
/// stub
pub fn same_value(_d: Option<&PropertyDefinition>, a: Option<&str>, b: Option<&str>) -> bool {
    a == b
}
