//! The client secrets of all apps, and which of them signed a request.
//!
//! Several apps may share one endpoint, and an app has several secrets while one is rotated. The body tells
//! the app only after it is trusted, so every secret that enables the version is tried.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::ExposeSecret as _;

use crate::config::{AppConfig, SecretError, SignatureVersion};

use super::SignatureError;
use super::signature::Key;

/// The secrets of all apps, keyed.
#[derive(Clone)]
pub struct Keyring(Vec<AppKeys>);

#[derive(Clone)]
struct AppKeys {
    app: Arc<str>,
    signatures: Vec<SignatureVersion>,
    keys: Vec<Key>,
}

/// Which secret signed a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedKey {
    /// The app's name in the configuration.
    pub app: Arc<str>,
    /// Where the secret stands in the app's `client_secrets`, from 0.
    pub secret_index: usize,
    /// The version that matched.
    pub version: SignatureVersion,
}

/// Why there is no keyring.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// No app: every request would be refused.
    #[error("no app is configured; add [app.<name>] with client_secrets")]
    NoApp,
    /// An app without a secret.
    #[error("app.{0}.client_secrets is empty; add the app's client secret")]
    NoSecret(String),
    /// An app that takes no signature.
    #[error("app.{0}.signatures is empty; leave it out for [\"v3\"]")]
    NoSignature(String),
    /// A secret that cannot be had.
    #[error("app.{app}.client_secrets[{index}]: {source}")]
    Secret {
        /// The app's name in the configuration.
        app: String,
        /// Where it stands in the list, from 0.
        index: usize,
        /// Why.
        source: SecretError,
    },
}

impl Keyring {
    /// Resolves and keys the secrets of `apps`.
    ///
    /// # Errors
    /// Every variant of [`KeyringError`].
    pub fn new(apps: &BTreeMap<String, AppConfig>) -> Result<Self, KeyringError> {
        if apps.is_empty() {
            return Err(KeyringError::NoApp);
        }
        let keys = apps.iter().map(|(name, app)| app_keys(name, app));
        keys.collect::<Result<_, _>>().map(Self)
    }

    /// The first secret that enables one of `versions` (tried in that order) and that `verifies`.
    ///
    /// # Errors
    /// [`SignatureError::NotEnabled`] when no app enables any of them, else [`SignatureError::Mismatch`].
    pub(super) fn find(
        &self,
        versions: &[SignatureVersion],
        verifies: impl Fn(&Key, SignatureVersion) -> bool,
    ) -> Result<MatchedKey, SignatureError> {
        let mut refusal = SignatureError::NotEnabled;
        for &version in versions {
            for app in self.enabling(version) {
                refusal = SignatureError::Mismatch;
                if let Some(secret_index) = app.keys.iter().position(|key| verifies(key, version)) {
                    let app = Arc::clone(&app.app);
                    return Ok(MatchedKey {
                        app,
                        secret_index,
                        version,
                    });
                }
            }
        }
        Err(refusal)
    }

    fn enabling(&self, version: SignatureVersion) -> impl Iterator<Item = &AppKeys> {
        let apps = self.0.iter();
        apps.filter(move |app| app.signatures.contains(&version))
    }
}

fn app_keys(name: &str, app: &AppConfig) -> Result<AppKeys, KeyringError> {
    if app.client_secrets.is_empty() {
        return Err(KeyringError::NoSecret(name.to_owned()));
    }
    if app.signatures.is_empty() {
        return Err(KeyringError::NoSignature(name.to_owned()));
    }
    let key = |(index, secret): (usize, &crate::config::Secret)| match secret.resolve() {
        Ok(secret) => Ok(Key::new(secret.expose_secret())),
        Err(source) => Err(KeyringError::Secret {
            app: name.to_owned(),
            index,
            source,
        }),
    };
    Ok(AppKeys {
        app: name.into(),
        signatures: app.signatures.clone(),
        keys: app
            .client_secrets
            .iter()
            .enumerate()
            .map(key)
            .collect::<Result<_, _>>()?,
    })
}
