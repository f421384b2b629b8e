//! `/client.js` in Chromium, on the page that the edge serves.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testkit::{Proxy, http, install};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::client_js::{PLAY, assert_agrees, break_often, lot};
use crate::test_system::TestSystem;

/// Time for the browser to start or to load a page.
const WITHIN: Duration = Duration::from_secs(30);

/// One page of a browser that is driven over its DevTools protocol.
struct Page {
    browser: Child,
    tools: WebSocketStream<MaybeTlsStream<TcpStream>>,
    commands: u64,
}

impl Page {
    async fn open(profile: &std::path::Path, url: &str) -> Result<Self> {
        let program = install::ensure_chromium(&|step| eprintln!("{step} …"))?;
        let mut browser = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            // Over TLS the stack has an authority of its own.
            .arg("--ignore-certificate-errors")
            .args(["--remote-debugging-port=0", &format!("--user-data-dir={}", profile.display()), "about:blank"])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = BufReader::new(browser.stderr.take().context("stderr")?);
        let address = timeout(WITHIN, listening_at(stderr)).await.context("the browser did not start")??;
        let pages = http::get(&format!("http://{address}/json/list"), None).await?.json;
        let page = pages[0]["webSocketDebuggerUrl"].as_str().with_context(|| pages.to_string())?;
        let (tools, _) = tokio_tungstenite::connect_async(page).await?;
        let mut page = Self { browser, tools, commands: 0 };
        page.command("Page.enable", json!({})).await?;
        page.send("Page.navigate", json!({"url": url})).await?;
        let loaded = page.until(|message| message["method"] == "Page.loadEventFired");
        timeout(WITHIN, loaded).await.context("the page was not loaded")??;
        Ok(page)
    }

    /// The value of an expression in the page, awaited.
    async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.command("Runtime.evaluate", asked).await?;
        ensure!(answer["exceptionDetails"].is_null(), "{answer}");
        Ok(answer["result"]["value"].clone())
    }

    async fn command(&mut self, method: &str, params: Value) -> Result<Value> {
        let id = self.send(method, params).await?;
        Ok(self.until(|message| message["id"] == id).await?["result"].clone())
    }

    async fn send(&mut self, method: &str, params: Value) -> Result<u64> {
        self.commands += 1;
        let command = json!({"id": self.commands, "method": method, "params": params});
        self.tools.send(Message::text(command.to_string())).await?;
        Ok(self.commands)
    }

    /// The next message that fits; others are dropped.
    async fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let message = self.tools.next().await.context("the browser ended")??;
            let message: Value = serde_json::from_str(message.to_text()?)?;
            if fits(&message) {
                return Ok(message);
            }
        }
    }

    async fn close(mut self) -> Result<()> {
        self.command("Browser.close", json!({})).await?;
        self.browser.wait().await?;
        Ok(())
    }
}

/// Host and port, which the browser prints to standard error. Later output is read and dropped.
async fn listening_at(stderr: BufReader<ChildStderr>) -> Result<String> {
    let mut lines = stderr.lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(address) = line.strip_prefix("DevTools listening on ws://") {
            let address = address.split('/').next().unwrap_or_default().to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(address);
        }
    }
    anyhow::bail!("the browser ended")
}

/// As in node, but loaded by a page: the module comes from the edge and connects to it. The connection is reset
/// every 300 ms.
#[tokio::test(flavor = "multi_thread")]
async fn browser_client_places_and_shows_each_bid_once() -> Result<()> {
    let system = TestSystem::start("browser").await?;
    let edge = system.stack.url(Name::Websocket);
    let (scheme, _) = edge.split_once("://").context("a scheme")?;
    let port: u16 = edge.rsplit(':').next().unwrap_or_default().parse()?;
    let proxy = Proxy::start(port).await?;
    let mut page = Page::open(&system.path().join("profile"), &format!("{scheme}://127.0.0.1:{}/", proxy.port)).await?;
    page.evaluate("import('/client.js').then((module) => { globalThis.connect = module.connect; })").await?;
    let id = system.auction(&lot()).await?;
    let tokens = json!([system.token("anna")?, system.token("ben")?]);
    let play = format!("({PLAY})(connect, {{}}, '{id}', {tokens})");
    let done = tokio::select! {
        done = page.evaluate(&play) => done?,
        never = break_often(&proxy) => match never {},
    };
    assert_agrees(&system, &id, &done).await?;
    page.close().await?;
    system.end().await;
    Ok(())
}
