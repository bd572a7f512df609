//! Who issued whom in a set of certificates, and the paths from its leaf.

use std::cell::{Cell, OnceCell};
use std::collections::VecDeque;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};

use super::node::Node;
use crate::material::certificate::{Certificate, Form, Link};

/// How many certificates are presented at most, and of how many bytes: rustls' servers read 64 KiB.
pub(super) const MOST_PRESENTED: usize = 64;
pub(super) const MOST_BYTES: usize = 64 << 10;

/// What TLS 1.3 adds to each certificate, in bytes.
pub(super) const FRAME: usize = 5;

/// How many signatures are checked at most; webpki has the same limit.
pub(super) const MOST_CHECKS: usize = 100;

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

/// Who issued whom; the first certificate is the leaf.
pub(super) struct Graph<'a> {
    pub(super) set: Vec<Node<'a>>,
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
    pub(super) fn new(
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
    pub(super) fn path(&self, now: SystemTime) -> Vec<usize> {
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
    pub(super) fn chains(&self, path: &[usize]) -> (Chains, usize) {
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
    pub(super) fn warnings(&self, path: &[usize]) -> Vec<String> {
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
    pub(super) fn own_roots(&self) -> Vec<CertificateDer<'static>> {
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
