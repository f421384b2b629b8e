//! One Redis, or the masters of a Redis Cluster: whichever answers at the address.

use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};

/// A call that takes longer than this has an unknown outcome. Redis answers in under a millisecond,
/// synced disk included; two seconds are far outside that and inside the three a bidder waits.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts to reach a Redis that is away: an auction must bid again within seconds.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(500);
/// The cluster's client would repeat a call by itself, and a decision whose first attempt had been made
/// and lost could then be refused. Whoever calls repeats it, knowing that it does.
const CLUSTER_RETRIES: u32 = 0;

/// A cheap handle: every clone shares the connections, so calls of a turn share a sync.
#[derive(Clone)]
pub(crate) enum Connection {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Connection {
    /// `urls`: one, or several with commas between them, of which the first that answers is asked. One
    /// node of a cluster leads to all of it.
    pub async fn open(urls: &str) -> Result<Self, RedisError> {
        let mut last = None;
        for url in urls.split(',').map(str::trim) {
            match Self::open_at(url, urls).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| (redis::ErrorKind::InvalidClientConfig, "there is no address").into()))
    }

    async fn open_at(url: &str, urls: &str) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECTION_TIMEOUT))
            .set_max_delay(MAX_RECONNECT_DELAY);
        let mut one = ConnectionManager::new_with_config(redis::Client::open(url)?, config).await?;
        let information: String = redis::cmd("INFO").arg("cluster").query_async(&mut one).await?;
        if !information.contains("cluster_enabled:1") {
            return Ok(Self::One(one));
        }
        let cluster = ClusterClient::builder(urls.split(',').map(str::trim))
            .retries(CLUSTER_RETRIES)
            .response_timeout(RESPONSE_TIMEOUT)
            .connection_timeout(CONNECTION_TIMEOUT)
            .build()?;
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
