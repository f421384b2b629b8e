//! A connection to one Redis or to a Redis Cluster, whichever answers at the address.

use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::{Client, Cmd, IntoConnectionInfo, Pipeline, RedisError, RedisFuture, TlsCertificates, Value};

/// Time for a reply; then the outcome of the call is unknown. Redis replies in under a millisecond, sync to disk
/// included; two seconds are far more than that, and less than the three in which a bid is answered.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of one connection attempt. It equals [`RESPONSE_TIMEOUT`], after which a call that waits for the
/// connection is given up.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest delay between attempts to reach a Redis that is away. Bidding must continue within seconds.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// Repetitions of a call by the cluster's client. None: a bid whose first attempt was accepted, and its reply lost,
/// could be refused when the client repeats it unseen. Callers repeat calls themselves, and know that they do.
const CLUSTER_RETRIES: u32 = 0;

/// The addresses of Redis, and the authority that signs its certificates.
#[derive(Clone, Default)]
pub struct Settings {
    /// `redis://:password@host:port`, or `rediss://…` for TLS; several nodes of a cluster are separated by commas.
    pub urls: String,
    /// File of the authorities that are trusted, in PEM. None: those of the system.
    pub ca_file: Option<String>,
}

impl Settings {
    /// Reads `REDIS_URL` and `REDIS_CA_FILE`.
    ///
    /// # Errors
    /// The names of the missing variables.
    pub fn read(find: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<&'static str>> {
        let (urls, ca_file) = (find("REDIS_URL"), find("REDIS_CA_FILE"));
        Ok(Self { urls: urls.ok_or_else(|| vec!["REDIS_URL"])?, ca_file })
    }

    /// Whether the first address asks for TLS.
    pub(crate) fn is_with_tls(&self) -> bool {
        self.urls.starts_with("rediss://")
    }

    fn certificates(&self) -> Result<Option<TlsCertificates>, RedisError> {
        let Some(file) = self.ca_file.as_ref().filter(|_| self.is_with_tls()) else { return Ok(None) };
        Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(std::fs::read(file)?) }))
    }
}

/// A cheap handle. Every clone shares the connections, so that calls sent at the same time share one sync to disk.
#[derive(Clone)]
pub(crate) enum Connection {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Connects. The first of several addresses that answers is used: one node of a cluster names all others.
    pub async fn open(settings: &Settings) -> Result<Self, RedisError> {
        let certificates = settings.certificates()?;
        let mut last = None;
        for url in settings.urls.split(',').map(str::trim) {
            match Self::open_at(url, &settings.urls, certificates.clone()).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| (redis::ErrorKind::InvalidClientConfig, "no address given").into()))
    }

    async fn open_at(url: &str, urls: &str, certificates: Option<TlsCertificates>) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECTION_TIMEOUT))
            .set_max_delay(MAX_RECONNECT_DELAY);
        // A call does not wait for the reply to the call before it.
        let tcp = TcpSettings::default().set_nodelay(true);
        let address = url.into_connection_info()?.set_tcp_settings(tcp.clone());
        let client = match &certificates {
            Some(certificates) => Client::build_with_tls(address, certificates.clone())?,
            None => Client::open(address)?,
        };
        let mut one = ConnectionManager::new_with_config(client, config).await?;
        let information: String = redis::cmd("INFO").arg("cluster").query_async(&mut one).await?;
        if !information.contains("cluster_enabled:1") {
            return Ok(Self::One(one));
        }
        let cluster = ClusterClient::builder(urls.split(',').map(str::trim))
            .retries(CLUSTER_RETRIES)
            .tcp_settings(tcp)
            .response_timeout(RESPONSE_TIMEOUT)
            .connection_timeout(CONNECTION_TIMEOUT);
        let cluster = match certificates {
            Some(certificates) => cluster.certs(certificates),
            None => cluster,
        };
        let cluster = cluster.build()?;
        Ok(Self::Cluster(cluster.get_async_connection().await?))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(one) => one.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(one) => one.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(one) => one.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}
