//! Uploads of components.
//!
//! An upload is verified at once, stored by its digest, and then compiled and described
//! by a task of its own, which goes on when nobody waits for it, and begins again after
//! a restart. Who uploads the same bytes meanwhile waits for the same task. Only the
//! description tells name and version: until then an upload is known by its digest.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use heyday_durable::payload::Digest;
use heyday_sandbox::{CallError, VerifyError};
use serde_json::Value;
use tokio::sync::watch;

use super::RegistryError;
use super::core::{Changing, Core};
use super::types::{Actor, RequestProblem, UnfitGrant, UploadOptions, VersionState};
use super::versions::{Stored, Uploaded, dev_version, is_dev};
use crate::description::{Description, DescriptionProblem, Requires, default_queue};
use crate::state::versions::{GrantRow, Kind, UploadRow, VersionRow};

type Answer = Result<Uploaded, Arc<RegistryError>>;
type FlightKey = (String, Digest, bool);
/// Uploads under way.
pub(super) type Flights = HashMap<FlightKey, Flight>;

/// The task of an upload, for all who sent its bytes.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    /// Where its answer comes.
    answer: watch::Receiver<Option<Answer>>,
    /// Whether nobody was told yet that the version is new: one is, and the others sent
    /// what was there.
    unclaimed: Arc<AtomicBool>,
    /// Whether it was sent before this process took it up: those that are sent later come
    /// after it.
    resumed: bool,
}

fn flight_key(row: &UploadRow) -> FlightKey {
    (row.namespace.clone(), row.digest, row.options.dev)
}

/// What an upload's bytes are when it arrives.
enum Admitted {
    /// A version.
    Before(Arc<Stored>),
    /// Under way.
    Joined(Flight),
    /// Under way at another server.
    Elsewhere,
    /// New.
    New(Flight),
}

/// Where an upload stands when the wait for it is over.
#[derive(Debug)]
pub(super) enum Progress {
    /// It is a version.
    Done(Uploaded),
    /// It is not described yet.
    UnderWay(UploadRow),
}

/// How a reason ends that may not hold the next time.
const SEND_AGAIN: &str = "; send it again";

/// The queues that a stored description names.
pub(super) fn named_queues(description: &Value) -> Vec<String> {
    let activities = description.get("activities").and_then(Value::as_array);
    activities
        .into_iter()
        .flatten()
        .filter_map(|activity| Some(activity.get("queue")?.as_str()?.to_owned()))
        .collect()
}

impl Core {
    /// Takes a component and waits up to `wait` until it is a version.
    ///
    /// # Errors
    /// When it is no plugin, or cannot become a version.
    pub(super) async fn upload_plugin(
        self: &Arc<Self>,
        actor: Actor<'_>,
        bytes: Bytes,
        options: UploadOptions,
        wait: Duration,
    ) -> Result<Progress, RegistryError> {
        let namespace = actor.namespace;
        let verifier = self.sandbox.clone();
        let component = bytes.clone();
        let verified = tokio::task::spawn_blocking(move || verifier.verify(&component))
            .await
            .map_err(|error| RegistryError::Internal(error.to_string()))?;
        let verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                self.note_refused_upload(actor, &bytes, &error).await;
                return Err(refused(error));
            }
        };
        let digest = Digest::of(&bytes);
        if let Some(stored) = self.same_bytes(namespace, &digest, options.dev) {
            return self.uploaded_before(actor, stored, options).await;
        }
        self.files.put_bytes(bytes.clone()).await?;
        let row = UploadRow {
            namespace: namespace.to_owned(),
            digest,
            size: bytes.len() as u64,
            state: VersionState::Compiling,
            reason: None,
            capabilities: verified.capabilities,
            imports: verified.imports,
            options,
            principal: actor.principal.to_owned(),
            created_at: crate::state::now(),
        };
        let (flight, own) = match self.admit(&row).await? {
            Admitted::Before(stored) => return self.uploaded_before(actor, stored, options).await,
            Admitted::Joined(flight) => (flight, false),
            Admitted::Elsewhere => {
                return match self.wait_elsewhere(row, wait).await? {
                    Progress::Done(done) => self.uploaded_before(actor, done.stored, options).await,
                    under_way @ Progress::UnderWay(_) => Ok(under_way),
                };
            }
            Admitted::New(flight) => (flight, true),
        };
        let mut done = match self.wait_for(row, flight.answer, wait).await? {
            Progress::Done(done) => done,
            under_way @ Progress::UnderWay(_) => return Ok(under_way),
        };
        done.created &= flight.unclaimed.swap(false, Ordering::Relaxed);
        if !own {
            self.activate_uploaded(actor, &done.stored, options).await?;
        }
        Ok(Progress::Done(done))
    }

    /// Starts the task of an upload, or finds what the same bytes are already.
    async fn admit(self: &Arc<Self>, row: &UploadRow) -> Result<Admitted, RegistryError> {
        // Versions appear only by changes: the bytes are a version by now, or under way, or
        // new.
        let changing = self.change().await?;
        if let Some(stored) = self.same_bytes(&row.namespace, &row.digest, row.options.dev) {
            return Ok(Admitted::Before(stored));
        }
        let known = self.upload_row(&row.namespace, &row.digest);
        let known = known.filter(|known| {
            known.state == VersionState::Compiling && known.options.dev == row.options.dev
        });
        if let Some(flight) = self.flight(row) {
            if let Some(known) = known {
                self.wish(changing, known, row).await?;
            }
            return Ok(Admitted::Joined(flight));
        }
        if let Some(known) = known.filter(|_| self.database.is_shared()) {
            self.wish(changing, known, row).await?;
            return Ok(Admitted::Elsewhere);
        }
        self.put_upload(changing, row).await?;
        Ok(Admitted::New(self.fly(row.clone(), false)))
    }

    /// Keeps what who sends an upload again asks for beyond those before: whoever ends it
    /// does that, here or elsewhere, also when nobody waits for it.
    async fn wish(
        &self,
        mut changing: Changing<'_>,
        mut known: UploadRow,
        row: &UploadRow,
    ) -> Result<(), RegistryError> {
        let options = known.options.stronger(row.options);
        if options == known.options {
            return Ok(());
        }
        known.options = options;
        // Whose wish it is did it, in the audit.
        known.principal.clone_from(&row.principal);
        changing.change.wish_upload(&known).await?;
        self.show_upload(changing, &known).await
    }

    fn flight(&self, row: &UploadRow) -> Option<Flight> {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.get(&flight_key(row)).cloned()
    }

    /// The answer to bytes that are a version already.
    async fn uploaded_before(
        &self,
        actor: Actor<'_>,
        stored: Arc<Stored>,
        options: UploadOptions,
    ) -> Result<Progress, RegistryError> {
        self.activate_uploaded(actor, &stored, options).await?;
        Ok(Progress::Done(Uploaded {
            stored,
            created: false,
        }))
    }

    /// Where an upload stands that has no version yet, or the version that it became;
    /// waits for it up to `wait`.
    ///
    /// # Errors
    /// When no such upload is known, or it failed while this waited.
    pub(super) async fn await_upload(
        &self,
        namespace: &str,
        digest: &Digest,
        wait: Duration,
    ) -> Result<Progress, RegistryError> {
        match self.upload_row(namespace, digest) {
            Some(row) => match self.flight(&row) {
                Some(flight) => self.wait_for(row, flight.answer, wait).await,
                None if row.state == VersionState::Compiling => {
                    self.wait_elsewhere(row, wait).await
                }
                None => Ok(Progress::UnderWay(row)),
            },
            None => self.progress(namespace, digest),
        }
    }

    /// Where an upload stands now.
    ///
    /// # Errors
    /// When no such upload is known.
    pub(super) fn progress(
        &self,
        namespace: &str,
        digest: &Digest,
    ) -> Result<Progress, RegistryError> {
        if let Some(row) = self.upload_row(namespace, digest) {
            return Ok(Progress::UnderWay(row));
        }
        self.any_of(namespace, digest)
            .map(|stored| {
                Progress::Done(Uploaded {
                    stored,
                    created: false,
                })
            })
            .ok_or_else(|| RegistryError::not_found("upload", digest.to_string(), namespace))
    }

    pub(super) fn upload_row(&self, namespace: &str, digest: &Digest) -> Option<UploadRow> {
        let key = (namespace.to_owned(), *digest);
        self.memory().uploads.get(&key).cloned()
    }

    /// A version of these bytes, a released one before a development version.
    pub(super) fn any_of(&self, namespace: &str, digest: &Digest) -> Option<Arc<Stored>> {
        self.same_bytes(namespace, digest, false)
            .or_else(|| self.same_bytes(namespace, digest, true))
    }

    async fn wait_for(
        &self,
        row: UploadRow,
        mut answer: watch::Receiver<Option<Answer>>,
        wait: Duration,
    ) -> Result<Progress, RegistryError> {
        let answered = tokio::time::timeout(wait, answer.wait_for(Option::is_some)).await;
        match answered {
            Err(_) => Ok(Progress::UnderWay(row)),
            Ok(Err(_)) => Err(RegistryError::Unavailable(
                "the upload was interrupted; send it again".to_owned(),
            )),
            Ok(Ok(answer)) => match answer.clone() {
                Some(Ok(uploaded)) => Ok(Progress::Done(uploaded)),
                Some(Err(error)) => Err(error.again()),
                None => Ok(Progress::UnderWay(row)),
            },
        }
    }

    /// Waits for an upload that another server, or nobody yet, compiles.
    async fn wait_elsewhere(
        &self,
        row: UploadRow,
        wait: Duration,
    ) -> Result<Progress, RegistryError> {
        let mut told = self.told();
        let ended = async {
            loop {
                told.borrow_and_update();
                let now = self.upload_row(&row.namespace, &row.digest);
                if !now
                    .as_ref()
                    .is_some_and(|row| row.state == VersionState::Compiling)
                {
                    return now;
                }
                // The sender lives as long as `self`.
                let _ = told.changed().await;
            }
        };
        match tokio::time::timeout(wait, ended).await {
            Err(_) => Ok(Progress::UnderWay(row)),
            Ok(None) => self.progress(&row.namespace, &row.digest),
            Ok(Some(failed)) => {
                let reason = failed.reason.unwrap_or_default();
                Err(match reason.strip_suffix(SEND_AGAIN) {
                    Some(_) => RegistryError::Unavailable(reason),
                    None => RegistryError::unusable(reason),
                })
            }
        }
    }

    fn same_bytes(&self, namespace: &str, digest: &Digest, dev: bool) -> Option<Arc<Stored>> {
        let memory = self.memory();
        memory
            .plugins
            .iter()
            .filter(|((owner, _), _)| owner == namespace)
            .flat_map(|(_, entry)| entry.versions.values())
            .find(|stored| stored.row.digest == *digest && is_dev(&stored.row.version) == dev)
            .cloned()
    }

    async fn activate_uploaded(
        &self,
        actor: Actor<'_>,
        stored: &Arc<Stored>,
        options: UploadOptions,
    ) -> Result<(), RegistryError> {
        let changing = self.change().await?;
        if self.becomes_active(stored, options) {
            self.activate_stored(changing, actor, stored).await?;
        }
        Ok(())
    }

    async fn put_upload(
        &self,
        mut changing: Changing<'_>,
        row: &UploadRow,
    ) -> Result<(), RegistryError> {
        changing.change.put_upload(row).await?;
        self.show_upload(changing, row).await
    }

    /// Ends a change of an upload.
    async fn show_upload(
        &self,
        changing: Changing<'_>,
        row: &UploadRow,
    ) -> Result<(), RegistryError> {
        let done = changing.commit().await?;
        let mut memory = self.memory_mut();
        let key = (row.namespace.clone(), row.digest);
        memory.uploads.insert(key, row.clone());
        memory.step(done.head);
        Ok(())
    }

    /// Begins again with uploads that were under way when their process ended, in the order
    /// in which they were sent: the last one of a plugin is to be the active one.
    pub(super) fn resume_uploads(self: &Arc<Self>, mut rows: Vec<UploadRow>) {
        rows.sort_by_key(|row| row.created_at);
        for row in rows {
            if row.state == VersionState::Compiling && self.flight(&row).is_none() {
                self.fly(row, true);
            }
        }
    }

    /// Starts the task of an upload that is not under way. It waits for those of its
    /// namespace that were resumed before.
    fn fly(self: &Arc<Self>, row: UploadRow, resumed: bool) -> Flight {
        let key = flight_key(&row);
        let (sender, answer) = watch::channel(None);
        let flight = Flight {
            answer,
            unclaimed: Arc::new(AtomicBool::new(true)),
            resumed,
        };
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Only its description tells which plugin an upload is of.
        let before = flights.iter().filter(|(key, flight)| {
            let (namespace, ..) = key;
            flight.resumed && *namespace == row.namespace
        });
        let before: Vec<_> = before.map(|(_, flight)| flight.answer.clone()).collect();
        flights.insert(key.clone(), flight.clone());
        drop(flights);
        let registry = Arc::clone(self);
        tokio::spawn(async move {
            for mut answer in before {
                // One whose task failed has none.
                let _ = answer.wait_for(Option::is_some).await;
            }
            let answer = registry.process(&row).await;
            if let Err(error) = &answer {
                registry.failed(row, error).await;
            }
            let mut flights = registry
                .flights
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            flights.remove(&key);
            drop(flights);
            // Nobody may be waiting any more.
            let _ = sender.send(Some(answer.map_err(Arc::new)));
        });
        flight
    }

    async fn failed(&self, mut row: UploadRow, error: &RegistryError) {
        let passing = matches!(
            error,
            RegistryError::Internal(_) | RegistryError::Unavailable(_)
        );
        let said = if let RegistryError::Internal(cause) = error {
            tracing::error!(
                digest = %row.digest, error = %cause,
                "an upload failed by a fault of the server"
            );
            "the server failed; its log has the cause".to_owned()
        } else {
            tracing::warn!(digest = %row.digest, error = %reason(error), "an upload failed");
            reason(error)
        };
        row.state = VersionState::Failed;
        row.reason = Some(if passing {
            format!("{said}{SEND_AGAIN}")
        } else {
            said
        });
        let kept = async {
            let changing = self.change().await?;
            // Another server may have been quicker, where this one was taken for gone.
            if self
                .same_bytes(&row.namespace, &row.digest, row.options.dev)
                .is_some()
            {
                return Ok(());
            }
            self.put_upload(changing, &row).await
        };
        if let Err(error) = kept.await {
            tracing::error!(%error, "the reason of a failed upload cannot be kept");
        }
    }

    /// Compiles and describes an upload.
    pub(super) async fn describe(&self, upload: &UploadRow) -> Result<Stored, RegistryError> {
        let plugin = self
            .sandbox
            .prepare(&upload.digest.hex(), || self.files.read(&upload.digest))
            .await
            .map_err(|error| match error {
                heyday_sandbox::PrepareError::Refused(error) => refused(error),
                error if error.is_permanent() => RegistryError::unusable(error.to_string()),
                error => {
                    // It may name files of the host.
                    let digest = upload.digest;
                    tracing::error!(%digest, %error, "a component cannot be prepared");
                    RegistryError::Unavailable(
                        "the component cannot be read, compiled or stored; the server's log has \
                         the cause"
                            .to_owned(),
                    )
                }
            })?;
        let text = self
            .sandbox
            .describe(&plugin)
            .await
            .map_err(|error| match error {
                CallError::Internal(message) => RegistryError::Internal(message),
                error => RegistryError::unusable(format!("`describe` did not answer: {error}")),
            })?;
        let queue = default_queue(&upload.capabilities);
        let description = Description::parse(&text, &self.queues, queue).map_err(description)?;
        let version = if upload.options.dev {
            dev_version(&description.version, &upload.digest)
        } else {
            description.version.clone()
        };
        let row = VersionRow {
            kind: Kind::Plugin,
            namespace: upload.namespace.clone(),
            name: description.name.clone(),
            version,
            digest: upload.digest,
            size: upload.size,
            description: crate::state::json(&text)?,
            capabilities: upload.capabilities.clone(),
            imports: upload.imports.clone(),
            created_at: crate::state::now(),
        };
        Ok(Stored {
            row,
            description: Some(description),
        })
    }

    async fn process(&self, upload: &UploadRow) -> Result<Uploaded, RegistryError> {
        let stored = self.describe(upload).await?;
        self.insert(&upload.principal, Arc::new(stored), upload.options)
            .await
    }

    /// Grants of a plugin that are of a dialect that its version cannot use, in order.
    #[must_use]
    pub fn unfit_grants(&self, stored: &Stored) -> Vec<UnfitGrant> {
        let Some(description) = &stored.description else {
            return Vec::new();
        };
        if description.requires.is_empty() {
            return Vec::new();
        }
        let row = &stored.row;
        let bindings = self.bindings(&row.namespace);
        let granted = self.list_grants(&row.namespace, Some(&row.name));
        granted
            .iter()
            .filter_map(|grant| unfit(&description.requires, grant, &bindings))
            .collect()
    }

    /// Capabilities that a version needs and has no grant of, in order.
    #[must_use]
    pub fn missing_grants(&self, row: &VersionRow) -> Vec<String> {
        let grants = self.grants_of(&row.namespace, &row.name);
        let granted: BTreeSet<&String> = grants.by_capability.keys().collect();
        row.capabilities
            .iter()
            .filter(|capability| !granted.contains(capability))
            .cloned()
            .collect()
    }
}

/// What is wrong with a grant for who needs these dialects.
pub(super) fn unfit(
    requires: &Requires,
    grant: &GrantRow,
    bindings: &[(&'static str, String, &'static str)],
) -> Option<UnfitGrant> {
    let needed = requires.get(&grant.capability)?;
    // One that is not configured any more is denied when it is opened.
    let (_, _, dialect) = bindings
        .iter()
        .find(|(capability, name, _)| *capability == grant.capability && *name == grant.binding)?;
    let fits = needed.iter().any(|needed| needed == dialect);
    (!fits).then(|| UnfitGrant {
        capability: grant.capability.clone(),
        binding: grant.binding.clone(),
        dialect: (*dialect).to_owned(),
        needed: needed.iter().cloned().collect(),
    })
}

fn refused(error: VerifyError) -> RegistryError {
    match error {
        VerifyError::TooLarge { size, limit } => RegistryError::TooLarge {
            size: size as u64,
            limit: limit as u64,
        },
        error => RegistryError::unusable(error.to_string()),
    }
}

fn description(problems: Vec<DescriptionProblem>) -> RegistryError {
    let problems = problems.into_iter().map(|problem| RequestProblem {
        line: None,
        pointer: problem.pointer,
        message: problem.message,
    });
    RegistryError::wrong("the plugin's description", problems.collect())
}

/// An error's words, with those of a list.
fn reason(error: &RegistryError) -> String {
    match error {
        RegistryError::Unusable { problems, .. } if problems.len() > 1 => {
            let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
            format!("the plugin's description is wrong: {}", words.join("; "))
        }
        error => error.to_string(),
    }
}
