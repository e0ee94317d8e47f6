//! Notes as the version before wrote them, which an upgrade finds in the changelog: they knew of no ledger.

use serde::Deserialize;

use crate::event::{Millis, ObjectId, PortalId, RecordDigest};

use super::changelog::Note;
use super::ledger::{EventDigest, Tally};
use super::memory::{Entry, Sent};

/// The first byte of such a note.
pub const ENCODING: u8 = 2;

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct OldNote {
    at: Millis,
    entries: Vec<OldEntry>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
enum OldEntry {
    Ended {
        event: EventDigest,
        /// Nobody asked how.
        _ending: OldEnding,
    },
    Sent {
        record: RecordDigest,
        sent: Sent,
    },
    Merged {
        record: RecordDigest,
        survivor: ObjectId,
        into: RecordDigest,
    },
    Erased {
        record: RecordDigest,
    },
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
enum OldEnding {
    Unwanted,
    Delivered,
    Duplicate,
    Purged,
    Dead,
}

/// Reads what follows the first byte. What ended is told of a portal without a name, and counted for nobody.
pub fn decode(bytes: &[u8]) -> Result<Note, postcard::Error> {
    let old: OldNote = postcard::from_bytes(bytes)?;
    let mut ended = Vec::new();
    let mut entries = Vec::new();
    for entry in old.entries {
        match entry {
            OldEntry::Ended { event, .. } => ended.push(event),
            OldEntry::Sent { record, sent } => entries.push(Entry::Sent { record, sent }),
            OldEntry::Merged {
                record,
                survivor,
                into,
            } => entries.push(Entry::Merged {
                record,
                survivor,
                into,
            }),
            OldEntry::Erased { record } => entries.push(Entry::Erased { record }),
        }
    }
    let tally = Tally {
        ended,
        ..Tally::new(PortalId::from(""))
    };
    Ok(Note {
        engine: 0,
        number: 0,
        at: old.at,
        entries,
        destinations: Vec::new(),
        tallies: vec![tally],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ObjectTypeId;

    #[test]
    fn what_the_version_before_noted_is_known() {
        let contact = ObjectTypeId::from_name("contact");
        let record = RecordDigest::of(&"8241".into(), &contact, &"7".into());
        let sent = Sent {
            state: Millis::default(),
            read: None,
            newest: None,
        };
        let entries = vec![
            OldEntry::Ended {
                event: [7; 16],
                _ending: OldEnding::Dead,
            },
            OldEntry::Sent { record, sent },
            OldEntry::Erased { record },
        ];
        let at = Millis::new(5).unwrap();
        let bytes = postcard::to_extend(&OldNote { at, entries }, vec![ENCODING]).unwrap();
        let note = Note::decode(&bytes).unwrap();
        assert_eq!((note.number, note.at), (0, at));
        assert_eq!(note.tallies[0].ended, [[7; 16]]);
        assert_eq!(
            note.entries,
            [Entry::Sent { record, sent }, Entry::Erased { record }]
        );
        // As version 2 wrote it: a literal, so that this cannot drift with the types above.
        let literal = [
            &[2, 24][..],
            b"1970-01-01T00:00:00.005Z",
            &[1, 0],
            &[7; 16],
            &[4],
        ]
        .concat();
        assert_eq!(Note::decode(&literal).unwrap().tallies, note.tallies);
    }
}
