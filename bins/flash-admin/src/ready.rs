//! `flash-admin ready`: whether a program is ready, for health checks inside its container.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Time for the whole answer. Less than the time limit of a health check in docker-compose.yml.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer that is read. It names what is down.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The arguments of `ready`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The address to ask, such as <http://127.0.0.1:8000/ready>
    url: Uri,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let url = &arguments.url;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let get = async {
        let response = client.get(url.clone()).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        anyhow::Ok((status, body.map_err(|error| anyhow!(error))?.to_bytes()))
    };
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, get).await;
    let (status, body) = answered.with_context(|| format!("{url} did not answer"))?.with_context(|| url.to_string())?;
    ensure!(status == StatusCode::OK, "{url} answered {status}: {}", String::from_utf8_lossy(&body));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// The result of asking a server that answers every request with this text.
    async fn asked(answer: &'static str) -> Result<ExitCode> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/ready", listener.local_addr().expect("an address")).parse().expect("an address");
        let server = async move {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut request = BufReader::new(&mut client).lines();
            while request.next_line().await.expect("a request").is_some_and(|line| !line.is_empty()) {}
            client.write_all(answer.as_bytes()).await.expect("an answer");
        };
        let arguments = Arguments { url };
        let (_, result) = tokio::join!(server, run(&arguments));
        result
    }

    #[tokio::test]
    async fn only_status_200_is_ready() {
        asked("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("ready");
        let error = asked("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nnats").await.expect_err("down");
        assert!(error.to_string().ends_with("answered 503 Service Unavailable: nats"), "{error}");
        let error = asked("HTTP/1.1 204 No Content\r\n\r\n").await.expect_err("another status");
        assert!(error.to_string().contains("204"), "{error}");
        asked("SSH-2.0\r\n").await.expect_err("no HTTP");
    }

    #[tokio::test(start_paused = true)]
    async fn program_that_hangs_is_not_ready() {
        // The kernel accepts the connection, and no program reads from it.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/ready", listener.local_addr().expect("an address")).parse().expect("an address");
        let error = run(&Arguments { url }).await.expect_err("no answer");
        assert!(error.to_string().ends_with("/ready did not answer"), "{error}");
    }
}
