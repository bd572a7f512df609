use std::collections::HashMap;

use base64ct::{Base64, Encoding};

use super::super::testing::{
    Files, SOON, ask, assert_no_key_in, certificate, der, generation, in_time, pem, shown,
};
use super::*;
use crate::testing::TestCa;
use crate::{FetchReason, LiveCert, SourceErrorKind};

const NAMES: [&str; 3] = ["APP_CHAIN", "APP_KEY", "APP_ROOTS"];

fn source(values: [&str; 3]) -> EnvSource {
    let pairs = NAMES.iter().zip(values);
    let given: HashMap<OsString, OsString> = pairs
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    EnvSource {
        lookup: Box::new(move |name| given.get(name).cloned()),
        ..EnvSource::new(NAMES[0], NAMES[1], NAMES[2])
    }
}

async fn refused(source: EnvSource) -> SourceError {
    source.fetch(ask(FetchReason::Start)).await.unwrap_err()
}

/// Scenario: N11
#[tokio::test]
async fn each_variable_may_hold_the_content_in_any_form_or_its_path() {
    let set = pem(&TestCa::new());
    let files = Files::of(&set);
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let (crt, key, ca) = (path("tls.crt"), path("tls.key"), path("ca.crt"));
    let one_line = |text: &str| text.replace('\n', "\\n");
    let windows = set.1.replace('\n', "\\r\\n");
    let base64 = Base64::encode_string(&der(&set.1));
    let values = [&set.0, &set.1, &set.2].map(|text| text.as_str());
    let forms: [fn(&str) -> String; 5] = [
        |pem| pem.replace('\n', " "),
        |pem| pem.replace('\n', ""),
        |pem| Base64::encode_string(pem.as_bytes()),
        |pem| format!("\u{feff}{}", pem.replace('\n', "\r\n")),
        |pem| format!("'{pem}'"),
    ];
    let mut table = vec![
        values.map(str::to_owned),
        [crt.clone(), key.clone(), ca],
        [set.0.clone(), key, set.2.clone()],
        [one_line(&set.0), windows, one_line(&set.2)],
        [crt, base64, set.2.clone()],
    ];
    table.extend(forms.map(|form| values.map(form)));
    for values in table {
        let material = source(values.each_ref().map(String::as_str))
            .fetch(ask(FetchReason::Start))
            .await;
        assert_eq!(
            certificate(material.unwrap()).chain().len(),
            2,
            "{values:?}"
        );
    }
}

/// Scenario: N11
#[tokio::test]
async fn value_that_is_cut_off_fails_at_once() {
    let (chain, key, roots) = &pem(&TestCa::new());
    let base64 = Base64::encode_string(key.as_bytes());
    for half in [&key[..key.len() / 2], &base64[..base64.len() - 7]] {
        let error = refused(source([chain, half, roots])).await;
        assert_eq!(error.kind(), SourceErrorKind::Invalid, "{}", shown(&error));
        assert!(shown(&error).contains("cut off"), "{}", shown(&error));
    }
}

#[tokio::test]
async fn none_set_is_not_configured_and_some_unset_is_invalid_and_named() {
    let (chain, key, _) = &pem(&TestCa::new());
    let none = refused(source(["", "", ""])).await;
    assert_eq!(none.kind(), SourceErrorKind::NotConfigured);
    for name in NAMES {
        assert!(shown(&none).contains(name), "{none:?}");
    }
    let some = refused(source([chain, key, ""])).await;
    assert_eq!(some.kind(), SourceErrorKind::Invalid);
    let shown = shown(&some);
    assert!(
        shown.contains("not set: APP_ROOTS; set: APP_CHAIN, APP_KEY"),
        "{shown}"
    );
}

#[tokio::test]
async fn errors_name_the_variable_and_never_its_value() {
    // H1. A value that is not PEM is taken for a path; it may still be half a key.
    let (chain, key, roots) = &pem(&TestCa::new());
    let half = &key[..key.len() / 2];
    let bare: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let bare_half = &bare[..bare.len() - 10];
    let other = pem(&TestCa::new()).1;
    let table = [
        ([chain, half, roots], "the variable APP_KEY: "),
        ([chain, bare_half, roots], "the variable APP_KEY is neither"),
        ([chain, chain, roots], "the variable APP_KEY: "),
        ([key, chain, roots], "the variable APP_CHAIN: "),
        (
            [chain, &other, roots],
            "the variable APP_CHAIN and the variable APP_KEY: ",
        ),
        ([chain, key, key], "the variable APP_ROOTS: "),
        (
            [chain, key, "/no/such/file"],
            "the file that the variable APP_ROOTS names: ",
        ),
    ];
    for (values, place) in table {
        let source = source(values.map(|value: &str| value));
        let debug = format!("{source:?}");
        let error = refused(source).await;
        let shown = shown(&error);
        assert!(shown.contains(place), "{shown}");
        assert!(!shown.contains("/no/such/file"), "{shown}");
        assert_no_key_in(&format!("{shown} {error:?} {debug}"), key);
    }
}

#[tokio::test]
async fn files_that_variables_name_are_watched() {
    let ca = TestCa::new();
    let set = pem(&ca);
    let files = Files::of(&set);
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let source = source([&path("tls.crt"), &path("tls.key"), &set.2]).poll_every(SOON);
    let live = LiveCert::start(source).await.unwrap();
    let (chain, key, _) = pem(&ca);
    for (name, text) in [("tls.crt", chain), ("tls.key", key)] {
        files.write(&format!("{name}.new"), text);
        std::fs::rename(files.path(&format!("{name}.new")), files.path(name)).unwrap();
    }
    in_time("the new pair", generation(&live, 2)).await;
}

#[tokio::test]
async fn content_in_variables_never_changes() {
    let set = pem(&TestCa::new());
    for source in [
        source([&set.0, &set.1, &set.2]).poll_every(SOON),
        source(["", "", ""]),
    ] {
        let _ = source.fetch(ask(FetchReason::Start)).await;
        let changed = tokio::time::timeout(20 * SOON, source.changed()).await;
        assert!(changed.is_err());
    }
}
