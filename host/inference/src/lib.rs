//! Models on burn: weights are loaded once, and the requests of all callers are computed
//! together.
//!
//! The way of a request: [`service::Inference`] admits it to a bounded queue, another
//! thread makes tokens of its texts ([`model::tokens`]) when a further one has loaded the model, if
//! it is not in memory; yet another takes pieces of like length from all callers in turn
//! ([`service::queue`]), computes them as one batch (`model/encoder.rs`) and answers each.
//! No work is done on the callers' threads. A request whose future is dropped leaves the
//! queue. A text is generated step by step, together with all others ([`generation`],
//! `service/generate.rs`, `model/decoder`).
//!
//! A model is a folder as the model hub has it: `config.json` says which architecture and
//! sizes ([`model::config`]), `tokenizer.json` makes tokens, `model.safetensors` holds the
//! weights ([`model::weights`]), and sentence-transformers' own files say how a text's tokens
//! become one vector. [`store`] keeps imported models by the digests of their files.
//!
//! The chat template of a model is run by a process of its own ([`templates`]).
//!
//! A model may run elsewhere ([`remote`]); who asks cannot tell.
//!
//! It depends on nothing else of Heyday: callers have names, deadlines are dropped futures.
//!
//! Start reading at [`service`], which has a request from its admission to its answer.

pub mod device;
pub mod error;
pub mod generation;
pub mod model;
pub mod remote;
pub mod service;
pub mod store;
pub mod templates;

pub use device::{Device, DeviceChoice};
pub use error::{DeviceError, InferenceError, ModelError};
pub use generation::{
    FinishReason, GenerateRequest, Generation, GenerationSender, GenerationSummary,
    GenerationUsage, Message, Role,
};
pub use model::{LongText, Properties, Task};
pub use remote::{Remote, ServedModel};
pub use service::{Caller, Embeddings, Inference, Meter, Options, Scores, Usage};
pub use store::{ModelStore, StoreError, StoredModel};
pub use templates::Templates;

/// The words of a panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it panicked".to_owned())
}
