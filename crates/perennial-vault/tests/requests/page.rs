//! The commands that docs/src/vault.md lets operators copy.

use perennial::LiveCert;
use perennial_testbed::OpenBao;
use perennial_vault::{Auth, Vault};

use crate::{bao, fails_in_one_line, token};

/// Scenario: S15
#[tokio::test]
async fn commands_of_the_page_set_up_a_role_that_works_and_allows_no_more() {
    let bao = bao().await;
    let page = include_str!("../../../../docs/src/vault.md");
    let (_, lines) = page.split_once("```sh\n").unwrap();
    let (lines, _) = lines.split_once("```").unwrap();

    let ca = bao.folder().join("page-ca.pem");
    std::fs::write(&ca, bao.ca_pem()).unwrap();
    let run = tokio::process::Command::new("sh")
        .args(["-euc", lines])
        .env("PATH", path_with(bao))
        .env("BAO_ADDR", bao.address())
        .env("BAO_CACERT", &ca)
        .env("BAO_TOKEN", token(bao, "root").await)
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8(run.stdout).unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    // Into a pipe, `-field` prints no line end. Both are UUIDs.
    let (role_id, secret_id) = printed.lines().last().unwrap().split_at(36);

    let vault = Vault::builder(bao.address())
        .ca_pem(bao.ca_pem())
        .auth(Auth::approle(role_id, secret_id))
        .build()
        .unwrap();
    let source_for = |name: &str| {
        vault
            .pki("pki_int")
            .role("orders")
            .common_name(name)
            .dns_name(name)
    };
    let live = LiveCert::start(source_for("orders.example").build().unwrap())
        .await
        .unwrap();
    assert_eq!(
        live.current().unwrap().names().common_name.as_deref(),
        Some("orders.example")
    );
    let words = ["other.example not allowed by this role"];
    fails_in_one_line(source_for("other.example"), &words).await;
    let words = ["policy does not allow"];
    fails_in_one_line(source_for("orders.example").role("app"), &words).await;
    fails_in_one_line(source_for("orders.example").issue(), &words).await;
}

/// The search path, with the folder of the running `bao` first.
#[expect(clippy::disallowed_methods, reason = "the search path for `sh`")]
fn path_with(bao: &OpenBao) -> std::ffi::OsString {
    let folder = bao.program().parent().unwrap().to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).unwrap()
}
