//! The folder of portals: one file `<portal id>.toml` each, with the keys of a `[portal.<id>]`.
//!
//! What is written here is sealed, whole or not at all (a new file is renamed over the old one), and survives a
//! crash. Several processes may share a folder: whoever writes holds `.lock` meanwhile. Names that begin with a dot
//! are nobody's portal, which leaves Kubernetes' own links in a mounted secret alone.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use zeroize::Zeroizing;

use super::seal::{Place, SealError, SealingKeys};
use super::settings::{ACCESS_TOKEN, REFRESH_TOKEN};
use crate::config::{self, ConfigError, PortalConfig, Secret};
use crate::event::PortalId;

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// The most portals that a folder may hold.
pub const PORTALS_MAX: usize = 100_000;
/// What whoever writes has locked.
const LOCK: &str = ".lock";
const EXTENSION: &str = ".toml";
/// The first line of what we write.
const HEADING: &str = "# Written by crm-relay; tokens are sealed for this portal alone.\n";

/// A folder of portals.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    keys: SealingKeys,
}

/// By what a file that changed is told from one that did not, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    file: (u64, u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Portals with a file.
    pub portals: Vec<(PortalId, Fingerprint)>,
    /// Files that end in `.toml` and whose names are no portal's id.
    pub strangers: Vec<OsString>,
}

/// Why a file of the folder cannot be used or written. No variant tells a token.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It cannot be listed.
    #[error("portals.folder, {}, cannot be read: {source}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many.
    #[error("portals.folder holds more than {PORTALS_MAX} portals")]
    TooMany,
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too large.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    /// It is not what a file of a portal looks like.
    #[error(transparent)]
    Form(#[from] ConfigError),
    /// It cannot be written or removed.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A token cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// A file as it is written. A `PortalConfig` would show no secret, not even a sealed one.
#[derive(Serialize)]
struct Written<'w> {
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'w str>,
    paused: bool,
}

impl Folder {
    /// The folder at `path`, which is neither read nor made yet.
    #[must_use]
    pub fn new(path: PathBuf, keys: SealingKeys) -> Self {
        Self { path, keys }
    }

    /// The keys that its tokens are sealed by.
    #[must_use]
    pub fn keys(&self) -> &SealingKeys {
        &self.keys
    }

    /// Where a portal's file is, or would be.
    #[must_use]
    pub fn file(&self, portal_id: &PortalId) -> PathBuf {
        self.path.join(format!("{portal_id}{EXTENSION}"))
    }

    /// What is in it, by looking at names and times alone.
    ///
    /// # Errors
    /// [`FolderError::List`] and [`FolderError::TooMany`].
    pub fn list(&self) -> Result<Listing, FolderError> {
        let failed = |source| FolderError::List {
            path: self.path.clone(),
            source,
        };
        let mut listing = Listing::default();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(EXTENSION)) else {
                continue;
            };
            if stem.starts_with('.') {
                continue;
            }
            if !config::is_portal_id(stem) {
                listing.strangers.push(name);
                continue;
            }
            let portal_id = PortalId::from(stem);
            match self.fingerprint(&portal_id) {
                Ok(Some(fingerprint)) => listing.portals.push((portal_id, fingerprint)),
                Ok(None) => {}
                Err(source) => return Err(failed(source)),
            }
            if listing.portals.len() > PORTALS_MAX {
                return Err(FolderError::TooMany);
            }
        }
        Ok(listing)
    }

    /// The fingerprint of a portal's file, following links; `None` when there is no file.
    ///
    /// # Errors
    /// What the file system says, but for its absence.
    pub fn fingerprint(&self, portal_id: &PortalId) -> io::Result<Option<Fingerprint>> {
        match fs::metadata(self.file(portal_id)) {
            Ok(metadata) => Ok(Some(Fingerprint::of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a portal's file says; `None` when there is no file.
    ///
    /// # Errors
    /// [`FolderError::Read`], [`FolderError::TooLarge`] and [`FolderError::Form`].
    pub fn read(&self, portal_id: &PortalId) -> Result<Option<PortalConfig>, FolderError> {
        let path = self.file(portal_id);
        let mut text = Zeroizing::new(String::new());
        let read = File::open(&path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FolderError::Read { path, source }),
            Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => Err(FolderError::TooLarge(path)),
            Ok(_) => Ok(Some(config::portal_of(&path, &text)?)),
        }
    }

    /// Writes a portal's file, with what is a token sealed.
    ///
    /// # Errors
    /// [`FolderError::Write`] and [`FolderError::Seal`].
    pub fn write(&self, portal_id: &PortalId, portal: &PortalConfig) -> Result<(), FolderError> {
        let _lock = self.lock(portal_id)?;
        self.put(portal_id, portal)
    }

    /// Changes a portal's file by what it says now; `change` says whether there is anything to write. Nobody else
    /// who goes by the lock writes in between. Whether there is such a file.
    ///
    /// # Errors
    /// Those of [`Self::read`] and [`Self::write`].
    pub fn change(
        &self,
        portal_id: &PortalId,
        change: impl FnOnce(&mut PortalConfig) -> bool,
    ) -> Result<bool, FolderError> {
        let _lock = self.lock(portal_id)?;
        let Some(mut portal) = self.read(portal_id)? else {
            return Ok(false);
        };
        if change(&mut portal) {
            self.put(portal_id, &portal)?;
        }
        Ok(true)
    }

    /// Removes a portal's file. Whether there was one.
    ///
    /// # Errors
    /// [`FolderError::Write`].
    pub fn remove(&self, portal_id: &PortalId) -> Result<bool, FolderError> {
        let _lock = self.lock(portal_id)?;
        match fs::remove_file(self.file(portal_id)) {
            Ok(()) => self.sync(portal_id).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.failed(portal_id, source)),
        }
    }

    /// Puts `given` where `used` stands. A file that says something else by now was changed by somebody who
    /// knows better, and stays.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub fn replace_refresh_token(
        &self,
        portal_id: &PortalId,
        used: &SecretString,
        given: &SecretString,
    ) -> Result<(), FolderError> {
        let place = Place {
            portal: portal_id.as_str(),
            key: REFRESH_TOKEN,
        };
        self.change(portal_id, |portal| {
            let stands = portal.refresh_token.as_ref();
            let replace = stands.is_some_and(|stands| {
                let text = stands.text().expose_secret();
                match self.keys.open(place, text) {
                    Ok(token) => token.expose_secret() == used.expose_secret(),
                    Err(_) => text.trim() == used.expose_secret(),
                }
            });
            if replace {
                portal.refresh_token = Some(Secret::new(given.expose_secret()));
            }
            replace
        })
        .map(|_| ())
    }

    /// Whether every token of the file is sealed by the first key, or a reference.
    #[must_use]
    pub fn is_sealed(&self, portal_id: &PortalId, portal: &PortalConfig) -> bool {
        tokens(portal).all(|(key, secret)| {
            let portal = portal_id.as_str();
            let place = Place { portal, key };
            secret.is_reference() || self.keys.is_current(place, secret.text().expose_secret())
        })
    }

    /// Opens what a file has sealed, so that it is sealed anew when it is written.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn unsealed(
        &self,
        portal_id: &PortalId,
        portal: &PortalConfig,
    ) -> Result<PortalConfig, SealError> {
        let open = |key, secret: &Option<Secret>| -> Result<Option<Secret>, SealError> {
            let Some(secret) = secret else {
                return Ok(None);
            };
            let text = secret.text().expose_secret();
            if !SealingKeys::is_sealed(text) {
                return Ok(Some(secret.clone()));
            }
            let portal = portal_id.as_str();
            let token = self.keys.open(Place { portal, key }, text)?;
            Ok(Some(Secret::new(token.expose_secret())))
        };
        Ok(PortalConfig {
            access_token: open(ACCESS_TOKEN, &portal.access_token)?,
            refresh_token: open(REFRESH_TOKEN, &portal.refresh_token)?,
            ..portal.clone()
        })
    }

    fn put(&self, portal_id: &PortalId, portal: &PortalConfig) -> Result<(), FolderError> {
        let sealed = |key, secret: &Option<Secret>| -> Result<Option<String>, SealError> {
            let Some(secret) = secret else {
                return Ok(None);
            };
            let text = secret.text().expose_secret();
            if SealingKeys::is_sealed(text) || secret.is_reference() {
                return Ok(Some(text.to_owned()));
            }
            let portal = portal_id.as_str();
            let token = text.trim().to_owned().into();
            self.keys.seal(Place { portal, key }, &token).map(Some)
        };
        let written = Written {
            access_token: sealed(ACCESS_TOKEN, &portal.access_token)?,
            refresh_token: sealed(REFRESH_TOKEN, &portal.refresh_token)?,
            app: portal.app.as_deref(),
            paused: portal.paused,
        };
        let text = toml::to_string(&written).expect("texts and a boolean are TOML");
        self.replace(portal_id, &(HEADING.to_owned() + &text))
            .map_err(|source| self.failed(portal_id, source))?;
        self.sync(portal_id)
    }

    fn replace(&self, portal_id: &PortalId, text: &str) -> io::Result<()> {
        // Only its owner may read it, unless the old file was more generous.
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        if let Ok(metadata) = fs::metadata(self.file(portal_id)) {
            file.as_file().set_permissions(metadata.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(self.file(portal_id))?;
        Ok(())
    }

    /// Names are durable as well.
    fn sync(&self, portal_id: &PortalId) -> Result<(), FolderError> {
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| self.failed(portal_id, source))
    }

    fn lock(&self, portal_id: &PortalId) -> Result<File, FolderError> {
        let mut options = File::options();
        let lock = options.create(true).truncate(false).write(true);
        let lock = lock.open(self.path.join(LOCK));
        let lock = lock.map_err(|source| self.failed(portal_id, source))?;
        // Where a file system has no locks, the last writer wins.
        let _ = lock.lock();
        Ok(lock)
    }

    fn failed(&self, portal_id: &PortalId, source: io::Error) -> FolderError {
        FolderError::Write {
            path: self.file(portal_id),
            source,
        }
    }
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino(), metadata.size()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file was changed after this time, in seconds since the Unix epoch. Another change may then hide
    /// behind the same times, which have a grain.
    #[must_use]
    pub fn is_younger_than(&self, epoch_s: i64) -> bool {
        self.modified.0.max(self.changed.0) > epoch_s
    }
}

/// Whether a file has a token that anybody can read who can read the file.
pub(super) fn has_plain_token(portal: &PortalConfig) -> bool {
    tokens(portal).any(|(_, secret)| {
        !secret.is_reference() && !SealingKeys::is_sealed(secret.text().expose_secret())
    })
}

fn tokens(portal: &PortalConfig) -> impl Iterator<Item = (&'static str, &Secret)> {
    let access = portal
        .access_token
        .as_ref()
        .map(|token| (ACCESS_TOKEN, token));
    let refresh = portal
        .refresh_token
        .as_ref()
        .map(|token| (REFRESH_TOKEN, token));
    access.into_iter().chain(refresh)
}

/// The folder's path, for messages.
impl AsRef<Path> for Folder {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let key = Secret::new(SealingKeys::new_key().expose_secret());
        let keys = SealingKeys::resolve(&[key]).unwrap();
        let folder = Folder::new(dir.path().to_owned(), keys);
        (dir, folder)
    }

    fn portal() -> PortalConfig {
        toml::from_str("refresh_token = 'na1-secret'\napp = 'main'\npaused = true").unwrap()
    }

    fn id() -> PortalId {
        PortalId::from("8241")
    }

    #[test]
    fn what_is_written_is_sealed_private_and_read_again() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, folder) = folder();
        folder.write(&id(), &portal()).unwrap();
        let text = fs::read_to_string(folder.file(&id())).unwrap();
        assert!(text.contains("refresh_token = \"sealed:"), "{text}");
        assert!(!text.contains("na1-secret"), "{text}");
        let mode = fs::metadata(folder.file(&id())).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);

        let read = folder.read(&id()).unwrap().unwrap();
        assert!(folder.is_sealed(&id(), &read) && !has_plain_token(&read));
        assert_eq!((read.app.as_deref(), read.paused), (Some("main"), true));
        let unsealed = folder.unsealed(&id(), &read).unwrap();
        let token = unsealed.refresh_token.unwrap();
        assert_eq!(token.text().expose_secret(), "na1-secret");
        assert!(folder.remove(&id()).unwrap() && !folder.remove(&id()).unwrap());
        assert!(folder.read(&id()).unwrap().is_none());
    }

    #[test]
    fn only_the_token_that_was_used_gives_way_to_another() {
        let (_dir, folder) = folder();
        let token = || {
            let read = folder.read(&id()).unwrap().unwrap();
            let read = folder.unsealed(&id(), &read).unwrap();
            read.refresh_token
                .unwrap()
                .text()
                .expose_secret()
                .to_owned()
        };
        let replace = |used: &str, given: &str| {
            let (used, given) = (used.to_owned().into(), given.to_owned().into());
            folder.replace_refresh_token(&id(), &used, &given).unwrap();
        };
        fs::write(folder.file(&id()), "refresh_token = 'one'").unwrap();
        replace("one", "two");
        assert_eq!(token(), "two", "though it was plain");
        replace("two", "three");
        replace("two", "late");
        assert_eq!(token(), "three");
        let text = fs::read_to_string(folder.file(&id())).unwrap();
        assert!(!text.contains("three"), "{text}");
    }

    #[test]
    fn portals_are_told_from_links_locks_and_strangers() {
        let (dir, folder) = folder();
        let path = dir.path();
        fs::create_dir(path.join("..2026_11_25")).unwrap();
        fs::write(path.join("..2026_11_25/8241.toml"), "access_token = 'x'").unwrap();
        std::os::unix::fs::symlink("..2026_11_25", path.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/8241.toml", path.join("8241.toml")).unwrap();
        for name in [".lock", ".tmpXyz.toml", "README.md", "acme.toml", "08.toml"] {
            fs::write(path.join(name), "").unwrap();
        }
        let mut listing = folder.list().unwrap();
        listing.strangers.sort();
        assert_eq!(listing.strangers, ["08.toml", "acme.toml"]);
        let (portal, before) = listing.portals[0].clone();
        assert_eq!((listing.portals.len(), portal.as_str()), (1, "8241"));

        // Kubernetes changes a secret by pointing `..data` at another folder.
        fs::create_dir(path.join("..2026_11_26")).unwrap();
        fs::write(path.join("..2026_11_26/8241.toml"), "access_token = 'y'").unwrap();
        std::os::unix::fs::symlink("..2026_11_26", path.join("..new")).unwrap();
        fs::rename(path.join("..new"), path.join("..data")).unwrap();
        assert_ne!(folder.list().unwrap().portals[0].1, before);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_by_place_and_without_its_token() {
        let (dir, folder) = folder();
        for text in [
            "refresh_token = na1-secret",
            "refesh_token = 'na1-secret'",
            "refresh_token = ['na1-secret']",
            "access_token = 'a'\npaused = 'na1-secret'",
        ] {
            fs::write(folder.file(&id()), text).unwrap();
            let error = folder.read(&id()).unwrap_err().to_string();
            assert!(error.contains("8241.toml"), "{error}");
            assert!(!error.contains("na1-secret"), "{error}");
        }
        fs::write(folder.file(&id()), "#".repeat(70_000)).unwrap();
        let error = folder.read(&id()).unwrap_err();
        assert!(matches!(error, FolderError::TooLarge(_)), "{error}");
        drop(dir);
        assert!(matches!(folder.list(), Err(FolderError::List { .. })));
    }
}
