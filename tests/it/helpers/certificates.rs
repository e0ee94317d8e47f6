//! An authority of one's own, and certificates of it, in files of a temporary folder.

use std::fs;
use std::path::{Path, PathBuf};

use crm_relay::config::{ClientTlsConfig, Secret, ServerTlsConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// What a certificate is made for: the years it begins and ends in.
const VALID: (i32, i32) = (2020, 4096);

/// An authority; what it signs lies in its folder as `<name>.crt` and `<name>.key`.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let name = "an authority for tests";
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        fs::write(folder.path().join("ca.crt"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    /// Signs a certificate `name` for `localhost`, which may also be shown by a client.
    pub fn sign(&self, name: &str) {
        self.sign_for(name, VALID);
    }

    /// The same, but it has ended years ago.
    pub fn sign_ended(&self, name: &str) {
        self.sign_for(name, (2020, 2021));
    }

    fn sign_for(&self, name: &str, (from, to): (i32, i32)) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.crt")), cert.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// The file of the authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.crt")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub fn key(&self, name: &str) -> Secret {
        Secret::new(format!(
            "file:{}",
            self.path(&format!("{name}.key")).display()
        ))
    }

    /// Trusts this authority, and shows `name` if there is one.
    pub fn client(&self, name: Option<&str>) -> ClientTlsConfig {
        ClientTlsConfig {
            ca: Some(self.ca()),
            cert: name.map(|name| self.path(&format!("{name}.crt"))),
            key: name.map(|name| self.key(name)),
        }
    }

    /// Shows `name`.
    pub fn server(&self, name: &str) -> ServerTlsConfig {
        ServerTlsConfig {
            cert: self.path(&format!("{name}.crt")),
            key: self.key(name),
        }
    }
}
