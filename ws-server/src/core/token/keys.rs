//! Keys and where they are written: a secret, PEM (RFC 7468), a JWK Set (RFC 7517).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use spki::der::asn1::{BitStringRef, UintRef};
use spki::der::{Decode as _, Reader as _, SliceReader};
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use super::TokenFault;
use super::jws::Compact;
use crate::config::TokenAlgorithm;

/// Keys in one file: a token without a kid is tried with all that are for its algorithm.
const MAX_KEYS: usize = 32;
/// RFC 7518 §3.2: a key of the size of the hash or larger must be used.
const MIN_SECRET_SIZE: usize = 32;
const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ELLIPTIC_CURVE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ED_25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Why what a file holds are no keys for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidKeys {
    #[error("the secret has {size} bytes, at least {MIN_SECRET_SIZE} are needed")]
    ShortSecret { size: usize },
    #[error("it is PEM, which is no secret: a key for public_key_file?")]
    PemSecret,
    #[error("there is no PUBLIC KEY in PEM, or something else than that")]
    Pem,
    #[error("the public key {index} is not RSA of 2048 to 8192 bits, P-256 or Ed25519")]
    PublicKey { index: usize },
    #[error("it is not a JWK Set: an object with keys")]
    JwkSet,
    #[error("the key {index} of the set is not what its kty says")]
    Jwk { index: usize },
    #[error("there are more than {MAX_KEYS} keys")]
    TooMany,
    #[error("no key is for one of identity.token.algorithms")]
    NoKey,
}

/// The keys that tokens may be signed with.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

/// A key, for one algorithm.
#[derive(Debug)]
struct Key {
    /// Its kid, where keys have one.
    id: Option<String>,
    material: Material,
}

enum Material {
    Secret(hmac::Key),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    P256(UnparsedPublicKey<Vec<u8>>),
    Ed25519(UnparsedPublicKey<Vec<u8>>),
}

/// Without the material.
impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.algorithm().as_str())
    }
}

impl KeySet {
    /// Adds the secret of HS256. A newline at its end is that of an editor.
    ///
    /// # Errors
    ///
    /// [`InvalidKeys::ShortSecret`].
    pub(crate) fn add_secret(&mut self, secret: &[u8]) -> Result<(), InvalidKeys> {
        // A public key would be a secret that everybody knows.
        if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Err(InvalidKeys::PemSecret);
        }
        let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        let material = Material::secret(secret);
        let material = material.ok_or(InvalidKeys::ShortSecret { size: secret.len() })?;
        self.keys.push(Key { id: None, material });
        Ok(())
    }

    /// Adds each `PUBLIC KEY` of a PEM file.
    ///
    /// # Errors
    ///
    /// If there is none, or one that we cannot use: whoever put it there means it to be used.
    pub(crate) fn add_pem(&mut self, pem: &[u8]) -> Result<(), InvalidKeys> {
        let mut count = 0;
        for public_key in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            let public_key = public_key.map_err(|_| InvalidKeys::Pem)?;
            if count == MAX_KEYS {
                return Err(InvalidKeys::TooMany);
            }
            count += 1;
            let material = Material::from_spki(&public_key);
            let material = material.ok_or(InvalidKeys::PublicKey { index: count })?;
            self.keys.push(Key { id: None, material });
        }
        match count {
            0 => Err(InvalidKeys::Pem),
            _ => Ok(()),
        }
    }

    /// Adds the keys of a JWK Set that are for signatures of ours. Others are passed over, as
    /// RFC 7517 §5 asks.
    ///
    /// # Errors
    ///
    /// If it is no JWK Set, or a key that says it is for us cannot be.
    pub(crate) fn add_jwk_set(&mut self, json: &[u8]) -> Result<(), InvalidKeys> {
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| InvalidKeys::JwkSet)?;
        if set.keys.len() > MAX_KEYS {
            return Err(InvalidKeys::TooMany);
        }
        for (index, key) in set.keys.into_iter().enumerate() {
            let index = index + 1;
            let key: Jwk = serde_json::from_value(key).map_err(|_| InvalidKeys::Jwk { index })?;
            let Some(algorithm) = key.algorithm() else {
                continue;
            };
            let material = key.material(algorithm).ok_or(InvalidKeys::Jwk { index })?;
            let id = key.kid;
            self.keys.push(Key { id, material });
        }
        Ok(())
    }

    /// Keeps only what is for one of these algorithms.
    ///
    /// # Errors
    ///
    /// [`InvalidKeys::NoKey`] if nothing is.
    pub(crate) fn restrict(
        &mut self,
        allowed: Option<&[TokenAlgorithm]>,
    ) -> Result<(), InvalidKeys> {
        if let Some(allowed) = allowed {
            let is_allowed = |key: &Key| allowed.contains(&key.material.algorithm());
            self.keys.retain(is_allowed);
        }
        match self.keys.is_empty() {
            true => Err(InvalidKeys::NoKey),
            false => Ok(()),
        }
    }

    /// Checks a token's signature.
    ///
    /// # Errors
    ///
    /// [`TokenFault`] unless it is that of a key for its algorithm: the one that has its kid, or one
    /// without any.
    pub(super) fn verify(&self, token: &Compact<'_>) -> Result<(), TokenFault> {
        let algorithm = TokenAlgorithm::named(&token.header.alg).ok_or(TokenFault::Algorithm)?;
        let fitting = self.keys.iter();
        let mut fitting = fitting
            .filter(|key| key.material.algorithm() == algorithm)
            .peekable();
        if fitting.peek().is_none() {
            return Err(TokenFault::Algorithm);
        }
        let mut meant = fitting
            .filter(|key| match (&token.header.kid, &key.id) {
                (Some(wanted), Some(id)) => wanted == id,
                _ => true,
            })
            .peekable();
        if meant.peek().is_none() {
            return Err(TokenFault::UnknownKey);
        }
        match meant.any(|key| key.material.has_signed(token)) {
            true => Ok(()),
            false => Err(TokenFault::Signature),
        }
    }
}

impl Material {
    fn algorithm(&self) -> TokenAlgorithm {
        match self {
            Self::Secret(_) => TokenAlgorithm::Hs256,
            Self::Rsa(_) => TokenAlgorithm::Rs256,
            Self::P256(_) => TokenAlgorithm::Es256,
            Self::Ed25519(_) => TokenAlgorithm::EdDsa,
        }
    }

    fn has_signed(&self, token: &Compact<'_>) -> bool {
        let (signed, signature) = (token.signed, &*token.signature);
        match self {
            // In constant time.
            Self::Secret(key) => hmac::verify(key, signed, signature).is_ok(),
            Self::Rsa(key) => {
                let scheme = &RSA_PKCS1_2048_8192_SHA256;
                key.verify(scheme, signed, signature).is_ok()
            }
            Self::P256(key) | Self::Ed25519(key) => key.verify(signed, signature).is_ok(),
        }
    }

    fn secret(secret: &[u8]) -> Option<Self> {
        let is_long = secret.len() >= MIN_SECRET_SIZE;
        is_long.then(|| Self::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// Both as big-endian numbers.
    fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let trim = |number: &[u8]| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            number[zeros..].to_vec()
        };
        let (n, e) = (trim(modulus), trim(exponent));
        let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
        // An even exponent, or 1, is none; ring says no to what is too large.
        let is_odd = e.last()? & 1 == 1 && e != [1];
        ((MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) && is_odd)
            .then_some(Self::Rsa(RsaPublicKeyComponents { n, e }))
    }

    /// An uncompressed point (SEC 1 §2.3.3).
    fn p256(point: Vec<u8>) -> Option<Self> {
        let is_uncompressed = point.len() == 65 && point[0] == 4;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        is_uncompressed.then_some(Self::P256(key))
    }

    fn ed25519(point: Vec<u8>) -> Option<Self> {
        (point.len() == 32).then(|| Self::Ed25519(UnparsedPublicKey::new(&ED25519, point)))
    }

    /// A SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    fn from_spki(der: &[u8]) -> Option<Self> {
        let info: SubjectPublicKeyInfoRef<'_> = SubjectPublicKeyInfoRef::from_der(der).ok()?;
        let key: &BitStringRef<'_> = &info.subject_public_key;
        let key = key.as_bytes()?;
        match info.algorithm.oid {
            RSA => {
                // RFC 8017 §A.1.1: a sequence of the modulus and the exponent.
                let mut reader = SliceReader::new(key).ok()?;
                let (modulus, exponent) = reader
                    .sequence(|inner| {
                        Ok::<_, spki::der::Error>((
                            UintRef::decode(inner)?,
                            UintRef::decode(inner)?,
                        ))
                    })
                    .ok()?;
                Self::rsa(modulus.as_bytes(), exponent.as_bytes())
            }
            ELLIPTIC_CURVE if info.algorithm.parameters_oid().ok()? == P256 => {
                Self::p256(key.to_vec())
            }
            ED_25519 => Self::ed25519(key.to_vec()),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// A JSON Web Key, as far as we know what it says (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl Jwk {
    /// The algorithm that the key is for, if we know it.
    fn algorithm(&self) -> Option<TokenAlgorithm> {
        let is_for_signatures = self
            .purpose
            .as_deref()
            .is_none_or(|purpose| purpose == "sig")
            && self
                .key_ops
                .as_ref()
                .is_none_or(|operations| operations.iter().any(|name| name == "verify"));
        let algorithm = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => TokenAlgorithm::Rs256,
            ("EC", Some("P-256")) => TokenAlgorithm::Es256,
            ("OKP", Some("Ed25519")) => TokenAlgorithm::EdDsa,
            ("oct", _) => TokenAlgorithm::Hs256,
            _ => return None,
        };
        let is_named = self
            .alg
            .as_deref()
            .is_none_or(|name| name == algorithm.as_str());
        (is_for_signatures && is_named).then_some(algorithm)
    }

    fn material(&self, algorithm: TokenAlgorithm) -> Option<Material> {
        match algorithm {
            TokenAlgorithm::Rs256 => Material::rsa(&bytes(&self.n)?, &bytes(&self.e)?),
            TokenAlgorithm::Es256 => {
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                // RFC 7518 §6.2.1.2: each in its full size.
                let is_full = x.len() == 32 && y.len() == 32;
                is_full.then(|| Material::p256([&[4][..], &x, &y].concat()))?
            }
            TokenAlgorithm::EdDsa => Material::ed25519(bytes(&self.x)?),
            TokenAlgorithm::Hs256 => Material::secret(&bytes(&self.k)?),
        }
    }
}

fn bytes(member: &Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(member.as_ref()?).ok()
}
