//! Chain, key and roots read together, and what they make.

use std::fmt;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::input::{Input, Place, Reading};
use crate::certificate::Facts;
use crate::digest::digest;
use crate::error::SourceError;
use crate::material::{CertMaterial, MaterialError, Part, formats};
use crate::source::CacheKey;
use crate::tls::default_provider;

/// How often files are read again that change while they are being read.
const MOST_READS: usize = 4;

/// All that one certificate is read from.
#[derive(Clone)]
pub(super) struct Inputs {
    pub(super) chain: Input,
    /// `None`: the key is in the same place as the chain.
    pub(super) key: Option<Input>,
    pub(super) roots: Vec<Input>,
    #[cfg(feature = "encrypted-keys")]
    pub(super) passphrase: Option<Input>,
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.all().map(|input| input.place.to_string());
        f.debug_list().entries(places).finish()
    }
}

/// What was read, in the order of [`Inputs::all`].
pub(super) struct Contents(Vec<Zeroizing<Vec<u8>>>);

impl Contents {
    /// Certificate, key, roots and passphrase: a change of any is a change.
    pub(super) fn digest(&self) -> [u8; 32] {
        digest(self.0.iter().map(|bytes| bytes.as_slice()))
    }
}

impl Inputs {
    pub(super) fn new(chain: Input, key: Option<Input>, roots: Vec<Input>) -> Self {
        Self {
            chain,
            key,
            roots,
            #[cfg(feature = "encrypted-keys")]
            passphrase: None,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Input> {
        let inputs = [&self.chain]
            .into_iter()
            .chain(&self.key)
            .chain(&self.roots);
        #[cfg(feature = "encrypted-keys")]
        let inputs = inputs.chain(&self.passphrase);
        inputs
    }

    /// What is asked for: the places, not what is in them.
    pub(super) fn fingerprint(&self) -> CacheKey {
        let places: Vec<_> = self.all().map(|input| input.place.to_string()).collect();
        CacheKey::of(places.iter().map(|place| place.as_bytes()))
    }

    /// Reads everything; blocks.
    ///
    /// Reads until two readings agree, so that a pair which is swapped between the reading of the
    /// one and of the other is not taken for a torn one.
    pub(super) fn read(&self) -> Result<Contents, SourceError> {
        let mut last = self.read_once()?;
        for _again in 1..MOST_READS {
            let next = self.read_once()?;
            if next.digest() == last.digest() {
                break;
            }
            last = next;
        }
        Ok(last)
    }

    fn read_once(&self) -> Result<Contents, SourceError> {
        self.all()
            .map(Input::read)
            .collect::<Result<_, _>>()
            .map(Contents)
    }

    /// Makes material of what was read, and checks what can be checked here: an error that is
    /// found here can still name its file.
    pub(super) fn material(&self, contents: &Contents) -> Result<CertMaterial, SourceError> {
        let mut contents = contents.0.iter();
        let mut next = || contents.next().map_or(&[][..], |bytes| bytes.as_slice());

        let chain_bytes = next();
        let chain = certificates(Part::Chain, &self.chain.place, chain_bytes)?;
        let (key_place, key_bytes) = match &self.key {
            Some(key) => (&key.place, next()),
            None => (&self.chain.place, chain_bytes),
        };
        let mut roots = Vec::new();
        for input in &self.roots {
            roots.extend(certificates(Part::Roots, &input.place, next())?);
        }
        #[cfg(feature = "encrypted-keys")]
        let key = match &self.passphrase {
            Some(input) => {
                let passphrase = match input.place {
                    Place::File(_) => without_line_end(next()),
                    _ => next(),
                };
                let open = |der: &[u8]| crate::material::encrypted::decrypt(der, passphrase);
                formats::private_key(key_bytes, &open)
            }
            None => formats::private_key(key_bytes, &formats::closed),
        };
        #[cfg(not(feature = "encrypted-keys"))]
        let key = formats::private_key(key_bytes, &formats::closed);
        let key = key.map_err(|cause| at(key_place, cause))?;

        check_pair(&chain, &key).map_err(|cause| match &self.key {
            Some(key) => at(&Both(&self.chain.place, &key.place), cause),
            None => at(&self.chain.place, cause),
        })?;
        Ok(CertMaterial::from_der(chain, key, roots)?)
    }
}

fn certificates(
    part: Part,
    place: &Place,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let found = formats::certificates(part, bytes).map_err(|cause| at(place, cause))?;
    for (index, certificate) in found.iter().enumerate() {
        Facts::read(certificate).map_err(|problem| {
            let malformed = MaterialError::Certificate {
                part,
                index,
                problem,
            };
            at(place, malformed)
        })?;
    }
    Ok(found)
}

/// Whether key and leaf belong together; left to the core where there is no provider here.
fn check_pair(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), MaterialError> {
    let Some(provider) = default_provider() else {
        return Ok(());
    };
    let key = provider
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(MaterialError::Key)?;
    match CertifiedKey::new(chain.to_vec(), key).keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err(MaterialError::KeyMismatch)
        }
        // What else there may be to say about them, the core says.
        _ => Ok(()),
    }
}

fn at(place: &impl fmt::Display, cause: MaterialError) -> SourceError {
    // A writer that is halfway through comes to its end by itself.
    let halfway = matches!(cause, MaterialError::CutOff { .. });
    let reading = Reading::from(place, cause);
    if halfway {
        SourceError::unavailable(reading)
    } else {
        SourceError::invalid(reading)
    }
}

struct Both<'a>(&'a Place, &'a Place);

impl fmt::Display for Both<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.0, self.1)
    }
}

/// Editors and `echo` end a passphrase's file with a line end that is not part of it.
#[cfg(feature = "encrypted-keys")]
fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}
