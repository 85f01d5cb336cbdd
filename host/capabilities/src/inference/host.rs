//! The host functions of `heyday:inference`: from the guest's handles to the service.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heyday_inference::{
    Caller, GenerateRequest, Generation, GenerationUsage, Inference, LongText, Meter, ServedModel,
    Usage,
};
use heyday_sandbox::{CallState, Capability, HostCall};
use wasmtime::component::{HasSelf, Linker, Resource};

use super::{Error, InferenceCode, NAME, elsewhere, told};
use crate::bindings::Bindings;
use crate::call::{Bound, Budget, Opened, Place, Scope, bound, open};
use crate::error::{ErrorCode as _, Fault, answer, run};

/// Generated from `wit/inference`.
pub mod bindings {
    #![allow(missing_docs, clippy::all)]

    wasmtime::component::bindgen!({
        path: "../../wit/inference",
        world: "imports",
        imports: { default: async | trappable },
        trappable_error_type: { "heyday:inference/inference.error" => super::InferenceFault },
        with: {
            "heyday:inference/inference.model": super::ModelHandle,
            "heyday:inference/inference.generation": super::GenerationHandle,
        },
        additional_derives: [PartialEq],
    });
}

use bindings::heyday::inference::inference;

/// Texts that one attempt generates at once.
const GENERATIONS: u32 = 64;
/// Bytes of a request for text.
const REQUEST_BYTES: usize = 8 << 20;

type InferenceFault = Fault<InferenceCode>;

/// The capability `inference`.
pub struct InferenceCapability {
    bindings: Arc<Bindings>,
}

impl InferenceCapability {
    /// Serves the models of these bindings.
    #[must_use]
    pub const fn new(bindings: Arc<Bindings>) -> Self {
        Self { bindings }
    }
}

impl Capability for InferenceCapability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn interfaces(&self) -> &'static [&'static str] {
        &["heyday:inference/inference"]
    }

    fn link(&self, linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
        inference::add_to_linker::<_, HasSelf<CallState>>(linker, |state| state)
    }

    fn prepare(&self, _plugin: &str, namespace: &str) -> Box<dyn Any + Send> {
        Box::new(Scope::new(&self.bindings, namespace))
    }
}

/// What stands behind a guest's `model`.
#[derive(Clone)]
pub struct ModelHandle {
    inference: Inference,
    name: Arc<str>,
    budget: Arc<Budget>,
}

/// What stands behind a guest's `generation`.
pub struct GenerationHandle {
    model: Arc<str>,
    generation: Generation,
    /// What the receipt has of it.
    counted: GenerationUsage,
    counters: Counters,
    prompt_tokens: Arc<AtomicU64>,
    completion_tokens: Arc<AtomicU64>,
    _place: Place,
}

impl GenerationHandle {
    /// Puts what it used since the last time into the receipt.
    fn count(&mut self) {
        let now = self.generation.usage();
        let before = std::mem::replace(&mut self.counted, now);
        let prompt = now.prompt_tokens.saturating_sub(before.prompt_tokens);
        let completion = now
            .completion_tokens
            .saturating_sub(before.completion_tokens);
        self.prompt_tokens.fetch_add(prompt, Ordering::AcqRel);
        self.completion_tokens
            .fetch_add(completion, Ordering::AcqRel);
        self.counters.add(&Usage {
            tokens: prompt + completion,
            queued: now.queued.saturating_sub(before.queued),
            computed: now.computed.saturating_sub(before.computed),
            gpu: now.gpu,
        });
    }
}

// Also where the guest does not drop it: at a deadline all handles go without a word from it.
impl Drop for GenerationHandle {
    fn drop(&mut self) {
        // What is computed of it from here on is nobody's.
        self.count();
    }
}

// How many wait for one model is the matter of what serves it, which has bounds of its own
// and works the better the more texts it has at once.
impl Bound for ModelHandle {
    const SHARED: bool = false;

    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Bound for GenerationHandle {
    const SHARED: bool = false;

    fn name(&self) -> &Arc<str> {
        &self.model
    }
}

fn begin(state: &mut CallState, function: &'static str) -> Result<HostCall, InferenceFault> {
    let call = state.host_call(NAME, function)?;
    state.count("inference.calls", 1);
    Ok(call)
}

/// The handle of a call, and who calls.
fn caller(
    state: &mut CallState,
    call: &HostCall,
    this: &Resource<ModelHandle>,
) -> Result<(ModelHandle, Caller), InferenceFault> {
    let handle = bound(state, this)?.clone();
    call.binding(&handle.name);
    let caller = Caller {
        namespace: state.attempt().namespace.clone(),
        plugin: state.plugin().to_owned(),
    };
    Ok((handle, caller))
}

/// What is told of a model that is granted and not in this process, as `error` says: it is
/// another matter where another process has it.
async fn not_here(
    state: &mut CallState,
    call: &HostCall,
    model: &str,
    error: Error,
) -> Result<Error, InferenceFault> {
    let bindings = state.capability::<Scope>(NAME)?.bindings();
    let Some(others) = bindings.elsewhere() else {
        return Ok(error);
    };
    let attempt = state.attempt();
    let (namespace, queue) = (attempt.namespace.clone(), attempt.queue.clone());
    let queues = call.run(others.queues_with(&namespace, model)).await?;
    let queues = queues.as_deref().map_err(String::as_str);
    let error = elsewhere::missing(model, &queue, queues);
    call.failed(error.code.as_str());
    Ok(error)
}

/// The outcome of a call, where a model that is not here, or is gone since its handle was opened, is
/// told as [`not_here`] does.
async fn or_not_here<T>(
    state: &mut CallState,
    call: &HostCall,
    model: &str,
    outcome: Result<T, InferenceFault>,
) -> Result<T, InferenceFault> {
    match outcome {
        Err(Fault::Error(error)) if error.code == InferenceCode::UnknownBinding => {
            Err(not_here(state, call, model, error).await?.into())
        }
        outcome => outcome,
    }
}

fn long(long: inference::LongText) -> LongText {
    match long {
        inference::LongText::Refuse => LongText::Refuse,
        inference::LongText::Truncate => LongText::Truncate,
        inference::LongText::Split => LongText::Split,
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The receipt's counters of every request. They can be added to until the receipt is made, also
/// while no call is being answered.
#[derive(Clone)]
struct Counters {
    tokens: Arc<AtomicU64>,
    queued_us: Arc<AtomicU64>,
    computed_us: Arc<AtomicU64>,
    /// Where models compute on one.
    gpu_us: Option<Arc<AtomicU64>>,
}

impl Counters {
    fn of(state: &mut CallState, inference: &Inference) -> Self {
        Self {
            tokens: state.counter("inference.tokens"),
            queued_us: state.counter("inference.queue_us"),
            computed_us: state.counter("inference.compute_us"),
            gpu_us: inference
                .is_on_gpu()
                .then(|| state.counter("inference.gpu_us")),
        }
    }

    fn add(&self, usage: &Usage) {
        let computed = microseconds(usage.computed);
        self.tokens.fetch_add(usage.tokens, Ordering::AcqRel);
        self.queued_us
            .fetch_add(microseconds(usage.queued), Ordering::AcqRel);
        self.computed_us.fetch_add(computed, Ordering::AcqRel);
        if let Some(gpu_us) = self.gpu_us.as_ref().filter(|_| usage.gpu) {
            gpu_us.fetch_add(computed, Ordering::AcqRel);
        }
    }
}

/// A request that is under way. What it used is put into the receipt also where it is not
/// answered, because it fails, is cancelled or ends with its attempt's time.
struct Waiting {
    meter: Meter,
    counters: Counters,
    answered: bool,
}

impl Waiting {
    fn begin(state: &mut CallState, inference: &Inference, texts: usize) -> Self {
        state.count("inference.texts", texts as u64);
        Self {
            meter: Meter::start(),
            counters: Counters::of(state, inference),
            answered: false,
        }
    }

    fn answered(mut self, usage: &Usage) {
        self.answered = true;
        self.counters.add(usage);
    }

    /// What it uses from here on is counted elsewhere, by these.
    fn accepted(mut self) -> Counters {
        self.answered = true;
        self.counters.clone()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            self.counters.add(&self.meter.usage());
        }
    }
}

fn properties(model: &ServedModel) -> String {
    let mut properties = serde_json::to_value(model.properties()).unwrap_or_default();
    if let (Some(object), Some(stored)) = (properties.as_object_mut(), model.stored()) {
        object.insert("digest".to_owned(), stored.digest.clone().into());
    }
    properties.to_string()
}

impl inference::Host for CallState {
    fn convert_error(&mut self, fault: InferenceFault) -> wasmtime::Result<inference::Error> {
        answer!(self, NAME, fault, inference::Error)
    }

    async fn models(&mut self) -> Result<Vec<inference::ModelInfo>, InferenceFault> {
        begin(self, "models")?;
        let bindings = self.capability::<Scope>(NAME)?.bindings();
        let Some(service) = bindings.inference() else {
            return Ok(Vec::new());
        };
        let models = service.models();
        let granted = models
            .iter()
            .filter(|model| self.grants().find(NAME, model.name()).is_some());
        Ok(granted
            .map(|model| inference::ModelInfo {
                name: model.name().to_owned(),
                properties: properties(model),
            })
            .collect())
    }
}

impl inference::HostModel for CallState {
    async fn open(&mut self, name: String) -> Result<Resource<ModelHandle>, InferenceFault> {
        let call = begin(self, "model.open")?;
        let find = |bindings: &Bindings, _: &str, name: &str| {
            let inference = bindings.inference()?;
            inference.model(name)?;
            Some(Arc::new(inference.clone()))
        };
        let opened = open::<InferenceCode, _>(self, &call, NAME, "model", &name, find);
        let opened = or_not_here(self, &call, &name, opened).await?;
        let Opened {
            name,
            binding,
            budget,
            ..
        } = opened;
        let handle = ModelHandle {
            inference: (*binding).clone(),
            name,
            budget,
        };
        Ok(self.table().push(handle)?)
    }

    async fn properties(&mut self, this: Resource<ModelHandle>) -> Result<String, InferenceFault> {
        let call = begin(self, "model.properties")?;
        let (handle, _) = caller(self, &call, &this)?;
        let model = handle.inference.model(&handle.name).ok_or_else(|| {
            let told = format!("there is no model {} here any more", handle.name);
            Error::new(InferenceCode::UnknownBinding, told).into()
        });
        let model = or_not_here(self, &call, &handle.name, model).await?;
        Ok(properties(&model))
    }

    async fn embed(
        &mut self,
        this: Resource<ModelHandle>,
        texts: Vec<String>,
        long_text: inference::LongText,
    ) -> Result<inference::Embeddings, InferenceFault> {
        let call = begin(self, "model.embed")?;
        let (handle, caller) = caller(self, &call, &this)?;
        let waiting = Waiting::begin(self, &handle.inference, texts.len());
        let long = long(long_text);
        let asked =
            handle
                .inference
                .embed_metered(caller, &handle.name, texts, long, &waiting.meter);
        let answer = run(&call, async { asked.await.map_err(told) }).await;
        let answer = or_not_here(self, &call, &handle.name, answer).await?;
        waiting.answered(&answer.usage);
        Ok(inference::Embeddings {
            dimensions: u32::try_from(answer.dimensions).unwrap_or(u32::MAX),
            values: answer.values,
            tokens: answer.tokens,
        })
    }

    async fn rerank(
        &mut self,
        this: Resource<ModelHandle>,
        query: String,
        documents: Vec<String>,
        long_text: inference::LongText,
    ) -> Result<Vec<f32>, InferenceFault> {
        let call = begin(self, "model.rerank")?;
        let (handle, caller) = caller(self, &call, &this)?;
        let waiting = Waiting::begin(self, &handle.inference, documents.len());
        let long = long(long_text);
        let asked = handle.inference.rerank_metered(
            caller,
            &handle.name,
            query,
            documents,
            long,
            &waiting.meter,
        );
        let answer = run(&call, async { asked.await.map_err(told) }).await;
        let answer = or_not_here(self, &call, &handle.name, answer).await?;
        waiting.answered(&answer.usage);
        Ok(answer.values)
    }

    async fn generate(
        &mut self,
        this: Resource<ModelHandle>,
        request: String,
    ) -> Result<Resource<GenerationHandle>, InferenceFault> {
        let call = begin(self, "model.generate")?;
        let (handle, caller) = caller(self, &call, &this)?;
        let place = Place::take(&handle.budget, GENERATIONS, "generations")?;
        let waiting = Waiting::begin(self, &handle.inference, 1);
        let asked = async {
            if request.len() > REQUEST_BYTES {
                return Err(Error::new(
                    InferenceCode::LimitExceeded,
                    format!(
                        "the request has {} bytes, over {REQUEST_BYTES}",
                        request.len()
                    ),
                ));
            }
            let request = GenerateRequest::from_json(&request).map_err(told)?;
            let (service, name) = (&handle.inference, &handle.name);
            let asked = service.generate_metered(caller, name, request, &waiting.meter);
            asked.await.map_err(told)
        };
        let generation = run(&call, asked).await;
        let generation = or_not_here(self, &call, &handle.name, generation).await?;
        // The handle has what it used from the beginning.
        let counters = waiting.accepted();
        let handle = GenerationHandle {
            model: handle.name,
            generation,
            counted: GenerationUsage::default(),
            counters,
            prompt_tokens: self.counter("inference.prompt_tokens"),
            completion_tokens: self.counter("inference.completion_tokens"),
            _place: place,
        };
        Ok(self.table().push(handle)?)
    }

    async fn drop(&mut self, this: Resource<ModelHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl inference::HostGeneration for CallState {
    async fn next(
        &mut self,
        this: Resource<GenerationHandle>,
    ) -> Result<Option<String>, InferenceFault> {
        let call = begin(self, "generation.next")?;
        let handle = bound(self, &this)?;
        call.binding(&handle.model);
        let next = async { handle.generation.next().await.map_err(told) };
        let answer = run(&call, next).await;
        handle.count();
        answer
    }

    async fn summary(
        &mut self,
        this: Resource<GenerationHandle>,
    ) -> Result<String, InferenceFault> {
        let call = begin(self, "generation.summary")?;
        let handle = bound(self, &this)?;
        call.binding(&handle.model);
        let summary = handle.generation.summary().ok_or_else(|| {
            Error::new(
                InferenceCode::InvalidRequest,
                "a generation has a summary when `next` has answered none",
            )
        })?;
        serde_json::to_string(summary).map_err(|error| Error::internal(error).into())
    }

    async fn drop(&mut self, this: Resource<GenerationHandle>) -> wasmtime::Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_used_is_counted_once_also_where_it_was_not_read_to_its_end() {
        let counter = || Arc::new(AtomicU64::new(0));
        let counters = Counters {
            tokens: counter(),
            queued_us: counter(),
            computed_us: counter(),
            gpu_us: None,
        };
        let (prompt_tokens, completion_tokens) = (counter(), counter());
        let place = Place::take::<InferenceCode>(&Arc::default(), 1, "generations");
        let (sender, generation) = Generation::channel();
        let mut handle = GenerationHandle {
            model: "m".into(),
            generation,
            counted: GenerationUsage::default(),
            counters: counters.clone(),
            prompt_tokens: Arc::clone(&prompt_tokens),
            completion_tokens: Arc::clone(&completion_tokens),
            _place: place.expect("a place"),
        };
        let use_up = |tokens: u64, milliseconds: u64| {
            sender.used(|usage| {
                usage.prompt_tokens = 7;
                usage.completion_tokens = tokens;
                usage.computed = Duration::from_millis(milliseconds);
            });
        };
        use_up(2, 3);
        handle.count();
        handle.count();
        use_up(5, 8);
        drop(handle);
        let read = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        assert_eq!((read(&prompt_tokens), read(&completion_tokens)), (7, 5));
        assert_eq!(
            (read(&counters.tokens), read(&counters.computed_us)),
            (12, 8_000)
        );
    }
}
