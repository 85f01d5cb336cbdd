//! The models in memory: loaded at their first use, shared, and dropped when another needs
//! the room and nobody uses them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::compute::{Compute, failure};
use super::failpoint;
use crate::device::{Device, DeviceChoice};
use crate::error::{DeviceError, InferenceError, ModelError};
use crate::model::Model;
use crate::store::{ModelStore, StoreError, StoredModel};

/// Between two tries to open a device that was lost.
const REOPEN: Duration = Duration::from_secs(5);

/// A model in memory. Its bytes count until nobody holds it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Tells it from one that was loaded before or after it.
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) model: Model,
    /// How often the device had been opened again before it was loaded onto it.
    pub(super) openings: u64,
    digest: String,
    room: Room,
}

/// Bytes of the memory limit.
#[derive(Debug)]
struct Room {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[derive(Debug)]
struct Slot {
    model: Arc<Loaded>,
    /// When it was last asked for, counted in askings.
    last: u64,
}

impl Slot {
    /// Whether nobody uses it.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.model) == 1
    }
}

#[derive(Debug)]
struct Slots {
    by_name: HashMap<String, Slot>,
    device: Device,
    /// How often it was opened again, or tried to be.
    openings: u64,
    /// When it was last tried in vain to open the device again; nothing is computed since then.
    lost: Option<Instant>,
    /// Askings so far.
    count: u64,
}

impl Slots {
    /// The model, if it is here; it is asked for then.
    fn ready(&mut self, name: &str, digest: &str) -> Option<Arc<Loaded>> {
        let slot = self.by_name.get_mut(name)?;
        if slot.model.digest != digest {
            return None;
        }
        self.count += 1;
        slot.last = self.count;
        Some(Arc::clone(&slot.model))
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Models {
    pub(crate) store: Arc<ModelStore>,
    choice: DeviceChoice,
    limit: u64,
    used: Arc<AtomicU64>,
    slots: Mutex<Slots>,
}

impl Models {
    pub(crate) fn open(
        store: Arc<ModelStore>,
        choice: DeviceChoice,
        limit: u64,
    ) -> Result<Self, DeviceError> {
        let device = Device::open(choice)?;
        Ok(Self {
            store,
            choice,
            limit,
            used: Arc::default(),
            slots: Mutex::new(Slots {
                by_name: HashMap::new(),
                device,
                openings: 0,
                lost: None,
                count: 0,
            }),
        })
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn device(&self) -> Device {
        self.slots().device.clone()
    }

    /// Whether the device was lost and could not be opened again.
    pub(crate) fn is_device_lost(&self) -> bool {
        self.slots().lost.is_some()
    }

    /// Names of the models in memory.
    pub(crate) fn names(&self) -> Vec<String> {
        self.slots().by_name.keys().cloned().collect()
    }

    /// Bytes of loaded models.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// The model, where it is in memory; it is asked for then. Nothing is waited for.
    pub(crate) fn ready(&self, name: &str) -> Option<Arc<Loaded>> {
        let stored = self.store.get(name)?;
        let mut slots = self.slots();
        if slots.lost.is_some() {
            return None;
        }
        slots.ready(name, &stored.digest)
    }

    /// The model, read from its files where it is not in memory. The same model is loaded by one
    /// thread at a time only.
    pub(super) fn load(
        &self,
        name: &str,
        compute: &dyn Compute,
    ) -> Result<Arc<Loaded>, InferenceError> {
        loop {
            let mut slots = self.slots();
            let Some(stored) = self.store.get(name) else {
                slots.by_name.remove(name);
                return Err(InferenceError::UnknownModel(name.to_owned()));
            };
            if slots.lost.is_some_and(|tried| tried.elapsed() >= REOPEN) {
                self.reopen(&mut slots);
            }
            if slots.lost.is_some() {
                return Err(InferenceError::DeviceGone);
            }
            if let Some(model) = slots.ready(name, &stored.digest) {
                return Ok(model);
            }
            // Another one has the name now.
            slots.by_name.remove(name);
            let room = self.take_room(&mut slots, stored.properties.memory_bytes)?;
            let (device, openings) = (slots.device.clone(), slots.openings);
            drop(slots);
            // Whoever waits for it is to hear of a panic, too.
            let load = AssertUnwindSafe(|| {
                // A weight that changed on the disk computes as well as any other.
                self.store
                    .compare(&stored)
                    .map_err(|error| ModelError::Damaged {
                        file: "model".to_owned(),
                        message: error.to_string(),
                    })?;
                compute.load(&self.store.files(&stored), self.store.limits(), &device)
            });
            let loaded = catch_unwind(load).unwrap_or_else(|panic| {
                Err(ModelError::Damaged {
                    file: "model".to_owned(),
                    message: crate::panic_message(panic.as_ref()),
                })
            });
            // Whose files went because another process removed or replaced it is not damaged.
            let is_other = loaded.is_err() && self.is_other_now(&stored);
            let mut slots = self.slots();
            if slots.openings != openings {
                // It lies on a device that failed under others meanwhile.
                continue;
            }
            let model = match loaded {
                Ok(model) => model,
                Err(ModelError::Device(message)) => {
                    tracing::error!(message, model = name, "a model could not be loaded");
                    let error = failure(&message, "model");
                    // All models lie on it. Without memory for one more, the others are well.
                    if error == InferenceError::DeviceLost {
                        self.start_over(&mut slots);
                    }
                    return Err(error);
                }
                Err(error) => {
                    if is_other {
                        continue;
                    }
                    return Err(InferenceError::Unloadable {
                        model: name.to_owned(),
                        message: error.to_string(),
                    });
                }
            };
            tracing::info!(model = name, device = device.name(), "a model was loaded");
            slots.count += 1;
            let last = slots.count;
            let model = Arc::new(Loaded {
                id: last,
                name: name.to_owned(),
                model,
                openings,
                digest: stored.digest.clone(),
                room,
            });
            // One that was removed meanwhile, or is another now, is for those only who wait for it:
            // nobody could unload it later.
            let now = self.store.get(name);
            if now.is_some_and(|now| now.digest == stored.digest) {
                let slot = Slot {
                    model: Arc::clone(&model),
                    last,
                };
                slots.by_name.insert(name.to_owned(), slot);
            }
            return Ok(model);
        }
    }

    /// Whether its name is another model's by now, or none's, in the store's folder.
    fn is_other_now(&self, stored: &StoredModel) -> bool {
        if let Err(error) = self.store.refresh() {
            tracing::warn!(%error, "the models cannot be listed anew");
        }
        let now = self.store.get(&stored.name);
        now.is_none_or(|now| now.digest != stored.digest)
    }

    /// Looks what other processes did in the store's folder, and drops what is in memory of models
    /// that are gone or are others now; who uses one goes on.
    pub(crate) fn refresh(&self) -> Result<(), StoreError> {
        self.store.refresh()?;
        self.slots().by_name.retain(|name, slot| {
            let now = self.store.get(name);
            now.is_some_and(|now| now.digest == slot.model.digest)
        });
        Ok(())
    }

    /// Makes room by dropping models that nobody uses, the one that was asked for longest
    /// ago first; none where that would not be enough.
    fn take_room(&self, slots: &mut Slots, bytes: u64) -> Result<Room, InferenceError> {
        if bytes > self.limit {
            return Err(InferenceError::OutOfMemory(format!(
                "the model takes {bytes} bytes; all models may take {}",
                self.limit
            )));
        }
        let in_use = || {
            let told = "models in memory that are in use leave no room for it".to_owned();
            Err(InferenceError::OutOfMemory(told))
        };
        let idle = slots.by_name.values().filter(|slot| slot.is_idle());
        let idle: u64 = idle.map(|slot| slot.model.room.bytes).sum();
        // What is idle is not used by then: nobody takes it without the slots.
        let kept = self.used.load(Ordering::Acquire).saturating_sub(idle);
        if kept.saturating_add(bytes) > self.limit {
            return in_use();
        }
        loop {
            let used = self.used.load(Ordering::Acquire);
            if used.saturating_add(bytes) <= self.limit {
                self.used.fetch_add(bytes, Ordering::AcqRel);
                return Ok(Room {
                    used: Arc::clone(&self.used),
                    bytes,
                });
            }
            let idle = slots
                .by_name
                .iter()
                .filter(|(_, slot)| slot.is_idle())
                .map(|(name, slot)| (slot.last, name.clone()))
                .min();
            let Some((_, name)) = idle else {
                return in_use();
            };
            tracing::info!(model = name, "a model leaves memory for another");
            slots.by_name.remove(&name);
        }
    }

    /// Drops what is in memory of a model; who uses it goes on.
    pub(crate) fn forget(&self, name: &str) {
        self.slots().by_name.remove(name);
    }

    /// After the device failed that had been opened again so often: all models are forgotten, and
    /// the device is opened again. What else was computed on it fails too, later, and finds that
    /// done: what was loaded since then is well.
    pub(super) fn recover(&self, openings: u64) {
        let mut slots = self.slots();
        if slots.openings == openings {
            self.start_over(&mut slots);
        }
    }

    /// How often the device was opened again.
    #[cfg(test)]
    pub(super) fn openings(&self) -> u64 {
        self.slots().openings
    }

    fn start_over(&self, slots: &mut Slots) {
        slots.by_name.clear();
        self.reopen(slots);
    }

    /// Opens the device again. One that was a GPU is not the CPU then: that would be many times
    /// slower, and nobody would know. Nor is the CPU a GPU, for which batches have other sizes.
    fn reopen(&self, slots: &mut Slots) {
        slots.openings += 1;
        let choice = match self.choice {
            DeviceChoice::Auto if slots.device.is_gpu() => DeviceChoice::Gpu(0),
            DeviceChoice::Auto => DeviceChoice::Cpu,
            choice => choice,
        };
        let opened = failpoint::reopening()
            .map_err(|message| DeviceError::NotFound { index: 0, message })
            .and_then(|()| Device::open(choice));
        match opened {
            Ok(device) => {
                slots.device = device;
                if slots.lost.take().is_some() {
                    tracing::info!(device = slots.device.name(), "the device is there again");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the device cannot be opened again; start this process anew");
                slots.lost = Some(Instant::now());
            }
        }
    }
}
