//! Which of the delivered certificates is ours, and what is presented with it. Pure: reads no clock.
//!
//! A server judges a certificate, not we: what may work is presented, with a warning where it may
//! not. Nothing here makes a certificate a root but [`roots_of_chain`].

use std::cell::{Cell, OnceCell};
use std::collections::VecDeque;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};

use super::certificate::{Certificate, Form, Link, PublicKey};
use super::error::{MaterialError, part};
use super::usage::Usage;

/// How many certificates are presented at most, and of how many bytes: rustls' servers read 64 KiB.
const MOST_PRESENTED: usize = 64;
const MOST_BYTES: usize = 64 << 10;

/// What TLS 1.3 adds to each certificate, in bytes.
const FRAME: usize = 5;

/// How many signatures are checked at most; webpki has the same limit.
const MOST_CHECKS: usize = 100;

/// How many certificates a chain has at most: more than a system has roots. The search for paths
/// takes the third power of it where all name each other.
const MOST_READ: usize = 256;

/// What was delivered, and what it is for.
pub(crate) struct Delivered<'a> {
    pub(crate) chain: &'a [CertificateDer<'static>],
    pub(crate) roots: &'a [CertificateDer<'static>],
    /// `None` for a signer that does not reveal it: the first certificate is then the leaf.
    pub(crate) key: Option<&'a PublicKey>,
    pub(crate) usage: Usage,
    pub(crate) now: SystemTime,
    pub(crate) provider: &'a CryptoProvider,
}

/// What is presented.
#[derive(Debug)]
pub(crate) struct Presented {
    pub(crate) leaf: Certificate,
    pub(crate) chains: Chains,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// The issuer that expires with or before the leaf, where no other path is left.
    pub(crate) limited_by: Option<String>,
    pub(crate) refused: Refused,
    pub(crate) warnings: Vec<String>,
}

/// What a leaf cannot be used for, whatever it is used for.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) as_client: Option<MaterialError>,
    pub(crate) as_server: Option<MaterialError>,
}

/// The same certificates with one path or another first.
#[derive(Debug)]
pub(crate) struct Chains {
    /// The leaf, its path, then the others in the order of delivery.
    pub(crate) first: Vec<CertificateDer<'static>>,
    /// The issuers' names in that path, in the form that is compared.
    pub(crate) issuers: Vec<Vec<u8>>,
    /// With another path first, by the name of the issuer to which it leads.
    pub(crate) others: Vec<(Vec<u8>, Vec<CertificateDer<'static>>)>,
}

impl Delivered<'_> {
    /// Finds the leaf and its path, and checks their expiry and usage.
    pub(crate) fn presented(&self) -> Result<Presented, MaterialError> {
        let mut set = read(self.chain)?;
        let leaf = self.leaf(&set)?;
        // Keeps the order of the others.
        set[..=leaf].rotate_right(1);
        let graph = Graph::new(set, self.roots, self.provider);
        let leaf = &graph.set[0];
        let refused = Refused::of(leaf);
        let mut warnings = Vec::new();
        warnings.extend(refused.check(self.usage)?);

        let path = graph.path(self.now);
        let certificates = || path.iter().map(|&at| &graph.set[at].certificate);
        let start = leaf.certificate.not_before();
        let not_before = certificates().fold(start, |from, one| from.max(one.not_before()));
        let limiting = certificates()
            .skip(1)
            .filter(|issuer| issuer.not_after() <= leaf.certificate.not_after())
            .min_by_key(|issuer| issuer.not_after());
        let not_after = limiting.unwrap_or(&leaf.certificate).not_after();
        let limited_by = limiting.map(|issuer| issuer.subject().to_owned());
        if self.now >= not_after {
            return Err(MaterialError::Expired {
                not_after,
                limited_by: limiting.map(Certificate::shown),
            });
        }
        warnings.extend(graph.warnings(&path));
        let (chains, left_out) = graph.chains(&path);
        if left_out > 0 {
            warnings.push(format!(
                "{left_out} certificates of the chain are not presented: at most {MOST_PRESENTED} are, of {MOST_BYTES} bytes"
            ));
        }
        Ok(Presented {
            leaf: leaf.certificate.clone(),
            chains,
            not_before,
            not_after,
            limited_by,
            refused,
            warnings,
        })
    }

    /// The certificate whose key is ours; of several, the first that is valid and fits the usage.
    fn leaf(&self, set: &[Node<'_>]) -> Result<usize, MaterialError> {
        let Some(key) = self.key else {
            return Ok(0);
        };
        let rank = |node: &Node<'_>| {
            let certificate = &node.certificate;
            let validity = if self.now < certificate.not_before() {
                1
            } else if self.now < certificate.not_after() {
                0
            } else {
                2
            };
            (validity, Refused::of(node).check(self.usage).is_err())
        };
        let ours = set.iter().enumerate();
        let ours = ours.filter(|(_, node)| node.form.has_key(key));
        ours.min_by_key(|(_, node)| rank(node))
            .map(|(at, _)| at)
            .ok_or_else(|| mismatch(set))
    }
}

impl Refused {
    fn of(leaf: &Node<'_>) -> Self {
        let Node {
            certificate, form, ..
        } = leaf;
        let wrong_usage = |used_as| {
            let allows = form
                .purposes
                .clone()
                .filter(|purposes| !purposes.is_empty());
            MaterialError::WrongUsage {
                subject: certificate.shown(),
                allows: allows.unwrap_or_else(|| "nothing".to_owned()),
                used_as,
            }
        };
        let names = certificate.names();
        let as_server = if !certificate.allows_servers() {
            Some(wrong_usage(Usage::Server))
        } else if names.dns.is_empty() && names.ip.is_empty() && names.uri.is_empty() {
            let subject = certificate.shown();
            Some(MaterialError::NoServerName { subject })
        } else {
            None
        };
        let as_client = !certificate.allows_clients();
        Self {
            as_client: as_client.then(|| wrong_usage(Usage::Client)),
            as_server,
        }
    }

    /// A warning, if the leaf is for a part of its usage alone; an error if it is for none of it.
    fn check(&self, usage: Usage) -> Result<Option<String>, MaterialError> {
        match (usage, &self.as_client, &self.as_server) {
            (Usage::Client, Some(refused), _) | (Usage::Server, _, Some(refused)) => {
                Err(refused.clone())
            }
            (Usage::Both, Some(refused), Some(_)) => Err(match refused.clone() {
                MaterialError::WrongUsage {
                    subject, allows, ..
                } => MaterialError::WrongUsage {
                    subject,
                    allows,
                    used_as: usage,
                },
                other => other,
            }),
            (Usage::Both, Some(refused), None) | (Usage::Both, None, Some(refused)) => {
                Ok(Some(refused.to_string()))
            }
            _ => Ok(None),
        }
    }
}

/// Fails unless a certificate of the chain has this key.
pub(crate) fn check_key(
    chain: &[CertificateDer<'static>],
    key: &PublicKey,
) -> Result<(), MaterialError> {
    let set = read(chain)?;
    match set.iter().any(|node| node.form.has_key(key)) {
        true => Ok(()),
        false => Err(mismatch(&set)),
    }
}

fn mismatch(set: &[Node<'_>]) -> MaterialError {
    let first = set.first().map(|node| node.certificate.shown());
    MaterialError::KeyMismatch {
        first: first.unwrap_or_default(),
        certificates: set.len(),
    }
}

/// The roots that a chain brings along: the self-signed certificates in which its first
/// certificate's paths end.
///
/// For sources whose CA sends its roots in the chain. Every signature of such a path is verified,
/// with `provider`. A certificate that merely names itself as its issuer, or that is not a part of
/// a path, is left out. The signature of a root by itself may be of a kind that the provider does
/// not verify (SHA-1): the path's signature shows that it is the issuer.
///
/// Any root can certify the key of an issuer that it did not make: take the roots only of a chain
/// that its CA itself sent, on a connection that verified the CA.
///
/// # Errors
/// - A certificate cannot be parsed: [`MaterialError::Certificate`].
/// - There are more than 256: [`MaterialError::OtherContent`].
pub fn roots_of_chain(
    chain: &[CertificateDer<'static>],
    provider: &CryptoProvider,
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let graph = Graph::new(read(chain)?, &[], provider);
    Ok(graph.own_roots())
}

/// A certificate that was delivered.
struct Node<'a> {
    der: &'a CertificateDer<'static>,
    certificate: Certificate,
    form: Form,
}

/// Reads each certificate once.
fn read<'a>(chain: &'a [CertificateDer<'static>]) -> Result<Vec<Node<'a>>, MaterialError> {
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

/// Who issued whom; the first certificate is the leaf.
struct Graph<'a> {
    set: Vec<Node<'a>>,
    /// Roots, which are not presented; each is found out when it is asked for, so that unrelated
    /// ones use up no checks which the leaf's path needs.
    self_signed: Vec<OnceCell<bool>>,
    /// By place in the set; empty for what the leaf's paths do not reach.
    issuers: Vec<Issuers>,
    roots: &'a [CertificateDer<'static>],
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
    checks: Cell<usize>,
}

/// The possible issuers of a certificate.
#[derive(Clone, Default)]
struct Issuers {
    is_reached: bool,
    presented: Vec<(usize, Link)>,
    /// A certificate whose name fits, but not its key.
    foreign: Option<usize>,
}

impl<'a> Graph<'a> {
    fn new(
        set: Vec<Node<'a>>,
        roots: &'a [CertificateDer<'static>],
        provider: &CryptoProvider,
    ) -> Self {
        let mut graph = Self {
            self_signed: vec![OnceCell::new(); set.len()],
            issuers: vec![Issuers::default(); set.len()],
            set,
            roots,
            algorithms: provider.signature_verification_algorithms.all,
            checks: Cell::new(MOST_CHECKS),
        };
        let mut next = vec![0];
        while let Some(at) = next.pop() {
            if graph.issuers[at].is_reached {
                continue;
            }
            let issuers = graph.issuers_of(at);
            next.extend(issuers.presented.iter().map(|(issuer, _)| issuer));
            graph.issuers[at] = issuers;
        }
        graph
    }

    fn link(&self, below: &Form, issuer: &Form) -> Link {
        let link = match self.checks.get().checked_sub(1) {
            None => Link::Unknown,
            Some(left) => {
                self.checks.set(left);
                below.signed_by(issuer, self.algorithms)
            }
        };
        match link {
            Link::Unknown if !below.may_name(issuer) => Link::Foreign,
            link => link,
        }
    }

    /// Signed by its own key; by the key identifiers where the signature cannot be verified.
    fn is_self_signed(&self, node: &Node<'_>) -> bool {
        node.certificate.is_self_issued() && self.link(&node.form, &node.form) != Link::Foreign
    }

    /// Whether this certificate, which is not the leaf, is self-signed.
    fn is_root(&self, at: usize) -> bool {
        at > 0 && *self.self_signed[at].get_or_init(|| self.is_self_signed(&self.set[at]))
    }

    fn issuers_of(&self, at: usize) -> Issuers {
        let mut issuers = Issuers {
            is_reached: true,
            ..Issuers::default()
        };
        let below = &self.set[at];
        for (other, node) in self.set.iter().enumerate().skip(1) {
            let fits = other != at
                && below.certificate.names_issuer(&node.certificate)
                && !self.is_root(other);
            if !fits {
                continue;
            }
            match self.link(&below.form, &node.form) {
                Link::Foreign => issuers.foreign = Some(other),
                link => issuers.presented.push((other, link)),
            }
        }
        issuers
    }

    /// Whether a root that was delivered or given issued this certificate.
    fn ends_at_root(&self, at: usize) -> bool {
        let below = &self.set[at];
        let is_by = |certificate: &Certificate| below.certificate.names_issuer(certificate);
        let signed_by = |form: &Form| self.link(&below.form, form) != Link::Foreign;
        let mut delivered = self.set.iter().enumerate();
        delivered
            .any(|(at, node)| is_by(&node.certificate) && self.is_root(at) && signed_by(&node.form))
            || self.roots.iter().any(|der| {
                Certificate::with_form(der)
                    .is_ok_and(|(root, form)| is_by(&root) && signed_by(&form))
            })
    }

    /// Whether a path may end with this certificate.
    fn is_last(&self, at: usize) -> bool {
        self.issuers[at].presented.is_empty() || self.ends_at_root(at)
    }

    /// The leaf and the issuers of the path that stays valid longest.
    fn path(&self, now: SystemTime) -> Vec<usize> {
        let is_last: Vec<bool> = (0..self.set.len()).map(|at| self.is_last(at)).collect();
        let has_begun = |at: usize| self.set[at].certificate.not_before() <= now;
        let ends = self.ends(&is_last, has_begun);
        let ends = match ends[0] {
            Some(_) => ends,
            None => self.ends(&is_last, |_| true),
        };
        let mut path = vec![0];
        // Without any end, certificates issued each other in a circle.
        let Some(end) = ends[0] else {
            return path;
        };
        let lengths = self.lengths(&is_last, |at| ends[at] >= Some(end));
        let mut at = 0;
        loop {
            let issuers = self.issuers[at].presented.iter();
            let next = issuers
                .filter(|(issuer, _)| ends[*issuer] >= Some(end) && !path.contains(issuer))
                // The first of the best; one that only leads back here is none of them.
                .min_by_key(|(issuer, link)| {
                    (*link != Link::Verified, lengths[*issuer] >= lengths[at])
                });
            let Some(&(issuer, _)) = next else {
                return path;
            };
            path.push(issuer);
            at = issuer;
        }
    }

    /// When the longest path from each certificate ends, through `allowed` ones; `None` without one.
    fn ends(&self, is_last: &[bool], allowed: impl Fn(usize) -> bool) -> Vec<Option<SystemTime>> {
        let mut ends = vec![None; self.set.len()];
        let mut is_settled = false;
        while !is_settled {
            is_settled = true;
            for at in (0..self.set.len()).filter(|&at| self.issuers[at].is_reached && allowed(at)) {
                let own = self.set[at].certificate.not_after();
                let above = self.issuers[at].presented.iter();
                let above = above.filter_map(|(issuer, _)| ends[*issuer]).max();
                let end = match is_last[at] {
                    true => Some(own),
                    false => above.map(|above| own.min(above)),
                };
                if end > ends[at] {
                    ends[at] = end;
                    is_settled = false;
                }
            }
        }
        ends
    }

    /// How many steps lead from each certificate to the last one of a path, through `allowed` ones.
    fn lengths(&self, is_last: &[bool], allowed: impl Fn(usize) -> bool) -> Vec<usize> {
        let starts = is_last.iter().enumerate();
        let starts = starts.map(|(at, is_last)| {
            if *is_last && allowed(at) {
                0
            } else {
                usize::MAX
            }
        });
        let mut lengths: Vec<usize> = starts.collect();
        for length in 1..self.set.len() {
            let above = |at: usize| self.issuers[at].presented.iter().map(|(issuer, _)| *issuer);
            let next = (0..self.set.len()).filter(|&at| {
                let is_new = lengths[at] == usize::MAX && allowed(at);
                is_new && above(at).any(|issuer| lengths[issuer] == length - 1)
            });
            for at in next.collect::<Vec<_>>() {
                lengths[at] = length;
            }
        }
        lengths
    }

    /// What is presented, and how many certificates are not for their number and size.
    fn chains(&self, path: &[usize]) -> (Chains, usize) {
        let issuer = |at: usize| self.set[at].certificate.folded_issuer();
        let issuers: Vec<Vec<u8>> = path.iter().map(|&at| issuer(at).to_vec()).collect();
        let mut others: Vec<(Vec<u8>, Vec<CertificateDer<'static>>)> = Vec::new();
        // The shortest path to each certificate, in the order of their lengths.
        let mut reached = vec![0];
        let mut paths = VecDeque::from([vec![0]]);
        while let Some(other) = paths.pop_front() {
            let Some(&last) = other.last() else {
                continue;
            };
            let name = issuer(last);
            let is_known = issuers.iter().any(|known| known == name)
                || others.iter().any(|(known, _)| known == name);
            if !is_known {
                others.push((name.to_vec(), self.presented(&other).0));
            }
            for (next, _) in &self.issuers[last].presented {
                if !reached.contains(next) {
                    reached.push(*next);
                    paths.push_back(other.iter().copied().chain([*next]).collect());
                }
            }
        }
        let (first, left_out) = self.presented(path);
        let chains = Chains {
            first,
            issuers,
            others,
        };
        (chains, left_out)
    }

    /// With this path first.
    fn presented(&self, path: &[usize]) -> (Vec<CertificateDer<'static>>, usize) {
        let others = (0..self.set.len()).filter(|at| !path.contains(at) && !self.is_root(*at));
        let mut presented: Vec<CertificateDer<'static>> = Vec::new();
        let (mut size, mut left_out) = (0, 0);
        for at in path.iter().copied().chain(others) {
            let der = self.set[at].der;
            let next = size + der.len() + FRAME;
            let fits = presented.len() < MOST_PRESENTED && next <= MOST_BYTES;
            if at == 0 || fits {
                presented.push(der.clone());
                size = next;
            } else {
                left_out += 1;
            }
        }
        (presented, left_out)
    }

    /// What servers may refuse.
    fn warnings(&self, path: &[usize]) -> Vec<String> {
        let mut warnings = Vec::new();
        for (place, &at) in path.iter().enumerate() {
            let node = &self.set[at];
            let subject = node.certificate.shown();
            if node.form.version < 3 {
                let version = node.form.version;
                warnings.push(format!("{subject} is a version {version} certificate, which some servers refuse: issue it with extensions"));
            }
            if !node.form.unknown_critical.is_empty() {
                let critical = node.form.unknown_critical.join(", ");
                warnings.push(format!(
                    "{subject} has the critical extension {critical}, which some servers refuse"
                ));
            }
            let issuers = &self.issuers[at];
            let next = path.get(place + 1);
            let link = issuers
                .presented
                .iter()
                .find(|(issuer, _)| Some(issuer) == next);
            let name = |issuer: usize| self.set[issuer].certificate.shown();
            match (link, issuers.foreign) {
                (Some((issuer, Link::Unknown)), _) => {
                    let issuer = name(*issuer);
                    warnings.push(format!("the signature of {subject} by {issuer} was not verified: the crypto provider does not support its kind"));
                }
                (None, Some(foreign)) if issuers.presented.is_empty() => {
                    let foreign = name(foreign);
                    warnings.push(format!("{subject} was not signed by the key of {foreign}, which was delivered as its issuer"));
                }
                _ => {}
            }
        }
        warnings.extend(self.early_ends(path));
        warnings.extend(self.unrelated());
        warnings
    }

    /// Issuers that expire before the leaf but do not limit it: there is another path.
    fn early_ends(&self, path: &[usize]) -> Vec<String> {
        let leaf = &self.set[0].certificate;
        let is_other = |at: &usize| self.issuers[*at].is_reached && !path.contains(at);
        let others = (1..self.set.len()).filter(is_other);
        others
            .map(|at| &self.set[at].certificate)
            .filter(|issuer| issuer.not_after() < leaf.not_after())
            .map(|issuer| {
                let (subject, end) = (issuer.shown(), issuer.not_after());
                format!("a certificate of the issuer {subject} expires at {end:?}, before the leaf; another one does not")
            })
            .collect()
    }

    /// One line about all certificates that are not a part of the leaf's paths.
    fn unrelated(&self) -> Option<String> {
        let is_unrelated = |at: &usize| !self.issuers[*at].is_reached && !self.is_root(*at);
        let is_foreign = |at: &usize| self.issuers.iter().any(|one| one.foreign == Some(*at));
        let mut unrelated = (1..self.set.len()).filter(|at| is_unrelated(at) && !is_foreign(at));
        let first = self.set[unrelated.next()?].certificate.shown();
        let more = match unrelated.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "{first}{more} issued neither the certificate nor its issuers; presented all the same"
        ))
    }

    /// The self-signed certificates that end paths whose signatures are all verified.
    fn own_roots(&self) -> Vec<CertificateDer<'static>> {
        let mut verified = vec![0];
        let first = &self.set[0];
        // A CA may have several certificates for its name and key, each by another root.
        verified.extend((1..self.set.len()).filter(|&at| {
            let (other, first) = (&self.set[at], &first);
            first.form.is_ca && other.form.is_same_subject(&first.form) && !self.is_root(at)
        }));
        let mut next = 0;
        while let Some(&at) = verified.get(next) {
            next += 1;
            let issuers = match self.issuers[at].is_reached {
                true => &self.issuers[at],
                false => &self.issuers_of(at),
            };
            for (issuer, link) in &issuers.presented {
                if *link == Link::Verified && !verified.contains(issuer) {
                    verified.push(*issuer);
                }
            }
        }
        // Self-signed first: with no checks left, that is not known, but nothing is verified then.
        let is_end = |(root, node): &(usize, &Node<'_>)| {
            verified.iter().any(|&at| {
                let below = &self.set[at];
                below.certificate.names_issuer(&node.certificate)
                    && self.is_root(*root)
                    && self.link(&below.form, &node.form) == Link::Verified
            })
        };
        // A CA whose root issues: its own certificate is the end.
        let is_root = first.form.is_ca && self.is_self_signed(first);
        let roots = self.set.iter().enumerate().filter(is_end);
        let ends = roots.map(|(_, node)| node);
        let ends = is_root.then_some(first).into_iter().chain(ends);
        ends.map(|node| node.der.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
