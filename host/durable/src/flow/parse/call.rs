//! `call`: activities, HTTP, and what `metadata.heyday` says of them and of other tasks.

use std::time::Duration;

use super::document::is_name;
use super::{Fields, Reader, Step};
use crate::definition::ParentClosePolicy;
use crate::flow::duration;
use crate::flow::model::{
    Authentication, CallActivity, CallHttp, HttpOutput, RetryOverride, TaskKind, TaskOptions,
    UpdateOptions,
};
use crate::flow::source::{Data, Node, quote};
use crate::flow::template::{Template, Uri};

/// The DSL's functions that Heyday does not have.
const UNSUPPORTED: [&str; 5] = ["asyncapi", "grpc", "openapi", "a2a", "mcp"];

impl<'d> Reader<'d> {
    pub(super) fn call(&mut self, fields: Fields<'d>) -> Option<TaskKind> {
        let name = self.field(fields, "call", |reader, node| {
            let name = reader.string(node, "call")?;
            if UNSUPPORTED.contains(&name) {
                reader.problem(
                    node.line,
                    format!(
                        "call: {name} is not supported yet; use call: http or a plugin's activity"
                    ),
                );
                return None;
            }
            Some((node, name))
        });
        let (node, name) = name?;
        if name == "http" {
            self.uses_http = true;
            return self.required(fields, "with", "call: http", Self::http);
        }
        let call = self.within(Step::Key("call"), |reader| reader.activity(node, name));
        let with = self.call_input(fields);
        let mut call = call?;
        self.activities
            .entry(name.to_owned())
            .or_insert_with(|| call.clone());
        call.with = with;
        Some(TaskKind::CallActivity(call))
    }

    /// `with` of an activity.
    pub(super) fn call_input(&mut self, fields: Fields<'d>) -> Option<Template> {
        self.field(fields, "with", |reader, node| {
            reader.members(node, "with")?;
            reader.template(node)
        })
    }

    /// `plugin.activity[:version][@default]`.
    fn activity(&mut self, node: &'d Node, name: &str) -> Option<CallActivity> {
        if name.contains("://") {
            self.problem(
                node.line,
                "call names a function by its address, which is not supported; upload a plugin and call plugin.activity",
            );
            return None;
        }
        if self.reusable.functions.contains(name) {
            return None;
        }
        let (function, catalog) = name
            .split_once('@')
            .map_or((name, None), |(function, catalog)| {
                (function, Some(catalog))
            });
        if let Some(catalog) = catalog
            && catalog != "default"
        {
            self.problem(
                node.line,
                format!(
                    "the catalog {} is not supported; only default is",
                    quote(catalog)
                ),
            );
            return None;
        }
        let (activity_type, version) = function
            .split_once(':')
            .map_or((function, None), |(activity, version)| {
                (activity, Some(version))
            });
        let valid = activity_type
            .split_once('.')
            .is_some_and(|(plugin, activity)| {
                is_name(plugin) && is_name(&activity.replace('_', "-"))
            });
        if !valid {
            self.problem(
                node.line,
                format!(
                    "call must be http or plugin.activity, of lower-case letters, digits and hyphens, or plugin.activity:1.2.0@default; {} is neither",
                    quote(name)
                ),
            );
            return None;
        }
        let version = match version.map(semver::Version::parse) {
            None => None,
            Some(Ok(version)) => Some(version),
            Some(Err(_)) => {
                self.problem(
                    node.line,
                    format!(
                        "{} pins no semantic version; write plugin.activity:1.2.0@default",
                        quote(name)
                    ),
                );
                return None;
            }
        };
        Some(CallActivity {
            name: name.to_owned(),
            activity_type: activity_type.to_owned(),
            version,
            with: None,
        })
    }

    fn http(&mut self, node: &'d Node) -> Option<TaskKind> {
        let fields = self.object(
            node,
            "call: http",
            &[
                "method", "endpoint", "headers", "body", "query", "output", "redirect",
            ],
        )?;
        let method = self.required(fields, "method", "call: http", |reader, node| {
            let method = reader.text(node, "method")?;
            if let Some(text) = method.as_literal().and_then(|value| value.as_str())
                && (text.is_empty()
                    || text.len() > 32
                    || !text.bytes().all(|b| b.is_ascii_alphabetic()))
            {
                reader.problem(
                    node.line,
                    format!(
                        "{} is no HTTP method; use one such as get or post",
                        quote(text)
                    ),
                );
            }
            Some(method)
        });
        let endpoint = self.required(fields, "endpoint", "call: http", Self::endpoint);
        let headers = self.field(fields, "headers", |reader, node| {
            let headers = reader.object_template(node, "headers");
            if let Data::Object(members) = &node.data {
                for member in members {
                    reader.within(Step::Key(&member.key), |reader| {
                        reader.string(&member.value, "a header")
                    });
                }
            }
            headers
        });
        let query = self.field(fields, "query", |reader, node| {
            reader.object_template(node, "query")
        });
        let body = self.field(fields, "body", Self::template);
        let output = self.field(fields, "output", |reader, node| {
            match reader.string(node, "output")? {
                "raw" => Some(HttpOutput::Raw),
                "content" => Some(HttpOutput::Content),
                "response" => Some(HttpOutput::Response),
                other => {
                    reader.problem(
                        node.line,
                        format!(
                            "output must be raw, content or response, not {}",
                            quote(other)
                        ),
                    );
                    None
                }
            }
        });
        let redirect = self.field(fields, "redirect", |reader, node| {
            reader.boolean(node, "redirect")
        });
        let (endpoint, authentication) = endpoint?;
        Some(TaskKind::CallHttp(Box::new(CallHttp {
            method: method?,
            endpoint,
            authentication,
            headers,
            query,
            body,
            output: output.unwrap_or_default(),
            redirect: redirect.unwrap_or(false),
        })))
    }

    fn endpoint(&mut self, node: &'d Node) -> Option<(Uri, Option<Authentication>)> {
        if node.as_str().is_some() {
            return Some((self.http_uri(node)?, None));
        }
        let fields = self.object(node, "endpoint", &["uri", "authentication"])?;
        let uri = self.required(fields, "uri", "endpoint", Self::http_uri);
        let authentication = self.field(fields, "authentication", |reader, node| {
            let Data::Object(members) = &node.data else {
                return reader.authentication_policy(node);
            };
            let Some(name) = members.iter().find(|member| member.key == "use") else {
                return reader.authentication_policy(node);
            };
            reader.object(node, "authentication", &["use"])?;
            let text = reader.string(&name.value, "use")?;
            let known = reader.reusable.authentications.get(text).cloned();
            if known.is_none() {
                reader.unknown(&name.value, "use.authentications", text);
            }
            known.flatten()
        });
        Some((uri?, authentication))
    }

    fn http_uri(&mut self, node: &'d Node) -> Option<Uri> {
        let uri = self.uri(node, "endpoint")?;
        if let (Uri::Template(_), Some(text)) = (&uri, node.as_str()) {
            let scheme = text.split("://").next().unwrap_or_default();
            if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
                self.problem(
                    node.line,
                    format!(
                        "an endpoint is reached by http or https, not {}",
                        quote(scheme)
                    ),
                );
                return None;
            }
        }
        Some(uri)
    }

    /// An authentication policy that is no reference.
    pub(super) fn authentication_policy(&mut self, node: &'d Node) -> Option<Authentication> {
        const SUPPORTED: [&str; 2] = ["basic", "bearer"];
        const UNSUPPORTED: [&str; 4] = ["digest", "oauth2", "oidc", "certificate"];
        let known: Vec<&str> = SUPPORTED.into_iter().chain(UNSUPPORTED).collect();
        let fields = self.object(node, "authentication", &known)?;
        let [member] = fields.members else {
            self.problem(node.line, "authentication has exactly one of basic, bearer");
            return None;
        };
        let (key, node) = (member.key.as_str(), &member.value);
        if UNSUPPORTED.contains(&key) {
            self.problem(
                member.line,
                format!("{key} authentication is not supported yet; use basic or bearer"),
            );
            return None;
        }
        self.within(Step::Key(&member.key), |reader| match key {
            "basic" => {
                let fields = reader.credentials(node, "basic", &["username", "password"])?;
                let username = reader.credential(fields, "username", "basic");
                let password = reader.credential(fields, "password", "basic");
                Some(Authentication::Basic {
                    username: username?,
                    password: password?,
                })
            }
            "bearer" => {
                let fields = reader.credentials(node, "bearer", &["token"])?;
                Some(Authentication::Bearer {
                    token: reader.credential(fields, "token", "bearer")?,
                })
            }
            _ => None,
        })
    }

    fn credentials(&mut self, node: &'d Node, what: &str, known: &[&str]) -> Option<Fields<'d>> {
        if let Some(secret) = self
            .members(node, what)?
            .iter()
            .find(|member| member.key == "use")
        {
            self.problem(
                secret.line,
                "secrets are not supported yet; call a plugin that has the credentials in its binding",
            );
            return None;
        }
        self.object(node, what, known)
    }

    fn credential(
        &mut self,
        fields: Fields<'d>,
        key: &'static str,
        what: &str,
    ) -> Option<Template> {
        self.required(fields, key, what, |reader, node| reader.text(node, key))
    }

    /// `metadata` of a task: free, but for `heyday`.
    pub(super) fn task_metadata(&mut self, node: &'d Node, kind: &str) -> Option<TaskOptions> {
        let members = self.members(node, "metadata")?;
        let heyday = members.iter().find(|member| member.key == "heyday")?;
        self.within(Step::Key(&heyday.key), |reader| match kind {
            "call" => reader.call_options(&heyday.value),
            "set" => {
                let fields =
                    reader.object(&heyday.value, "metadata.heyday", &["search_attributes"])?;
                let attributes = reader.field(fields, "search_attributes", |reader, node| {
                    reader.search_attributes(node)
                })?;
                Some(TaskOptions {
                    search_attributes: attributes,
                    ..TaskOptions::default()
                })
            }
            "emit" => {
                let fields = reader.object(&heyday.value, "metadata.heyday", &["to"])?;
                let to = reader.field(fields, "to", Self::template)?;
                Some(TaskOptions {
                    to: Some(to),
                    ..TaskOptions::default()
                })
            }
            "listen" => {
                let known = &["update", "unmatched"];
                let fields = reader.object(&heyday.value, "metadata.heyday", known)?;
                let update = reader.field(fields, "update", |reader, node| {
                    let fields = reader.object(node, "update", &["answer"])?;
                    Some(UpdateOptions {
                        answer: reader.field(fields, "answer", Self::template),
                    })
                });
                let drop = reader.field(fields, "unmatched", |reader, node| {
                    match reader.string(node, "unmatched")? {
                        "keep" => Some(false),
                        "drop" => Some(true),
                        other => {
                            reader.problem(
                                node.line,
                                format!("unmatched must be keep or drop, not {}", quote(other)),
                            );
                            None
                        }
                    }
                });
                Some(TaskOptions {
                    update,
                    drop_unmatched: drop.unwrap_or_default(),
                    ..TaskOptions::default()
                })
            }
            "run" => {
                let fields = reader.object(
                    &heyday.value,
                    "metadata.heyday",
                    &["parent_close", "foreign"],
                )?;
                let foreign =
                    reader.field(fields, "foreign", |reader, node| reader.foreign(node, true));
                let policy = reader.field(fields, "parent_close", |reader, node| {
                    Some(match reader.string(node, "parent_close")? {
                        "terminate" => ParentClosePolicy::Terminate,
                        "abandon" => ParentClosePolicy::Abandon,
                        "request_cancel" => ParentClosePolicy::RequestCancel,
                        other => {
                            reader.problem(
                                node.line,
                                format!(
                                    "parent_close must be terminate, abandon or request_cancel, not {}",
                                    quote(other)
                                ),
                            );
                            return None;
                        }
                    })
                });
                Some(TaskOptions {
                    parent_close: policy,
                    foreign,
                    worker_line: fields.get("foreign").map(|member| member.line),
                    ..TaskOptions::default()
                })
            }
            _ => {
                reader.problem(
                    heyday.line,
                    "metadata.heyday belongs to tasks that call an activity or http, and to run, emit, listen and set",
                );
                None
            }
        })
    }

    fn call_options(&mut self, node: &'d Node) -> Option<TaskOptions> {
        let fields = self.object(
            node,
            "metadata.heyday",
            &["queue", "timeouts", "retry", "foreign"],
        )?;
        if let (Some(member), Some(_)) = (fields.get("queue"), fields.get("foreign")) {
            self.problem(
                member.line,
                "queue names one of Heyday's own, and foreign has its own queue; keep one of them",
            );
        }
        let mut options = TaskOptions {
            queue: self.field(fields, "queue", |reader, node| {
                let name = reader.string(node, "queue")?;
                if !is_name(name) {
                    reader.problem(
                        node.line,
                        format!("a queue's name has 1 to 63 lower-case letters, digits and hyphens; {} does not", quote(name)),
                    );
                }
                Some(name.to_owned())
            }),
            foreign: self.field(fields, "foreign", |reader, node| reader.foreign(node, false)),
            worker_line: fields
                .get("queue")
                .or_else(|| fields.get("foreign"))
                .map(|member| member.line),
            ..TaskOptions::default()
        };
        self.field(fields, "timeouts", |reader, node| {
            let fields = reader.object(
                node,
                "timeouts",
                &[
                    "schedule_to_close",
                    "schedule_to_start",
                    "start_to_close",
                    "heartbeat",
                ],
            )?;
            let mut timeout = |key| reader.field(fields, key, Self::positive_duration);
            options.timeouts.schedule_to_close = timeout("schedule_to_close");
            options.timeouts.schedule_to_start = timeout("schedule_to_start");
            options.timeouts.start_to_close = timeout("start_to_close");
            options.timeouts.heartbeat = timeout("heartbeat");
            Some(())
        });
        let retry = self.field(fields, "retry", Self::retry_override);
        options.retry = retry.unwrap_or_default();
        Some(options)
    }

    fn retry_override(&mut self, node: &'d Node) -> Option<RetryOverride> {
        let fields = self.object(
            node,
            "retry",
            &[
                "initial_interval",
                "backoff_coefficient",
                "maximum_interval",
                "maximum_attempts",
                "non_retryable_kinds",
            ],
        )?;
        Some(RetryOverride {
            initial_interval: self.field(fields, "initial_interval", Self::fixed_duration),
            backoff_coefficient: self.field(fields, "backoff_coefficient", |reader, node| {
                let value = match &node.data {
                    Data::Scalar(value) => value.as_f64(),
                    _ => None,
                };
                let valid = value.filter(|value| (1.0..=1000.0).contains(value));
                if valid.is_none() {
                    reader.problem(
                        node.line,
                        "backoff_coefficient must be a number from 1 to 1000",
                    );
                }
                valid
            }),
            maximum_interval: self.field(fields, "maximum_interval", Self::fixed_duration),
            maximum_attempts: self.field(fields, "maximum_attempts", |reader, node| {
                reader.integer(node, "maximum_attempts", 0..=u32::MAX)
            }),
            non_retryable_kinds: self.field(fields, "non_retryable_kinds", |reader, node| {
                let items = reader.items(node, "non_retryable_kinds")?;
                let kinds: Vec<_> = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| {
                        reader.within(Step::Index(index), |reader| {
                            reader.string(item, "a kind").map(ToOwned::to_owned)
                        })
                    })
                    .collect();
                kinds.into_iter().collect()
            }),
        })
    }

    /// A duration that is no expression: the engine needs it before anything runs.
    /// Besides the DSL's forms, `1h30m` is understood, as wherever Heyday is configured.
    pub(super) fn fixed_duration(&mut self, node: &'d Node) -> Option<Duration> {
        let value = node.to_value();
        let parsed = duration::from_value(&value).or_else(|message| match node.as_str() {
            Some(text) => duration::parse(text)
                .ok()
                .filter(|d| *d <= duration::MAX)
                .ok_or(message),
            None => Err(message),
        });
        match parsed {
            Ok(duration) => Some(duration),
            Err(message) => {
                self.problem(node.line, message);
                None
            }
        }
    }

    pub(super) fn positive_duration(&mut self, node: &'d Node) -> Option<Duration> {
        let duration = self.fixed_duration(node)?;
        if duration.is_zero() {
            self.problem(
                node.line,
                "a timeout must be longer than 0; leave it out for no limit",
            );
            return None;
        }
        Some(duration)
    }
}
