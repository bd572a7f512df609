//! Certificates and keys as the world writes them, each with what Perennial must do with it.

use crate::openssl::{CA, CLIENT, OpenSsl, SERVER};

/// What the client is given, and what the server presents and trusts.
pub(crate) struct Shape {
    pub(crate) id: &'static str,
    /// For the page.
    pub(crate) what: &'static str,
    /// Files of one side, as `sslcert`, `sslkey` and `sslrootcert` name them.
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) roots: Vec<u8>,
    pub(crate) password: Option<&'static str>,
    pub(crate) host: &'static str,
    /// PEM.
    pub(crate) server: (String, String),
    pub(crate) judged: Judged,
    /// What Perennial's one line contains if it does not log in; empty: it logs in. With verify-ca it may log in.
    pub(crate) says: &'static [&'static str],
}

/// Whose certificate is unusual: servers' are tried with verify-ca too.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Judged {
    Client,
    Server,
}

const NAMED: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
const POLICY: &str = "certificatePolicies=critical,1.2.3.4\n";

/// Makes shapes in one scratch folder.
struct Maker {
    openssl: OpenSsl,
    shapes: Vec<Shape>,
}

impl Maker {
    /// The PKI that all shapes share: `app` by an intermediate of the root, the server by the root.
    fn new() -> Self {
        let openssl = OpenSsl::new();
        openssl.root("root", "/O=Example/CN=Example root");
        for name in ["int", "app", "server"] {
            openssl.key(name);
        }
        let intermediate = "/O=Example/CN=Example intermediate";
        openssl.issue("int", intermediate, "root", CA, "int.crt");
        openssl.issue("app", "/CN=app", "int", CLIENT, "app.crt");
        let extensions = format!("{SERVER}{NAMED}");
        openssl.issue("server", "/CN=localhost", "root", &extensions, "server.crt");
        Self {
            openssl,
            shapes: Vec::new(),
        }
    }

    fn joined(&self, files: &[&str]) -> Vec<u8> {
        files
            .iter()
            .flat_map(|file| self.openssl.read(file))
            .collect()
    }

    fn text(&self, file: &str) -> String {
        String::from_utf8(self.openssl.read(file)).unwrap()
    }

    /// A shape whose client chain is these files; callers change what else is unusual.
    fn client(&mut self, id: &'static str, what: &'static str, chain: &[&str]) -> &mut Shape {
        self.shapes.push(Shape {
            id,
            what,
            chain: self.joined(chain),
            key: self.openssl.read("app.key"),
            roots: self.openssl.read("root.crt"),
            password: None,
            host: "localhost",
            server: (self.text("server.crt"), self.text("server.key")),
            judged: Judged::Client,
            says: &[],
        });
        self.shapes.last_mut().unwrap()
    }

    /// A shape whose server presents this certificate for this key, and the client trusts this root.
    fn server(&mut self, id: &'static str, what: &'static str, files: [&str; 3]) -> &mut Shape {
        let [certificate, key, root] = files;
        let server = (self.text(certificate), self.text(key));
        let roots = self.openssl.read(root);
        let shape = self.client(id, what, &["app.crt", "int.crt"]);
        shape.server = server;
        shape.roots = roots;
        shape.judged = Judged::Server;
        shape
    }
}

/// Every shape.
pub(crate) fn all() -> Vec<Shape> {
    let mut maker = Maker::new();
    chains(&mut maker);
    certificates(&mut maker);
    keys(&mut maker);
    files(&mut maker);
    servers(&mut maker);
    maker.shapes
}

fn chains(maker: &mut Maker) {
    let openssl = &maker.openssl;
    openssl.key("other");
    openssl.issue("other", "/O=Example/CN=Another CA", "root", CA, "other.crt");
    openssl.key("int2");
    let second = "/O=Example/CN=Example intermediate 2";
    openssl.issue("int2", second, "int", CA, "int2.crt");
    openssl.issue("app", "/CN=app", "int2", CLIENT, "deep.crt");
    // Another certificate of the same intermediate, and one by another root.
    openssl.sign("int", "root", CA, "int-new.crt");
    openssl.root("rootb", "/O=Example/CN=Example root B");
    openssl.sign("int", "rootb", CA, "int-cross.crt");

    let table: [(_, _, &[&str]); 9] = [
        (
            "N02",
            "the intermediate twice, and the root",
            &["app.crt", "int.crt", "int.crt", "root.crt"],
        ),
        ("N02", "the leaf twice", &["app.crt", "app.crt", "int.crt"]),
        (
            "N02",
            "a CA that is not part of the path",
            &["app.crt", "int.crt", "other.crt"],
        ),
        (
            "N04",
            "two intermediates in the other order",
            &["deep.crt", "int.crt", "int2.crt"],
        ),
        (
            "N04",
            "the root between the intermediates",
            &["deep.crt", "root.crt", "int.crt", "int2.crt"],
        ),
        (
            "N04",
            "an old certificate of the intermediate, then its new one",
            &["app.crt", "int.crt", "int-new.crt"],
        ),
        (
            "N04",
            "the new one, then the old",
            &["app.crt", "int-new.crt", "int.crt"],
        ),
        (
            "N04",
            "the intermediate, and cross-signed by another root",
            &["app.crt", "int.crt", "int-cross.crt"],
        ),
        (
            "N04",
            "both with their roots",
            &[
                "app.crt",
                "int.crt",
                "root.crt",
                "int-cross.crt",
                "rootb.crt",
            ],
        ),
    ];
    for (id, what, chain) in table {
        maker.client(id, what, chain);
    }
}

fn certificates(maker: &mut Maker) {
    let openssl = &maker.openssl;
    // One name in two encodings: the issuer's own certificate has the other.
    openssl.key("sub");
    let request = |mask: &str, name: &str| {
        let config = format!(
            "[req]\ndistinguished_name=dn\nstring_mask={mask}\nprompt=no\n[dn]\nO=Example\nCN={name}\n"
        );
        openssl.write("dn.cnf", config);
        openssl.run("req -new -key sub.key -config dn.cnf -out sub.csr", &[]);
    };
    request("utf8only", "Example sub");
    openssl.sign("sub", "root", CA, "sub.crt");
    openssl.issue("app", "/CN=app", "sub", CLIENT, "app-of-sub.crt");
    request("default", "Example sub");
    openssl.sign("sub", "root", CA, "sub-printable.crt");

    let critical = format!("{CLIENT}{POLICY}");
    openssl.issue("app", "/CN=app", "root", &critical, "app-critical.crt");
    openssl.sign("app", "root", "", "app-v1.crt");
    let shown = openssl.run("x509 -in app-v1.crt -noout -text", &[]);
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains("Version: 1"),
        "this openssl makes no version 1: {shown}"
    );
    openssl.write(
        "ca.cnf",
        "[ca]\ndefault_ca=d\n[d]\ndatabase=database\nnew_certs_dir=.\nrand_serial=yes\n\
         default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n",
    );
    openssl.write("database", "");
    openssl.write("extensions.cnf", CLIENT);
    openssl.run(
        "ca -batch -config ca.cnf -in app.csr -cert root.crt -keyfile root.key -notext \
         -startdate 19500101000000Z -enddate 20400101000000Z -extfile extensions.cnf -out app-1950.crt",
        &[],
    );
    for (name, kind) in [
        ("brainpool", "EC -pkeyopt ec_paramgen_curve:brainpoolP256r1"),
        ("ed448", "ED448"),
        ("pss", "RSA-PSS -pkeyopt rsa_keygen_bits:2048"),
    ] {
        openssl.key_of(name, kind);
        let subject = format!("/O=Example/CN=Sub {name}");
        openssl.issue(name, &subject, "root", CA, &format!("{name}.crt"));
        openssl.issue(
            "app",
            "/CN=app",
            name,
            CLIENT,
            &format!("app-of-{name}.crt"),
        );
    }

    let table: [(_, _, &[&str]); 7] = [
        (
            "N06",
            "issuer and subject are one name in two encodings",
            &["app-of-sub.crt", "sub-printable.crt"],
        ),
        (
            "N07",
            "critical certificate policies",
            &["app-critical.crt"],
        ),
        (
            "N08",
            "version 1, as `openssl x509 -req` of OpenSSL 3.0 makes it without extensions",
            &["app-v1.crt"],
        ),
        ("N13", "valid since 1950", &["app-1950.crt"]),
        (
            "N15",
            "the issuer's key is brainpoolP256r1",
            &["app-of-brainpool.crt", "brainpool.crt"],
        ),
        (
            "N15",
            "the issuer's key is Ed448",
            &["app-of-ed448.crt", "ed448.crt"],
        ),
        (
            "N15",
            "the issuer's key is RSA-PSS",
            &["app-of-pss.crt", "pss.crt"],
        ),
    ];
    for (id, what, chain) in table {
        maker.client(id, what, chain);
    }
}

fn keys(maker: &mut Maker) {
    let openssl = &maker.openssl;
    openssl.key_of("rsa", "RSA -pkeyopt rsa_keygen_bits:2048");
    openssl.issue("rsa", "/CN=app", "root", CLIENT, "rsa.crt");
    let mislabelled = String::from_utf8(openssl.read("rsa.key")).unwrap();
    let mislabelled = mislabelled.replace("PRIVATE KEY", "RSA PRIVATE KEY");
    type Fault = &'static [&'static str];
    let ways: [(_, _, Fault); 5] = [
        ("encrypted by PBES2 with 3DES", "pkcs8 -topk8 -v2 des3", &[]),
        (
            "encrypted by PBES2 with AES-256",
            "pkcs8 -topk8 -v2 aes-256-cbc",
            &[],
        ),
        (
            "encrypted by PBES2 with ARIA",
            "pkcs8 -topk8 -v2 aria-256-cbc",
            &["client.key", "ARIA", "openssl pkcs8"],
        ),
        ("encrypted by PBES1", "pkcs8 -topk8 -v1 PBE-SHA1-3DES", &[]),
        (
            "encrypted in the Proc-Type form",
            "ec -aes256",
            &["client.key", "Proc-Type", "openssl pkcs8"],
        ),
    ];
    let encrypted = ways.map(|(what, line, says)| {
        let line = format!("{line} -in app.key -passout pass:y");
        (what, openssl.run(&line, &[]), says)
    });

    let what = "PKCS#8 under the label RSA PRIVATE KEY";
    maker.client("N10", what, &["rsa.crt"]).key = mislabelled.into_bytes();
    for (what, key, says) in encrypted {
        let shape = maker.client("N18", what, &["app.crt", "int.crt"]);
        shape.key = key;
        shape.password = Some("y");
        shape.says = says;
    }
}

/// Containers, encodings and what editors leave behind.
fn files(maker: &mut Maker) {
    let openssl = &maker.openssl;
    let trusted = openssl.run("x509 -in app.crt -trustout -addtrust clientAuth", &[]);
    let trusted_root = openssl.run("x509 -in root.crt -trustout -addtrust serverAuth", &[]);
    let container = openssl.run(
        "pkcs12 -export -inkey app.key -in app.crt -certfile int.crt -passout pass:y",
        &[],
    );
    let list = openssl.run(
        "crl2pkcs7 -nocrl -certfile app.crt -certfile int.crt -outform DER",
        &[],
    );
    let list_pem = openssl.run("crl2pkcs7 -nocrl -certfile app.crt -certfile int.crt", &[]);
    openssl.issue("app", "/CN=app", "root", CLIENT, "direct.crt");
    let der = openssl.run("x509 -in direct.crt -outform DER", &[]);
    openssl.write("trusted.crt", [trusted, openssl.read("int.crt")].concat());
    let pair = ["app.crt", "int.crt"];

    maker.client("N12", "the leaf as TRUSTED CERTIFICATE", &["trusted.crt"]);
    let plain = maker.openssl.read("int.crt");
    maker
        .client(
            "N12",
            "the root as TRUSTED CERTIFICATE, next to a plain CA",
            &pair,
        )
        .roots = [trusted_root, plain].concat();
    let shape = maker.client("N17", "PKCS#12 as certificate and key", &pair);
    (shape.chain, shape.key) = (container.clone(), container);
    shape.password = Some("y");
    for (what, list) in [("PKCS#7 in DER", list), ("PKCS#7 in PEM", list_pem)] {
        let shape = maker.client("N17", what, &pair);
        shape.chain = list;
        shape.says = &["client.crt", "PKCS#7", "openssl pkcs7"];
    }
    maker.client("N17", "the leaf alone, in DER", &pair).chain = der;

    let changes: [(_, _, Change); 5] = [
        ("N11", "line ends became spaces", |pem| {
            replaced(pem, "\n", " ")
        }),
        ("N11", "line ends were lost", |pem| replaced(pem, "\n", "")),
        ("N11", "line ends became `\\n`, two letters", |pem| {
            replaced(pem, "\n", "\\n")
        }),
        ("N11", "base64 of the PEM", |pem| base64(&pem)),
        (
            "N24",
            "a byte order mark before each block, and CRLF",
            |pem| {
                let pem = replaced(pem, "\n", "\r\n");
                replaced(pem, "-----BEGIN", "\u{feff}-----BEGIN")
            },
        ),
    ];
    for (id, what, change) in changes {
        let shape = maker.client(id, what, &pair);
        for part in [&mut shape.chain, &mut shape.key, &mut shape.roots] {
            *part = change(std::mem::take(part));
        }
    }
}

/// What happened to the content of a file.
type Change = fn(Vec<u8>) -> Vec<u8>;

fn replaced(text: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(text).unwrap();
    text.replace(from, to).into_bytes()
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    let openssl = OpenSsl::new();
    openssl.write("plain", bytes);
    openssl.run("base64 -A -in plain", &[])
}

fn servers(maker: &mut Maker) {
    let openssl = &maker.openssl;
    // The CA's own certificate has its name in two encodings, the server's only one of them.
    for (mask, file) in [("default", "suba.crt"), ("utf8only", "subb.crt")] {
        let config = format!(
            "[req]\ndistinguished_name=dn\nstring_mask={mask}\nprompt=no\n[dn]\nO=Example\nCN=Example sub root\n"
        );
        openssl.write("dn.cnf", config);
        openssl.write("extensions.cnf", CA);
        openssl.run("req -new -key sub.key -config dn.cnf -out sub.csr", &[]);
        let line = "x509 -req -in sub.csr -signkey sub.key -days 3650 -extfile extensions.cnf -out";
        openssl.run(line, &[file]);
    }
    std::fs::copy(openssl.path("sub.key"), openssl.path("subb.key")).unwrap();
    let issue = |subject: &str, issuer: &str, extensions: &str, file: &str| {
        openssl.issue("server", subject, issuer, extensions, file);
    };
    issue(
        "/CN=localhost",
        "subb",
        &format!("{SERVER}{NAMED}"),
        "of-sub.crt",
    );
    issue(
        "/CN=localhost",
        "root",
        &format!("{SERVER}{NAMED}{POLICY}"),
        "critical.crt",
    );
    issue("/CN=localhost", "root", "", "v1.crt");
    issue("/CN=localhost", "root", SERVER, "cn-only.crt");
    issue(
        "/O=Cloud/CN=my-project:my-instance",
        "root",
        SERVER,
        "instance.crt",
    );
    let as_dns = format!("{SERVER}subjectAltName=DNS:127.0.0.1\n");
    issue("/CN=localhost", "root", &as_dns, "ip-as-dns.crt");
    for (name, more) in [
        ("self-cn", ""),
        ("self-san", "-addext subjectAltName=DNS:localhost"),
    ] {
        let line = format!(
            "req -new -x509 -days 3650 -nodes -newkey rsa:2048 -keyout {name}.key -out {name}.crt {more}"
        );
        openssl.run(&line, &["-subj", "/CN=localhost"]);
    }

    let key = "server.key";
    maker
        .server(
            "N06",
            "its issuer's name is in another encoding than the root's",
            ["of-sub.crt", key, "suba.crt"],
        )
        .says = &["encod"];
    maker
        .server(
            "N07",
            "critical certificate policies",
            ["critical.crt", key, "root.crt"],
        )
        .says = &["critical"];
    maker
        .server("N08", "version 1", ["v1.crt", key, "root.crt"])
        .says = &["version 1"];
    maker
        .server(
            "N09",
            "self-signed by `openssl req -x509` (CA:TRUE), common name only",
            ["self-cn.crt", "self-cn.key", "self-cn.crt"],
        )
        .says = &["CA:TRUE"];
    maker
        .server(
            "N09",
            "self-signed by `openssl req -x509` (CA:TRUE), with an alternative name",
            ["self-san.crt", "self-san.key", "self-san.crt"],
        )
        .says = &["CA:TRUE"];
    maker
        .server("N09", "common name only", ["cn-only.crt", key, "root.crt"])
        .says = &["subjectAltName"];
    maker
        .server(
            "N09",
            "a name that is not a host",
            ["instance.crt", key, "root.crt"],
        )
        .says = &["subjectAltName"];
    let shape = maker.server(
        "N09",
        "an address as DNS name",
        ["ip-as-dns.crt", key, "root.crt"],
    );
    shape.host = "127.0.0.1";
    shape.says = &["address"];
}
