use rustls_pki_types::CertificateDer;

use crate::material::certificate::{Certificate, Form};
use crate::material::error::{MaterialError, part};

/// How many certificates a chain has at most: more than a system has roots. The search for paths
/// takes the third power of it where all name each other.
pub(super) const MOST_READ: usize = 256;

/// A certificate that was delivered.
pub(super) struct Node<'a> {
    pub(super) der: &'a CertificateDer<'static>,
    pub(super) certificate: Certificate,
    pub(super) form: Form,
}

/// Reads each certificate once.
pub(super) fn read<'a>(
    chain: &'a [CertificateDer<'static>],
) -> Result<Vec<Node<'a>>, MaterialError> {
    let mut set: Vec<Node<'_>> = Vec::with_capacity(chain.len());
    for (index, der) in chain.iter().enumerate() {
        if set.iter().any(|node| node.der == der) {
            continue;
        }
        if set.len() == MOST_READ {
            return Err(MaterialError::OtherContent {
                part: part::CHAIN,
                found: "more than 256 certificates; expected the leaf and its issuers alone",
            });
        }
        let (certificate, form) =
            Certificate::with_form(der).map_err(|problem| MaterialError::Certificate {
                part: part::CHAIN,
                index,
                problem,
            })?;
        set.push(Node {
            der,
            certificate,
            form,
        });
    }
    match set.is_empty() {
        true => Err(MaterialError::Missing { part: part::CHAIN }),
        false => Ok(set),
    }
}
