use std::fs;
use std::path::Path;
use std::time::Duration;

use super::super::testing::{Files, KeyedSource, assert_no_key_in, pem};
use super::*;
use crate::testing::{MINUTE, ScriptedSource, Step, TestCa, TestClock, builder, noon};
use crate::{CertState, Gate, LiveCert, RenewError, Renewed, Verdict};

fn down() -> Step {
    Step::Fail(SourceError::unavailable("connection refused"))
}

/// A CA that counts what it issues, seen through `saved_at`.
struct Ca {
    source: ScriptedSource,
    wall: TestClock,
    files: Files,
}

impl Ca {
    fn new() -> Self {
        let wall = TestClock::starting_at(noon());
        let source = ScriptedSource::new(&wall, []);
        let files = Files::empty();
        Self {
            source,
            wall,
            files,
        }
    }

    fn path(&self) -> PathBuf {
        self.files.path("saved")
    }

    fn issued(&self) -> usize {
        self.source.fetches().len()
    }

    /// The source of a process that requests `name`.
    fn source(&self, name: &str) -> Saved<KeyedSource> {
        self.saved(KeyedSource::new(&self.source, Some(name)), self.path())
    }

    fn saved<S: CertSource>(&self, source: S, path: PathBuf) -> Saved<S> {
        let mut saved = Saved::new(source, path);
        saved.clock = self.wall.clock();
        saved
    }

    /// Starts, and waits until the certificate is saved.
    async fn start(&self, name: &str) -> LiveCert {
        let source = self.source(name);
        let file = source.file.clone();
        let live = builder(&self.wall).start(source).await.unwrap();
        assert!(file.is_idle_within(MINUTE));
        live
    }
}

/// Scenario: S10
#[tokio::test(start_paused = true)]
async fn hundred_restarts_issue_nothing_and_do_not_move_the_renewal_point() {
    // S10.
    let ca = Ca::new();
    let first = ca.start("app").await;
    let renewal_point = first.status().next_fetch;
    let first = first.current().unwrap();
    for restart in 1..=100 {
        ca.wall.step_forward(Duration::from_secs(2));
        let live = ca.start("app").await;
        let now = live.current().unwrap();
        assert_eq!(now.serial(), first.serial(), "restart {restart}");
        assert_eq!(now.obtained_at(), first.obtained_at());
        assert_eq!(live.status().next_fetch, renewal_point);
    }
    assert_eq!(ca.issued(), 1);
}

/// Scenario: S10
#[tokio::test(start_paused = true)]
async fn saved_certificate_that_no_longer_fits_is_replaced() {
    // S10: other names (or issuer, role, key type), due, expired, from the future.
    type Change = fn(&Ca) -> &'static str;
    let table: [(&str, Change); 5] = [
        ("other names", |_| "other"),
        ("due", |ca| {
            ca.wall.step_forward(8 * MINUTE);
            "app"
        }),
        ("expired", |ca| {
            ca.wall.step_forward(11 * MINUTE);
            "app"
        }),
        ("from the future", |ca| {
            ca.wall.step_back(MINUTE);
            "app"
        }),
        ("gone", |ca| {
            fs::remove_file(ca.path()).unwrap();
            "app"
        }),
    ];
    for (what, change) in table {
        let ca = Ca::new();
        let old = ca.start("app").await.current().unwrap();
        let name = change(&ca);
        let new = ca.start(name).await.current().unwrap();
        assert_ne!(new.serial(), old.serial(), "{what}");
        assert_eq!(ca.issued(), 2, "{what}");
        // And the new one is saved in its turn.
        let again = ca.start(name).await.current().unwrap();
        assert_eq!(again.serial(), new.serial(), "{what}");
        assert_eq!(ca.issued(), 2, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_is_saved_too() {
    let ca = Ca::new();
    let live = ca.start("app").await;
    let mut rotations = live.subscribe();
    let _first = rotations.next().await;
    let renewed = rotations.next().await.unwrap();
    live.shutdown(MINUTE).await.unwrap();
    let again = ca.start("app").await.current().unwrap();
    assert_eq!(again.serial(), renewed.serial());
    assert_eq!(ca.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn saved_certificate_past_its_renewal_point_is_used_at_a_start_without_the_source() {
    let ca = Ca::new();
    let old = ca.start("app").await.current().unwrap();
    ca.wall.step_forward(8 * MINUTE);
    ca.source.then(down);
    let live = ca.start("app").await;
    assert_eq!(live.current().unwrap().serial(), old.serial());
    // It goes on fetching.
    ca.source.then(|| Step::Issue(10 * MINUTE));
    let mut rotations = live.subscribe();
    let _old = rotations.next().await;
    let new = rotations.next().await.unwrap();
    assert_ne!(new.serial(), old.serial());
    assert_eq!(live.status().state, CertState::Fresh);
}

#[tokio::test(start_paused = true)]
async fn broken_or_unsafe_file_costs_one_issuance_and_is_replaced() {
    let ca = Ca::new();
    let _first = ca.start("app").await;
    let whole = fs::read_to_string(ca.path()).unwrap();
    let other_key = Ca::new();
    let _other = other_key.start("app").await;
    let other_key = fs::read_to_string(other_key.path()).unwrap();
    let key = |text: &str| {
        let (begin, end) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
        text[text.find(begin).unwrap()..text.find(end).unwrap()].to_owned()
    };
    let mut mixed = whole.replace(&key(&whole), &key(&other_key));
    mixed.truncate(mixed.trim_end().rfind('\n').unwrap() + 1);
    mixed += &format::seal(mixed.as_bytes());
    assert!(SavedCert::parse(mixed.as_bytes()).is_ok());
    type Spoil<'a> = Box<dyn Fn(&Path) + 'a>;
    let garbage: [Spoil<'_>; 5] = [
        Box::new(|path| fs::write(path, [0xff; 300]).unwrap()),
        Box::new(|path| fs::write(path, "").unwrap()),
        Box::new(|path| fs::write(path, &whole[..whole.len() / 2]).unwrap()),
        Box::new(|path| fs::write(path, &mixed).unwrap()),
        Box::new(|path| fs::File::create(path).unwrap().set_len(100 << 20).unwrap()),
    ];
    for spoil in garbage {
        spoil(&ca.path());
        let before = ca.issued();
        let _live = ca.start("app").await;
        assert_eq!(ca.issued(), before + 1);
        let _again = ca.start("app").await;
        assert_eq!(ca.issued(), before + 1, "the new file is used");
    }
}

/// Scenario: S11
#[tokio::test(start_paused = true)]
async fn unwritable_path_leaves_the_certificate_in_use_and_issues_no_more_often() {
    // S11.
    let ca = Ca::new();
    let nowhere = ca.files.path("missing/saved");
    let source = ca.saved(KeyedSource::new(&ca.source, Some("app")), nowhere);
    let live = builder(&ca.wall).start(source).await.unwrap();
    assert_eq!(live.current().unwrap().generation(), 1);
    let mut rotations = live.subscribe();
    let _first = rotations.next().await;
    for generation in 2..=6 {
        assert_eq!(rotations.next().await.unwrap().generation(), generation);
    }
    assert_eq!(ca.issued(), 6, "one for each generation");
    assert_eq!(live.status().consecutive_failures, 0);
}

#[tokio::test]
async fn key_that_stays_in_a_device_is_used_and_not_saved() {
    let ca = Ca::new();
    let issuer = TestCa::new();
    let (leaf, key) = issuer.leaf(noon(), MINUTE);
    let provider = default_provider().unwrap().key_provider;
    let signer = provider.load_private_key(key).unwrap();
    let chain = vec![leaf, issuer.intermediate_der()];
    let material = CertMaterial::from_signing_key(chain, signer, vec![issuer.root_der()]).unwrap();
    let source = ScriptedSource::new(&ca.wall, [Step::Deliver(material.into())]);
    let source = ca.saved(KeyedSource::new(&source, Some("app")), ca.path());
    let file = source.file.clone();
    let live = builder(&ca.wall).start(source).await.unwrap();
    assert!(live.current().is_ok());
    assert!(file.is_idle_within(MINUTE));
    assert!(!ca.path().exists());
}

#[tokio::test(start_paused = true)]
async fn same_material_again_keeps_its_date_and_is_not_written_again() {
    let ca = Ca::new();
    let issuer = TestCa::new();
    let (leaf, key) = issuer.leaf(noon(), 10 * MINUTE);
    let same = || {
        let chain = vec![leaf.clone(), issuer.intermediate_der()];
        let material = CertMaterial::from_der(chain, key.clone_key(), vec![issuer.root_der()]);
        Step::Deliver(material.unwrap().into())
    };
    let source = ScriptedSource::new(&ca.wall, [same(), same()]);
    let source = ca.saved(KeyedSource::new(&source, Some("app")), ca.path());
    let file = source.file.clone();
    let live = builder(&ca.wall).start(source).await.unwrap();
    let first = live.current().unwrap();
    assert!(file.is_idle_within(MINUTE));
    fs::remove_file(ca.path()).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let renewed = live.renew().await.unwrap();
    assert!(matches!(renewed, Renewed::Unchanged), "{renewed:?}");
    assert_eq!(live.current().unwrap().obtained_at(), first.obtained_at());
    assert!(file.is_idle_within(MINUTE));
    assert!(!ca.path().exists());
}

#[tokio::test(start_paused = true)]
async fn source_without_a_cache_key_is_never_saved() {
    let ca = Ca::new();
    for starts in 1..=2 {
        let source = ca.saved(KeyedSource::new(&ca.source, None), ca.path());
        let file = source.file.clone();
        let _live = builder(&ca.wall).start(source).await.unwrap();
        assert!(file.is_idle_within(MINUTE));
        assert_eq!(ca.issued(), starts);
        assert!(!ca.path().exists());
    }
}

/// Scenario: F5
#[tokio::test(start_paused = true)]
async fn refused_material_leaves_the_saved_certificate_as_it_is() {
    let ca = Ca::new();
    let source = ca.source("app");
    let file = source.file.clone();
    let live = builder(&ca.wall).start(source).await.unwrap();
    assert!(file.is_idle_within(MINUTE));
    let good = fs::read(ca.path()).unwrap();
    ca.source.then(|| {
        let ca = TestCa::new();
        let ((leaf, _), (_, other_key)) = (ca.leaf(noon(), MINUTE), ca.leaf(noon(), MINUTE));
        let material = CertMaterial::from_der(vec![leaf], other_key, vec![ca.root_der()]);
        Step::Deliver(material.unwrap().into())
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = live.renew().await.unwrap_err();
    assert!(matches!(refused, RenewError::Material(_)), "{refused}");
    assert!(file.is_idle_within(MINUTE));
    assert_eq!(fs::read(ca.path()).unwrap(), good);
}

struct RefusesRenewals;

impl Gate for RefusesRenewals {
    async fn check(&self, candidate: &Snapshot) -> Verdict {
        match candidate.generation() {
            1 => Verdict::Accept,
            _ => Verdict::refuse("unknown CA"),
        }
    }
}

/// Scenario: F5
#[tokio::test(start_paused = true)]
async fn certificate_that_the_gate_refuses_leaves_the_saved_one_for_the_next_start() {
    let ca = Ca::new();
    let source = ca.source("app");
    let file = source.file.clone();
    let builder = builder(&ca.wall).gate(RefusesRenewals);
    let live = builder.start(source).await.unwrap();
    assert!(file.is_idle_within(MINUTE));
    let good = live.current().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = live.renew().await.unwrap_err();
    assert!(matches!(refused, RenewError::Refused(_)), "{refused}");
    live.shutdown(MINUTE).await.unwrap();
    let again = ca.start("app").await.current().unwrap();
    assert_eq!(again.serial(), good.serial());
}

#[tokio::test(start_paused = true)]
async fn published_is_passed_on_to_the_source_also_for_a_saved_certificate() {
    let ca = Ca::new();
    for _start in 1..=2 {
        let source = KeyedSource::new(&ca.source, Some("app"));
        let published = Arc::clone(&source.published);
        let saved = ca.saved(source, ca.path());
        let file = saved.file.clone();
        let _live = builder(&ca.wall).start(saved).await.unwrap();
        assert!(file.is_idle_within(MINUTE));
        assert_eq!(*published.lock().unwrap(), [1]);
    }
    assert_eq!(ca.issued(), 1);
}

/// Scenario: F2
#[tokio::test(start_paused = true)]
#[expect(clippy::await_holding_lock, reason = "the disk hangs meanwhile")]
async fn hanging_write_delays_no_certificate_and_the_newest_is_written_once_it_is_over() {
    let ca = Ca::new();
    let source = ca.source("app");
    let file = source.file.clone();
    let live = builder(&ca.wall).start(source).await.unwrap();
    assert!(file.is_idle_within(MINUTE));
    let first = fs::read(ca.path()).unwrap();
    let hang = file.hang.lock().unwrap();
    let mut rotations = live.subscribe();
    for generation in 1..=4 {
        assert_eq!(rotations.next().await.unwrap().generation(), generation);
    }
    assert_eq!(fs::read(ca.path()).unwrap(), first);
    drop(hang);
    assert!(file.is_idle_within(MINUTE));
    let newest = live.current().unwrap();
    let again = ca.start("app").await.current().unwrap();
    assert_eq!(again.serial(), newest.serial());
}

/// Scenario: F2
#[tokio::test]
#[expect(clippy::await_holding_lock, reason = "the disk hangs meanwhile")]
async fn hanging_read_delays_a_start_by_no_more_than_its_own_timeout() {
    let ca = Ca::new();
    let source = ca.source("app");
    let file = source.file.clone();
    let hang = file.hang.lock().unwrap();
    let builder = builder(&ca.wall).fetch_timeout(2 * READ_TIMEOUT);
    assert!(builder.start(source).await.is_ok());
    drop(hang);
    assert!(file.is_idle_within(MINUTE));
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test(start_paused = true)]
    async fn file_is_for_its_owner_alone_and_no_draft_remains() {
        let ca = Ca::new();
        let _live = ca.start("app").await;
        assert_eq!(mode(&ca.path()), 0o600);
        let names = fs::read_dir(ca.files.folder()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".saved.lock", "saved"]);
        assert_eq!(mode(&ca.files.path(".saved.lock")), 0o600);
    }

    /// Scenario: F18
    #[tokio::test(start_paused = true)]
    async fn draft_that_a_kill_left_behind_is_removed_at_the_next_start() {
        let ca = Ca::new();
        for is_there_to_use in [false, true] {
            ca.files.write(".saved.draft", "half a key");
            let _live = ca.start("app").await;
            assert!(!ca.files.path(".saved.draft").exists(), "{is_there_to_use}");
        }
        assert_eq!(ca.issued(), 1);
    }

    /// Scenario: F25
    #[tokio::test(start_paused = true)]
    async fn file_whose_mode_is_right_is_used_and_left_as_it_is() {
        // As on a read-only mount, where nothing can be changed, and no lock can be made.
        let ca = Ca::new();
        let _live = ca.start("app").await;
        fs::remove_file(ca.files.path(".saved.lock")).unwrap();
        fs::create_dir(ca.files.path(".saved.lock")).unwrap();
        let times = || {
            let found = fs::metadata(ca.path()).unwrap();
            (found.ctime(), found.ctime_nsec())
        };
        let before = times();
        let _live = ca.start("app").await;
        assert_eq!(ca.issued(), 1);
        assert_eq!(times(), before);
    }

    /// Scenario: F6
    #[tokio::test(start_paused = true)]
    async fn file_of_another_user_or_with_a_second_name_is_not_used_and_is_left_as_it_is() {
        let ca = Ca::new();
        let _live = ca.start("app").await;
        fs::hard_link(ca.path(), ca.files.path("second")).unwrap();
        fs::set_permissions(ca.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let _live = ca.start("app").await;
        assert_eq!(ca.issued(), 2);
        assert_eq!(mode(&ca.files.path("second")), 0o644);
        // Only root can give a file away; the table in `trusted` has this row for all.
        if std::os::unix::fs::chown(ca.path(), Some(65_534), None).is_ok() {
            let _live = ca.start("app").await;
            assert_eq!(ca.issued(), 3);
            assert_ne!(fs::metadata(ca.path()).unwrap().uid(), 65_534);
        }
        fs::set_permissions(ca.files.folder(), fs::Permissions::from_mode(0o777)).unwrap();
        let before = ca.issued();
        let _live = ca.start("app").await;
        assert_eq!(ca.issued(), before + 1, "a folder that all may write");
    }

    /// Scenario: F27
    #[tokio::test]
    async fn processes_that_start_at_once_on_one_file_issue_one_certificate() {
        let ca = Ca::new();
        let slow = || {
            let source = ca.source.clone();
            let key = CacheKey::of([b"app".as_slice()]);
            let source = crate::keyed_source_fn(key, move || {
                let source = source.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    let context = FetchContext::new(FetchReason::Start, None);
                    source.fetch(context).await
                }
            });
            ca.saved(source, ca.path())
        };
        let starts = (0..10).map(|_| {
            let source = slow();
            let file = source.file.clone();
            let builder = builder(&ca.wall);
            tokio::spawn(async move { (builder.start(source).await.unwrap(), file) })
        });
        let mut serials = Vec::new();
        for start in starts.collect::<Vec<_>>() {
            let (live, file) = start.await.unwrap();
            serials.push(live.current().unwrap().serial().clone());
            assert!(file.is_idle_within(MINUTE));
        }
        assert_eq!(ca.issued(), 1);
        serials.dedup();
        assert_eq!(serials.len(), 1);
    }

    /// Scenario: N14
    #[tokio::test(start_paused = true)]
    async fn file_that_others_may_read_is_used_and_closed_and_one_that_all_may_write_is_refused() {
        // 0660 and 0640 are what Kubernetes makes of a volume's files at each mount (fsGroup).
        let table = [
            (0o644, 1),
            (0o640, 1),
            (0o660, 1),
            (0o620, 1),
            (0o622, 2),
            (0o666, 2),
        ];
        for (given, issued) in table {
            let ca = Ca::new();
            let _live = ca.start("app").await;
            for _start in 0..3 {
                fs::set_permissions(ca.path(), fs::Permissions::from_mode(given)).unwrap();
                let _live = ca.start("app").await;
                assert_eq!(mode(&ca.path()), 0o600, "{given:o}");
                if issued > 1 {
                    break;
                }
            }
            assert_eq!(ca.issued(), issued, "{given:o}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn link_is_neither_read_nor_written_through() {
        let ca = Ca::new();
        let _live = ca.start("app").await;
        let target = ca.files.path("elsewhere");
        fs::rename(ca.path(), &target).unwrap();
        let before = fs::read(&target).unwrap();
        symlink(&target, ca.path()).unwrap();
        let _live = ca.start("app").await;
        assert_eq!(ca.issued(), 2);
        assert_eq!(fs::read(&target).unwrap(), before);
        assert!(!fs::symlink_metadata(ca.path()).unwrap().is_symlink());
    }
}

#[test]
fn debug_and_errors_of_a_saved_certificate_never_show_the_key() {
    // H1.
    let (chain, key, roots) = pem(&TestCa::new());
    let material = CertMaterial::from_pem(chain, &key, roots).unwrap();
    let request = CacheKey::of([b"app".as_slice()]);
    let text = format::render(&material, request, noon()).unwrap();
    let mut shown = format!("{:?}", SavedCert::parse(&text).unwrap());
    let text = String::from_utf8(text.to_vec()).unwrap();
    for (old, new) in [("MIG", "!!!"), ("-----END PRIVATE", ""), (" false ", " ")] {
        let error = SavedCert::parse(text.replace(old, new).as_bytes()).unwrap_err();
        shown += &format!("{error} {error:?}");
    }
    assert_no_key_in(&shown, &key);
}

/// Scenario: F13
#[tokio::test]
async fn key_given_instead_of_the_path_is_refused_and_no_file_is_named_after_it() {
    let ca = Ca::new();
    let base64 = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg";
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n");
    for key in [base64, &pem] {
        let source = KeyedSource::new(&ca.source, Some("app"));
        let refused = builder(&ca.wall).start(ca.saved(source, key.into())).await;
        let error = refused.unwrap_err();
        let words = crate::source::testing::shown(&error);
        assert!(words.contains("saved_at got content"), "{words}");
        assert!(!format!("{words} {error:?}").contains("MIGH"), "{error:?}");
        let beside = super::super::trusted::beside(key.as_ref(), "lock").unwrap();
        let was_made = beside.exists();
        let _ = fs::remove_file(&beside);
        assert!(!was_made);
    }
    assert_eq!(ca.issued(), 0);
}
