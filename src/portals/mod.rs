//! Which portals there are: those of the configuration, and those of a folder, which come, change and go while we run.
//!
//! The folder is looked at every two seconds by names and times alone, and only what changed is read. That works
//! where nobody tells of changes (network file systems, Kubernetes' mounted secrets). What the admin API
//! changes it writes to the folder, so that every process that shares it follows. What calls are authorized by is
//! [`Tokens`]' business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::config::{Config, PortalConfig};
use crate::event::{Millis, PortalId};
use crate::hubspot::client::{
    ApiVersionError, HubSpotOptions, HubSpotSetupError, Keep, NewToken, State, Status, TokenError,
    Tokens,
};
use crate::metrics::Metrics;

pub mod api;
mod folder;
mod look;
mod seal;
mod settings;

pub use folder::{Folder, FolderError, PORTALS_MAX};
pub use seal::{Place, SealError, SealingKeys};
pub use settings::{Apps, SettingsError, settings_of, settings_of_file};

use look::Looked;

/// Between two looks at the folder, at least.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// A look that takes long is followed by a rest of so many times its length, whatever the file system.
const REST_FACTOR: u32 = 20;

/// The portals of this process.
#[derive(Debug)]
pub struct Portals {
    tokens: Arc<Tokens>,
    apps: Apps,
    /// Those of the configuration, which nothing changes.
    configured: BTreeSet<PortalId>,
    folder: Option<Folder>,
    /// Also keeps one look from another's way.
    looked: Mutex<Looked>,
    metrics: Arc<Metrics>,
}

/// Why the portals cannot be had at the start.
#[derive(Debug, thiserror::Error)]
pub enum PortalsError {
    /// `hubspot.api_version`.
    #[error("hubspot.api_version: {0}")]
    ApiVersion(#[from] ApiVersionError),
    /// The client of the token endpoint.
    #[error(transparent)]
    HubSpot(#[from] HubSpotSetupError),
    /// A portal of the configuration.
    #[error("portal.{portal}: {}", .source.told())]
    Settings {
        /// Its id.
        portal: String,
        /// What is wrong.
        source: SettingsError,
    },
    /// The token of a portal of the configuration.
    #[error("portal.{portal}: {source}")]
    Token {
        /// Its id.
        portal: String,
        /// What is wrong.
        source: TokenError,
    },
    /// `portals.keys`.
    #[error("portals.keys: {0}")]
    Seal(#[from] SealError),
    /// `portals.folder`.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// Why a portal was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no folder.
    #[error("portals.folder is not set, so there is nowhere to write portals to")]
    NoFolder,
    /// It is not ours to change.
    #[error("portal {0} stands in the configuration file, which alone changes it")]
    Configured(PortalId),
    /// There is no such portal.
    #[error("there is no portal {0}")]
    NoPortal(PortalId),
    /// The settings make no sense.
    #[error("{}", .0.told())]
    Settings(#[from] SettingsError),
    /// A token as it is written where references are understood.
    #[error("a token must not begin with `sealed:`, `env:` or `file:`; give the token itself")]
    Reference,
    /// The file cannot be read or written.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// A portal, for people and programs; never a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Portal {
    /// Its id.
    pub id: PortalId,
    /// `access_token` or `refresh_token`; `None` when its file cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<&'static str>,
    /// The app of its refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// `configuration` or `folder`.
    pub source: &'static str,
    /// Whether it is paused by its own setting.
    pub paused: bool,
    /// `ready`, `paused`, `refused`, `parked` or `unreadable`, as this process knows it.
    pub state: &'static str,
    /// When the access token that OAuth gave ends; `None` before the first call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_expires_at: Option<Millis>,
    /// What went wrong last with its token or its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Portals {
    /// The portals of `config`, and those that its folder holds now.
    ///
    /// A file of the folder that cannot be used is an error in the log, and no reason not to start.
    ///
    /// # Errors
    /// Every variant of [`PortalsError`].
    pub fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Self, PortalsError> {
        let tokens = Tokens::new(&HubSpotOptions::of(&config.hubspot)?, Arc::clone(&metrics))?;
        let keys = SealingKeys::resolve(&config.portals.keys)?;
        let folder = config.portals.folder.clone();
        let portals = Self {
            tokens: Arc::new(tokens),
            apps: Apps::new(&config.app),
            configured: config.portal.keys().map(|id| id.as_str().into()).collect(),
            folder: folder.map(|path| Folder::new(path, keys.clone())),
            looked: Mutex::default(),
            metrics,
        };
        portals.configure(&config.portal, &keys)?;
        if let Some(folder) = &portals.folder {
            folder.list()?;
        }
        portals.look();
        Ok(portals)
    }

    /// What their calls are authorized by.
    #[must_use]
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// Follows the folder until the handle is dropped. Must be called within a tokio runtime.
    #[must_use]
    pub fn follow(self: &Arc<Self>) -> Following {
        let this = Arc::clone(self);
        Following(tokio::spawn(async move {
            let mut rest = LOOK_INTERVAL;
            loop {
                tokio::time::sleep(rest).await;
                let this = Arc::clone(&this);
                let begun = Instant::now();
                // A look that panicked is followed by another.
                let _ = tokio::task::spawn_blocking(move || this.look()).await;
                rest = LOOK_INTERVAL.max(begun.elapsed() * REST_FACTOR);
            }
        }))
    }

    /// Up to `limit` portals by id (as text), after `after`.
    #[must_use]
    pub fn list(&self, after: Option<&str>, limit: usize) -> Vec<Portal> {
        let mut ids: BTreeSet<PortalId> = self.configured.clone();
        ids.extend(self.looked().portals().cloned());
        let later = ids
            .into_iter()
            .filter(|id| after.is_none_or(|after| id.as_str() > after));
        later.filter_map(|id| self.get(&id)).take(limit).collect()
    }

    /// A portal; `None` when there is none.
    #[must_use]
    pub fn get(&self, id: &PortalId) -> Option<Portal> {
        let is_configured = self.configured.contains(id);
        let problem = match self.looked().problem(id) {
            None if !is_configured => return None,
            problem => problem.flatten(),
        };
        let status = self.tokens.status(id);
        let kind = |status: &Status| match (status.state, &status.app) {
            (State::Unreadable, _) => None,
            (_, Some(_)) => Some(settings::REFRESH_TOKEN),
            (_, None) => Some(settings::ACCESS_TOKEN),
        };
        let state = status
            .as_ref()
            .map_or(State::Unreadable, |status| status.state);
        Some(Portal {
            id: id.clone(),
            credential: status.as_ref().and_then(kind),
            source: if is_configured {
                "configuration"
            } else {
                "folder"
            },
            paused: status.as_ref().is_some_and(|status| status.paused),
            state: state.as_str(),
            access_token_expires_at: status.as_ref().and_then(|status| status.expires_at),
            app: status.as_ref().and_then(|status| status.app.clone()),
            problem: problem.or_else(|| status.and_then(|status| status.problem)),
        })
    }

    /// Adds a portal, or replaces all that is written of it. It is in force when this returns. Blocks.
    ///
    /// # Errors
    /// [`ChangeError`], but for [`ChangeError::NoPortal`].
    pub fn put(&self, id: &PortalId, portal: &PortalConfig) -> Result<(), ChangeError> {
        let folder = self.changeable(id)?;
        check(id, portal, &self.apps, folder)?;
        folder.write(id, portal)?;
        self.look_at(id);
        Ok(())
    }

    /// Pauses a portal, or resumes it. It is in force when this returns. Blocks.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn set_paused(&self, id: &PortalId, paused: bool) -> Result<(), ChangeError> {
        let folder = self.changeable(id)?;
        pause(folder, id, paused)?;
        self.look_at(id);
        Ok(())
    }

    /// Removes a portal. It is gone when this returns. Blocks.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn remove(&self, id: &PortalId) -> Result<(), ChangeError> {
        let folder = self.changeable(id)?;
        if !folder.remove(id)? {
            return Err(ChangeError::NoPortal(id.clone()));
        }
        if self.looked().forget(id) {
            self.tokens.remove(id);
        }
        self.tokens.report();
        Ok(())
    }

    fn changeable(&self, id: &PortalId) -> Result<&Folder, ChangeError> {
        if self.configured.contains(id) {
            return Err(ChangeError::Configured(id.clone()));
        }
        self.folder.as_ref().ok_or(ChangeError::NoFolder)
    }

    fn configure(
        &self,
        portals: &BTreeMap<String, PortalConfig>,
        keys: &SealingKeys,
    ) -> Result<(), PortalsError> {
        for (id, written) in portals {
            let settings = settings_of(id, written, &self.apps, keys, None);
            let settings = settings.map_err(|source| PortalsError::Settings {
                portal: id.clone(),
                source,
            })?;
            let set = self.tokens.set(&id.as_str().into(), settings);
            set.map_err(|source| PortalsError::Token {
                portal: id.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// Where another refresh token of a portal of the folder goes.
    fn keep(folder: &Folder) -> Keep {
        let folder = folder.clone();
        Keep::by(move |portal_id, NewToken { used, given }| {
            folder
                .replace_refresh_token(portal_id, used, given)
                .map_err(|error| error.to_string())
        })
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        // What it holds is whole between any two portals, so a panic elsewhere leaves it usable.
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what shall be written of a portal makes sense, and holds no reference: those are for people, since whoever
/// may write a portal need not know what our environment and our files hold.
///
/// # Errors
/// [`ChangeError::Reference`] and [`ChangeError::Settings`].
pub fn check(
    id: &PortalId,
    portal: &PortalConfig,
    apps: &Apps,
    folder: &Folder,
) -> Result<(), ChangeError> {
    use secrecy::ExposeSecret as _;
    let tokens = portal.access_token.iter().chain(&portal.refresh_token);
    for token in tokens {
        if token.is_reference() || SealingKeys::is_sealed(token.text().expose_secret()) {
            return Err(ChangeError::Reference);
        }
    }
    settings_of_file(id.as_str(), portal, apps, folder.keys(), None)?;
    Ok(())
}

/// Pauses a portal of the folder, or resumes it.
///
/// # Errors
/// [`ChangeError::NoPortal`] and [`ChangeError::Folder`].
pub fn pause(folder: &Folder, id: &PortalId, paused: bool) -> Result<(), ChangeError> {
    let there = folder.change(id, |portal| {
        std::mem::replace(&mut portal.paused, paused) != paused
    })?;
    if there {
        Ok(())
    } else {
        Err(ChangeError::NoPortal(id.clone()))
    }
}

/// Follows the folder as long as it lives.
#[derive(Debug)]
pub struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}
