//! One look at the folder: what came, what changed, what went.
//!
//! Whatever is wrong with a file concerns its portal alone, and leaves the portal as it was; one that is wrong from the
//! start on makes a portal whose events are kept. A file must be missing
//! twice before its portal is gone, since some editors remove a file for a moment; and where all files are gone at
//! once the folder is taken for one that is not mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::folder::{Fingerprint, Folder, has_plain_token};
use super::{Portals, settings_of};
use crate::event::{Millis, PortalId};

/// A file that changed less than so many seconds ago is read again at the next look: times have a grain.
const GRAIN_S: i64 = 3;

/// What the folder held when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct Looked {
    files: BTreeMap<PortalId, Known>,
    /// What is found from now on is news.
    begun: bool,
    /// Said once.
    strangers: BTreeSet<OsString>,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Known {
    fingerprint: Fingerprint,
    /// It was so young that its fingerprint may hide a change.
    young: bool,
    /// It was not there at the last look.
    missing: bool,
    /// Why it is not used as it is.
    problem: Option<String>,
}

impl Looked {
    /// The portals that have a file.
    pub(super) fn portals(&self) -> impl Iterator<Item = &PortalId> {
        self.files.keys()
    }

    /// What is wrong with a portal's file, if it has one.
    pub(super) fn problem(&self, id: &PortalId) -> Option<Option<String>> {
        self.files.get(id).map(|known| known.problem.clone())
    }

    /// Forgets a portal. Whether it was known.
    pub(super) fn forget(&mut self, id: &PortalId) -> bool {
        self.files.remove(id).is_some()
    }

    /// Whether a file with this fingerprint is to be read.
    fn is_news(&self, id: &PortalId, fingerprint: Fingerprint) -> bool {
        let known = self.files.get(id);
        known.is_none_or(|known| known.young || known.fingerprint != fingerprint)
    }

    /// Portals whose files are missing for the second time.
    fn gone(&mut self, listed: &BTreeSet<&PortalId>) -> Vec<PortalId> {
        let missing = self.files.iter_mut().filter(|(id, _)| !listed.contains(id));
        missing
            .filter_map(|(id, known)| {
                std::mem::replace(&mut known.missing, true).then(|| id.clone())
            })
            .collect()
    }
}

impl Portals {
    /// Looks at the whole folder, and brings the gauges up to date. Blocks.
    pub(super) fn look(&self) {
        if let Some(folder) = &self.folder {
            self.look_into(folder);
        }
        self.tokens.report();
    }

    /// Looks at the file of one portal, which was just written.
    pub(super) fn look_at(&self, id: &PortalId) {
        let Some(folder) = &self.folder else { return };
        if let Ok(Some(fingerprint)) = folder.fingerprint(id) {
            self.read(folder, &mut self.looked(), id, fingerprint);
        }
        self.tokens.report();
    }

    fn look_into(&self, folder: &Folder) {
        let looked = &mut *self.looked();
        let listing = match folder.list() {
            Ok(listing) if listing.portals.is_empty() && looked.files.len() > 1 => {
                let path: &std::path::Path = folder.as_ref();
                let trouble = format!(
                    "all files are gone from portals.folder, {}, at once: it is taken for not mounted, and the portals stay; remove portals one by one, or start again",
                    path.display()
                );
                return looked.in_trouble(trouble);
            }
            Ok(listing) => listing,
            Err(error) => {
                let trouble = format!("{error}; the portals stay as they were");
                return looked.in_trouble(trouble);
            }
        };
        if looked.trouble.take().is_some() {
            tracing::info!("portals.folder is there again");
        }
        for stranger in listing.strangers {
            if looked.strangers.insert(stranger.clone()) {
                tracing::warn!(file = ?stranger, "a file in portals.folder is not used: its name is no portal's id, such as 8241.toml");
            }
        }
        for (id, fingerprint) in &listing.portals {
            if looked.is_news(id, *fingerprint) {
                self.read(folder, looked, id, *fingerprint);
            } else if let Some(known) = looked.files.get_mut(id) {
                known.missing = false;
            }
        }
        let listed = listing.portals.iter().map(|(id, _)| id).collect();
        for id in looked.gone(&listed) {
            looked.forget(&id);
            if !self.configured.contains(&id) {
                self.tokens.remove(&id);
                tracing::info!(portal.id = %id, "the portal was removed");
            }
        }
        if !std::mem::replace(&mut looked.begun, true) {
            tracing::info!(portals = looked.files.len(), "portals.folder was read");
        }
        let unreadable = looked
            .files
            .values()
            .filter(|known| known.problem.is_some());
        let unreadable = i64::try_from(unreadable.count()).unwrap_or(i64::MAX);
        self.metrics.portals_unreadable_files.set(unreadable);
    }

    fn read(&self, folder: &Folder, looked: &mut Looked, id: &PortalId, fingerprint: Fingerprint) {
        let known = looked.files.get(id);
        // A young file is read once more, and has most likely not changed: that is no news.
        let is_repeat = known.is_some_and(|known| known.fingerprint == fingerprint);
        let problem = match self.apply(folder, id, is_repeat) {
            Ok(Some(change)) if looked.begun => {
                tracing::info!(portal.id = %id, "the portal was {change}");
                None
            }
            Ok(_) => None,
            Err(problem) => {
                // At a start there is no last good state: the portal is known all the same, so that its events are kept.
                self.tokens.set_unreadable(id, &problem);
                Some(problem)
            }
        };
        let is_news = known.is_none_or(|known| known.problem != problem || !is_repeat);
        if let Some(problem) = problem.as_ref().filter(|_| is_news) {
            tracing::error!(portal.id = %id, "the file of a portal cannot be used, and the portal stays as it was: {problem}");
        }
        let now_s = Millis::now().as_i64() / 1_000;
        let known = Known {
            fingerprint,
            young: fingerprint.is_younger_than(now_s - GRAIN_S),
            missing: false,
            problem,
        };
        looked.files.insert(id.clone(), known);
    }

    /// Puts in force what a portal's file says.
    /// What became of it, if it is not as it was.
    fn apply(
        &self,
        folder: &Folder,
        id: &PortalId,
        is_repeat: bool,
    ) -> Result<Option<&'static str>, String> {
        if self.configured.contains(id) {
            return Err(format!(
                "portal {id} stands in the configuration file, and this file is not used; leave one of the two out"
            ));
        }
        let file = folder.file(id);
        let in_file = |error: String| format!("{}: {error}", file.display());
        let Some(written) = folder.read(id).map_err(|error| error.to_string())? else {
            // It went between the look and the reading.
            return Ok(None);
        };
        let keep = Some(Self::keep(folder));
        let settings = settings_of(id.as_str(), &written, &self.apps, folder.keys(), keep)
            .map_err(|error| in_file(error.told()))?;
        let before = self.tokens.status(id);
        let is_changed = self
            .tokens
            .set(id, settings)
            .map_err(|error| in_file(error.to_string()))?;
        if has_plain_token(&written) && !is_repeat {
            tracing::warn!(portal.id = %id, file = %file.display(), "a token stands in the file as plain text; `crm-relay portals seal` seals it");
        }
        if !is_changed && !is_repeat {
            // The same was written once more.
            self.tokens.retry(id);
        }
        Ok(is_changed.then_some(match before {
            None => "added",
            Some(before) if !before.paused && written.paused => "paused",
            Some(before) if before.paused && !written.paused => "resumed",
            Some(_) => "changed",
        }))
    }
}

impl Looked {
    /// Says so once.
    fn in_trouble(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::error!("{trouble}");
            self.trouble = Some(trouble);
        }
    }
}
