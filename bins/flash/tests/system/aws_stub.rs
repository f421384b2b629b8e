//! A server in front of the AWS emulator that resets, throttles and rejects as AWS does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::test_system::TestSystem;

/// How the stub answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Mails are cut off: the connection is reset.
    ResetMails,
    /// One mail a second is forwarded, the others are throttled as SES does it.
    OneMailASecond,
    /// Notifications of an auction with "Refused" in its title are rejected as SQS does it.
    RejectRefused,
    /// Everything is forwarded.
    Pass,
}

/// A server in front of the AWS emulator that fails as AWS can and the emulator never does.
#[derive(Clone)]
pub struct AwsStub {
    emulator: String,
    mode: Arc<Mutex<Mode>>,
    last_mail: Arc<Mutex<Option<Instant>>>,
    failed: Arc<AtomicUsize>,
}

impl AwsStub {
    /// Starts a stub; the address is an `AWS_ENDPOINT_URL`.
    pub async fn start(system: &TestSystem, mode: Mode) -> Result<(Self, String)> {
        let stub = Self {
            emulator: system.stack.servers.aws_endpoint(),
            mode: Arc::new(Mutex::new(mode)),
            last_mail: Arc::default(),
            failed: Arc::default(),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let accepting = stub.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let stub = accepting.clone();
                tokio::spawn(async move { stub.serve(client).await });
            }
        });
        Ok((stub, endpoint))
    }

    /// Sets how it answers from now on.
    pub fn set(&self, mode: Mode) {
        *self.mode.lock().expect("a lock") = mode;
    }

    /// Requests that it did not forward.
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::SeqCst)
    }

    /// Answers one request and closes the connection.
    async fn serve(&self, mut client: TcpStream) -> Result<()> {
        let (head, body) = read_request(&mut client).await?;
        let header = |name: &str| {
            let found =
                head.lines().filter_map(|line| line.split_once(':')).find(|(of, _)| of.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned())
        };
        let mode = *self.mode.lock().expect("a lock");
        let is_mail = body.starts_with(b"Action=SendEmail");
        let refused = match mode {
            Mode::ResetMails if is_mail => {
                self.failed.fetch_add(1, Ordering::SeqCst);
                client.set_zero_linger()?;
                return Ok(());
            }
            Mode::OneMailASecond if is_mail && !self.may_send() => Some((
                "text/xml",
                "<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Maximum sending rate exceeded.\
                 </Message></Error></ErrorResponse>",
            )),
            Mode::RejectRefused
                if header("x-amz-target").is_some_and(|target| target == "AmazonSQS.SendMessage")
                    && String::from_utf8_lossy(&body).contains("Refused") =>
            {
                let text = r#"{"__type":"com.amazonaws.sqs#InvalidMessageContents","message":"injected by the stub"}"#;
                Some(("application/x-amz-json-1.0", text))
            }
            _ => None,
        };
        let (status, kind, text) = if let Some((kind, text)) = refused {
            self.failed.fetch_add(1, Ordering::SeqCst);
            (400, kind.to_owned(), text.to_owned())
        } else {
            let path = head.split(' ').nth(1).unwrap_or("/");
            let mut request = ::http::Request::post(format!("{}{path}", self.emulator));
            for name in ["authorization", "content-type", "x-amz-target"] {
                if let Some(value) = header(name) {
                    request = request.header(name, value);
                }
            }
            let reply = http::send(request.body(body.into())?).await?;
            let kind = reply.headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or("text/xml");
            (reply.status, kind.to_owned(), reply.text)
        };
        let head = format!(
            "HTTP/1.1 {status} Stub\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            text.len()
        );
        client.write_all(head.as_bytes()).await?;
        client.write_all(text.as_bytes()).await?;
        Ok(client.shutdown().await?)
    }

    fn may_send(&self) -> bool {
        let mut last = self.last_mail.lock().expect("a lock");
        let may = last.is_none_or(|last| last.elapsed() >= Duration::from_secs(1));
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

/// Head and body of one HTTP request.
async fn read_request(client: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(client.read_buf(&mut bytes).await? > 0, "the client left");
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let length: usize = length.unwrap_or(0);
    while bytes.len() < end + length {
        ensure!(client.read_buf(&mut bytes).await? > 0, "the client left");
    }
    Ok((head, bytes.split_off(end)))
}
