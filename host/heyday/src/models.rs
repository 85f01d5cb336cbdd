//! What runs models: opened from the configuration, for a server or a worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use heyday_capabilities::Bindings;
use heyday_capabilities::inference::remote::RemoteModel;
use heyday_inference::{Inference, ModelStore, Remote, Templates};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::server::{ServerError, blocking, chain};

/// How often a folder of models is looked at, which may be others' too: all manifests are read then,
/// some KB for each model.
const LOOK: Duration = Duration::from_secs(1);

/// What runs models: opened, with those in memory that the configuration names before long,
/// and with those that run elsewhere.
pub(crate) async fn open(config: &Config, bindings: &Bindings) -> Result<Inference, ServerError> {
    let remotes = config.inference.remote.iter().map(|(name, remote)| {
        let model = RemoteModel::new(name, remote, bindings, Handle::current());
        let model = model.map_err(|source| ServerError::Remote {
            model: name.clone(),
            source,
        })?;
        Ok::<_, ServerError>((name.clone(), Arc::new(model) as Arc<dyn Remote>))
    });
    let remotes = remotes.collect::<Result<BTreeMap<_, _>, _>>()?;
    let limits = heyday_inference::model::Limits {
        model_bytes: config.inference.model_bytes(),
        templates: Templates::of_this_program(),
    };
    let (folder, options) = (config.models_dir(), config.inference.options()?);
    let started = blocking(move || {
        let store = Arc::new(ModelStore::open(folder, limits)?);
        Ok::<_, ServerError>(Inference::start(store, &options)?)
    });
    let inference = started.await?.with_remotes(remotes);
    for model in config.inference.warm_up.clone() {
        let inference = inference.clone();
        tokio::spawn(async move {
            if let Err(error) = inference.warm_up(&model).await {
                tracing::warn!(model, %error, "a model cannot be warmed up");
            }
        });
    }
    Ok(inference)
}

/// Follows what other processes import into the folder of the models and remove there, until
/// `stopping`. A worker does so when it says which models it has.
pub(crate) async fn follow(inference: Inference, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopping.cancelled() => return,
        }
        let looks = inference.clone();
        if let Err(error) = blocking(move || looks.refresh()).await {
            tracing::debug!(error = chain(&error), "the models cannot be listed anew");
        }
    }
}
