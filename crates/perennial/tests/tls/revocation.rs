//! Revocation lists for servers' certificates.

use std::sync::Arc;

use perennial::rustls::{CertificateError, Error};
use perennial::{LiveCert, ServerCrls, TlsSettings};

use crate::pki::Ca;
use crate::server::{HOST, Server};

const LEAF: u64 = 7;
const INTERMEDIATE: u64 = 70;

const FUTURE: i32 = 2120;
const PAST: i32 = 2022;

/// A server under an intermediate, and how a client with these lists takes it.
struct Chain {
    root: Ca,
    intermediate: Ca,
    server: Server,
}

impl Chain {
    fn new() -> Self {
        let root = Ca::new("root");
        let intermediate = root.issue_ca("intermediate", INTERMEDIATE);
        let mut identity = intermediate.server(HOST, LEAF);
        identity.chain.push(intermediate.der());
        Self {
            server: Server::new(identity, &root),
            root,
            intermediate,
        }
    }

    fn verdict(&self, crls: ServerCrls) -> Result<(), CertificateError> {
        let tls = TlsSettings::new().server_crls(crls);
        let live = LiveCert::builder().tls(tls);
        let live = live.fixed(self.root.client("app", [&self.root])).unwrap();
        let config = live.current().unwrap().client_config();
        match self.server.login(Arc::clone(&config), HOST) {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }

    /// The lists of both CAs, which revoke these.
    fn lists(&self, leaf: &[u64], intermediate: &[u64], next_update: i32) -> ServerCrls {
        ServerCrls::from_der([
            self.intermediate.crl_der(leaf, next_update),
            self.root.crl_der(intermediate, next_update),
        ])
    }
}

#[test]
fn revoked_server_is_refused_wherever_its_chain_is_revoked() {
    let chain = Chain::new();
    let revoked = Err(CertificateError::Revoked);
    assert_eq!(chain.verdict(chain.lists(&[], &[], FUTURE)), Ok(()));
    assert_eq!(chain.verdict(chain.lists(&[8], &[71], FUTURE)), Ok(()));
    assert_eq!(chain.verdict(chain.lists(&[LEAF], &[], FUTURE)), revoked);
    let above = || chain.lists(&[], &[INTERMEDIATE], FUTURE);
    assert_eq!(chain.verdict(above()), revoked);
    assert_eq!(chain.verdict(above().leaf_only()), Ok(()));
    assert_eq!(
        chain.verdict(chain.lists(&[LEAF], &[], FUTURE).leaf_only()),
        revoked
    );
}

#[test]
fn ca_without_a_list_is_refused_unless_allowed() {
    let chain = Chain::new();
    let of_leaf = || ServerCrls::from_der([chain.intermediate.crl_der(&[], FUTURE)]);
    let unknown = Err(CertificateError::UnknownRevocationStatus);
    assert_eq!(chain.verdict(of_leaf()), unknown);
    assert_eq!(chain.verdict(of_leaf().leaf_only()), Ok(()));
    assert_eq!(chain.verdict(of_leaf().allow_unknown()), Ok(()));
    let revoking = ServerCrls::from_der([chain.intermediate.crl_der(&[LEAF], FUTURE)]);
    assert_eq!(
        chain.verdict(revoking.allow_unknown()),
        Err(CertificateError::Revoked)
    );
}

#[test]
fn outdated_list_counts_unless_refused() {
    let chain = Chain::new();
    assert_eq!(chain.verdict(chain.lists(&[], &[], PAST)), Ok(()));
    assert_eq!(
        chain.verdict(chain.lists(&[LEAF], &[], PAST)),
        Err(CertificateError::Revoked)
    );
    let strict = chain.lists(&[], &[], PAST).refuse_outdated();
    assert!(matches!(
        chain.verdict(strict),
        Err(CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. })
    ));
    let fresh = chain.lists(&[], &[], FUTURE).refuse_outdated();
    assert_eq!(chain.verdict(fresh), Ok(()));
}

#[test]
fn lists_are_read_from_one_pem_text() {
    let chain = Chain::new();
    let leaf = chain.intermediate.crl(&[LEAF], FUTURE).pem().unwrap();
    let above = chain.root.crl(&[], FUTURE).pem().unwrap();
    let both = ServerCrls::from_pem(format!("lists of today\n{leaf}{above}"));
    assert_eq!(chain.verdict(both), Err(CertificateError::Revoked));
}
