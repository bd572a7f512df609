//! The way to both servers through a proxy each, so that the network can be stalled.

use std::net::{Ipv4Addr, SocketAddr};

use perennial_testbed::{Fault, Proxy, Testbed, TestbedError};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// Both proxies. TLS runs through them from end to end.
pub(crate) struct Network {
    openbao: Proxy,
    postgres: Proxy,
}

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    OpenBao,
    Postgres,
}

impl Network {
    pub(crate) async fn start(testbed: &Testbed) -> Result<Self, TestbedError> {
        let on = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self {
            openbao: Proxy::start(on(testbed.bao.port())).await?,
            postgres: Proxy::start(on(testbed.postgres.port())).await?,
        })
    }

    pub(crate) fn openbao(&self) -> String {
        format!("https://{}", self.openbao.addr())
    }

    pub(crate) fn postgres(&self, testbed: &Testbed) -> Config {
        let (postgres, way) = (&testbed.postgres, self.postgres.addr());
        let mut config = Config::new();
        config.host(way.ip().to_string()).port(way.port());
        config.user(postgres.user()).dbname(postgres.database());
        config.ssl_mode(SslMode::Require);
        config
    }

    pub(crate) async fn set(&self, to: To, fault: Fault) -> Result<(), TestbedError> {
        match to {
            To::OpenBao => self.openbao.set(fault).await,
            To::Postgres => self.postgres.set(fault).await,
        }
    }
}
