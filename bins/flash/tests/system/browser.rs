//! `/client.js` in a real Chromium, on the edge's own page.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use testkit::{Proxy, http, install};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::client_js::{PLAY, break_often, hold, lot};
use crate::world::World;

const STARTS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One page of a browser that is driven over its DevTools protocol.
struct Page {
    browser: Child,
    tools: WebSocketStream<MaybeTlsStream<TcpStream>>,
    commands: u64,
}

impl Page {
    async fn open(profile: &std::path::Path, url: &str) -> Result<Self> {
        let program = install::ensure_chromium(&|step| eprintln!("{step} …"))?;
        let browser = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-port=0", &format!("--user-data-dir={}", profile.display()), "about:blank"])
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (file, since) = (profile.join("DevToolsActivePort"), Instant::now());
        let port = loop {
            if let Ok(text) = std::fs::read_to_string(&file)
                && let Some((port, _)) = text.split_once('\n')
            {
                break port.to_owned();
            }
            ensure!(since.elapsed() < STARTS_WITHIN, "the browser did not start");
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let new = http::request("PUT", &format!("http://127.0.0.1:{port}/json/new?{url}"), None);
        let page = http::send(new.body(Default::default())?).await?.json;
        let address = page["webSocketDebuggerUrl"].as_str().with_context(|| page.to_string())?;
        let (tools, _) = tokio_tungstenite::connect_async(address).await?;
        let mut page = Self { browser, tools, commands: 0 };
        let loaded = format!("document.readyState === 'complete' && location.href.startsWith('{url}')");
        while page.evaluate(&loaded).await? != true {
            ensure!(since.elapsed() < STARTS_WITHIN, "the page was not loaded");
            tokio::time::sleep(LOOK_EVERY).await;
        }
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
        self.commands += 1;
        let command = json!({"id": self.commands, "method": method, "params": params});
        self.tools.send(Message::text(command.to_string())).await?;
        loop {
            let message = self.tools.next().await.context("the browser ended")??;
            let answer: Value = serde_json::from_str(message.to_text()?)?;
            if answer["id"] == self.commands {
                return Ok(answer["result"].clone());
            }
        }
    }

    async fn close(mut self) -> Result<()> {
        self.command("Browser.close", json!({})).await?;
        self.browser.wait().await?;
        Ok(())
    }
}

/// As in node, and as a page does it: the module is loaded from the edge, whose address it then connects to; the
/// line breaks every 300 ms.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_bids_once_and_sees_each_bid_once() -> Result<()> {
    let world = World::start("browser").await?;
    let port: u16 = world.stack.url(Name::Websocket).rsplit(':').next().unwrap_or_default().parse()?;
    let proxy = Proxy::start(port).await?;
    let mut page = Page::open(&world.path().join("profile"), &format!("http://127.0.0.1:{}/", proxy.port)).await?;
    page.evaluate("import('/client.js').then((module) => { globalThis.connect = module.connect; })").await?;
    let id = world.auction(&lot()).await?;
    let tokens = json!([world.token("anna")?, world.token("ben")?]);
    let play = format!("({PLAY})(connect, {{}}, '{id}', {tokens})");
    let done = tokio::select! {
        done = page.evaluate(&play) => done?,
        never = break_often(&proxy) => match never {},
    };
    hold(&world, &id, &done).await?;
    page.close().await?;
    world.end().await;
    Ok(())
}
