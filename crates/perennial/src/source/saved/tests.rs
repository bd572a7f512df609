use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::super::testing::{Files, ask, assert_no_key_in, pem};
use super::*;
use crate::testing::{MINUTE, ScriptedSource, Step, TestCa, TestClock, builder, noon};
use crate::{BoxSource, CertState, LiveCert, source_fn};

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

    /// What a process that asks for `name` builds as it starts.
    fn source(&self, name: &str) -> Saved<impl CertSource + use<>> {
        let Self { source, .. } = self;
        let source = Requesting(source.clone(), CacheKey::of([name.as_bytes()]));
        source.saved_at(self.path()).clock(self.wall.clock())
    }

    async fn start(&self, name: &str) -> LiveCert {
        builder(&self.wall).start(self.source(name)).await.unwrap()
    }
}

/// Says what it asks for.
struct Requesting(ScriptedSource, CacheKey);

impl CertSource for Requesting {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<CertMaterial, SourceError> {
        self.0.fetch(context).await
    }

    fn cache_key(&self) -> Option<CacheKey> {
        Some(self.1)
    }
}

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

#[tokio::test(start_paused = true)]
async fn saved_one_that_no_longer_fits_is_replaced() {
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
    let mut rotations = live.rotations();
    let _first = rotations.next().await;
    let renewed = rotations.next().await.unwrap();
    live.shutdown(MINUTE).await.unwrap();
    let again = ca.start("app").await.current().unwrap();
    assert_eq!(again.serial(), renewed.serial());
    assert_eq!(ca.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn saved_one_past_its_renewal_point_carries_a_start_without_the_source() {
    let ca = Ca::new();
    let old = ca.start("app").await.current().unwrap();
    ca.wall.step_forward(8 * MINUTE);
    ca.source.then(down);
    let live = ca.start("app").await;
    assert_eq!(live.current().unwrap().serial(), old.serial());
    // It goes on asking, and takes what comes.
    ca.source.then(|| Step::Issue(10 * MINUTE));
    let mut rotations = live.rotations();
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
    let cut = |text: &str, from, to| {
        let from = text.find(from).unwrap();
        text[from..from + text[from..].find(to).unwrap()].to_owned()
    };
    let mixed = whole.replace(
        &cut(&whole, "\nkey:", "\nroots:"),
        &cut(&other_key, "\nkey:", "\nroots:"),
    );
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
        assert_eq!(ca.issued(), before + 1, "what replaced it is good");
    }
}

#[tokio::test(start_paused = true)]
async fn unwritable_place_leaves_the_certificate_in_use_and_issues_no_more_often() {
    // S11.
    let ca = Ca::new();
    let nowhere = ca.files.path("missing/saved");
    let request = CacheKey::of([b"app".as_slice()]);
    let source = Requesting(ca.source.clone(), request);
    let source = source.saved_at(nowhere).clock(ca.wall.clock());
    let live = builder(&ca.wall).start(source).await.unwrap();
    assert_eq!(live.current().unwrap().generation(), 1);
    let mut rotations = live.rotations();
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
    let material = CertMaterial::with_signing_key(chain, signer, vec![issuer.root_der()]).unwrap();
    let source = ScriptedSource::new(&ca.wall, [Step::Deliver(material)]);
    let source = Requesting(source, CacheKey::of([b"app".as_slice()]));
    let source = source.saved_at(ca.path()).clock(ca.wall.clock());
    let live = builder(&ca.wall).start(source).await.unwrap();
    assert!(live.current().is_ok());
    assert!(!ca.path().exists());
}

#[tokio::test]
async fn same_material_again_keeps_its_date_and_is_not_written_again() {
    let set = pem(&TestCa::new());
    let files = Files::of(&set);
    let source = files.source().saved_at(files.path("saved"));
    let first = source.fetch(ask(FetchReason::Start)).await.unwrap();
    fs::remove_file(files.path("saved")).unwrap();
    let second = source.fetch(ask(FetchReason::Due)).await.unwrap();
    assert!(first.when_obtained().is_some());
    assert_eq!(first.when_obtained(), second.when_obtained());
    assert!(!files.path("saved").exists());
}

#[tokio::test]
async fn source_that_does_not_say_what_it_asks_for_is_never_saved() {
    let files = Files::empty();
    let asked = Arc::new(AtomicUsize::new(0));
    let start = || {
        let asked = Arc::clone(&asked);
        let source: BoxSource = source_fn(move || {
            asked.fetch_add(1, Ordering::SeqCst);
            async { Ok(TestCa::new().issue(noon(), MINUTE)) }
        })
        .boxed();
        source.saved_at(files.path("saved"))
    };
    for _start in 0..2 {
        start().fetch(ask(FetchReason::Start)).await.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert!(!files.path("saved").exists());
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test(start_paused = true)]
    async fn file_is_its_owners_alone_and_no_draft_is_left() {
        let ca = Ca::new();
        let _live = ca.start("app").await;
        assert_eq!(mode(&ca.path()), 0o600);
        let names = fs::read_dir(ca.files.folder()).unwrap();
        assert_eq!(names.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn readable_by_others_is_put_right_and_writable_by_others_is_refused() {
        for (given, issued) in [(0o644, 1), (0o640, 1), (0o620, 2), (0o666, 2)] {
            let ca = Ca::new();
            let _live = ca.start("app").await;
            fs::set_permissions(ca.path(), fs::Permissions::from_mode(given)).unwrap();
            let _live = ca.start("app").await;
            assert_eq!(ca.issued(), issued, "{given:o}");
            assert_eq!(mode(&ca.path()), 0o600, "{given:o}");
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
fn debug_and_errors_of_what_is_saved_never_show_the_key() {
    // H1.
    let (chain, key, roots) = pem(&TestCa::new());
    let material = CertMaterial::from_pem(chain, &key, roots).unwrap();
    let request = CacheKey::of([b"app".as_slice()]);
    let saved = SavedCert::of(&material, request, noon()).unwrap();
    let text = saved.render();
    let mut shown = format!("{saved:?}");
    for (old, new) in [("MIG", "!!!"), ("-----END PRIVATE", ""), ("key:", "kex:")] {
        let error = SavedCert::parse(text.replace(old, new).as_bytes()).unwrap_err();
        shown += &format!("{error} {error:?}");
    }
    assert_no_key_in(&shown, &key);
}
