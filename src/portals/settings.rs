//! From what is written of a portal, in the configuration or in a file, to what its calls are authorized by.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::ExposeSecret as _;

use super::seal::{Place, SealError, SealingKeys};
use crate::config::{AppConfig, PortalConfig, Secret};
use crate::hubspot::client::{Credential, Keep, OAuthApp, PortalSettings, TokenError, TokenSource};

/// The key of a private app's token or a service key.
pub(super) const ACCESS_TOKEN: &str = "access_token";
/// The key of an OAuth app's token.
pub(super) const REFRESH_TOKEN: &str = "refresh_token";

/// Apps that portals may have installed by OAuth, by name.
#[derive(Clone, Debug, Default)]
pub struct Apps(BTreeMap<String, Option<Arc<OAuthApp>>>);

/// What is wrong with what is written of a portal. No variant tells a token.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It has no token.
    #[error(
        "it has no token; write access_token (a private app's, or a service key), or refresh_token (OAuth)"
    )]
    NoToken,
    /// It has two.
    #[error("it has access_token and refresh_token; leave one out")]
    TwoTokens,
    /// It has an app and no refresh token.
    #[error("only a refresh_token is of an app; leave it out")]
    AppOfNothing,
    /// There is no such app.
    #[error("there is no app.{0}")]
    NoApp(String),
    /// The app cannot be authenticated as.
    #[error("app.{0} has no client_id; write the one that the app's settings at HubSpot show")]
    NoClientId(String),
    /// Nothing says which app.
    #[error("it is missing, and {0} apps have a client_id; write the name of one that has")]
    WhichApp(usize),
    /// What only `relay.toml` may say.
    #[error(
        "it is read from the configuration file alone, and this portal stands in a file of its own; leave it out, and write enrich.<type>.external_id for all portals"
    )]
    ExternalId,
    /// A token that cannot be unsealed.
    #[error("{source}")]
    Seal {
        /// The token's key.
        key: &'static str,
        /// Why.
        source: SealError,
    },
    /// A token that cannot be had or sent.
    #[error("{source}")]
    Token {
        /// The token's key.
        key: &'static str,
        /// Why.
        source: TokenError,
    },
}

impl SettingsError {
    /// The key it is about; `None` when it is about all of them.
    #[must_use]
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Self::NoToken | Self::TwoTokens => None,
            Self::ExternalId => Some("external_id"),
            Self::AppOfNothing | Self::NoApp(_) | Self::NoClientId(_) | Self::WhichApp(_) => {
                Some("app")
            }
            Self::Seal { key, .. } | Self::Token { key, .. } => Some(key),
        }
    }

    /// The same in one line, with its key.
    #[must_use]
    pub fn told(&self) -> String {
        match self.key() {
            Some(key) => format!("{key}: {self}"),
            None => self.to_string(),
        }
    }
}

impl Apps {
    /// The apps as configured.
    #[must_use]
    pub fn new(apps: &BTreeMap<String, AppConfig>) -> Self {
        let app = |(name, app): (&String, &AppConfig)| {
            let oauth = app.client_id.as_ref().map(|client_id| {
                Arc::new(OAuthApp {
                    name: name.clone(),
                    client_id: client_id.clone(),
                    client_secrets: app.client_secrets.clone(),
                })
            });
            (name.clone(), oauth)
        };
        Self(apps.iter().map(app).collect())
    }

    fn named(&self, name: Option<&str>) -> Result<Arc<OAuthApp>, SettingsError> {
        if let Some(name) = name {
            let app = self.0.get(name);
            let app = app.ok_or_else(|| SettingsError::NoApp(name.to_owned()))?;
            return app
                .clone()
                .ok_or_else(|| SettingsError::NoClientId(name.to_owned()));
        }
        let able: Vec<_> = self.0.values().flatten().collect();
        match able.as_slice() {
            [only] => Ok(Arc::clone(only)),
            several => Err(SettingsError::WhichApp(several.len())),
        }
    }
}

/// The same of what stands in a file of the portal's own.
///
/// # Errors
/// Every variant of [`SettingsError`].
pub fn settings_of_file(
    portal: &str,
    written: &PortalConfig,
    apps: &Apps,
    keys: &SealingKeys,
    keep: Option<Keep>,
) -> Result<PortalSettings, SettingsError> {
    if written.external_id.is_empty() {
        settings_of(portal, written, apps, keys, keep)
    } else {
        Err(SettingsError::ExternalId)
    }
}

/// What is written of the portal with this id, made sense of. Reads environment and files that a token refers to.
///
/// # Errors
/// Every variant of [`SettingsError`].
pub fn settings_of(
    portal: &str,
    written: &PortalConfig,
    apps: &Apps,
    keys: &SealingKeys,
    keep: Option<Keep>,
) -> Result<PortalSettings, SettingsError> {
    let source = |key, secret| source_of(Place { portal, key }, key, secret, keys);
    let credential = match (&written.access_token, &written.refresh_token) {
        (None, None) => return Err(SettingsError::NoToken),
        (Some(_), Some(_)) => return Err(SettingsError::TwoTokens),
        (Some(_), None) if written.app.is_some() => return Err(SettingsError::AppOfNothing),
        (Some(token), None) => Credential::AccessToken(source(ACCESS_TOKEN, token)?),
        (None, Some(token)) => Credential::RefreshToken {
            app: apps.named(written.app.as_deref())?,
            token: source(REFRESH_TOKEN, token)?,
            keep,
        },
    };
    Ok(PortalSettings {
        credential,
        paused: written.paused,
    })
}

fn source_of(
    place: Place<'_>,
    key: &'static str,
    secret: &Secret,
    keys: &SealingKeys,
) -> Result<TokenSource, SettingsError> {
    let text = secret.text().expose_secret();
    let source = if SealingKeys::is_sealed(text) {
        let opened = keys.open(place, text);
        TokenSource::Given(opened.map_err(|source| SettingsError::Seal { key, source })?)
    } else if secret.is_reference() {
        TokenSource::Named(secret.clone())
    } else {
        TokenSource::Given(text.trim().to_owned().into())
    };
    source
        .resolve()
        .map_err(|source| SettingsError::Token { key, source })?;
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(text: &str) -> Apps {
        Apps::new(&toml::from_str(text).unwrap())
    }

    fn told(apps: &Apps, portal: &str) -> String {
        let written = toml::from_str(portal).unwrap();
        let keys = SealingKeys::none();
        match settings_of_file("8241", &written, apps, &keys, None) {
            Ok(settings) => format!("{settings:?}"),
            Err(error) => error.told(),
        }
    }

    #[test]
    fn a_portal_has_one_token_and_an_oauth_portal_an_app() {
        let one =
            apps("[main]\nclient_id = 'id'\nclient_secrets = []\n[other]\nclient_secrets = []");
        let two = apps(
            "[a]\nclient_id = '1'\nclient_secrets = []\n[b]\nclient_id = '2'\nclient_secrets = []",
        );
        let refresh = "refresh_token = 'hunter2'\n";
        for (apps, portal, begins) in [
            (
                &one,
                "access_token = 'hunter2'".to_owned(),
                "PortalSettings",
            ),
            (&one, refresh.to_owned(), "PortalSettings"),
            (&two, format!("{refresh}app = 'b'"), "PortalSettings"),
            (&one, String::new(), "it has no token"),
            (
                &one,
                "access_token = 'hunter2'\nexternal_id = { contact = 'badge' }".to_owned(),
                "external_id: it is read from the configuration file alone",
            ),
            (
                &one,
                format!("{refresh}access_token = 'hunter2'"),
                "it has access_token and",
            ),
            (
                &one,
                "access_token = 'hunter2'\napp = 'main'".to_owned(),
                "app: only a refresh_token",
            ),
            (
                &one,
                format!("{refresh}app = 'mian'"),
                "app: there is no app.mian",
            ),
            (
                &one,
                format!("{refresh}app = 'other'"),
                "app: app.other has no client_id",
            ),
            (&two, refresh.to_owned(), "app: it is missing, and 2 apps"),
            (
                &Apps::default(),
                refresh.to_owned(),
                "app: it is missing, and 0 apps",
            ),
            (
                &one,
                "access_token = 'hunter2 x'".to_owned(),
                "access_token: it has characters",
            ),
            (
                &one,
                "refresh_token = 'sealed:hunter2'".to_owned(),
                "refresh_token: portals.keys is missing",
            ),
        ] {
            let told = told(apps, &portal);
            assert!(told.starts_with(begins), "{portal}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
