//! What a portal calls its own object type.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The schema of a custom object. Its id is another one in every portal, its name need not be.
///
/// # Source
/// HubSpot, "Custom objects", `ObjectSchema`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectSchema {
    /// The name that the portal gave it: `car`.
    pub name: String,
    /// With the portal: `p8241_car`.
    pub fully_qualified_name: Option<String>,
    /// What people see.
    pub labels: SchemaLabels,
    /// The property that stands for a record where there is room for one.
    pub primary_display_property: Option<String>,
}

/// What people call a custom object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaLabels {
    /// One of them.
    pub singular: Option<String>,
    /// Several.
    pub plural: Option<String>,
}

impl ObjectSchema {
    /// `p_car`: the name by which every portal's own type of that name is meant.
    #[must_use]
    pub fn short_name(&self) -> String {
        format!("p_{}", self.name)
    }

    /// The names it goes by beside its id: in full, and `p_<name>`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let full = self.fully_qualified_name.clone();
        full.into_iter().chain([self.short_name()])
    }
}
