//! `wasi:http` for plugins: wasmtime's types, and our own sending.

use std::any::Any;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heyday_sandbox::{CallState, Capability, HostCall, Stopped};
use reqwest::header::{self, HeaderName};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use url::Url;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::p2::bindings::http::{outgoing_handler, types};
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::p2::{HttpError as Trappable, HttpResult};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttp,
    WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
};

use super::body::{Incoming, outgoing};
use super::client::{HttpClient, Outgoing, check_url};
use super::{HttpError, HttpPlace, HttpPlaces, HttpPolicy, asked_for};
use crate::call::{Budget, Place};
use crate::error::TAKEN_BACK;
use crate::task::run_on;

pub(crate) const NAME: &str = "http";
/// Its types, in the version of the linked implementation.
const TYPES: &str = "wasi:http/types@0.2.12";

/// Limits of plugins' requests. How long one may take is the attempt's own time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginHttpLimits {
    /// Bytes of one request's body.
    pub request_bytes: u64,
    /// Bytes of one response's body.
    pub response_bytes: u64,
    /// Requests of one attempt at once, up to the end of their responses' bodies.
    pub open_requests: u32,
    /// Requests at once to what one rule allows, of all attempts of a namespace together,
    /// likewise.
    pub concurrent_requests: u32,
    /// How long the other side may say nothing: from the request to the response, and from
    /// one piece of its body to the next, in milliseconds.
    pub silence_ms: u64,
}

impl Default for PluginHttpLimits {
    fn default() -> Self {
        Self {
            request_bytes: 64 << 20,
            response_bytes: 64 << 20,
            open_requests: 16,
            concurrent_requests: 32,
            silence_ms: 60_000,
        }
    }
}

/// The capability `http`.
pub struct HttpCapability {
    service: Arc<Service>,
}

/// What all attempts share.
struct Service {
    limits: PluginHttpLimits,
    places: HttpPlaces,
    /// Where connections live: the host's own runtime, not the guests'.
    runtime: Handle,
    /// Made when the first request comes.
    client: Arc<OnceLock<Result<HttpClient, HttpError>>>,
}

impl HttpCapability {
    /// With these limits; connections are kept on `runtime`.
    #[must_use]
    pub fn new(limits: PluginHttpLimits, runtime: Handle) -> Self {
        Self {
            service: Arc::new(Service {
                places: HttpPlaces::new(limits.concurrent_requests),
                limits,
                runtime,
                client: Arc::default(),
            }),
        }
    }
}

impl Capability for HttpCapability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["wasi:http/types", "wasi:http/outgoing-handler"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        let options = types::LinkOptions::default();
        types::add_to_linker::<_, WasiHttp>(linker, &options, view)?;
        // In place of one that does not know the errors that bodies end with.
        linker.allow_shadowing(true);
        let shadowed = linker.instance(TYPES).and_then(|mut types| {
            types.func_wrap(
                "http-error-code",
                |mut store: StoreContextMut<'_, CallState>, (error,)| {
                    Ok((error_code(store.data_mut(), &error)?,))
                },
            )
        });
        linker.allow_shadowing(false);
        shadowed?;
        // Not by the generated function: what it calls knows nothing of the attempt.
        let mut handler = linker.instance("wasi:http/outgoing-handler@0.2.0")?;
        handler.func_wrap("handle", |mut store: StoreContextMut<'_, CallState>, of| {
            let (request, options) = of;
            match handle(store.data_mut(), request, options) {
                Ok(response) => Ok((Ok(response),)),
                Err(error) => Ok((Err(error.downcast()?),)),
            }
        })
    }

    fn prepare(&self, _plugin: &str, namespace: &str) -> Box<dyn Any + Send> {
        Box::new(Scope {
            context: WasiHttpCtx::new(),
            hooks: Hooks {
                service: Arc::clone(&self.service),
                namespace: namespace.into(),
                budget: Arc::default(),
                granted: None,
            },
        })
    }
}

/// The capability's state of one attempt.
struct Scope {
    context: WasiHttpCtx,
    hooks: Hooks,
}

fn scope(state: &mut CallState) -> wasmtime::Result<WasiHttpCtxView<'_>> {
    let (table, scope) = state.table_and_capability::<Scope>(NAME)?;
    Ok(WasiHttpCtxView {
        hooks: &mut scope.hooks,
        table,
        ctx: &mut scope.context,
    })
}

fn view(state: &mut CallState) -> WasiHttpCtxView<'_> {
    scope(state).expect("a plugin that calls this imports it, so it was prepared for the call")
}

/// `outgoing-handler.handle`: one request, under the grants of now.
fn handle(
    state: &mut CallState,
    request: Resource<HostOutgoingRequest>,
    options: Option<Resource<RequestOptions>>,
) -> HttpResult<Resource<HostFutureIncomingResponse>> {
    let call = state.host_call(NAME, "request").map_err(Trappable::trap)?;
    state.count("http.calls", 1);
    let grants = state.grants();
    let rules = match grants.by_capability.get(NAME) {
        Some(rules) if !grants.revoked.is_cancelled() => rules.as_slice(),
        _ => &[],
    };
    // They were read when they were granted; one that cannot be is none.
    let policy = HttpPolicy::parse(rules.iter().map(|grant| grant.binding.as_str()));
    let granted = Granted {
        call,
        policy: policy.unwrap_or_default(),
        written: state.counter("http.bytes_written"),
        read: state.counter("http.bytes_read"),
    };
    let (_, scope) = state
        .table_and_capability::<Scope>(NAME)
        .map_err(Trappable::trap)?;
    scope.hooks.granted = Some(granted);
    let mut view = self::scope(state).map_err(Trappable::trap)?;
    outgoing_handler::Host::handle(&mut view, request, options)
}

/// `types.http-error-code`: why a body ended early, if that was an error of HTTP.
fn error_code(
    state: &mut CallState,
    error: &Resource<types::IoError>,
) -> wasmtime::Result<Option<types::ErrorCode>> {
    let error = state.table().get(error)?;
    if let Some(code) = error.downcast_ref::<types::ErrorCode>() {
        return Ok(Some(code.clone()));
    }
    Ok(error.downcast_ref::<Error>().map(|error| match error {
        Error::HttpResponseBodySize(size) => types::ErrorCode::HttpResponseBodySize(*size),
        Error::HttpRequestBodySize(size) => types::ErrorCode::HttpRequestBodySize(*size),
        Error::ConnectionReadTimeout => types::ErrorCode::ConnectionReadTimeout,
        Error::HttpResponseTimeout => types::ErrorCode::HttpResponseTimeout,
        Error::HttpRequestDenied => types::ErrorCode::HttpRequestDenied,
        Error::DestinationUnavailable => types::ErrorCode::ConnectionTerminated,
        Error::InternalError(message) => types::ErrorCode::InternalError(message.clone()),
        _ => types::ErrorCode::HttpProtocolError,
    }))
}

/// What one request goes by.
struct Granted {
    call: HostCall,
    policy: HttpPolicy,
    written: Arc<AtomicU64>,
    read: Arc<AtomicU64>,
}

/// Where wasmtime's implementation asks us.
struct Hooks {
    service: Arc<Service>,
    namespace: Arc<str>,
    budget: Arc<Budget>,
    /// Of the request that is being made.
    granted: Option<Granted>,
}

/// Headers that only the host may set: those of the connection, and what decides where a
/// request goes and where its body ends.
fn is_forbidden(name: &HeaderName) -> bool {
    DEFAULT_FORBIDDEN_HEADERS.contains(name) || [header::TE, header::TRAILER].contains(name)
}

/// What [`Hooks::send_request`] answers: the response, and what is done for it meanwhile,
/// which is nothing here.
type Sent = (
    ::http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for Hooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(is_forbidden)
    }

    /// It is set of the URL that was checked.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: ::http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let service = Arc::clone(&self.service);
        let namespace = Arc::clone(&self.namespace);
        let granted = self.granted.take().ok_or(Error::HttpRequestDenied);
        let most = service.limits.open_requests;
        let place = Place::free(&self.budget, most).ok_or(Error::ConnectionLimitReached);
        Box::new(async move {
            let granted = granted?;
            let response = match place {
                Ok(place) => {
                    let sent = service.send(request, options, &namespace, &granted, place);
                    sent.await
                }
                Err(error) => {
                    granted.call.failed("limit-exceeded");
                    Err(error)
                }
            };
            Ok((response?, Box::new(async { Ok(()) }) as Box<_>))
        })
    }
}

impl Service {
    async fn send(
        &self,
        request: ::http::Request<WasiBody>,
        options: Option<RequestOptions>,
        namespace: &str,
        granted: &Granted,
        place: Place,
    ) -> Result<::http::Response<WasiBody>, Error> {
        let Granted {
            call,
            policy,
            written,
            read,
        } = granted;
        let (parts, body) = request.into_parts();
        // Checked and sent as the same URL, so that no two readings of it differ.
        let url = Url::parse(&parts.uri.to_string()).map_err(|_| Error::HttpRequestUriInvalid)?;
        check_url(&url).map_err(|error| error_of(&error))?;
        // Behind a proxy it would reach anything.
        if parts.method == reqwest::Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let host = url.host_str().unwrap_or_default();
        call.http_request(parts.method.as_str(), host, url.port_or_known_default());
        let asked = asked_for(&parts.method, &url);
        let rule = policy.rule(parts.method.as_str(), &url);
        let silence = Duration::from_millis(self.limits.silence_ms);
        let shorter = |own: Option<Duration>| own.map_or(silence, |own| own.min(silence));
        let options = options.unwrap_or_default();
        let turn = self.turn(namespace, rule, call, &asked);
        let turn = tokio::time::timeout(shorter(options.first_byte_timeout), turn).await;
        let turn = turn.map_err(|_| Error::HttpResponseTimeout)??;
        let outgoing = Outgoing {
            method: parts.method,
            url: url.clone(),
            headers: parts.headers,
            body: outgoing(body, self.limits.request_bytes, Arc::clone(written)),
        };
        let (client, policy) = (Arc::clone(&self.client), policy.clone());
        let sending = run_on(&self.runtime, async move {
            // Reads the certificates of authorities: not on the guests' threads.
            match client.get_or_init(HttpClient::new) {
                Ok(client) => client.send(outgoing, &policy).await,
                Err(error) => Err(error.clone()),
            }
        });
        // A guest that is slow to write its body has not sent the request yet, so there is
        // one limit on both.
        let sending = tokio::time::timeout(shorter(options.first_byte_timeout), sending);
        let answered = call.run(sending).await;
        let answered = match answered.map_err(|why| stopped(why, call, &asked))? {
            Ok(Ok(answered)) => answered,
            Ok(Err(failed)) => {
                tracing::error!(%failed, "a request of a plugin failed");
                return Err(Error::InternalError(None));
            }
            Err(_) => Err(HttpError::Timeout),
        };
        let response = answered.map_err(|error| {
            call.failed(error.code());
            if let HttpError::Denied(reason) | HttpError::NotPublic(reason) = &error {
                call.denied(NAME, Some(&asked), reason);
            }
            error_of(&error)
        })?;
        call.http_status(response.status().as_u16());
        let limit = self.limits.response_bytes;
        if response
            .content_length()
            .is_some_and(|length| length > limit)
        {
            call.failed("too-large");
            return Err(Error::HttpResponseBodySize(Some(limit)));
        }
        let mut answer = ::http::Response::new(());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        let incoming = Incoming {
            bytes: Box::pin(response.bytes_stream()),
            url,
            asked,
            call: call.clone(),
            _place: place,
            _turn: turn,
            limit,
            silence: shorter(options.between_bytes_timeout),
            read: Arc::clone(read),
        };
        Ok(answer.map(|()| incoming.body()))
    }

    /// A place among the requests that go to what a rule allows; none where no rule does,
    /// which is told when it is sent.
    async fn turn(
        &self,
        namespace: &str,
        rule: Option<&str>,
        call: &HostCall,
        asked: &str,
    ) -> Result<Option<HttpPlace>, Error> {
        let Some(rule) = rule else {
            return Ok(None);
        };
        call.waits_for(NAME, rule);
        let turn = call.run(self.places.take(namespace, rule)).await;
        let turn = turn.map_err(|why| stopped(why, call, asked))?;
        turn.map(Some).map_err(|error| {
            call.failed(error.code());
            error_of(&error)
        })
    }
}

/// As `wasi:http` says it.
pub(super) fn error_of(error: &HttpError) -> Error {
    match error {
        HttpError::Denied(_) => Error::HttpRequestDenied,
        HttpError::NotPublic(_) => Error::DestinationIpProhibited,
        HttpError::Dns(_) => Error::DnsError {
            rcode: None,
            info_code: None,
        },
        HttpError::Connect(_) | HttpError::Busy(_) => Error::DestinationUnavailable,
        HttpError::Timeout => Error::HttpResponseTimeout,
        HttpError::TooLarge(limit) => Error::HttpRequestBodySize(Some(*limit)),
        HttpError::Redirect(_) | HttpError::InvalidRequest(_) => Error::HttpRequestUriInvalid,
        HttpError::Cancelled => cancelled(),
    }
}

/// The error of a request that was stopped from outside.
pub(super) fn stopped(stopped: Stopped, call: &HostCall, asked: &str) -> Error {
    match stopped {
        Stopped::TimedOut => Error::HttpResponseTimeout,
        Stopped::Cancelled => cancelled(),
        Stopped::Crowded => Error::DestinationUnavailable,
        Stopped::Revoked => {
            call.denied(NAME, Some(asked), TAKEN_BACK);
            Error::HttpRequestDenied
        }
    }
}

fn cancelled() -> Error {
    Error::InternalError(Some("the attempt was asked to stop".to_owned()))
}
