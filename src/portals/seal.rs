//! Tokens at rest: sealed with a key that the configuration has and the folder has not.
//!
//! XChaCha20-Poly1305 with a random nonce. Portal and key name are authenticated with the token, so a sealed
//! token is of no use anywhere but where it was put.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chacha20poly1305::aead::{Aead as _, Generate as _, Payload};
use chacha20poly1305::{Key, KeyInit as _, XChaCha20Poly1305, XNonce};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::config::{Secret, SecretError};

/// Begins a sealed token; base64 of nonce, ciphertext and tag follows.
const SEALED: &str = "sealed:";
const NONCE_BYTES: usize = 24;
/// Begins what is authenticated with every token, so that the form may change one day.
const FORM: &str = "crm-relay sealed token 1";

/// The keys of `portals.keys`: the first seals, all unseal.
#[derive(Clone)]
pub struct SealingKeys(Vec<XChaCha20Poly1305>);

/// Why something cannot be sealed or unsealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The key is no key.
    #[error("it is not 32 bytes in base64; `crm-relay portals key` prints a new one")]
    Form,
    /// There is no key at all.
    #[error("portals.keys is missing; `crm-relay portals key` prints a new one")]
    NoKey,
    /// None of the keys opens it for this portal.
    #[error(
        "the token cannot be unsealed: it was changed, sealed for another portal or by a key that is not in portals.keys; put it again"
    )]
    Sealed,
}

/// Where a token belongs: a portal's id, and the name of the key.
#[derive(Clone, Copy, Debug)]
pub struct Place<'p> {
    /// The portal's id.
    pub portal: &'p str,
    /// `access_token` or `refresh_token`.
    pub key: &'p str,
}

impl Place<'_> {
    fn authenticated(self) -> String {
        format!("{FORM}\n{}\n{}", self.portal, self.key)
    }
}

impl SealingKeys {
    /// Resolves the keys as configured; none is none.
    ///
    /// # Errors
    /// [`SealError::Secret`] and [`SealError::Form`].
    pub fn resolve(keys: &[Secret]) -> Result<Self, SealError> {
        let key = |secret: &Secret| {
            let text = secret.resolve()?;
            let bytes = BASE64_STANDARD.decode(text.expose_secret());
            let bytes = Zeroizing::new(bytes.map_err(|_| SealError::Form)?);
            XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| SealError::Form)
        };
        keys.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// No key: nothing is sealed or unsealed.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// A new key, as `portals.keys` wants it.
    #[must_use]
    pub fn new_key() -> SecretString {
        BASE64_STANDARD.encode(Key::generate()).into()
    }

    /// Whether `text` looks sealed.
    #[must_use]
    pub fn is_sealed(text: &str) -> bool {
        text.starts_with(SEALED)
    }

    /// Seals `token` for `place` by the first key.
    ///
    /// # Errors
    /// [`SealError::NoKey`].
    pub fn seal(&self, place: Place<'_>, token: &SecretString) -> Result<String, SealError> {
        let key = self.0.first().ok_or(SealError::NoKey)?;
        let nonce = XNonce::generate();
        let aad = place.authenticated();
        let payload = Payload {
            msg: token.expose_secret().as_bytes(),
            aad: aad.as_bytes(),
        };
        let sealed = key
            .encrypt(&nonce, payload)
            .expect("a token is far shorter than what the cipher takes");
        Ok(SEALED.to_owned() + &BASE64_STANDARD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// Opens what was sealed for `place`.
    ///
    /// # Errors
    /// [`SealError::NoKey`] and [`SealError::Sealed`].
    pub fn open(&self, place: Place<'_>, text: &str) -> Result<SecretString, SealError> {
        self.open_by(place, text).map(|(token, _)| token)
    }

    /// Whether `text` is sealed by the first key.
    #[must_use]
    pub fn is_current(&self, place: Place<'_>, text: &str) -> bool {
        self.open_by(place, text).is_ok_and(|(_, index)| index == 0)
    }

    /// The token, and which key opened it.
    fn open_by(&self, place: Place<'_>, text: &str) -> Result<(SecretString, usize), SealError> {
        if self.0.is_empty() {
            return Err(SealError::NoKey);
        }
        let encoded = text.strip_prefix(SEALED).ok_or(SealError::Sealed)?;
        let bytes = BASE64_STANDARD
            .decode(encoded.trim())
            .map_err(|_| SealError::Sealed)?;
        let (nonce, msg) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(SealError::Sealed)?;
        let aad = place.authenticated();
        let open = |(index, key): (usize, &XChaCha20Poly1305)| {
            let aad = aad.as_bytes();
            let token = key.decrypt(&XNonce::from(*nonce), Payload { msg, aad });
            Some((String::from_utf8(token.ok()?).ok()?.into(), index))
        };
        self.0
            .iter()
            .enumerate()
            .find_map(open)
            .ok_or(SealError::Sealed)
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sealing keys", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place {
        portal: "8241",
        key: "refresh_token",
    };

    fn keys(count: usize) -> Vec<Secret> {
        let key = |_| Secret::new(SealingKeys::new_key().expose_secret());
        (0..count).map(key).collect()
    }

    fn sealing(keys: &[Secret]) -> SealingKeys {
        SealingKeys::resolve(keys).unwrap()
    }

    #[test]
    fn a_token_is_opened_where_it_was_put_and_nowhere_else() {
        let keys = sealing(&keys(1));
        let sealed = keys.seal(PLACE, &"na1-secret".to_owned().into()).unwrap();
        assert!(SealingKeys::is_sealed(&sealed) && !sealed.contains("na1"));
        let opened = keys.open(PLACE, &sealed).unwrap();
        assert_eq!(opened.expose_secret(), "na1-secret");
        for (portal, key) in [
            ("8242", "refresh_token"),
            ("8241", "access_token"),
            ("", "8241\nrefresh_token"),
        ] {
            let elsewhere = keys.open(Place { portal, key }, &sealed);
            assert!(
                matches!(elsewhere, Err(SealError::Sealed)),
                "{portal}.{key}"
            );
        }
    }

    #[test]
    fn sealed_twice_it_does_not_show_that_it_is_the_same() {
        let keys = sealing(&keys(1));
        let seal = || keys.seal(PLACE, &"na1-secret".to_owned().into()).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn whatever_byte_is_changed_or_cut_off_is_noticed() {
        let keys = sealing(&keys(1));
        let sealed = keys.seal(PLACE, &"na1-secret".to_owned().into()).unwrap();
        let bytes = BASE64_STANDARD
            .decode(sealed.strip_prefix(SEALED).unwrap())
            .unwrap();
        let open =
            |bytes: &[u8]| keys.open(PLACE, &format!("{SEALED}{}", BASE64_STANDARD.encode(bytes)));
        assert!(open(&bytes).is_ok());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(open(&changed).is_err(), "byte {at}");
            assert!(open(&bytes[..at]).is_err(), "the first {at} bytes");
        }
        for text in ["sealed:", "sealed:%", "na1-secret"] {
            assert!(keys.open(PLACE, text).is_err(), "{text}");
        }
    }

    #[test]
    fn after_a_rotation_the_old_key_still_opens_and_the_new_one_seals() {
        let both = keys(2);
        let (old, new) = (sealing(&both[1..]), sealing(&both));
        let token = "na1-secret".to_owned().into();
        let by_old = old.seal(PLACE, &token).unwrap();
        assert!(new.open(PLACE, &by_old).is_ok() && !new.is_current(PLACE, &by_old));
        let by_new = new.seal(PLACE, &token).unwrap();
        assert!(new.is_current(PLACE, &by_new));
        assert!(old.open(PLACE, &by_new).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_shown() {
        for text in ["c2hvcnQ=", "not base64!", "env:CRM_RELAY_NO_SUCH"] {
            let wrong = [keys(1).remove(0), Secret::new(text)];
            let error = SealingKeys::resolve(&wrong).unwrap_err().to_string();
            assert!(!error.contains("c2hv") && !error.contains('!'), "{error}");
        }
        let none = SealingKeys::none().seal(PLACE, &"x".to_owned().into());
        assert!(matches!(none, Err(SealError::NoKey)));
    }
}
