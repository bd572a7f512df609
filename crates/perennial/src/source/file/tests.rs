use std::fs;
use std::sync::atomic::Ordering::SeqCst;

use super::super::testing::{Files, ask, certificate, generation, in_time, pem, shown, until};
use super::*;
use crate::testing::TestCa;
use crate::{CertMaterial, CertState, FetchReason, LiveCert, SourceErrorKind, StartError};

/// Longer than any test: a change that is noticed earlier was noticed by notification.
const NEVER: Duration = Duration::from_secs(86_400);

async fn fetched(source: &FileSource) -> CertMaterial {
    certificate(source.fetch(ask(FetchReason::Start)).await.unwrap())
}

async fn refused(source: &FileSource) -> SourceError {
    source.fetch(ask(FetchReason::Start)).await.unwrap_err()
}

/// Whether `changed` resolves; a look at small files takes less than a second.
async fn is_changed(source: &FileSource) -> bool {
    tokio::time::timeout(Duration::from_secs(1), source.changed())
        .await
        .is_ok()
}

#[tokio::test]
async fn three_files_make_a_live_certificate() {
    let files = Files::of(&pem(&TestCa::new()));
    let live = LiveCert::start(files.source()).await.unwrap();
    assert_eq!(live.current().unwrap().names().dns, ["app.test"]);
}

/// Scenario: S1
#[tokio::test]
async fn torn_pair_is_refused_and_both_files_are_named() {
    let ca = TestCa::new();
    let ((chain, ..), (_, key, roots)) = (pem(&ca), pem(&ca));
    let files = Files::of(&(chain, key, roots));
    let StartError::Failed(error) = LiveCert::start(files.source()).await.unwrap_err() else {
        panic!("a torn pair is permanent at start");
    };
    let shown = shown(&error);
    for part in ["tls.crt and ", "tls.key", "does not match"] {
        assert!(shown.contains(part), "{shown}");
    }
}

#[tokio::test]
async fn rotation_of_files_is_noticed_by_notification_alone_and_by_polling_alone() {
    // S2: if one of the two fails, the other still notices.
    let ca = TestCa::new();
    type Setting = fn(FileSource) -> FileSource;
    let ways: [(&str, Setting); 2] = [
        #[cfg(feature = "watch")]
        ("notification", |source| source.poll_every(NEVER)),
        ("polling", FileSource::poll_only),
        #[cfg(not(feature = "watch"))]
        ("polling again", FileSource::poll_only),
    ];
    for (way, set) in ways {
        let files = Files::of(&pem(&ca));
        let source = set(files.source());
        let looks = source.reader.looks();
        let live = LiveCert::start(source).await.unwrap();
        until("a look at what is there now", || looks.load(SeqCst) > 0).await;
        let (chain, key, _) = pem(&ca);
        files.write("tls.crt", chain);
        files.write("tls.key", key);
        in_time(way, generation(&live, 2)).await;
    }
}

/// Scenario: S3
#[tokio::test]
async fn same_content_written_again_is_no_change() {
    // S3.
    let set = pem(&TestCa::new());
    let files = Files::of(&set);
    let source = files.source();
    let _material = fetched(&source).await;
    files.write("tls.crt", &set.0);
    files.write("tls.key", &set.1);
    fs::remove_file(files.path("ca.crt")).unwrap();
    files.write("ca.crt", &set.2);
    assert!(!is_changed(&source).await);
}

/// Scenario: S4
#[tokio::test]
async fn change_of_any_one_part_is_a_change_until_it_is_fetched() {
    // S4. The key in another form is another content, though the same key.
    let ca = TestCa::new();
    let set = pem(&ca);
    let (leaf, intermediate) = set.0.split_at(set.0.rfind("-----BEGIN").unwrap());
    let other = TestCa::new();
    let table = [
        ("tls.crt", leaf.to_owned()),
        ("tls.crt", format!("{leaf}{intermediate}{}", pem(&other).2)),
        ("tls.key", format!("a comment\n{}", set.1)),
        ("ca.crt", format!("{}{}", set.2, pem(&other).2)),
    ];
    for (name, content) in table {
        let files = Files::of(&set);
        let source = files.source();
        assert!(is_changed(&source).await, "nothing was fetched yet");
        let _material = fetched(&source).await;
        assert!(!is_changed(&source).await);
        files.write(name, content);
        // A level: it stays, also after a call that was dropped.
        for _ask in 0..3 {
            in_time(name, source.changed()).await;
        }
        let _attempt = source.fetch(ask(FetchReason::Changed)).await;
        assert!(!is_changed(&source).await, "{name}");
    }
}

/// Scenario: S4
#[tokio::test]
async fn new_roots_alone_and_a_new_intermediate_alone_are_new_generations() {
    // S4, as readers see it.
    let ca = TestCa::new();
    let set = pem(&ca);
    let files = Files::of(&set);
    let live = LiveCert::start(files.source()).await.unwrap();
    files.write("ca.crt", format!("{}{}", set.2, pem(&TestCa::new()).2));
    generation(&live, 2).await;
    let leaf = &set.0[..set.0.rfind("-----BEGIN").unwrap()];
    files.write("tls.crt", leaf);
    generation(&live, 3).await;
}

/// Scenario: S1
#[tokio::test]
async fn slow_writer_breaks_nothing_and_the_finished_files_are_used() {
    // S1: half-written, empty, shorter over longer, deleted and made again, new and old.
    let ca = TestCa::new();
    let files = Files::of(&pem(&ca));
    let source = files.source();
    let _material = fetched(&source).await;

    for _round in 0..3 {
        let (chain, key, _) = pem(&ca);
        files.write("tls.crt", "");
        assert!(!is_changed(&source).await, "an empty file is not a change");
        files.write("tls.crt", &chain[..chain.len() / 3]);
        in_time("half a chain", source.changed()).await;
        assert!(refused(&source).await.is_transient());

        files.write("tls.crt", &chain);
        in_time("the other half", source.changed()).await;
        let torn = refused(&source).await;
        assert!(shown(&torn).contains("does not match"), "{torn:?}");

        fs::remove_file(files.path("tls.key")).unwrap();
        assert!(refused(&source).await.is_transient());
        assert!(!is_changed(&source).await, "a missing file is not a change");
        files.write("tls.key", &key);
        in_time("the key", source.changed()).await;
        assert_eq!(fetched(&source).await.chain().len(), 2);
    }
}

/// Kubernetes' way: all files behind `..data`, a link that is swapped as one.
#[cfg(unix)]
fn kubernetes_update(folder: &std::path::Path, name: &str, set: &(String, String, String)) {
    use std::os::unix::fs::symlink;
    fs::create_dir(folder.join(name)).unwrap();
    for (file, text) in [("tls.crt", &set.0), ("tls.key", &set.1), ("ca.crt", &set.2)] {
        fs::write(folder.join(name).join(file), text).unwrap();
        if fs::symlink_metadata(folder.join(file)).is_err() {
            symlink(format!("..data/{file}"), folder.join(file)).unwrap();
        }
    }
    let old = fs::read_link(folder.join("..data")).ok();
    symlink(name, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(folder.join(old)).unwrap();
    }
}

/// Scenario: S2
#[cfg(unix)]
#[tokio::test]
async fn kubernetes_swaps_are_noticed_each_time_with_and_without_notification() {
    // S2, through a chain of linked folders too.
    let ca = TestCa::new();
    for set in [FileSource::poll_only, |source: FileSource| {
        if cfg!(feature = "watch") {
            source.poll_every(NEVER)
        } else {
            source
        }
    }] {
        let files = Files::empty();
        fs::create_dir(files.path("volume")).unwrap();
        std::os::unix::fs::symlink("volume", files.path("link")).unwrap();
        std::os::unix::fs::symlink(files.path("link"), files.path("tls")).unwrap();
        kubernetes_update(&files.path("volume"), "..2026_0", &pem(&ca));
        let at = |name: &str| files.path("tls").join(name);
        let source = FileSource::new(at("tls.crt"), at("tls.key"), at("ca.crt"));
        let source = set(source.poll_every(Duration::from_millis(20)));
        let live = LiveCert::start(source).await.unwrap();
        for swap in 1..=3 {
            kubernetes_update(&files.path("volume"), &format!("..2026_{swap}"), &pem(&ca));
            generation(&live, swap + 1).await;
            assert_eq!(live.status().state, CertState::Fresh);
        }
    }
}

/// Scenario: S2
#[cfg(unix)]
#[tokio::test]
async fn certbot_links_that_are_swapped_one_by_one_are_noticed() {
    // S2: `live/` links into `archive/`, the certificate's link before the key's.
    use std::os::unix::fs::symlink;
    let ca = TestCa::new();
    let files = Files::empty();
    fs::create_dir(files.path("archive")).unwrap();
    fs::create_dir(files.path("live")).unwrap();
    let install = |n: u64| {
        let (chain, key, roots) = pem(&ca);
        for (name, text) in [("fullchain", chain), ("privkey", key), ("roots", roots)] {
            let target = format!("{name}{n}.pem");
            files.write(&format!("archive/{target}"), text);
            let link = files.path(&format!("live/{name}.pem"));
            let _old = fs::remove_file(&link);
            symlink(format!("../archive/{target}"), link).unwrap();
        }
    };
    install(1);
    let at = |name: &str| files.path("live").join(name);
    let source = FileSource::new(at("fullchain.pem"), at("privkey.pem"), at("roots.pem"));
    let live = LiveCert::start(source.poll_every(Duration::from_millis(20)))
        .await
        .unwrap();
    install(2);
    generation(&live, 2).await;
}

#[tokio::test]
async fn reading_its_own_files_does_not_wake_it() {
    // The system notifies of reads too: each would cause the next.
    let files = Files::of(&pem(&TestCa::new()));
    let source = files.source().poll_every(NEVER);
    let _material = fetched(&source).await;
    assert!(!is_changed(&source).await);
    let looks = source.reader.looks().load(SeqCst);
    // The first, and one for events of the time before it.
    assert!(looks <= 2, "{looks}");
}

#[tokio::test]
async fn zero_interval_is_refused_by_name() {
    let files = Files::of(&pem(&TestCa::new()));
    let error = refused(&files.source().poll_every(Duration::ZERO)).await;
    assert_eq!(error.kind(), SourceErrorKind::Invalid);
    assert!(
        shown(&error).contains("invalid poll_every 0ns"),
        "{error:?}"
    );
}

#[cfg(feature = "watch")]
#[tokio::test]
async fn dropping_the_certificate_ends_the_watch() {
    // H3: the watcher's thread owns this, so the thread has ended when this is dropped.
    let files = Files::of(&pem(&TestCa::new()));
    let source = files.source();
    let watcher = source.reader.watcher();
    let live = LiveCert::start(source).await.unwrap();
    until("the watch", || watcher.strong_count() > 1).await;
    drop(live);
    until("its end", || watcher.strong_count() == 0).await;
}
