//! Which clients can log in to Postgres.

use perennial_testbed::TestbedError;
use perennial_testbed::tokio_postgres::config::SslMode;
use perennial_testbed::tokio_postgres::error::SqlState;
use perennial_testbed::tokio_postgres::{Error, NoTls};

use crate::client::{log_in_trusting, serial_seen, sign, try_sign};
use crate::shared;

fn state(error: &Error) -> Option<&SqlState> {
    error.as_db_error().map(|error| error.code())
}

#[tokio::test]
async fn signed_certificate_logs_in_and_the_server_sees_its_serial() {
    let testbed = shared().await;
    for name in ["app", "app-2"] {
        let signed = sign(testbed, name).await;
        assert_eq!(serial_seen(testbed, &signed).await, signed.serial);
    }
}

#[tokio::test]
async fn plain_tcp_is_refused() {
    let testbed = shared().await;
    let mut config = testbed.postgres.config();
    let refused = config.ssl_mode(SslMode::Disable).connect(NoTls).await;
    let error = refused.err().expect("plain TCP is refused");
    assert_eq!(
        state(&error),
        Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
    );
}

#[tokio::test]
async fn login_without_certificate_is_refused() {
    let error = log_in_trusting(shared().await, None).await.err().unwrap();
    assert_eq!(
        state(&error),
        Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
    );
}

#[tokio::test]
async fn unmapped_name_is_signed_but_refused_at_login() {
    let testbed = shared().await;
    let signed = sign(testbed, "app-unmapped").await;
    let error = log_in_trusting(testbed, Some(&signed)).await.err().unwrap();
    assert_eq!(
        state(&error),
        Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
    );
}

#[tokio::test]
async fn name_outside_the_role_is_not_signed() {
    for name in [
        "evil.example",
        "postgres",
        "localhost",
        "server",
        "xapp",
        "app.example",
    ] {
        let refused = try_sign(shared().await, name).await.err();
        let refused = refused.unwrap_or_else(|| panic!("{name} was signed"));
        assert!(
            matches!(refused, TestbedError::Refused { status: 400, .. }),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn superuser_logs_in_only_over_the_socket() {
    let testbed = shared().await;
    let admin = testbed.postgres.admin().await.unwrap();
    let row = admin
        .query_one("select current_user::text", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "postgres");

    let mut config = testbed.postgres.config();
    let refused = config
        .user("postgres")
        .ssl_mode(SslMode::Disable)
        .connect(NoTls)
        .await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn other_users_cannot_reach_the_superusers_socket_or_a_key() {
    use std::os::unix::fs::PermissionsExt;
    let testbed = shared().await;
    for folder in [testbed.postgres.folder(), testbed.bao.folder()] {
        for folder in [folder.to_owned(), folder.join("private")] {
            let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
        }
    }
}
