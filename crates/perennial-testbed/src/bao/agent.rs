//! OpenBao Agent as a child process.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use super::{OpenBao, pki};
use crate::error::TestbedError;
use crate::folder::Folder;
use crate::server::{Launch, Server};

/// A real OpenBao Agent that logs in by AppRole and keeps certificates in files, one `pkiCert` template each.
///
/// Many teams run it next to their services. It keeps running while OpenBao is stopped.
#[derive(Debug)]
pub struct BaoAgent {
    server: Server,
    certificates: Vec<PathBuf>,
}

impl OpenBao {
    /// Starts an agent that keeps a certificate of a client role for each of `names` (`app` or `app-*`), valid for
    /// `lifetime` (whole seconds). Returns at once: a file appears as soon as its certificate is issued.
    ///
    /// # Errors
    /// [`TestbedError::Folder`] or [`TestbedError::Run`] if it fails to start.
    pub fn agent(
        &self,
        role: &str,
        names: &[String],
        lifetime: Duration,
    ) -> Result<BaoAgent, TestbedError> {
        let folder = Folder::create("agent", None)?;
        let private = folder.private();
        let certificates: Vec<_> = names
            .iter()
            .map(|name| private.join(format!("{name}.pem")))
            .collect();
        let files = [
            ("ca.pem", self.ca_pem().to_owned()),
            ("role-id", self.approle().role_id.clone()),
            ("secret-id", self.approle().secret_id.clone()),
            (
                "agent.hcl",
                self.agent_config(&folder, role, names, lifetime),
            ),
        ];
        for (name, content) in &files {
            folder.write(&private.join(name), content, None)?;
        }
        let server = Server::new("OpenBao Agent", Signal::KILL, folder)?;
        server.launch(&Launch {
            program: &self.program,
            arguments: vec![
                "agent".into(),
                "-config".into(),
                private.join("agent.hcl").into(),
            ],
            user: None,
            environment: &[],
        })?;
        Ok(BaoAgent {
            server,
            certificates,
        })
    }

    fn agent_config(
        &self,
        folder: &Folder,
        role: &str,
        names: &[String],
        lifetime: Duration,
    ) -> String {
        let (address, private) = (self.address(), folder.private());
        let private = private.display();
        let mut config = format!(
            r#"vault {{
  address = "{address}"
  ca_cert = "{private}/ca.pem"
}}
auto_auth {{
  method "approle" {{
    config = {{
      role_id_file_path = "{private}/role-id"
      secret_id_file_path = "{private}/secret-id"
      remove_secret_id_file_after_reading = false
    }}
  }}
}}
"#
        );
        let path = format!("{}/issue/{role}", pki::MOUNT);
        let seconds = lifetime.as_secs();
        for name in names {
            // Writing to a string cannot fail.
            let _ = writeln!(
                config,
                r#"template {{
  destination = "{private}/{name}.pem"
  perms = "0600"
  contents = "{{{{ with pkiCert \"{path}\" \"common_name={name}\" \"ttl={seconds}s\" }}}}{{{{ .Cert }}}}{{{{ .CA }}}}{{{{ .Key }}}}{{{{ end }}}}"
}}"#
            );
        }
        config
    }
}

impl BaoAgent {
    /// The files, in the order of the names.
    pub fn certificates(&self) -> &[PathBuf] {
        &self.certificates
    }

    /// The process number, or `None` if it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// The agent's log so far.
    pub fn log(&self) -> String {
        self.server.log()
    }
}
