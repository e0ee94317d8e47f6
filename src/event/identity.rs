//! The identity of an event: what lets anyone recognise a repeat.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The stable id of an event: 32 lower-case hex digits, the first 128 bits of a SHA-256.
///
/// It is made of everything by which HubSpot tells one notification from another, and of nothing else:
/// HubSpot's own `eventId` "is not guaranteed to be unique", and `attemptNumber` differs between
/// repeats of one notification.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("pattern" = "^[0-9a-f]{32}$"))]
pub struct EventId(String);

impl EventId {
    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same in 16 bytes; of a text that is no id of ours, its hash.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        if hex::decode_to_slice(&self.0, &mut bytes).is_err() {
            let mut hasher = IdentityHasher::new("id");
            hasher.field(&self.0);
            bytes = hasher.digest();
        }
        bytes
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gathers the fields that make an identity, and ends as an [`EventId`].
///
/// Every field goes in with its length in front, so that no two different sequences of fields
/// hash alike; an absent field differs from an empty one.
#[derive(Clone, Default)]
pub struct IdentityHasher(Sha256);

impl IdentityHasher {
    /// A hasher for one purpose. `domain` keeps ids of different purposes apart.
    #[must_use]
    pub fn new(domain: &str) -> Self {
        let mut hasher = Self::default();
        hasher.field(domain);
        hasher
    }

    /// Adds one field that is present.
    pub fn field(&mut self, value: &str) {
        self.0.update([1]);
        self.0.update((value.len() as u64).to_be_bytes());
        self.0.update(value.as_bytes());
    }

    /// Adds one field that may be absent.
    pub fn optional(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.field(value),
            None => self.0.update([0]),
        }
    }

    /// The id of all that was added.
    #[must_use]
    pub fn finish(self) -> EventId {
        EventId(hex::encode(self.digest()))
    }

    /// The hash of all that was added: the first 16 bytes of SHA-256.
    #[must_use]
    pub fn digest(self) -> [u8; 16] {
        let hash: [u8; 32] = self.0.finalize().into();
        std::array::from_fn(|byte| hash[byte])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(fields: &[Option<&str>]) -> EventId {
        let mut hasher = IdentityHasher::new("test");
        fields.iter().for_each(|field| hasher.optional(*field));
        hasher.finish()
    }

    #[test]
    fn fields_do_not_run_into_one_another() {
        assert_eq!(id(&[Some("a"), Some("b")]), id(&[Some("a"), Some("b")]));
        assert_ne!(id(&[Some("ab"), Some("")]), id(&[Some("a"), Some("b")]));
        assert_ne!(id(&[None]), id(&[Some("")]));
        assert_ne!(id(&[]), id(&[None]));
        assert_eq!(id(&[]).as_str().len(), 32);
    }
}
