use tokio_postgres::config::Host;

use super::*;
use crate::FailureClass;

const HOME: (&str, &str) = ("HOME", "/home/app");

/// Reads it in an environment of these variables alone.
fn read(text: &str, variables: &[(&str, &str)]) -> Result<Libpq, ConnectError> {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    parse_with(text, |name| variables.get(name).map(OsString::from))
}

fn good(text: &str) -> Libpq {
    match read(text, &[HOME]) {
        Ok(libpq) => libpq,
        Err(error) => panic!("{text}: {error}"),
    }
}

/// Hosts, addresses, ports, user, password and database as one line.
fn login(config: &Config) -> String {
    let names = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        other => panic!("{other:?}"),
    });
    let mut parts = vec![names.collect::<Vec<_>>().join(",")];
    parts.extend(
        config
            .get_hostaddrs()
            .iter()
            .map(|address| format!("@{address}")),
    );
    parts.extend(config.get_ports().iter().map(|port| format!(":{port}")));
    let password = config
        .get_password()
        .map(|password| String::from_utf8_lossy(password));
    for (name, value) in [
        ("user", config.get_user()),
        ("password", password.as_deref()),
        ("dbname", config.get_dbname()),
    ] {
        parts.extend(value.map(|value| format!("{name}={value}")));
    }
    parts.join(" ")
}

#[test]
fn connection_strings_are_read_as_libpq_reads_them() {
    let table = [
        // Key and value.
        ("host=db", "db"),
        ("  host = db\tport\n=\r5433 ", "db :5433"),
        ("host=db user='an app' password='it''", "error"),
        (
            r"host=db user='an app' password='it\'s \\ x'",
            r"db user=an app password=it's \ x",
        ),
        (
            r"host=db user=an\ app password=\'q\\",
            r"db user=an app password='q\",
        ),
        ("host=db user='' dbname=''", "db"),
        // The blank after the sign belongs to neither.
        ("host=db dbname= user", "db dbname=user"),
        ("host=db password='p'user=app", "db user=app password=p"),
        ("host=::1", "::1"),
        ("host=a,b,c", "a,b,c"),
        ("host=a,b port=1,2", "a,b :1 :2"),
        ("host=a,b port=,2", "a,b :5432 :2"),
        ("host=a,b port=7", "a,b :7"),
        ("host=a,b hostaddr=10.0.0.1,::1", "a,b @10.0.0.1 @::1"),
        ("hostaddr=10.0.0.1", "10.0.0.1 @10.0.0.1"),
        // URIs.
        ("postgresql://db", "db"),
        ("postgres://db/", "db"),
        ("postgresql://db:5433/app", "db :5433 dbname=app"),
        ("postgresql://db:/app", "db dbname=app"),
        ("postgresql://app@db", "db user=app"),
        ("postgresql://app:@db", "db user=app"),
        ("postgresql://:p@db", "db password=p"),
        ("postgresql://@db", "db"),
        (
            "postgresql://app:p:q@db/app",
            "db user=app password=p:q dbname=app",
        ),
        (
            "postgresql://app:p?q@db/app",
            "db user=app password=p?q dbname=app",
        ),
        (
            "postgresql://%61pp:%70%40%2f%25+@db/a%20b",
            "db user=app password=p@/%+ dbname=a b",
        ),
        ("postgresql://app:%C3%A9@db", "db user=app password=é"),
        ("postgresql://[::1]/app", "::1 dbname=app"),
        (
            "postgresql://app@[2001:db8::1]:5433/app",
            "2001:db8::1 :5433 user=app dbname=app",
        ),
        ("postgresql://a,b/app", "a,b :5432 :5432 dbname=app"),
        (
            "postgresql://a:1,[::1]:2,c/app",
            "a,::1,c :1 :2 :5432 dbname=app",
        ),
        (
            "postgresql:///app?host=db&port=5433&user=x",
            "db :5433 user=x dbname=app",
        ),
        ("postgresql://?host=a,b", "a,b"),
        ("postgresql://db?password=p%3D%26q", "db password=p=&q"),
        ("postgresql://db/app?user=a@b", "db user=a@b dbname=app"),
        ("postgresql://db?%75ser=app", "db user=app"),
        ("postgresql://db?user=app&", "db user=app"),
        ("postgresql://db//app?", "db dbname=/app"),
    ];
    for (text, expected) in table {
        match read(text, &[HOME]) {
            Ok(libpq) => assert_eq!(login(&libpq.config), expected, "{text}"),
            Err(error) => assert_eq!("error", expected, "{text}: {error}"),
        }
    }
}

#[test]
fn string_comes_before_the_environment() {
    let variables = [
        HOME,
        ("PGHOST", "elsewhere"),
        ("PGPORT", "5433"),
        ("PGUSER", "other"),
        ("PGPASSWORD", ""),
        ("PGDATABASE", "main"),
        ("PGSSLCERT", "/etc/tls/tls.crt"),
        ("PGSSLMODE", "verify-ca"),
        ("PGAPPNAME", "billing"),
        ("PGOPTIONS", "-c statement_timeout=5s"),
        ("PGCONNECT_TIMEOUT", "3"),
        ("PGKRBSRVNAME", "postgres"),
        ("PGPASSFILE", ""),
    ];
    let libpq = read("", &variables).unwrap();
    assert_eq!(
        login(&libpq.config),
        "elsewhere :5433 user=other dbname=main"
    );
    assert_eq!(libpq.config.get_application_name(), Some("billing"));
    assert_eq!(libpq.config.get_options(), Some("-c statement_timeout=5s"));
    let three = Duration::from_secs(3);
    assert_eq!(libpq.config.get_connect_timeout(), Some(&three));
    let shown = format!("{libpq:?}");
    for part in [
        "/etc/tls/tls.crt",
        "/home/app/.postgresql/postgresql.key",
        "/home/app/.postgresql/root.crt",
        "verify_ca: true",
        "allow_tls12: false",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }

    // An empty value hides the variable too.
    let text = "host=db port= user=app dbname='' sslmode=verify-full sslcert=/a sslkey=/b";
    let text = format!("{text} sslrootcert=/c connect_timeout=0 fallback_application_name=x");
    let error = read(&text, &variables).unwrap_err().to_string();
    assert!(error.starts_with("invalid port"), "{error}");
    let text = text.replace("port= ", "port='' ");
    let libpq = read(&text, &variables).unwrap();
    assert_eq!(login(&libpq.config), "db user=app");
    assert_eq!(libpq.config.get_connect_timeout(), None);
    assert_eq!(libpq.config.get_application_name(), Some("billing"));
    let shown = format!("{libpq:?}");
    for part in ["\"/a\"", "\"/b\"", "\"/c\"", "verify_ca: false"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn every_setting_arrives_in_the_unit_of_libpq() {
    let libpq = good(
        "host=a,b sslmode=verify-full ssl_min_protocol_version=tlsv1.2 sslsni=1 sslcertmode=require \
         ssl_max_protocol_version=TLSv1.3 sslnegotiation=direct channel_binding=disable \
         target_session_attrs=read-write load_balance_hosts=random connect_timeout=7 keepalives=0 \
         keepalives_idle=11 keepalives_interval=13 keepalives_count=3 tcp_user_timeout=1500 \
         gssencmode=prefer client_encoding=UTF8 fallback_application_name=psql sslcompression=1",
    );
    let config = &libpq.config;
    assert_eq!(config.get_ssl_mode(), SslMode::Require);
    assert_eq!(config.get_ssl_negotiation(), SslNegotiation::Direct);
    assert_eq!(config.get_channel_binding(), ChannelBinding::Disable);
    assert_eq!(
        config.get_target_session_attrs(),
        TargetSessionAttrs::ReadWrite
    );
    assert_eq!(config.get_load_balance_hosts(), LoadBalanceHosts::Random);
    assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(7)));
    assert!(!config.get_keepalives());
    assert_eq!(config.get_keepalives_idle(), Duration::from_secs(11));
    assert_eq!(
        config.get_keepalives_interval(),
        Some(Duration::from_secs(13))
    );
    assert_eq!(config.get_keepalives_retries(), Some(3));
    let milliseconds = Duration::from_millis(1_500);
    assert_eq!(config.get_tcp_user_timeout(), Some(&milliseconds));
    assert_eq!(config.get_application_name(), Some("psql"));
    assert!(format!("{:?}", libpq.tls).contains("allow_tls12: true"));

    // What libpq takes as unset.
    let unset = Config::new();
    let libpq = good("host=db connect_timeout=-1 keepalives_idle=0 keepalives_count=0");
    assert_eq!(libpq.config.get_connect_timeout(), None);
    assert_eq!(
        libpq.config.get_keepalives_idle(),
        unset.get_keepalives_idle()
    );
    assert_eq!(libpq.config.get_keepalives_retries(), None);
}

#[test]
fn tls_is_never_weakened() {
    for mode in ["disable", "allow", "prefer", "require", "none"] {
        let expected =
            format!("{mode:?}: expected verify-full or verify-ca (TLS is never weakened)");
        let of = |text: &str, variables: &[_]| read(text, variables).unwrap_err().to_string();
        let text = of(&format!("host=db sslmode={mode}"), &[HOME]);
        assert_eq!(text, format!("invalid sslmode {expected}"));
        let text = of(&format!("postgres://db?sslmode={mode}"), &[HOME]);
        assert_eq!(text, format!("invalid sslmode {expected}"));
        let text = of("host=db", &[HOME, ("PGSSLMODE", mode)]);
        assert_eq!(text, format!("invalid PGSSLMODE {expected}"));
        // The string decides.
        let libpq = read("host=db sslmode=verify-full", &[HOME, ("PGSSLMODE", mode)]);
        assert_eq!(libpq.unwrap().config.get_ssl_mode(), SslMode::Require);
    }
    let error = read("postgres://db?ssl=true", &[HOME]).unwrap_err();
    assert!(error.to_string().contains("sslmode \"require\""), "{error}");

    let sockets = [
        ("", vec![HOME], "host (none)"),
        ("port=5433 user=app", vec![HOME], "host (none)"),
        ("postgres:///app", vec![HOME], "host (none)"),
        ("host=''", vec![HOME, ("PGHOST", "db")], "host (none)"),
        (
            "host=/run/postgresql",
            vec![HOME],
            "host \"/run/postgresql\"",
        ),
        ("host=db,/run", vec![HOME], "host \"/run\""),
        ("host=db,", vec![HOME], "host \"\""),
        ("host=@abstract", vec![HOME], "host \"@abstract\""),
        ("postgres://%2Frun/app", vec![HOME], "host \"/run\""),
        ("postgres:///app?host=/run", vec![HOME], "host \"/run\""),
        ("", vec![HOME, ("PGHOST", "/run")], "PGHOST \"/run\""),
    ];
    for (text, variables, got) in sockets {
        let error = read(text, &variables).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("invalid {got}: expected {TCP_HOST}"),
            "{text}"
        );
        assert_eq!(error.class(), FailureClass::Setting);
    }
    assert!(TCP_HOST.contains("verify-full"));
}

#[test]
fn each_error_names_the_key_and_what_it_expects() {
    let table = [
        // Keys.
        ("hostt=db", "invalid key hostt: expected host"),
        (
            "host=db sslroot=/a",
            "invalid key sslroot: expected sslrootcert",
        ),
        (
            "host=db username=app",
            "invalid key username: expected user",
        ),
        (
            "host=db keepalives_retries=3",
            "invalid key keepalives_retries: expected keepalives",
        ),
        (
            "postgres://db?sslcerts=/a",
            "invalid key sslcerts: expected sslcert",
        ),
        (
            "host=db user=a user=b",
            "invalid user (given twice): expected one value",
        ),
        (
            "postgres://db?host=other",
            "invalid host (given twice): expected one value",
        ),
        // Form.
        (
            "db",
            "invalid connection string at its start: expected key=value",
        ),
        (
            "host=db app",
            "invalid connection string after host: expected key=value",
        ),
        (
            "host=db user='app",
            "invalid connection string after user: expected a single quote",
        ),
        (
            "postgres://[::1",
            "invalid host in brackets: expected an IPv6 address",
        ),
        (
            "postgres://[::1]5432",
            "invalid host in brackets: expected an IPv6 address",
        ),
        (
            "postgres://[]",
            "invalid host in brackets: expected an IPv6 address",
        ),
        (
            "postgres://db?user",
            "invalid connection string in the part after ?: expected key=value",
        ),
        (
            "postgres://db?user=a=b",
            "invalid connection string in the part after ?",
        ),
        (
            "postgres://db?user=a&&",
            "invalid connection string in the part after ?",
        ),
        (
            "postgres://a%zz@db",
            "invalid connection string in its % signs: expected % and two",
        ),
        (
            "postgres://a%4@db",
            "invalid connection string in its % signs",
        ),
        (
            "postgres://a%+1@db",
            "invalid connection string in its % signs",
        ),
        (
            "postgres://a%00@db",
            "invalid connection string in its % signs",
        ),
        (
            "postgres://a%ff@db",
            "invalid connection string in its % signs",
        ),
        // Values.
        (
            "host=db port=0",
            "invalid port (not shown): expected 1 to 65535",
        ),
        (
            "host=db port=65536",
            "invalid port (not shown): expected 1 to 65535",
        ),
        (
            "host=a,b,c port=1,2",
            "invalid port \"1,2\": expected one port, or one for each host",
        ),
        (
            "host=a,b hostaddr=10.0.0.1",
            "invalid hostaddr \"10.0.0.1\": expected one address for each",
        ),
        (
            "host=a hostaddr=db",
            "invalid hostaddr \"db\": expected IP addresses",
        ),
        (
            "host=db connect_timeout=3s",
            "invalid connect_timeout \"3s\": expected a whole number",
        ),
        (
            "host=db keepalives=on",
            "invalid keepalives \"on\": expected a whole number",
        ),
        (
            "host=db target_session_attrs=primary",
            "invalid target_session_attrs \"primary\": expected any",
        ),
        (
            "host=db load_balance_hosts=1",
            "invalid load_balance_hosts \"1\": expected disable or random",
        ),
        (
            "host=db channel_binding=on",
            "invalid channel_binding \"on\": expected disable, prefer or",
        ),
        (
            "host=db sslnegotiation=tls",
            "invalid sslnegotiation \"tls\": expected postgres or direct",
        ),
        (
            "host=db client_encoding=LATIN1",
            "invalid client_encoding \"LATIN1\": expected UTF8",
        ),
        (
            "host=db ssl_min_protocol_version=1.2",
            "invalid ssl_min_protocol_version \"1.2\": expected TLSv1.2",
        ),
        (
            "host=db ssl_max_protocol_version=TLSv1.2",
            "invalid ssl_max_protocol_version \"TLSv1.2\"",
        ),
        ("host=db sslsni=0", "invalid sslsni \"0\": expected 1"),
        (
            "host=db sslcertmode=disable",
            "invalid sslcertmode \"disable\": expected require or allow",
        ),
        (
            "host=db gssencmode=require",
            "invalid gssencmode \"require\": expected disable or prefer",
        ),
        (
            "host=db sslkey=pkcs11:token",
            "invalid sslkey \"pkcs11:token\": expected a file",
        ),
        // What is not supported.
        (
            "host=db service=main",
            "invalid service \"main\": expected none",
        ),
        (
            "host=db passfile=/p",
            "invalid passfile (not shown): expected none (password files",
        ),
        (
            "host=db require_auth=none",
            "invalid require_auth \"none\": expected none",
        ),
        (
            "host=db replication=database",
            "invalid replication \"database\": expected none",
        ),
        (
            "host=db scram_client_key=c2VjcmV0",
            "invalid scram_client_key (not shown): expected none",
        ),
    ];
    for (text, expected) in table {
        let error = read(text, &[HOME]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    for crl in ["sslcrl", "sslcrldir"] {
        let error = read(&format!("host=db {crl}=/x"), &[HOME])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(crl) && error.contains("server_verifier"),
            "{error}"
        );
    }
    for variable in [
        "PGSSLCRL",
        "PGSERVICE",
        "PGREQUIREAUTH",
        "PGTZ",
        "PGPASSFILE",
        "PGSSLSNI",
    ] {
        let error = read("host=db", &[HOME, (variable, "x")])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("invalid {variable} ")),
            "{error}"
        );
    }
    // A password makes the file needless, as in libpq.
    assert!(read("host=db password=p", &[HOME, ("PGPASSFILE", "/p")]).is_ok());

    let error = read("host=db sslcert=/a sslkey=/b", &[])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "invalid sslrootcert (none): expected a file, since HOME is not set"
    );
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let latin = |name: &str| (name == "PGUSER").then(|| OsString::from_vec(vec![0xe9]));
        let error = parse_with("host=db", latin).unwrap_err().to_string();
        assert_eq!(error, "invalid PGUSER (not shown): expected UTF-8");
    }
}

#[test]
fn no_error_shows_a_password_wherever_it_was_put() {
    let table = [
        "host=db password=S3CRET sslmode=prefer",
        "host=db password='S3CRET",
        "host=db password=two S3CRET",
        "host=db password=two S3CRET=words",
        "host=db passwd=S3CRET",
        "host=db passwd=two S3CRET=words",
        "host=db sslpassword=S3CRET keepalives=x",
        "host=db sslmode= password=S3CRET",
        "host= password=S3CRET",
        "mysql://app:S3CRET@db/app?ssl=true",
        "postgres:/app:S3CRET@db/app",
        "postgres://app:S3CRET@db?sslmode=disable",
        "postgres://app:S3CRET@/app",
        "postgres://app:S3CRET/x@db/app",
        "postgres://app:p@S3CRET@db/app",
        "postgres://app:%S3CRET@db/app",
        "postgres://db?password=a&S3CRET=b",
        "postgres://db?password=a&S3CRET",
        "postgres://db?password=a=S3CRET",
        "postgres://[app:S3CRET/@db",
    ];
    for text in table {
        let error = read(text, &[HOME]).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("S3CRET"), "{text}: {shown}");
    }
    #[cfg(feature = "encrypted-keys")]
    {
        let libpq = good("host=db password=S3CRET sslpassword=S3CRET");
        let shown = format!("{libpq:?}");
        assert!(!shown.contains("S3CRET"), "{shown}");
        assert!(shown.contains("passphrase: Some"), "{shown}");
    }
    #[cfg(not(feature = "encrypted-keys"))]
    {
        let error = read("host=db sslpassword=S3CRET", &[HOME]).unwrap_err();
        assert!(
            error.to_string().contains("feature encrypted-keys"),
            "{error}"
        );
    }
}

#[test]
fn roots_of_the_system_are_verified_by_name_too() {
    let text = "host=db sslcert=/c sslkey=/k sslrootcert=system";
    #[cfg(feature = "system-roots")]
    for mode in ["", "sslmode=verify-full"] {
        // No home folder is needed for a file of roots.
        let libpq = read(&format!("{text} {mode}"), &[]).unwrap();
        let shown = format!("{libpq:?}");
        assert!(shown.contains("system_roots: true"), "{shown}");
        assert!(shown.contains("[\"/c\", \"/k\"]"), "{shown}");
    }
    #[cfg(not(feature = "system-roots"))]
    {
        let error = read(text, &[]).unwrap_err().to_string();
        assert!(error.contains("feature system-roots"), "{error}");
    }
    let variables = [("PGSSLMODE", "verify-ca")];
    let error = read(text, &variables).unwrap_err().to_string();
    let expected = "expected verify-full, because sslrootcert is system";
    assert_eq!(
        error,
        format!("invalid PGSSLMODE \"verify-ca\": {expected}")
    );
}

#[test]
fn each_key_and_variable_stands_once_in_the_table() {
    for (place, key) in KEYS.iter().enumerate() {
        for other in &KEYS[place + 1..] {
            assert_ne!(key.name, other.name);
            assert!(
                key.variable.is_none() || key.variable != other.variable,
                "{}",
                key.name
            );
        }
    }
}
