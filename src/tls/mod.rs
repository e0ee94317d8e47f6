//! TLS by rustls: whom we trust and what we show, for the broker, HubSpot's API and the receiver alike.
//!
//! Everything is read from PEM files when it is needed, so that renewed certificates need no restart: the broker's at
//! every connection, the receiver's every few seconds. A key reaches no log and no error.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use secrecy::ExposeSecret as _;

use crate::config::{ClientTlsConfig, Secret};

mod server;

pub use server::ServerCertificate;

/// The largest file of certificates. A bundle of every public authority has a quarter of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a setting of a `[….tls]` table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct TlsError {
    key: &'static str,
    what: String,
}

impl TlsError {
    fn new(key: &'static str, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { key, what }
    }

    /// Which setting: `ca`, `cert` or `key`.
    #[must_use]
    pub fn key(&self) -> &'static str {
        self.key
    }
}

/// How connections to others are made: to servers whose certificates lead to `settings.ca`, or else to one of the
/// system's authorities; with a certificate of ours where there is one. Reads the files.
///
/// # Errors
/// The first setting that is of no use.
pub fn client_config(settings: &ClientTlsConfig) -> Result<ClientConfig, TlsError> {
    let roots = match &settings.ca {
        Some(ca) => own_roots(ca)?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    match (&settings.cert, &settings.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let shown = SingleCertAndKey::from(certified_key(cert, key)?);
            Ok(builder.with_client_cert_resolver(Arc::new(shown)))
        }
        (Some(_), None) => Err(TlsError::new(
            "key",
            "it is missing; write the private key of cert, best as file:PATH",
        )),
        (None, Some(_)) => Err(TlsError::new(
            "cert",
            "it is missing; write the path of the certificate that key belongs to",
        )),
    }
}

/// What the operator of a connection must know of a failed handshake; `None` when TLS had nothing to do with it.
///
/// `peer` is who is at the other end, in words, and `section` the table of its settings.
#[must_use]
pub fn explain(error: &(dyn Error + 'static), peer: &str, section: &str) -> Option<String> {
    Some(match tls_fault(error)? {
        rustls::Error::InvalidCertificate(fault) => certificate_fault(fault, peer, section),
        rustls::Error::AlertReceived(alert) => format!(
            "{peer} ends the handshake ({alert:?}); where it demands a certificate of ours, set {section}.cert and \
             {section}.key to one that has not ended and whose authority it trusts"
        ),
        rustls::Error::InvalidMessage(_) => format!(
            "what {peer} answers is no TLS; check the port, which is another one than that for plain connections"
        ),
        error => format!("no TLS connection with {peer} can be made: {error}"),
    })
}

/// The first of the causes of `error` that is TLS's.
fn tls_fault<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let is_io = error.downcast_ref::<io::Error>();
    // What is inside of such an error is not among its sources.
    let inside = is_io.and_then(io::Error::get_ref);
    error
        .downcast_ref()
        .or_else(|| tls_fault(inside?))
        .or_else(|| tls_fault(error.source()?))
}

fn certificate_fault(fault: &CertificateError, peer: &str, section: &str) -> String {
    match fault {
        // The second: of an authority that has the name of a trusted one, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of {peer} is from an authority that is not trusted; set {section}.ca to the file with the \
             certificate of that authority"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of {peer} has ended; renew it there")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of {peer} does not hold yet; check the clocks")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "the certificate of {peer} is not for the host that we connect to; use a name that stands in it"
            )
        }
        fault => format!("the certificate of {peer} is no good: {fault}"),
    }
}

/// The certificate in `cert` with its key, which fit together.
fn certified_key(cert: &Path, key: &Secret) -> Result<CertifiedKey, TlsError> {
    let chain = certificates("cert", cert)?;
    match CertifiedKey::from_der(chain, private_key(key)?, &provider()) {
        Ok(certified) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::new(
            "key",
            "it is not the key of the first certificate in cert; write the key that the certificate was made for",
        )),
        Err(error) => Err(TlsError::new(
            "cert",
            format!("certificate and key cannot be used: {error}"),
        )),
    }
}

fn own_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", path)? {
        roots.add(certificate).map_err(|error| {
            let what =
                format!("{path:?} holds a certificate that is none of an authority: {error}");
            TlsError::new("ca", what)
        })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::new(
            "ca",
            "the system has no certificates of authorities; install them (ca-certificates), or name a file of your own",
        ));
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |what: String| TlsError::new(key, format!("the file {path:?} {what}"));
    let text = read(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(failed(
            "has no certificate in it; it must be PEM, with BEGIN CERTIFICATE".to_owned(),
        )),
        Ok(found) => Ok(found),
        Err(_) => Err(failed("is not PEM as it should be".to_owned())),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    std::fs::read(path)
}

fn private_key(key: &Secret) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = key
        .resolve()
        .map_err(|error| TlsError::new("key", error.to_string()))?;
    // The parser's own words might quote it.
    PrivateKeyDer::from_pem_slice(text.expose_secret().as_bytes()).map_err(|_| {
        TlsError::new(
            "key",
            "it is no private key; it must be PEM, with BEGIN PRIVATE KEY, and without a password",
        )
    })
}

/// The process' provider, which is ring where nobody has installed another.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().map_or_else(
        || Arc::new(rustls::crypto::ring::default_provider()),
        Arc::clone,
    )
}

#[cfg(test)]
mod tests;
