//! The receiver's own certificate. It is renewed every few weeks by somebody who does not restart us, so its files are
//! looked at again and again, and a new certificate is shown from the next handshake on.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{TlsError, certified_key, provider};
use crate::config::ServerTlsConfig;

/// How often the files are read again.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// A certificate that may be replaced while it is shown.
pub struct ServerCertificate {
    settings: ServerTlsConfig,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    /// Reads the files.
    ///
    /// # Errors
    /// The first setting that is of no use.
    pub fn load(settings: &ServerTlsConfig) -> Result<Arc<Self>, TlsError> {
        let current = certified_key(&settings.cert, &settings.key)?;
        Ok(Arc::new(Self {
            settings: settings.clone(),
            current: RwLock::new(Arc::new(current)),
        }))
    }

    /// How a server shows it. Nobody is asked for a certificate: HubSpot signs its requests instead.
    #[must_use]
    pub fn server_config(self: &Arc<Self>) -> ServerConfig {
        ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring knows TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>)
    }

    /// Follows the files for as long as it is polled. What cannot be used is told once, and the last good certificate
    /// stays.
    pub async fn follow(self: Arc<Self>) {
        let mut told = None;
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let fault = self.reload().err();
            if let Some(error) = fault.as_ref().filter(|fault| told.as_ref() != Some(*fault)) {
                let key = format!("receiver.tls.{}", error.key());
                tracing::error!(
                    key,
                    "the certificate cannot be read again, and the last one stays: {error}"
                );
            }
            told = fault;
        }
    }

    pub(super) fn reload(&self) -> Result<(), TlsError> {
        let read = certified_key(&self.settings.cert, &self.settings.key)?;
        if read.cert != self.current().cert {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
            tracing::info!("the receiver has a new certificate");
        }
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
