//! The routes, and the OpenAPI document that is made from them.

use std::sync::Arc;

use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ObjectBuilder, OpenApi, RefOr, Required, Type};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{BodyLimit, SMALL_BODY};
use super::refusals::{no_method, no_route};
use super::{
    App, activities, events, flows, follow, grants, idempotency, layers, models, openai, plugins,
    presigned, pulls, replays, schedules, signals, starts, system, tokens, worker, workers,
    workflows,
};

/// Where the versioned API is.
const BASE: &str = "/api/v1";
/// A path of a latest run.
const LATEST: &str = "/api/v1/workflows/{workflow_id}";
/// The same of one execution.
const ONE_RUN: &str = "/api/v1/workflows/{workflow_id}/runs/{run_id}";
/// Of a body that holds an input: what a run may hold, and what is around it.
const INPUT_BODY: BodyLimit = BodyLimit {
    bytes: 17 << 20,
    advice: "write what is large to a blob and pass its key",
};
/// Of texts for a model: what one request may hold, escaped, and what is around it.
const TEXTS_BODY: BodyLimit = BodyLimit {
    bytes: 17 << 20,
    advice: "send the texts in several requests",
};
/// Of a flow, over the parser's own limit so that its message is the answer.
const FLOW_BODY: BodyLimit = BodyLimit {
    bytes: 2 << 20,
    advice: "a flow has at most 1 MiB; split it into flows that run each other",
};
/// Of a schedule, whose input has at most 256 KiB.
const SCHEDULE_BODY: BodyLimit = BodyLimit {
    bytes: 1 << 20,
    advice: "the input of a schedule has at most 256 KiB; write what is large to a blob and pass its key",
};
/// Of a batch of records: a worker sends less at once.
const RECORDS_BODY: BodyLimit = BodyLimit {
    bytes: 8 << 20,
    advice: "send the records in several batches",
};
/// What to do about a component that is too large.
const SMALLER_COMPONENT: &str = "build the component in release mode without debug information, or raise \
     `limits.upload_bytes` in the server's configuration";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Heyday", description = "Durable tasks as WebAssembly plugins"),
    security(("token" = [])),
    tags(
        (name = "plugins", description = "Components, their versions, the active one"),
        (name = "flows", description = "Workflow definitions, their versions, the active one"),
        (name = "workflows", description = "Runs: start, look, wait, end"),
        (name = "schedules", description = "What starts runs by itself, at times"),
        (name = "models", description = "What runs on this server for plugins and clients"),
        (name = "openai", description = "The same models by OpenAI's protocol"),
        (name = "grants", description = "What plugins and flows may reach"),
        (name = "presigned", description = "Objects for whoever has their address"),
        (name = "workers", description = "Their tokens, and what they ask"),
        (name = "system", description = "The server itself"),
    )
)]
struct Document;

/// The whole API.
pub fn router(app: App) -> Router {
    let (router, api) = documented(&app);
    let api = Arc::new(api);
    let page = system::docs(&api);
    router
        .route(
            "/openapi.json",
            get(move || {
                let api = Arc::clone(&api);
                async move { Json((*api).clone()) }
            }),
        )
        .route("/docs", get(move || std::future::ready(page.clone())))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn_with_state(app.clone(), layers::guard_host))
        .layer(from_fn_with_state(app.clone(), layers::describe))
        .with_state(app)
}

fn documented(app: &App) -> (Router<App>, OpenApi) {
    let starts = OpenApiRouter::new()
        .routes(routes!(starts::start, workflows::list))
        .routes(routes!(workflows::count))
        .routes(routes!(activities::run))
        .routes(routes!(events::publish))
        .routes(routes!(signals::send))
        .routes(routes!(signals::query))
        .routes(routes!(signals::update))
        .routes(routes!(signals::update_result))
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/signals",
            post(signals::send),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/queries",
            post(signals::query),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/updates",
            post(signals::update),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/updates/{update_id}",
            get(signals::update_result),
        );
    let starts = limited(starts, INPUT_BODY);
    let histories = OpenApiRouter::new().routes(routes!(replays::replay));
    let starts = starts.merge(limited(histories, replays::HISTORY_BODY));
    let runs = OpenApiRouter::new()
        .routes(routes!(workflows::show))
        .routes(routes!(workflows::result))
        .routes(routes!(workflows::history))
        .routes(routes!(replays::export))
        .routes(routes!(follow::events))
        .routes(routes!(follow::logs))
        .routes(routes!(follow::receipts))
        .routes(routes!(workflows::cancel))
        .routes(routes!(workflows::terminate));
    let small = OpenApiRouter::new()
        .routes(routes!(plugins::upload_status))
        .routes(routes!(plugins::show))
        .routes(routes!(plugins::version, plugins::remove))
        .routes(routes!(plugins::component))
        .routes(routes!(plugins::activate))
        .routes(routes!(plugins::rollback))
        .routes(routes!(flows::show))
        .routes(routes!(flows::version, flows::remove))
        .routes(routes!(flows::document))
        .routes(routes!(replays::open_runs))
        .routes(routes!(flows::activate))
        .routes(routes!(flows::rollback))
        .routes(routes!(grants::list, grants::put, grants::delete))
        .routes(routes!(grants::bindings))
        .routes(routes!(grants::audit))
        .routes(routes!(system::queues))
        .routes(routes!(workers::list))
        .routes(routes!(models::list, models::import))
        .routes(routes!(models::show, models::remove))
        .routes(routes!(models::verify))
        .routes(routes!(pulls::begin, pulls::list))
        .routes(routes!(pulls::show, pulls::cancel))
        .routes(routes!(models::load))
        .routes(routes!(models::unload))
        .merge(runs)
        .route(
            "/workflows/{workflow_id}/runs/{run_id}",
            get(workflows::show),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/result",
            get(workflows::result),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/history",
            get(workflows::history),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/export",
            get(replays::export),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/events",
            get(follow::events),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/logs",
            get(follow::logs),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/receipts",
            get(follow::receipts),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/cancel",
            post(workflows::cancel),
        )
        .route(
            "/workflows/{workflow_id}/runs/{run_id}/terminate",
            post(workflows::terminate),
        );
    let components = OpenApiRouter::new().routes(routes!(plugins::upload, plugins::list));
    let documents = OpenApiRouter::new().routes(routes!(flows::upload, flows::list));
    let times = OpenApiRouter::new()
        .routes(routes!(schedules::create, schedules::list))
        .routes(routes!(
            schedules::show,
            schedules::update,
            schedules::delete
        ))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::unpause))
        .routes(routes!(schedules::trigger))
        .routes(routes!(schedules::backfill))
        .routes(routes!(schedules::times));
    let component = BodyLimit {
        bytes: app.upload_bytes,
        advice: SMALLER_COMPONENT,
    };
    let changes = keyed(app, small, SMALL_BODY)
        .merge(keyed(app, components, component))
        .merge(keyed(app, documents, FLOW_BODY))
        .merge(keyed(app, times, SCHEDULE_BODY));
    // Not with those that keep their answers: a token is shown once.
    let tokens = OpenApiRouter::new()
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke));
    let tokens = limited(tokens, SMALL_BODY);
    let by_openai = OpenApiRouter::new()
        .routes(routes!(openai::models::list))
        .routes(routes!(openai::models::show))
        .routes(routes!(openai::embeddings::embed))
        .routes(routes!(openai::rerank::rerank))
        .routes(routes!(openai::chat::complete))
        .routes(routes!(openai::completions::continue_text));
    let with_token = OpenApiRouter::new()
        .nest(BASE, starts.merge(changes).merge(tokens))
        .merge(limited(by_openai, TEXTS_BODY))
        .routes(routes!(system::metrics))
        .route_layer(from_fn_with_state(app.clone(), layers::guard_token));
    let asked = OpenApiRouter::new()
        .routes(routes!(worker::stream))
        .routes(routes!(worker::revision))
        .routes(routes!(worker::plugin))
        .routes(routes!(worker::content))
        .routes(routes!(worker::model))
        .routes(routes!(worker::pins))
        .routes(routes!(workers::announce));
    let values = OpenApiRouter::new().routes(routes!(worker::payload, worker::put_payload));
    let records = OpenApiRouter::new().routes(routes!(worker::records));
    let of_workers = limited(asked, SMALL_BODY)
        .merge(limited(values, INPUT_BODY))
        .merge(limited(records, RECORDS_BODY));
    let of_workers = OpenApiRouter::new()
        .nest(BASE, of_workers)
        .route_layer(from_fn_with_state(app.clone(), layers::guard_worker));
    let (router, mut api) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(system::health))
        .routes(routes!(presigned::read, presigned::write))
        .merge(with_token)
        .merge(of_workers)
        .split_for_parts();
    complete(&mut api);
    (router, api)
}

/// Keeps answers by Idempotency-Key, over bodies of that limit.
fn keyed(app: &App, routes: OpenApiRouter<App>, body: BodyLimit) -> OpenApiRouter<App> {
    let kept = from_fn_with_state(app.clone(), idempotency::keep_answers);
    limited(routes.layer(kept), body)
}

/// Limits bodies, and lets the refusal say so.
fn limited(routes: OpenApiRouter<App>, body: BodyLimit) -> OpenApiRouter<App> {
    routes.layer(Extension(body))
}

/// What the annotations cannot say once for all: the token, the namespace's header, and
/// the paths of one execution, which are those of the latest run again.
fn complete(api: &mut OpenApi) {
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    api.components
        .get_or_insert_default()
        .add_security_scheme("token", token);
    let one_run: Vec<_> = api
        .paths
        .paths
        .iter()
        .filter(|(path, _)| path.starts_with(LATEST))
        .map(|(path, item)| (path.replacen(LATEST, ONE_RUN, 1), item.clone()))
        .collect();
    for (path, mut item) in one_run {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            let parameters = operation.parameters.get_or_insert_default();
            parameters.push(parameter("run_id", ParameterIn::Path, "The execution"));
        }
        api.paths.paths.insert(path, item);
    }
    // The rest of a path is a parameter as any other there.
    let rests = api.paths.paths.keys().filter(|path| path.contains("{*"));
    for path in rests.cloned().collect::<Vec<_>>() {
        if let Some(item) = api.paths.paths.remove(&path) {
            api.paths.paths.insert(path.replace("{*", "{"), item);
        }
    }
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in [
            ("get", &mut item.get),
            ("put", &mut item.put),
            ("post", &mut item.post),
            ("delete", &mut item.delete),
        ] {
            let Some(operation) = operation else { continue };
            // The handlers' names are unique within their module only.
            operation.operation_id = Some(operation_id(method, path));
            if path.starts_with(BASE) || openai::error::is_here(path) {
                let namespace = parameter(
                    "Heyday-Namespace",
                    ParameterIn::Header,
                    "Whose things; `default` where absent",
                );
                operation.parameters.get_or_insert_default().push(namespace);
            }
        }
    }
}

/// `get_workflows_workflow_id_result`, of a method and a path.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.strip_prefix(BASE).unwrap_or(path);
    words
        .split(['/', '{', '}'])
        .filter(|word| !word.is_empty())
        .fold(method.to_owned(), |id, word| format!("{id}_{word}"))
}

fn parameter(name: &str, place: ParameterIn, description: &str) -> RefOr<Parameter> {
    let required = if place == ParameterIn::Path {
        Required::True
    } else {
        Required::False
    };
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(description))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build();
    RefOr::T(parameter)
}
