//! Files attached to engagements: which a record names, and what is known of each.
//!
//! HubSpot's API reads one file at a time, so what was read is kept for a while, and a record gets a bounded number.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::event::{
    Attachment, EnrichmentPart, EnrichmentProblem, Millis, ProblemReason, SignedUrl,
};
use crate::hubspot::call::RecordRead;

use super::cache::{PROBLEM_TTL, Problem};
use super::request::Request;

/// The property that lists the files attached to an engagement.
pub const ATTACHMENTS_PROPERTY: &str = "hs_attachment_ids";
/// The most files read for one record; beyond, the message says `truncated`.
pub const ATTACHMENTS_MAX: usize = 20;
/// How long it is remembered what a file is.
const FILE_TTL: Duration = Duration::from_secs(3_600);
/// A signed URL is used again for this long, however short its life, and then for the first half of its life.
const SIGNED_URL_AGE_MIN: Duration = Duration::from_secs(60);
/// Files remembered of one portal; the oldest go first.
const FILES_CAPACITY: usize = 10_000;

/// What is read of attached files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// What they are.
    Metadata,
    /// That, and a URL to fetch each one by that is not public.
    SignedUrls,
}

/// The files of one portal that were asked for.
#[derive(Debug, Default)]
pub struct Files {
    known: HashMap<String, Known>,
    /// The same, the oldest first.
    order: VecDeque<String>,
    asked: BTreeSet<String>,
    asked_to_sign: BTreeSet<String>,
}

#[derive(Debug)]
struct Known {
    /// `None`: HubSpot has no such file.
    file: Result<Option<Attachment>, Problem>,
    read_at: Millis,
    signed: Option<Signed>,
}

#[derive(Debug)]
struct Signed {
    url: Result<Option<SignedUrl>, Problem>,
    read_at: Millis,
}

/// The files that a record names, each once, in its order.
pub fn ids(record: &RecordRead) -> Vec<String> {
    let listed = record.properties.get(ATTACHMENTS_PROPERTY);
    let mut ids: Vec<String> = Vec::new();
    for id in listed.into_iter().flat_map(|list| list.split(';')) {
        let id = id.trim();
        if !id.is_empty() && !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    ids
}

impl Files {
    /// What to ask for so that all of `ids` are known, and whether any is not known yet.
    pub fn lack(&mut self, ids: &[String], reads: Reads, now: Millis) -> (Vec<Request>, bool) {
        let (mut requests, mut lacks) = (Vec::new(), false);
        for id in ids.iter().take(ATTACHMENTS_MAX) {
            let known = self.known.get(id).filter(|known| known.is_fresh(now));
            let Some(known) = known else {
                lacks = true;
                if self.asked.insert(id.clone()) {
                    requests.push(Request::File(id.clone()));
                }
                continue;
            };
            if reads == Reads::SignedUrls && known.lacks_signature(now) {
                lacks = true;
                if self.asked_to_sign.insert(id.clone()) {
                    requests.push(Request::SignFile(id.clone()));
                }
            }
        }
        (requests, lacks)
    }

    /// What came of asking what a file is.
    pub fn read(&mut self, id: String, file: Result<Option<Attachment>, Problem>, now: Millis) {
        self.asked.remove(&id);
        let known = Known {
            file,
            read_at: now,
            signed: None,
        };
        if self.known.insert(id.clone(), known).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > FILES_CAPACITY {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    /// What came of asking for a signed URL.
    pub fn signed(&mut self, id: &str, url: Result<Option<SignedUrl>, Problem>, now: Millis) {
        self.asked_to_sign.remove(id);
        if let Some(known) = self.known.get_mut(id) {
            known.signed = Some(Signed { url, read_at: now });
        }
    }

    /// The attachments of a record that names `ids`, and what is missing of them. A file that could not be read stands
    /// there by its id.
    pub fn attach(
        &self,
        ids: &[String],
        reads: Reads,
    ) -> (Vec<Attachment>, Vec<EnrichmentProblem>) {
        let mut problems = Vec::new();
        let mut note = |problem| {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        };
        let mut attachments = Vec::new();
        for id in ids.iter().take(ATTACHMENTS_MAX) {
            let known = self.known.get(id);
            match known.map(|known| &known.file) {
                Some(Ok(Some(file))) => attachments.push(file.clone()),
                Some(Ok(None)) | None => {
                    attachments.push(bare(id));
                    note(problem(ProblemReason::NotFound, &[]));
                }
                Some(Err(why)) => {
                    attachments.push(bare(id));
                    note(problem(why.reason, &why.missing_scopes));
                }
            }
            let signed = known.and_then(|known| known.signed.as_ref());
            if let (Reads::SignedUrls, Some(signed), Some(last)) =
                (reads, signed, attachments.last_mut())
            {
                match &signed.url {
                    Ok(url) => last.signed_url.clone_from(url),
                    Err(why) => note(problem(why.reason, &why.missing_scopes)),
                }
            }
        }
        if ids.len() > ATTACHMENTS_MAX {
            note(problem(ProblemReason::Truncated, &[]));
        }
        (attachments, problems)
    }
}

impl Known {
    fn is_fresh(&self, now: Millis) -> bool {
        now.since(self.read_at) < ttl(self.file.is_ok())
    }

    fn lacks_signature(&self, now: Millis) -> bool {
        let Ok(Some(file)) = &self.file else {
            return false;
        };
        !file.is_public()
            && !self
                .signed
                .as_ref()
                .is_some_and(|signed| signed.is_fresh(now))
    }
}

impl Signed {
    fn is_fresh(&self, now: Millis) -> bool {
        let age = now.since(self.read_at);
        let lasts = match &self.url {
            Ok(Some(SignedUrl {
                expires_at: Some(at),
                ..
            })) => at.since(self.read_at) / 2,
            Ok(_) => Duration::ZERO,
            Err(_) => ttl(false),
        };
        age < lasts.max(SIGNED_URL_AGE_MIN)
    }
}

fn ttl(is_ok: bool) -> Duration {
    if is_ok { FILE_TTL } else { PROBLEM_TTL }
}

fn bare(id: &str) -> Attachment {
    Attachment {
        id: id.to_owned(),
        name: None,
        extension: None,
        r#type: None,
        size: None,
        access: None,
        url: None,
        signed_url: None,
    }
}

fn problem(reason: ProblemReason, missing_scopes: &[String]) -> EnrichmentProblem {
    EnrichmentProblem {
        part: EnrichmentPart::Attachments,
        reason,
        object_type: None,
        missing_scopes: missing_scopes.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn at(seconds: u64) -> Millis {
        Millis::new(0).unwrap().after(Duration::from_secs(seconds))
    }

    fn file(id: &str, access: &str) -> Attachment {
        Attachment {
            access: Some(access.to_owned()),
            ..bare(id)
        }
    }

    fn signed(until: u64) -> Option<SignedUrl> {
        Some(SignedUrl {
            url: "https://x".to_owned(),
            expires_at: Some(at(until)),
        })
    }

    fn names(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|&id| id.to_owned()).collect()
    }

    #[test]
    fn a_record_names_each_file_once() {
        let record = RecordRead {
            id: "1".into(),
            properties: BTreeMap::from([(ATTACHMENTS_PROPERTY.to_owned(), "7; 8;;7".to_owned())]),
            created_at: None,
            updated_at: None,
            archived: false,
            history: BTreeMap::new(),
        };
        assert_eq!(ids(&record), ["7", "8"]);
    }

    #[test]
    fn a_file_is_asked_for_once_and_again_when_it_is_old() {
        let (mut files, wanted) = (Files::default(), names(&["7"]));
        let (asked, lacks) = files.lack(&wanted, Reads::Metadata, at(0));
        assert_eq!((asked, lacks), (vec![Request::File("7".into())], true));
        let (asked, lacks) = files.lack(&wanted, Reads::Metadata, at(1));
        assert_eq!((asked, lacks), (vec![], true), "it is on its way");
        files.read("7".into(), Ok(Some(file("7", "PRIVATE"))), at(1));
        assert!(!files.lack(&wanted, Reads::Metadata, at(3_600)).1);
        assert!(files.lack(&wanted, Reads::Metadata, at(3_601)).1);
    }

    #[test]
    fn only_files_that_are_not_public_are_signed_and_only_while_the_url_lives() {
        let (mut files, wanted) = (Files::default(), names(&["7", "8"]));
        files.read("7".into(), Ok(Some(file("7", "HIDDEN_PRIVATE"))), at(0));
        files.read("8".into(), Ok(Some(file("8", "PUBLIC_INDEXABLE"))), at(0));
        let (asked, _) = files.lack(&wanted, Reads::SignedUrls, at(0));
        assert_eq!(asked, [Request::SignFile("7".into())]);
        files.signed("7", Ok(signed(600)), at(0));
        let (attached, problems) = files.attach(&wanted, Reads::SignedUrls);
        assert_eq!(attached[0].signed_url, signed(600));
        assert_eq!((&attached[1].signed_url, problems.len()), (&None, 0));
        assert_eq!(files.attach(&wanted, Reads::Metadata).0[0].signed_url, None);
        assert!(!files.lack(&wanted, Reads::SignedUrls, at(299)).1);
        assert!(files.lack(&wanted, Reads::SignedUrls, at(300)).1);
    }

    #[test]
    fn what_could_not_be_read_stands_by_its_id_and_the_bound_is_told() {
        let mut files = Files::default();
        let wanted: Vec<String> = (0..=ATTACHMENTS_MAX).map(|id| id.to_string()).collect();
        let forbidden = Problem {
            reason: ProblemReason::Forbidden,
            missing_scopes: names(&["files"]),
        };
        let (asked, _) = files.lack(&wanted, Reads::Metadata, at(0));
        assert_eq!(asked.len(), ATTACHMENTS_MAX);
        for id in &wanted[..ATTACHMENTS_MAX] {
            let outcome = match id.as_str() {
                "0" => Ok(None),
                "1" | "2" => Err(forbidden.clone()),
                _ => Ok(Some(file(id, "PRIVATE"))),
            };
            files.read(id.clone(), outcome, at(0));
        }
        let (attached, problems) = files.attach(&wanted, Reads::Metadata);
        assert_eq!(attached.len(), ATTACHMENTS_MAX);
        assert_eq!((&attached[1].access, attached[1].id.as_str()), (&None, "1"));
        let expected = [
            problem(ProblemReason::NotFound, &[]),
            problem(ProblemReason::Forbidden, &names(&["files"])),
            problem(ProblemReason::Truncated, &[]),
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn no_more_files_are_remembered_than_the_bound() {
        let mut files = Files::default();
        for id in 0..=FILES_CAPACITY {
            files.read(id.to_string(), Ok(None), at(0));
        }
        assert_eq!(files.known.len(), FILES_CAPACITY);
        assert!(!files.known.contains_key("0"));
    }
}
