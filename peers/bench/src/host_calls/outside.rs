//! What the visitor calls, natively: settings and secrets of a file, whose floor is reading
//! it, and a page of the web, beside the client that a program in Rust would use.

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use heyday_capabilities::http::{HttpClient, HttpLimits, HttpPolicy, HttpRequest, HttpUsage};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::native::embedded;
use super::stores::{ENTRY, FILE, NAMESPACE, Stores};
use super::web::PAGE_BYTES;
use super::{Call, Case, Client, ONE, call};

/// No request takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// All cases; the page is that server's.
pub fn cases(stores: &Stores, server: SocketAddr) -> anyhow::Result<Vec<Case>> {
    Ok(vec![settings(stores)?, secrets(stores)?, page(server)?])
}

fn settings(stores: &Stores) -> anyhow::Result<Case> {
    let settings = stores
        .bindings
        .settings(NAMESPACE, FILE)
        .context("a binding")?;
    let backend = call(move |_| {
        let settings = Arc::clone(&settings);
        async move {
            let found = settings.get(ENTRY).await?;
            black_box(found.context("no setting")?);
            Ok(())
        }
    });
    Ok(of_file("config.get", "setting", &stores.settings, backend))
}

fn secrets(stores: &Stores) -> anyhow::Result<Case> {
    let secrets = stores
        .bindings
        .secrets(NAMESPACE, FILE)
        .context("a binding")?;
    let backend = call(move |_| {
        let secrets = Arc::clone(&secrets);
        async move {
            black_box(secrets.get(ENTRY).await?);
            Ok(())
        }
    });
    Ok(of_file("secrets.get", "secret", &stores.secrets, backend))
}

/// A case of an entry of that file, which is read again at each call.
fn of_file(name: &'static str, operation: &'static str, path: &Path, backend: Call) -> Case {
    let path: Arc<Path> = path.into();
    let read = call(move |_| {
        let path = Arc::clone(&path);
        async move {
            black_box(std::fs::read(path)?);
            Ok(())
        }
    });
    let client = Client {
        name: "reading the file",
        call: read,
        goal: None,
    };
    Case {
        binding: FILE,
        ..embedded((name, operation), ENTRY, 200, ONE, client, backend)
    }
}

fn page(server: SocketAddr) -> anyhow::Result<Case> {
    let url = format!("http://{server}/");
    // Before the plain client: this one chooses by what TLS is done, for both.
    let http = HttpClient::new()?;
    let rule = format!("GET:{server}");
    let policy = Arc::new(HttpPolicy::parse([rule.as_str()])?);
    let (host, asked) = (Handle::current(), url.clone());
    let backend = call(move |_| {
        let (http, policy, url) = (http.clone(), Arc::clone(&policy), asked.clone());
        let host = host.clone();
        async move {
            let asking = ask(http, policy, url);
            // Connections are the host's: from the guests' threads the capability asks
            // over there, too.
            if Handle::current().id() == host.id() {
                asking.await
            } else {
                host.spawn(asking).await?
            }
        }
    });
    let plain = reqwest::Client::builder().no_proxy().build()?;
    let other = url.clone();
    let get = call(move |_| {
        let asking = plain.get(other.as_str()).send();
        async move {
            let answer = asking.await?.error_for_status()?;
            ensure!(answer.bytes().await?.len() == PAGE_BYTES, "another page");
            Ok(())
        }
    });
    let client = Client {
        name: "reqwest",
        call: get,
        goal: Some(ONE),
    };
    Ok(Case {
        // It has grants alone.
        binding: "",
        ..embedded(("http.get", "page"), &url, 200, ONE, client, backend)
    })
}

async fn ask(http: HttpClient, policy: Arc<HttpPolicy>, url: String) -> anyhow::Result<()> {
    let request = HttpRequest {
        method: "GET".to_owned(),
        url,
        headers: Vec::new(),
        body: Bytes::new(),
    };
    let (limits, cancellation) = (HttpLimits::default(), CancellationToken::new());
    let deadline = Instant::now() + PATIENCE;
    let mut usage = HttpUsage::default();
    let answer = http
        .call(
            request,
            &policy,
            &limits,
            deadline,
            &cancellation,
            &mut usage,
        )
        .await?;
    ensure!(answer.status == 200, "the status {}", answer.status);
    ensure!(answer.body.len() == PAGE_BYTES, "another page");
    Ok(())
}
