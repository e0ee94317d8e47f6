use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};
use rustls::AlertDescription;

use super::*;
use crate::config::ServerTlsConfig;

/// A folder with a certificate, its key, and a key that is another's.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.renew();
        let other = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(files.path("other.key"), other).unwrap();
        files
    }

    fn renew(&self) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(self.path("tls.crt"), cert.pem()).unwrap();
        std::fs::write(self.path("tls.key"), key.serialize_pem()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self, name: &str) -> Secret {
        Secret::new(format!("file:{}", self.path(name).display()))
    }

    fn client(&self, ca: Option<&str>, cert: Option<&str>, key: Option<&str>) -> ClientTlsConfig {
        ClientTlsConfig {
            ca: ca.map(|name| self.path(name)),
            cert: cert.map(|name| self.path(name)),
            key: key.map(|name| self.key(name)),
        }
    }
}

#[test]
fn what_fits_together_is_taken_and_what_does_not_is_named() {
    let files = Files::new();
    std::fs::write(files.path("none"), "nothing of the kind").unwrap();
    std::fs::write(
        files.path("torn"),
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let (cert, key) = (Some("tls.crt"), Some("tls.key"));
    client_config(&files.client(cert, cert, key)).unwrap();
    client_config(&files.client(cert, None, None)).unwrap();
    for (settings, at, says) in [
        (
            files.client(Some("nowhere"), None, None),
            "ca",
            "cannot be read",
        ),
        (files.client(Some("none"), None, None), "ca", "PEM"),
        (files.client(Some("torn"), None, None), "ca", "PEM"),
        (files.client(cert, cert, None), "key", "missing"),
        (files.client(cert, None, key), "cert", "missing"),
        (
            files.client(cert, cert, Some("other.key")),
            "key",
            "is not the key",
        ),
        (
            files.client(cert, cert, Some("tls.crt")),
            "key",
            "no private key",
        ),
        (
            files.client(cert, Some("tls.key"), key),
            "cert",
            "no certificate",
        ),
    ] {
        let error = client_config(&settings).unwrap_err();
        assert_eq!(error.key(), at, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_key_that_is_written_where_it_does_not_belong_is_never_shown() {
    let files = Files::new();
    let pem = std::fs::read_to_string(files.path("tls.key")).unwrap();
    let secret = pem.lines().nth(1).unwrap();
    let mut settings = files.client(Some("tls.crt"), Some("tls.crt"), None);
    settings.key = Some(Secret::new(pem.replace('\n', " ")));
    let error = client_config(&settings).unwrap_err();
    let shown = format!("{error} {error:?} {settings:?}");
    assert!(!shown.contains(secret), "{shown}");
}

#[test]
fn a_renewed_certificate_is_shown_and_a_torn_one_is_not() {
    let files = Files::new();
    let settings = ServerTlsConfig {
        cert: files.path("tls.crt"),
        key: files.key("tls.key"),
    };
    let certificate = ServerCertificate::load(&settings).unwrap();
    let first = certificate.current().cert.clone();
    certificate.reload().unwrap();
    assert_eq!(certificate.current().cert, first);

    // Between the two writes of a renewal they do not fit together.
    std::fs::copy(files.path("tls.key"), files.path("old.key")).unwrap();
    files.renew();
    std::fs::rename(files.path("tls.key"), files.path("new.key")).unwrap();
    std::fs::rename(files.path("old.key"), files.path("tls.key")).unwrap();
    assert_eq!(certificate.reload().unwrap_err().key(), "key");
    assert_eq!(certificate.current().cert, first);

    std::fs::rename(files.path("new.key"), files.path("tls.key")).unwrap();
    certificate.reload().unwrap();
    assert_ne!(certificate.current().cert, first);
}

#[test]
fn a_failed_handshake_says_what_to_do() {
    let told = |error: rustls::Error| {
        // As it comes through a library: an error in an error.
        let inner = io::Error::new(io::ErrorKind::InvalidData, error);
        explain(&io::Error::other(inner), "the broker", "bus.tls").unwrap()
    };
    for (error, says) in [
        (CertificateError::UnknownIssuer.into(), "set bus.tls.ca"),
        (CertificateError::BadSignature.into(), "set bus.tls.ca"),
        (CertificateError::Expired.into(), "has ended"),
        (CertificateError::NotValidYet.into(), "clocks"),
        (CertificateError::NotValidForName.into(), "host"),
        (
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
            "set bus.tls.cert",
        ),
        (
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
            "check the port",
        ),
        (rustls::Error::HandshakeNotComplete, "no TLS connection"),
    ] {
        let text = told(error);
        assert!(text.contains(says) && text.contains("the broker"), "{text}");
    }
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    assert_eq!(explain(&refused, "the broker", "bus.tls"), None);
}
