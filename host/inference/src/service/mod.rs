//! The service: admits requests, makes tokens of texts, computes batches, answers.
//!
//! Four kinds of threads, none of them the callers': *readers* make tokens, *loaders* read models
//! that are not in memory ([`loading`]), one *computer* computes batches of the encoders, one
//! *generator* goes on with texts ([`generate`]). The latter two share the threads of the CPU.
//! Between them lie queues under one lock. A request counts against the queue's bounds from its
//! admission until its future, or the handle of its text, ends, whichever way.

mod compute;
mod failpoint;
mod generate;
mod loaded;
mod loading;
mod options;
pub(crate) mod queue;
mod reader;
mod request;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use self::compute::{Compute, OnDevice};
use self::generate::{Asked, GenerateLimits, GenerateTicket};
use self::loaded::{Loaded, Models};
use self::loading::Loads;
use self::options::batch_limits;
use self::queue::{BatchLimits, FairQueue, Item};
use self::reader::{Arrival, Asking};
use self::request::{Admission, Answer, Request, Ticket};
use crate::device::Device;
use crate::error::{DeviceError, InferenceError};
use crate::generation::{GenerateRequest, Generation};
use crate::model::{LongText, Task, Tokens};
use crate::remote::{Remote, ServedModel};
use crate::store::{ModelStore, StoreError};

pub use self::generate::GenerateOptions;
pub use self::options::{BatchOptions, Options, QueueLimits};
pub use self::queue::Caller;
pub use self::request::{Embeddings, Scores};
pub use self::usage::{Meter, Usage};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    Embed {
        texts: Vec<String>,
        long: LongText,
    },
    Rerank {
        query: String,
        documents: Vec<String>,
        long: LongText,
    },
}

/// Which sequences are computed together: those of one model whose lengths are alike.
type Group = (u64, u8);

/// One sequence, on its way.
#[derive(Debug)]
struct Piece {
    request: Arc<Request>,
    model: Arc<Loaded>,
    tokens: Tokens,
    /// Which text of the request, and which piece of it.
    at: (usize, usize),
}

#[derive(Debug, Default)]
struct Queues {
    /// To be read; all of one group.
    arrived: FairQueue<(), Arrival>,
    /// To be read when their models are in memory.
    loads: Loads,
    /// To be computed.
    pieces: FairQueue<Group, Piece>,
    /// To be generated.
    texts: Vec<generate::Text>,
    /// Something in them is waited for no more.
    stale: bool,
    admitted: request::Admitted,
    stopping: bool,
}

struct Shared {
    queues: Mutex<Queues>,
    /// Something arrived, or it is the end.
    arrived: Condvar,
    /// A model is to be loaded, or it is the end.
    loads: Condvar,
    /// Something can be computed, or it is the end.
    ready: Condvar,
    /// A text may join or leave, or it is the end.
    generates: Condvar,
    models: Models,
    limits: QueueLimits,
    batch: BatchLimits,
    generate: GenerateLimits,
    /// Whether the device is a GPU, also after it was opened again.
    gpu: bool,
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service. Clones are the same one; when the last is dropped its threads end.
#[derive(Clone)]
pub struct Inference {
    running: Arc<Running>,
    remotes: Arc<BTreeMap<String, Arc<dyn Remote>>>,
}

struct Running {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Inference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inference")
            .field("device", &self.running.shared.models.device().name())
            .finish_non_exhaustive()
    }
}

impl Inference {
    /// Opens the device and starts the threads.
    ///
    /// # Errors
    /// When there is no such device, or no threads can be made.
    pub fn start(store: Arc<ModelStore>, options: &Options) -> Result<Self, DeviceError> {
        let models = Models::open(store, options.device, options.memory_bytes)?;
        let compute = OnDevice {
            threads: options.threads,
            pool: OnceLock::new(),
        };
        Self::start_with(models, options, Arc::new(compute))
    }

    fn start_with(
        models: Models,
        options: &Options,
        compute: Arc<dyn Compute>,
    ) -> Result<Self, DeviceError> {
        let device = models.device();
        let batch = batch_limits(&device, &options.batch);
        let shared = Arc::new(Shared {
            queues: Mutex::default(),
            arrived: Condvar::new(),
            loads: Condvar::new(),
            ready: Condvar::new(),
            generates: Condvar::new(),
            generate: GenerateLimits::new(&device, &options.generate),
            gpu: device.is_gpu(),
            models,
            limits: options.queue,
            batch,
        });
        let running = Running {
            shared: Arc::clone(&shared),
            threads: Mutex::default(),
        };
        let readers = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 4);
        for number in 0..readers.clamp(1, 4) {
            let of_reader = Arc::clone(&shared);
            running.spawn(format!("inference-read-{number}"), move || {
                reader::run(&of_reader);
            })?;
            let (of_loader, with) = (Arc::clone(&shared), Arc::clone(&compute));
            running.spawn(format!("inference-load-{number}"), move || {
                loading::run(&of_loader, with.as_ref());
            })?;
        }
        let (of_texts, with) = (Arc::clone(&shared), Arc::clone(&compute));
        running.spawn("inference-generate".to_owned(), move || {
            generate::run(&of_texts, with.as_ref());
        })?;
        running.spawn("inference-compute".to_owned(), move || {
            compute::run(&shared, compute.as_ref());
        })?;
        Ok(Self {
            running: Arc::new(running),
            remotes: Arc::default(),
        })
    }

    /// The same service with models that run elsewhere, by their names. An imported model of
    /// the same name is hidden.
    #[must_use]
    pub fn with_remotes(self, remotes: BTreeMap<String, Arc<dyn Remote>>) -> Self {
        Self {
            remotes: Arc::new(remotes),
            ..self
        }
    }

    /// All models that can be asked for, by name.
    #[must_use]
    pub fn models(&self) -> Vec<ServedModel> {
        let stored = self.store().list();
        let stored = stored
            .into_iter()
            .map(|model| (model.name.clone(), ServedModel::Stored(model)));
        let remotes = self.remotes.iter().map(|(name, remote)| {
            let served = ServedModel::Remote {
                name: name.clone(),
                remote: Arc::clone(remote),
            };
            (name.clone(), served)
        });
        let all: BTreeMap<String, ServedModel> = stored.chain(remotes).collect();
        all.into_values().collect()
    }

    /// The model of that name.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<ServedModel> {
        match self.remotes.get(name) {
            Some(remote) => Some(ServedModel::Remote {
                name: name.to_owned(),
                remote: Arc::clone(remote),
            }),
            None => self.store().get(name).map(ServedModel::Stored),
        }
    }

    /// The models that were imported.
    #[must_use]
    pub fn store(&self) -> &Arc<ModelStore> {
        &self.running.shared.models.store
    }

    /// Looks what other processes imported, removed and replaced in the folder of the store. What is
    /// in memory of a model that is gone, or is another now, is dropped; requests that are using it
    /// are answered. It reads all manifests, so that it blocks for as long as that takes.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn refresh(&self) -> Result<(), StoreError> {
        self.running.shared.models.refresh()
    }

    /// Where models compute.
    #[must_use]
    pub fn device(&self) -> Device {
        self.running.shared.models.device()
    }

    /// Whether that is a GPU; it stays one, or stays none.
    #[must_use]
    pub fn is_on_gpu(&self) -> bool {
        self.running.shared.gpu
    }

    /// Whether the device was lost and could not be opened again: only a new process may bring
    /// it back. It is tried again, now and then, when a model is asked for.
    #[must_use]
    pub fn is_device_lost(&self) -> bool {
        self.running.shared.models.is_device_lost()
    }

    /// Names of the models that are in memory, and the bytes that those take.
    #[must_use]
    pub fn in_memory(&self) -> (Vec<String>, u64) {
        let models = &self.running.shared.models;
        (models.names(), models.used())
    }

    /// Drops a model from memory. Requests that are using it are answered.
    pub fn unload(&self, name: &str) {
        self.running.shared.models.forget(name);
    }

    /// Loads a model and computes one text with it, so that the first request does not wait
    /// for that. One that runs elsewhere is left alone.
    ///
    /// # Errors
    /// As a request's.
    pub async fn warm_up(&self, name: &str) -> Result<(), InferenceError> {
        if self.remotes.contains_key(name) {
            return Ok(());
        }
        let caller = Caller {
            namespace: String::new(),
            plugin: String::new(),
        };
        let text = "warm up".to_owned();
        match self.store().get(name).map(|model| model.properties.task) {
            Some(Task::Generate) => {
                let request = GenerateRequest {
                    prompt: Some(text),
                    max_tokens: Some(1),
                    ..GenerateRequest::default()
                };
                self.generate(caller, name, request).await?.text().await?;
            }
            Some(Task::Rerank) => {
                let documents = vec![text.clone()];
                self.rerank(caller, name, text, documents, LongText::Truncate)
                    .await?;
            }
            Some(Task::Embed) | None => {
                self.embed(caller, name, vec![text], LongText::Truncate)
                    .await?;
            }
        }
        Ok(())
    }

    /// The embeddings of texts. Dropping the future takes the request out of the queue.
    ///
    /// # Errors
    /// As [`InferenceError`] says.
    pub async fn embed(
        &self,
        caller: Caller,
        model: &str,
        texts: Vec<String>,
        long: LongText,
    ) -> Result<Embeddings, InferenceError> {
        let meter = Meter::start();
        self.embed_metered(caller, model, texts, long, &meter).await
    }

    /// The same, with a meter that is of this request only: what it used is known there also where
    /// it is not answered.
    ///
    /// # Errors
    /// As [`InferenceError`] says.
    pub async fn embed_metered(
        &self,
        caller: Caller,
        model: &str,
        texts: Vec<String>,
        long: LongText,
        meter: &Meter,
    ) -> Result<Embeddings, InferenceError> {
        if let Some(remote) = self.remotes.get(model) {
            let bytes = request::text_bytes(&texts);
            request::check(bytes, texts.len(), &self.running.shared.limits)?;
            return remote.embed(&caller, texts, long, meter).await;
        }
        let work = Work::Embed { texts, long };
        let answer = self.ask(caller, model, work, meter).await?;
        Ok(answer.into_embeddings())
    }

    /// How well documents answer a query: the model's own score of each, higher is better.
    /// Of a document that is split the best piece counts. Dropping the future takes the
    /// request out of the queue.
    ///
    /// # Errors
    /// As [`InferenceError`] says.
    pub async fn rerank(
        &self,
        caller: Caller,
        model: &str,
        query: String,
        documents: Vec<String>,
        long: LongText,
    ) -> Result<Scores, InferenceError> {
        let meter = Meter::start();
        self.rerank_metered(caller, model, query, documents, long, &meter)
            .await
    }

    /// The same, with a meter that is of this request only: what it used is known there also where
    /// it is not answered.
    ///
    /// # Errors
    /// As [`InferenceError`] says.
    pub async fn rerank_metered(
        &self,
        caller: Caller,
        model: &str,
        query: String,
        documents: Vec<String>,
        long: LongText,
        meter: &Meter,
    ) -> Result<Scores, InferenceError> {
        if let Some(remote) = self.remotes.get(model) {
            let bytes = request::rerank_bytes(&query, &documents);
            request::check(bytes, documents.len(), &self.running.shared.limits)?;
            return remote.rerank(&caller, query, documents, long, meter).await;
        }
        let work = Work::Rerank {
            query,
            documents,
            long,
        };
        let answer = self.ask(caller, model, work, meter).await?;
        Ok(answer.into_scores())
    }

    /// Begins to generate text, and answers when its prompt was accepted. Dropping the
    /// future or the handle stops it.
    ///
    /// # Errors
    /// As [`InferenceError`] says; what comes later is told by the handle.
    pub async fn generate(
        &self,
        caller: Caller,
        model: &str,
        request: GenerateRequest,
    ) -> Result<Generation, InferenceError> {
        let meter = Meter::start();
        self.generate_metered(caller, model, request, &meter).await
    }

    /// The same, with a meter that is of this request only: what it used is known there where it is
    /// not accepted. From then on the handle has all of it.
    ///
    /// # Errors
    /// As [`InferenceError`] says; what comes later is told by the handle.
    pub async fn generate_metered(
        &self,
        caller: Caller,
        model: &str,
        request: GenerateRequest,
        meter: &Meter,
    ) -> Result<Generation, InferenceError> {
        let shared = &self.running.shared;
        request.check()?;
        let bytes = request.bytes();
        request::check(bytes, request.messages.len().max(1), &shared.limits)?;
        if let Some(remote) = self.remotes.get(model) {
            return remote.generate(&caller, request, meter).await;
        }
        let Some(stored) = shared.models.store.get(model) else {
            return Err(InferenceError::UnknownModel(model.to_owned()));
        };
        if stored.properties.task != Task::Generate {
            return Err(InferenceError::Unsupported {
                model: model.to_owned(),
                what: "generate text",
            });
        }
        let (sender, generation) = Generation::channel();
        let (accepted, answer) = oneshot::channel();
        let asked = Asked {
            model: model.to_owned(),
            caller: caller.clone(),
            request,
            sender,
            accepted,
            arrived: Instant::now(),
        };
        let admission = self.admit(&caller, bytes, Asking::Prompt(Box::new(asked)))?;
        // What is dropped with this future is for nobody.
        let generation = generation.holding(GenerateTicket(admission));
        // Without an answer the threads have ended.
        answer.await.unwrap_or(Err(InferenceError::Stopping))?;
        Ok(generation)
    }

    /// Lets what came in wait for a reader, if there is a place.
    fn admit(
        &self,
        caller: &Caller,
        bytes: usize,
        asking: Asking,
    ) -> Result<Admission, InferenceError> {
        let shared = &self.running.shared;
        let mut queues = shared.queues();
        if queues.stopping {
            return Err(InferenceError::Stopping);
        }
        let admission = Admission::take(shared, &mut queues, caller, bytes)?;
        let item = Item {
            group: (),
            cost: bytes as u64,
            since: Instant::now(),
            value: Arrival {
                asking,
                model: None,
            },
        };
        queues.arrived.push(caller, item);
        drop(queues);
        shared.arrived.notify_one();
        Ok(admission)
    }

    async fn ask(
        &self,
        caller: Caller,
        model: &str,
        work: Work,
        meter: &Meter,
    ) -> Result<Answer, InferenceError> {
        let shared = &self.running.shared;
        if shared.models.store.get(model).is_none() {
            return Err(InferenceError::UnknownModel(model.to_owned()));
        }
        let (bytes, texts) = request::size(&work);
        request::check(bytes, texts, &shared.limits)?;
        let (reply, answer) = oneshot::channel();
        let request = Request::new(model.to_owned(), work, caller.clone(), meter.clone(), reply);
        let request = Arc::new(request);
        let asking = Asking::Texts(Arc::clone(&request));
        let admission = self.admit(&caller, bytes, asking)?;
        let ticket = Ticket { admission, request };
        let answer = answer.await;
        drop(ticket);
        // Without an answer the threads have ended.
        answer.unwrap_or(Err(InferenceError::Stopping))
    }
}

impl Running {
    fn spawn(&self, name: String, work: impl FnOnce() + Send + 'static) -> Result<(), DeviceError> {
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(work)
            .map_err(DeviceError::Threads)?;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(thread);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.queues().stopping = true;
        self.shared.arrived.notify_all();
        self.shared.loads.notify_all();
        self.shared.ready.notify_all();
        self.shared.generates.notify_all();
        let threads = self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // One that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}
