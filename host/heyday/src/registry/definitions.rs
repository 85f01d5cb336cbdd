//! Answers to the engine: which definition a name means, and what it is pinned to.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use heyday_durable::activity::{ActivityTimeouts, RetryPolicy};
use heyday_durable::definition::{
    GENERAL_QUEUE, PinnedActivity, PinnedDefinition, WorkflowReference,
};
use heyday_durable::driver::HTTP_ACTIVITY_TYPE;
use heyday_durable::flow::Flow;
use heyday_durable::flow::model::{EventTrigger, HTTP_ACTIVITY};
use heyday_durable::payload::Digest;
use serde_json::Value;

use super::RegistryError;
use super::core::{Core, MAX_PARSED};
use super::flows::{ActivityOptions, activity_document, listener_document};
use super::versions::{Stored, parse_version};
use crate::description::ActivitySpec;
use crate::names::no_queue;
use crate::state::versions::Kind;

type Activities = Arc<BTreeMap<String, PinnedActivity>>;

/// What flows were pinned to, and at which generation of the registry.
#[derive(Default)]
pub(super) struct Pins {
    generation: u64,
    by_flow: HashMap<(String, Digest), Activities>,
}

impl Core {
    /// The plugin version that an activity type means, if it has the activity.
    #[must_use]
    pub fn resolve(
        &self,
        namespace: &str,
        activity_type: &str,
        version: Option<&semver::Version>,
    ) -> Option<Arc<Stored>> {
        let (plugin, activity) = activity_type.split_once('.')?;
        let memory = self.memory();
        let entry = memory
            .plugins
            .get(&(namespace.to_owned(), plugin.to_owned()))?;
        let stored = match version {
            Some(version) => entry.versions.get(version)?,
            None => entry.active()?,
        };
        stored.description.as_ref()?.activities.get(activity)?;
        Some(Arc::clone(stored))
    }

    /// Why an activity type means nothing, for a person.
    #[must_use]
    pub fn unresolved(
        &self,
        namespace: &str,
        activity_type: &str,
        version: Option<&semver::Version>,
    ) -> String {
        let Some((plugin, activity)) = activity_type.split_once('.') else {
            return format!(
                "{activity_type:?} names no activity: write PLUGIN.ACTIVITY, such as greet.hello"
            );
        };
        let Ok(entry) = self.entry(Kind::Plugin, namespace, plugin) else {
            return format!(
                "there is no activity {activity_type}: no plugin of that name is in namespace \
                 {namespace:?}; upload it first (`heyday plugin push`)"
            );
        };
        let stored = match version {
            Some(version) => entry.versions.get(version),
            None => entry.active(),
        };
        let Some(stored) = stored else {
            return match version {
                Some(version) => format!(
                    "plugin {plugin} has no version {version}; `heyday plugin show {plugin}` lists \
                     those that it has"
                ),
                None => format!(
                    "no version of plugin {plugin} is active: activate one (`heyday plugin activate \
                     {plugin} VERSION`)"
                ),
            };
        };
        let names: Vec<&str> = stored
            .description
            .iter()
            .flat_map(|description| description.activities.keys())
            .map(String::as_str)
            .collect();
        format!(
            "plugin {plugin} {} has no activity {activity:?}; it has {}",
            stored.row.version,
            names.join(", ")
        )
    }

    /// Pins what a flow calls to the versions that are active now.
    #[must_use]
    pub fn pin_activities(&self, namespace: &str, digest: &Digest, flow: &Flow) -> Activities {
        let generation = self.memory().generation;
        let key = (namespace.to_owned(), *digest);
        {
            let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
            if pins.generation != generation || pins.by_flow.len() >= MAX_PARSED {
                pins.by_flow.clear();
                pins.generation = generation;
            }
            if let Some(activities) = pins.by_flow.get(&key) {
                return Arc::clone(activities);
            }
        }
        let mut activities = BTreeMap::new();
        for call in flow.activities() {
            let found = self.resolve(namespace, &call.activity_type, call.version.as_ref());
            let pinned = found.and_then(|stored| self.pinned(&stored, &call.activity_type));
            if let Some(pinned) = pinned {
                activities.insert(call.name.clone(), pinned);
            }
        }
        if flow.uses_http() {
            activities.insert(
                HTTP_ACTIVITY.to_owned(),
                PinnedActivity {
                    activity_type: HTTP_ACTIVITY_TYPE.to_owned(),
                    version: None,
                    digest: None,
                    queue: GENERAL_QUEUE.to_owned(),
                    timeouts: ActivityTimeouts::default(),
                    retry: RetryPolicy::default(),
                },
            );
        }
        let activities = Arc::new(activities);
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.generation == generation {
            pins.by_flow.insert(key, Arc::clone(&activities));
        }
        activities
    }

    /// Finds and pins a definition.
    ///
    /// # Errors
    /// When there is no such flow or version, or none is active.
    pub async fn pin_flow(
        &self,
        namespace: &str,
        reference: &WorkflowReference,
    ) -> Result<PinnedDefinition, RegistryError> {
        let name = &reference.workflow_type;
        let entry = self.entry(Kind::Flow, namespace, name)?;
        let stored = match &reference.version {
            Some(version) => entry.versions.get(version),
            None => entry.active(),
        };
        let stored = stored.ok_or_else(|| {
            let version = reference.version.as_ref();
            let version =
                version.map_or_else(|| "(none is active)".to_owned(), ToString::to_string);
            RegistryError::not_found("flow version", format!("{name} {version}"), namespace)
        })?;
        let digest = stored.row.digest;
        let flow = self.flow(&digest).await?;
        Ok(PinnedDefinition {
            workflow_type: name.clone(),
            version: stored.row.version.clone(),
            digest,
            activities: self.pin_activities(namespace, &digest, &flow),
            flow,
        })
    }

    /// Reads and checks a flow that is stored nowhere, and pins what it calls.
    ///
    /// # Errors
    /// When it is no flow that can run.
    pub(super) async fn flow_of(
        &self,
        namespace: &str,
        text: &Bytes,
        dev: bool,
    ) -> Result<PinnedDefinition, RegistryError> {
        let (stored, flow) = self.read_flow(namespace, text, dev).await?;
        let digest = stored.row.digest;
        Ok(PinnedDefinition {
            workflow_type: stored.row.name,
            version: stored.row.version,
            digest,
            activities: self.pin_activities(namespace, &digest, &flow),
            flow,
        })
    }

    /// Pins the one-step workflow of an activity, `plugin.activity` or
    /// `plugin.activity:VERSION`.
    ///
    /// # Errors
    /// When there is no such activity or queue, or the options cannot be used.
    pub async fn pin_activity(
        &self,
        namespace: &str,
        activity: &str,
        options: &ActivityOptions,
    ) -> Result<PinnedDefinition, RegistryError> {
        let mut options = options.clone();
        let activity_type = match activity.split_once(':') {
            None => activity,
            Some((name, version)) => {
                let version = version.strip_suffix("@default").unwrap_or(version);
                options.version = Some(parse_version(version)?);
                name
            }
        };
        if self
            .resolve(namespace, activity_type, options.version.as_ref())
            .is_none()
        {
            let version = options.version.as_ref();
            return Err(RegistryError::UnknownActivity(self.unresolved(
                namespace,
                activity_type,
                version,
            )));
        }
        if let Some(queue) = &options.queue {
            self.check_queue(queue)?;
        }
        self.pin_own(namespace, &activity_document(activity_type, &options))
            .await
    }

    /// Refuses a queue that there is not.
    ///
    /// # Errors
    /// [`UnknownQueue`](RegistryError::UnknownQueue), which names those that there are.
    pub fn check_queue(&self, queue: &str) -> Result<(), RegistryError> {
        if self.queues.contains(queue) {
            return Ok(());
        }
        Err(RegistryError::UnknownQueue(no_queue(queue, &self.queues)))
    }

    /// Pins the flow that waits for the events of a flow and starts it.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn pin_listener(
        &self,
        namespace: &str,
        flow: &Flow,
        trigger: &EventTrigger,
    ) -> Result<PinnedDefinition, RegistryError> {
        self.pin_own(namespace, &listener_document(flow, trigger))
            .await
    }

    /// Pins a flow that the host made itself.
    async fn pin_own(
        &self,
        namespace: &str,
        document: &Value,
    ) -> Result<PinnedDefinition, RegistryError> {
        let (digest, flow) = self.own_flow(document).await?;
        Ok(PinnedDefinition {
            workflow_type: flow.workflow_type(),
            version: flow.document.version.clone(),
            digest,
            activities: self.pin_activities(namespace, &digest, &flow),
            flow,
        })
    }

    fn pinned(&self, stored: &Stored, activity_type: &str) -> Option<PinnedActivity> {
        let (_, name) = activity_type.split_once('.')?;
        let spec = stored.description.as_ref()?.activities.get(name)?;
        Some(PinnedActivity {
            activity_type: activity_type.to_owned(),
            version: Some(stored.row.version.clone()),
            digest: Some(stored.row.digest),
            queue: self.queue_of(stored, spec),
            timeouts: spec.timeouts,
            retry: spec.retry.clone(),
        })
    }

    /// The queue of an activity where a flow names none.
    pub(super) fn queue_of(&self, stored: &Stored, spec: &ActivitySpec) -> String {
        let said = self.default_queues.get(&stored.row.name);
        let said = said.filter(|_| !spec.names_queue);
        said.unwrap_or(&spec.queue).clone()
    }
}
