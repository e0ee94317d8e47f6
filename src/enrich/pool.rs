//! Property definitions, each held once however many portals have it.
//!
//! An empty portal defines some 400 properties of a contact, nearly all of them HubSpot's own and the same in every portal.
//! Thousands of portals that each held theirs would need gigabytes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Millis;
use crate::hubspot::call::PropertyDefinition;

use super::typed::Definitions;

/// How often definitions that no portal has any more are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// The definitions that the portals of an engine have.
#[derive(Debug, Default)]
pub struct DefinitionPool {
    known: HashSet<Arc<PropertyDefinition>>,
    forget_at: Millis,
}

impl DefinitionPool {
    /// The definitions of a portal's type, holding in common what others have as well.
    pub fn share(&mut self, definitions: Vec<PropertyDefinition>) -> Definitions {
        definitions
            .into_iter()
            .map(|definition| {
                if let Some(known) = self.known.get(&definition) {
                    return known.clone();
                }
                let new = Arc::new(definition);
                self.known.insert(new.clone());
                new
            })
            .collect()
    }

    /// Forgets what no portal has any more, if that is due.
    pub fn forget_unused(&mut self, now: Millis) {
        if self.forget_at > now {
            return;
        }
        self.forget_at = now.after(FORGET_INTERVAL);
        self.known.retain(|known| Arc::strong_count(known) > 1);
        if self.known.len() * 4 < self.known.capacity() {
            self.known.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str) -> PropertyDefinition {
        PropertyDefinition {
            name: name.to_owned(),
            value_type: "string".to_owned(),
            field_type: "text".to_owned(),
            hubspot_defined: true,
            ..PropertyDefinition::default()
        }
    }

    #[test]
    fn what_portals_have_in_common_is_held_once_and_forgotten_with_the_last_of_them() {
        let mut pool = DefinitionPool::default();
        let one = pool.share(vec![definition("email"), definition("own")]);
        let other = pool.share(vec![definition("email")]);
        let email = |of: &Definitions| std::ptr::from_ref(of.get("email").unwrap());
        assert_eq!(email(&one), email(&other));
        assert_eq!(pool.known.len(), 2);
        drop(one);
        let later = Millis::default().after(FORGET_INTERVAL);
        pool.forget_unused(later);
        assert_eq!(pool.known.len(), 1);
        assert!(other.get("email").is_some());
    }
}
