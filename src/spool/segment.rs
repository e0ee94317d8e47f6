//! One file of the spool: its name, and the records in it. Pure.
//!
//! A file is written from front to end, once, and never changed. Each record stands for itself:
//!
//! | bytes | |
//! |---|---|
//! | 8 | the file's mark |
//! | 4 | length of the content, big-endian |
//! | 16 | the first half of the SHA-256 of mark, length and content |
//! | length | the content: [`Content`] in postcard |
//!
//! So damage costs the records it touches and no other: behind it reading goes on at the next mark. The mark
//! is random and stands in the file's name alone. Nobody who sends us content knows it, so no content that
//! lies within a damaged record can pass for a record.
//!
//! Records are numbered without a gap, and the name has the number of the first, so it is known how many
//! are missing.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::bus::{Message, Outgoing, Target};
use crate::event::Millis;

/// Ends the names of files in the form told above.
const SUFFIX: &str = ".v1.spool";
/// Ends the names of files of any form.
const ANY_SUFFIX: &str = ".spool";
/// Ends the names of files that are kept because they are damaged.
const DAMAGED_SUFFIX: &str = ".damaged";
const MARK_BYTES: usize = 8;
const LENGTH_BYTES: usize = 4;
const DIGEST_BYTES: usize = 16;
/// Numbers of files and records are smaller: at a million a second that is nine years. A larger one is damage, or somebody's
/// prank, and would leave no number for the next.
const NUMBER_MAX: u64 = 1 << 48;
/// What a record has beside its content, in bytes.
const HEAD_BYTES: usize = MARK_BYTES + LENGTH_BYTES + DIGEST_BYTES;

/// What a file of the spool is called: `<number>-<first>-<created>-<mark>.v1.spool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Rises from file to file.
    pub(super) number: u64,
    /// The sequence number of its first record.
    pub(super) first: u64,
    /// When its first record came.
    pub(super) created: Millis,
    /// Begins each of its records.
    pub(super) mark: [u8; MARK_BYTES],
}

/// What a file in the spool's folder is, by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Messages that wait.
    Segment(Name),
    /// Kept because it was damaged; what was intact in it is delivered.
    Damaged(Name),
    /// Of a form that a later version of the program writes.
    Newer,
    /// None of ours.
    Other,
}

impl Name {
    /// What it is called once it is set apart.
    pub(super) fn damaged(&self) -> String {
        format!("{self}{DAMAGED_SUFFIX}")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            first,
            created,
            ..
        } = self;
        let mark = hex::encode(self.mark);
        write!(
            f,
            "{number:010}-{first}-{}-{mark}{SUFFIX}",
            created.as_i64()
        )
    }
}

impl Kind {
    /// Reads a file's name.
    pub(super) fn of(name: &str) -> Self {
        if let Some(name) = name.strip_suffix(DAMAGED_SUFFIX).and_then(parse) {
            return Self::Damaged(name);
        }
        match parse(name) {
            Some(name) => Self::Segment(name),
            None if name.ends_with(ANY_SUFFIX) => Self::Newer,
            None => Self::Other,
        }
    }
}

fn parse(text: &str) -> Option<Name> {
    let mut parts = text.strip_suffix(SUFFIX)?.split('-');
    let number = parts.next()?.parse().ok()?;
    let first = parts.next()?.parse().ok()?;
    if number >= NUMBER_MAX || first >= NUMBER_MAX {
        return None;
    }
    let created = Millis::new(parts.next()?.parse().ok()?)?;
    let mut mark = [0; MARK_BYTES];
    hex::decode_to_slice(parts.next()?, &mut mark).ok()?;
    let name = Name {
        number,
        first,
        created,
        mark,
    };
    // Of the same numbers there is one name, or a file would not be found by it.
    (name.to_string() == text).then_some(name)
}

/// What a record holds. A new form gets a new suffix.
#[derive(Serialize, Deserialize)]
struct Content<'a> {
    seq: u64,
    target: SpooledTarget<'a>,
    id: Cow<'a, str>,
    content_type: Cow<'a, str>,
    kind: Cow<'a, str>,
    body: Bytes,
}

/// Where the receiver publishes to.
#[derive(Serialize, Deserialize)]
enum SpooledTarget<'a> {
    Partition(u16),
    DeadLetters(Cow<'a, str>),
}

/// Whether a message may be spooled: the receiver's two targets.
pub(super) fn takes(target: &Target) -> bool {
    matches!(target, Target::Partition(_) | Target::DeadLetters(_))
}

/// The record of a message.
///
/// # Panics
/// For a target that [`takes`] refuses, and for a message of 4 GiB.
pub(super) fn encode(mark: [u8; MARK_BYTES], seq: u64, outgoing: &Outgoing) -> Vec<u8> {
    let target = match &outgoing.target {
        Target::Partition(number) => SpooledTarget::Partition(*number),
        Target::DeadLetters(key) => SpooledTarget::DeadLetters(key.into()),
        other => unreachable!("the receiver does not publish to {other:?}"),
    };
    let message = &outgoing.message;
    let content = Content {
        seq,
        target,
        id: Cow::Borrowed(&message.id),
        content_type: Cow::Borrowed(&message.content_type),
        kind: Cow::Borrowed(&message.kind),
        body: message.body.clone(),
    };
    let mut record = Vec::with_capacity(HEAD_BYTES + message.body.len() + 256);
    record.extend(mark);
    record.extend([0; LENGTH_BYTES + DIGEST_BYTES]);
    let mut record = postcard::to_extend(&content, record).expect("it encodes into memory");
    let length = u32::try_from(record.len() - HEAD_BYTES).expect("a message is smaller");
    let length = length.to_be_bytes();
    let digest = digest(mark, length, &record[HEAD_BYTES..]);
    record[MARK_BYTES..][..LENGTH_BYTES].copy_from_slice(&length);
    record[MARK_BYTES + LENGTH_BYTES..HEAD_BYTES].copy_from_slice(&digest);
    record
}

fn digest(
    mark: [u8; MARK_BYTES],
    length: [u8; LENGTH_BYTES],
    content: &[u8],
) -> [u8; DIGEST_BYTES] {
    let mut hasher = Sha256::new();
    hasher.update(mark);
    hasher.update(length);
    hasher.update(content);
    let whole = hasher.finalize();
    *whole.first_chunk().expect("SHA-256 has 32 bytes")
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Sequence number and message of each intact record, in order.
    pub(super) records: Vec<(u64, Outgoing)>,
    /// How many bytes come behind the last of them.
    pub(super) tail_bytes: usize,
}

impl Read {
    /// The sequence number after the last intact record; `first` when there is none.
    pub(super) fn end(&self, first: u64) -> u64 {
        self.records.last().map_or(first, |(seq, _)| seq + 1)
    }

    /// How many records are missing of those from `first` to before `end`.
    pub(super) fn missing(&self, first: u64, end: u64) -> u64 {
        let seqs = self.records.iter().map(|(seq, _)| *seq);
        let there = seqs.filter(|seq| (first..end).contains(seq)).count();
        end.saturating_sub(first) - there as u64
    }
}

/// Reads a file of the name `name`.
pub(super) fn read(name: &Name, file: &[u8]) -> Read {
    let mut read = Read::default();
    let mut rest = file;
    while !rest.is_empty() {
        let due = read.end(name.first);
        if let Some((seq, outgoing, length)) = decode(name.mark, rest, due) {
            read.records.push((seq, outgoing));
            read.tail_bytes = 0;
            rest = &rest[length..];
        } else {
            let skipped = next_mark(name.mark, rest);
            read.tail_bytes += skipped;
            rest = &rest[skipped..];
        }
    }
    read
}

/// The record that `bytes` begins with, and its length. Its number is `due` or, behind damage, larger.
fn decode(mark: [u8; MARK_BYTES], bytes: &[u8], due: u64) -> Option<(u64, Outgoing, usize)> {
    let rest = bytes.strip_prefix(&mark)?;
    let (length, rest) = rest.split_first_chunk::<LENGTH_BYTES>()?;
    let (expected, rest) = rest.split_first_chunk::<DIGEST_BYTES>()?;
    let content_bytes = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let content = rest.get(..content_bytes)?;
    if digest(mark, *length, content) != *expected {
        return None;
    }
    let content: Content<'_> = postcard::from_bytes(content).ok()?;
    let target = match content.target {
        SpooledTarget::Partition(number) => Target::Partition(number),
        SpooledTarget::DeadLetters(key) => Target::DeadLetters(key.into_owned()),
    };
    let message = Message {
        id: content.id.into_owned(),
        content_type: content.content_type.into_owned(),
        kind: content.kind.into_owned(),
        headers: Vec::new(),
        body: content.body,
    };
    let outgoing = Outgoing { target, message };
    (due..NUMBER_MAX).contains(&content.seq).then_some((
        content.seq,
        outgoing,
        HEAD_BYTES + content_bytes,
    ))
}

/// How far it is to the next mark after the first byte, or to the end.
fn next_mark(mark: [u8; MARK_BYTES], bytes: &[u8]) -> usize {
    let behind = bytes.get(1..).unwrap_or_default();
    let place = behind.windows(MARK_BYTES).position(|window| window == mark);
    place.map_or(bytes.len(), |place| place + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARK: [u8; MARK_BYTES] = *b"\x01markers";

    fn name() -> Name {
        Name {
            number: 3,
            first: 40,
            created: Millis::new(1_795_428_000_123).unwrap(),
            mark: MARK,
        }
    }

    fn outgoing(body: &[u8]) -> Outgoing {
        Outgoing {
            target: Target::Partition(7),
            message: Message {
                id: "an id".to_owned(),
                content_type: "application/json".to_owned(),
                kind: "crm.batch.v1".to_owned(),
                headers: Vec::new(),
                body: Bytes::copy_from_slice(body),
            },
        }
    }

    fn file(bodies: &[Vec<u8>]) -> Vec<u8> {
        let numbered = (name().first..).zip(bodies);
        let records = numbered.map(|(seq, body)| encode(MARK, seq, &outgoing(body)));
        records.flatten().collect()
    }

    fn bodies(read: &Read) -> Vec<&[u8]> {
        let records = read.records.iter();
        records.map(|(_, one)| &one.message.body[..]).collect()
    }

    #[test]
    fn a_name_is_read_back_and_others_are_told_apart() {
        let text = name().to_string();
        assert_eq!(
            text,
            "0000000003-40-1795428000123-016d61726b657273.v1.spool"
        );
        assert_eq!(Kind::of(&text), Kind::Segment(name()));
        assert_eq!(Kind::of(&name().damaged()), Kind::Damaged(name()));
        assert_eq!(Kind::of("0000000003-40.v2.spool"), Kind::Newer);
        for number in [NUMBER_MAX, u64::MAX] {
            let huge = Name { number, ..name() };
            assert_eq!(Kind::of(&huge.to_string()), Kind::Newer);
        }
        let misspelt = text.replace("0000000003", "03");
        assert_eq!(Kind::of(&misspelt), Kind::Newer);
        for other in ["lock", "", "0000000003-40-1-016d61726b657273.v1.txt"] {
            assert_eq!(Kind::of(other), Kind::Other, "{other}");
        }
    }

    #[test]
    fn a_record_whose_number_leaves_no_next_is_damage() {
        let file = [
            encode(MARK, u64::MAX, &outgoing(b"the last")),
            encode(MARK, 40, &outgoing(b"an honest one")),
        ];
        let read = read(&name(), &file.concat());
        assert_eq!(bodies(&read), [b"an honest one"]);
    }

    #[test]
    fn either_target_comes_back_whole() {
        let batch = outgoing(b"{}");
        let letter = Outgoing {
            target: Target::DeadLetters("normalize.unreadable".to_owned()),
            ..outgoing(&[0, 255])
        };
        let file = [encode(MARK, 40, &batch), encode(MARK, 41, &letter)].concat();
        let read = read(&name(), &file);
        for ((_, found), put) in read.records.iter().zip([batch, letter]) {
            assert_eq!(found.target, put.target);
            assert_eq!(found.message, put.message);
        }
        assert_eq!((read.records.len(), read.tail_bytes), (2, 0));
    }

    #[test]
    fn a_record_within_a_damaged_one_is_none() {
        // Somebody who knows everything but the mark sends a record as content.
        let forged = encode(*b"guessed!", 40, &outgoing(b"forged"));
        let mut file = file(&[forged, b"next".to_vec()]);
        file[MARK_BYTES] ^= 1;
        let read = read(&name(), &file);
        assert_eq!(bodies(&read), [b"next"]);
        assert_eq!(read.missing(40, 42), 1);
    }

    proptest! {
        #[test]
        fn a_damaged_byte_costs_its_record_and_no_other(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6),
            place in any::<prop::sample::Index>(),
            flip in 1_u8..,
        ) {
            let mut damaged = file(&contents);
            let place = place.index(damaged.len());
            damaged[place] ^= flip;
            let mut end = 0;
            let hit = contents.iter().position(|body| {
                end += file(std::slice::from_ref(body)).len();
                place < end
            });
            let mut left: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
            left.remove(hit.unwrap());
            let read = read(&name(), &damaged);
            prop_assert_eq!(bodies(&read), left);
            prop_assert_eq!(read.missing(40, 40 + contents.len() as u64), 1);
        }

        #[test]
        fn a_file_cut_off_anywhere_keeps_what_is_whole(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = file(&contents);
            let cut = cut.index(whole.len());
            let read = read(&name(), &whole[..cut]);
            let kept = bodies(&read).len();
            prop_assert_eq!(bodies(&read), contents[..kept].iter().collect::<Vec<_>>());
            prop_assert_eq!(file(&contents[..kept]).len() + read.tail_bytes, cut);
            prop_assert!(file(&contents[..=kept]).len() > cut, "a whole record was not read");
        }

        #[test]
        fn no_bytes_whatever_are_a_record_by_chance(noise in prop::collection::vec(any::<u8>(), 0..400)) {
            let read = read(&name(), &noise);
            prop_assert!(read.records.is_empty());
            prop_assert_eq!(read.tail_bytes, noise.len());
        }
    }
}
