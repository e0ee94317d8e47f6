//! `[bus.tls]`, `[hubspot.tls]` and `[receiver.tls]`: files of certificates, all PEM.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Secret;

/// `[bus.tls]` and `[hubspot.tls]`: whom we trust, and what we show when we are asked.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTlsConfig {
    /// A file with the certificates of the authorities that are trusted, in place of the system's. Default the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A file with our own certificate and what leads from it to its authority. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The private key of `cert`. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
}

impl ClientTlsConfig {
    /// Whether nothing is said, so that the system's authorities are trusted and we show nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.ca.is_none() && self.cert.is_none() && self.key.is_none()
    }
}

/// `[receiver.tls]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTlsConfig {
    /// A file with the certificate of the host in `receiver.public_url`, and what leads from it to its authority. It is
    /// read again when it changes.
    pub cert: PathBuf,
    /// The private key of `cert`; a `file:` is read again with it.
    pub key: Secret,
}
