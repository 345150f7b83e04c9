//! Two people in real browsers: headless Chromium, driven through ChromeDriver.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use support::Server;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(60);

struct Driver {
    process: Child,
    url: String,
}

impl Driver {
    fn start() -> Self {
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (Debian: chromium chromium-driver)");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let port = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, rest) = line.split_once("started successfully on port ")?;
                Some(rest.trim_end_matches('.').to_owned())
            })
            .expect("it says its port");
        Self { process, url: format!("http://127.0.0.1:{port}") }
    }

    async fn browser(&self) -> Client {
        // The last ones keep Chromium from calling home.
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1000,700",
            "--no-first-run",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ];
        let capabilities = json!({"goog:chromeOptions": {"args": args}});
        let capabilities = capabilities.as_object().expect("it is one").clone();
        ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&self.url)
            .await
            .expect("Chromium starts")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// Waits until the text of the element contains `text`.
async fn shows(browser: &Client, selector: &str, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = String::new();
    while Instant::now() < deadline {
        if let Ok(element) = browser.find(Locator::Css(selector)).await
            && let Ok(now) = element.text().await
        {
            if now.contains(text) {
                return;
            }
            seen = now;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("{selector} never shows {text:?}, but {seen:?}");
}

async fn type_into(browser: &Client, selector: &str, text: &str) {
    browser.find(Locator::Css(selector)).await.unwrap().send_keys(text).await.unwrap();
}

const SAY: &str = "#say input";

/// Enter, as WebDriver spells it.
const ENTER: &str = "\u{e007}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_browsers_talk_and_come_back_after_the_server_was_away() {
    let mut server = Server::start(&[]);
    let address = server.address.clone();
    let driver = Driver::start();
    let (ada, bob, admin) =
        (driver.browser().await, driver.browser().await, driver.browser().await);
    admin.goto(&format!("http://{address}/admin")).await.unwrap();
    shows(&admin, "#status", "connected").await;
    // Ada's name is in the address, Bob is asked for his.
    ada.goto(&format!("http://{address}/?name=ada#games")).await.unwrap();
    shows(&ada, "#status", "connected").await;
    bob.goto(&format!("http://{address}/#games")).await.unwrap();
    type_into(&bob, "#ask input", &format!("bob{ENTER}")).await;
    shows(&bob, "#people", "2 people").await;
    shows(&ada, "#lines", "bob came in").await;

    type_into(&bob, SAY, "who is").await;
    shows(&ada, "#typing", "bob is typing").await;
    type_into(&bob, SAY, &format!(" playing <b>chess</b>?{ENTER}")).await;
    shows(&ada, "#lines", "bob who is playing <b>chess</b>?").await;
    shows(&ada, "#typing", "").await;
    type_into(&ada, SAY, &format!("I am{ENTER}")).await;
    shows(&bob, "#lines", "ada I am").await;
    shows(&admin, "#events", "#games ada I am").await;
    shows(&bob, "#rooms", "#games").await;
    if let Ok(path) = std::env::var("SCREENSHOT") {
        type_into(&bob, SAY, "me").await;
        shows(&ada, "#typing", "bob is typing").await;
        std::fs::write(path, ada.screenshot().await.unwrap()).unwrap();
    }

    // Another room: nobody there hears this one.
    type_into(&bob, "#new input", &format!("quiet{ENTER}")).await;
    shows(&bob, "#title", "#quiet").await;
    shows(&ada, "#lines", "bob left").await;
    shows(&bob, "#people", "1 person").await;

    drop(server);
    for browser in [&ada, &bob, &admin] {
        shows(browser, "#status", "reconnecting").await;
    }
    server = Server::start(&["--listen", &address]);
    // Each waits for a random time; what is said before then, a page never hears.
    for browser in [&ada, &bob, &admin] {
        shows(browser, "#status", "connected").await;
    }
    type_into(&ada, SAY, &format!("back again{ENTER}")).await;
    shows(&ada, "#lines", "ada back again").await;
    shows(&admin, "#events", "#games ada back again").await;
    for browser in [ada, bob, admin] {
        browser.close().await.unwrap();
    }
    drop(server);
}
