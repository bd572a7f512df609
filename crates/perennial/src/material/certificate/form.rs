//! What verifiers look at in a certificate, beyond the facts that people read.

use rustls_pki_types::SignatureVerificationAlgorithm;
use x509_parser::der_parser::asn1_rs::Any;
use x509_parser::extensions::{ExtendedKeyUsage, ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The form of one certificate: its version, keys and signature.
#[derive(Clone)]
pub(crate) struct Form {
    /// As people count: 1 to 3.
    pub(crate) version: u32,
    pub(crate) is_ca: bool,
    /// Both names in DER.
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) has_alternative_names: bool,
    /// The critical extensions that rustls does not know, for people to read.
    pub(crate) unknown_critical: Vec<String>,
    /// The purposes of the extended key usage, for people to read; `None` without one.
    pub(crate) purposes: Option<String>,
    key: PublicKey,
    /// What the issuer signed.
    signed: Vec<u8>,
    /// The content of its `AlgorithmIdentifier`.
    signature_algorithm: Vec<u8>,
    signature: Vec<u8>,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
}

/// The public key of a certificate or of a private key.
#[derive(Clone)]
pub(crate) struct PublicKey {
    /// The content of its `AlgorithmIdentifier`.
    algorithm: Vec<u8>,
    bits: Vec<u8>,
}

/// What a signature says about two certificates whose names fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The one's key signed the other.
    Verified,
    /// The crypto provider does not know the kind of signature or key.
    Unknown,
    /// Another key signed it.
    Foreign,
}

impl Form {
    pub(super) fn new(der: &[u8], cert: &X509Certificate<'_>) -> Result<Self, String> {
        let (signed, signature_algorithm, signature) =
            signature_parts(der).ok_or("its signature is malformed")?;
        let mut form = Self {
            version: cert.version().0.saturating_add(1),
            is_ca: cert.is_ca(),
            subject: cert.subject().as_raw().to_vec(),
            issuer: cert.issuer().as_raw().to_vec(),
            has_alternative_names: cert
                .subject_alternative_name()
                .is_ok_and(|names| names.is_some()),
            unknown_critical: Vec::new(),
            purposes: None,
            key: PublicKey::from_der(cert.public_key().raw).ok_or("its key is malformed")?,
            signed,
            signature_algorithm,
            signature,
            subject_key_id: None,
            authority_key_id: None,
        };
        for extension in cert.extensions() {
            form.note(extension);
        }
        Ok(form)
    }

    fn note(&mut self, extension: &X509Extension<'_>) {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            ParsedExtension::ExtendedKeyUsage(usage) => self.purposes = Some(purposes(usage)),
            _ => {}
        }
        let oid = extension.oid.to_id_string();
        if extension.critical && !KNOWN_TO_RUSTLS.contains(&oid.as_str()) {
            self.unknown_critical
                .push(match NAMED.iter().find(|(known, _)| *known == oid) {
                    Some((_, name)) => (*name).to_owned(),
                    None => oid,
                });
        }
    }

    /// Whether this certificate's key is that one.
    pub(crate) fn has_key(&self, key: &PublicKey) -> bool {
        self.key.is(key)
    }

    /// Whether both certificates are for one name and key.
    pub(crate) fn is_same_subject(&self, other: &Self) -> bool {
        self.subject == other.subject && self.key.is(&other.key)
    }

    /// Whether this certificate's key is the one of a trust anchor: the content of a
    /// `SubjectPublicKeyInfo`.
    pub(crate) fn is_key(&self, info: &[u8]) -> bool {
        let key = PublicKey::from_info(info);
        key.is_some_and(|key| key.algorithm == self.key.algorithm && key.bits == self.key.bits)
    }

    /// Whether `issuer`, whose name fits, signed this certificate.
    pub(crate) fn signed_by(
        &self,
        issuer: &Self,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Link {
        let key = &issuer.key;
        let mut fitting = algorithms
            .iter()
            .filter(|algorithm| {
                algorithm.signature_alg_id().as_ref() == self.signature_algorithm
                    && algorithm.public_key_alg_id().as_ref() == key.algorithm
            })
            .peekable();
        if fitting.peek().is_none() || key.has_unusual_size() {
            return Link::Unknown;
        }
        let verified = fitting.any(|algorithm| {
            let verified = algorithm.verify_signature(&key.bits, &self.signed, &self.signature);
            verified.is_ok()
        });
        if verified {
            Link::Verified
        } else {
            Link::Foreign
        }
    }

    /// Whether the key identifiers name `issuer` as this one's; without them, they may.
    pub(crate) fn may_name(&self, issuer: &Self) -> bool {
        match (&self.authority_key_id, &issuer.subject_key_id) {
            (Some(theirs), Some(own)) => theirs == own,
            _ => true,
        }
    }
}

impl PublicKey {
    /// Reads a `SubjectPublicKeyInfo`.
    pub(crate) fn from_der(der: &[u8]) -> Option<Self> {
        Self::from_info(Any::from_der(der).ok()?.1.data)
    }

    fn from_info(info: &[u8]) -> Option<Self> {
        let (rest, algorithm) = Any::from_der(info).ok()?;
        let (_, bits) = Any::from_der(rest).ok()?;
        Some(Self {
            algorithm: algorithm.data.to_vec(),
            bits: bits.data.get(1..)?.to_vec(),
        })
    }

    /// By the key's bits alone: one key is written under several algorithms (RSA and RSA-PSS), and
    /// a point of a curve with or without its second half.
    fn is(&self, other: &Self) -> bool {
        self.bits == other.bits || other.compressed().is_some_and(|half| half == self.bits)
    }

    /// A point of a curve without its second half (SEC 1, 2.3.3).
    fn compressed(&self) -> Option<Vec<u8>> {
        let (&4, point) = self.bits.split_first()? else {
            return None;
        };
        let (x, y) = point.split_at(point.len() / 2);
        Some([&[2 + (y.last()? & 1)], x].concat())
    }

    /// An RSA key that crypto providers refuse for its size: below 2048 bits, above 8192.
    fn has_unusual_size(&self) -> bool {
        self.algorithm.starts_with(RSA) && !(260..=1_050).contains(&self.bits.len())
    }
}

/// The object identifier of all RSA keys' algorithms, PKCS#1.
const RSA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];

/// The critical extensions that rustls reads (webpki's `remember_cert_extension`).
const KNOWN_TO_RUSTLS: [&str; 6] = [
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.30",
    "2.5.29.31",
    "2.5.29.37",
];

/// Other critical extensions that certificates have.
const NAMED: [(&str, &str); 4] = [
    ("2.5.29.32", "certificatePolicies"),
    ("2.5.29.33", "policyMappings"),
    ("2.5.29.36", "policyConstraints"),
    ("2.5.29.54", "inhibitAnyPolicy"),
];

fn purposes(usage: &ExtendedKeyUsage<'_>) -> String {
    let known = [
        (usage.any, "anyExtendedKeyUsage"),
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let known = known.iter().filter(|(has, _)| *has);
    let known = known.map(|(_, name)| (*name).to_owned());
    let all: Vec<String> = known
        .chain(usage.other.iter().map(|oid| oid.to_id_string()))
        .collect();
    all.join(", ")
}

/// What was signed, the content of the signature's `AlgorithmIdentifier`, the signature.
fn signature_parts(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let (_, certificate) = Any::from_der(der).ok()?;
    let (rest, _) = Any::from_der(certificate.data).ok()?;
    let signed = &certificate.data[..certificate.data.len() - rest.len()];
    let (rest, algorithm) = Any::from_der(rest).ok()?;
    let (_, signature) = Any::from_der(rest).ok()?;
    let signature = signature.data.get(1..)?;
    Some((signed.to_vec(), algorithm.data.to_vec(), signature.to_vec()))
}
