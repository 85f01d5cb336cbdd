//! The models in memory: loaded at their first use, shared, and dropped when another needs
//! the room and nobody uses them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::failpoint;
use crate::device::{Device, DeviceChoice};
use crate::error::{DeviceError, InferenceError};
use crate::model::Model;
use crate::store::ModelStore;

/// Between two tries to open a device that was lost.
const REOPEN: Duration = Duration::from_secs(5);

/// A model in memory. Its bytes count until nobody holds it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Tells it from one that was loaded before or after it.
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) model: Model,
    digest: String,
    _room: Room,
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
enum Slot {
    /// A thread is loading it.
    Loading,
    Ready {
        model: Arc<Loaded>,
        /// When it was last asked for, counted in askings.
        last: u64,
    },
}

#[derive(Debug)]
struct Slots {
    by_name: HashMap<String, Slot>,
    device: Device,
    /// When it was last tried in vain to open the device again; nothing is computed since then.
    lost: Option<Instant>,
    /// Askings so far.
    count: u64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Models {
    pub(crate) store: Arc<ModelStore>,
    choice: DeviceChoice,
    limit: u64,
    used: Arc<AtomicU64>,
    slots: Mutex<Slots>,
    loaded: Condvar,
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
                lost: None,
                count: 0,
            }),
            loaded: Condvar::new(),
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
        let slots = self.slots();
        let ready = slots.by_name.iter().filter_map(|(name, slot)| match slot {
            Slot::Ready { .. } => Some(name.clone()),
            Slot::Loading => None,
        });
        ready.collect()
    }

    /// Bytes of loaded models.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// The model, loaded. Waits where another thread loads it.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<Loaded>, InferenceError> {
        let mut slots = self.slots();
        loop {
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
            slots.count += 1;
            let count = slots.count;
            match slots.by_name.get_mut(name) {
                Some(Slot::Ready { model, last }) if model.digest == stored.digest => {
                    *last = count;
                    return Ok(Arc::clone(model));
                }
                // Another one has the name now.
                Some(Slot::Ready { .. }) => {
                    slots.by_name.remove(name);
                }
                Some(Slot::Loading) => {
                    slots = self
                        .loaded
                        .wait(slots)
                        .unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                None => {}
            }
            let room = self.take_room(&mut slots, stored.properties.memory_bytes)?;
            slots.by_name.insert(name.to_owned(), Slot::Loading);
            let device = slots.device.clone();
            drop(slots);
            // Others wait for the slot: a panic must not leave it as it is.
            let load = AssertUnwindSafe(|| {
                // A weight that changed on the disk computes as well as any other.
                self.store
                    .compare(&stored)
                    .map_err(|error| crate::ModelError::Damaged {
                        file: "model".to_owned(),
                        message: error.to_string(),
                    })?;
                Model::load(&self.store.files(&stored), self.store.limits(), &device)
            });
            let loaded = catch_unwind(load).unwrap_or_else(|panic| {
                Err(crate::ModelError::Damaged {
                    file: "model".to_owned(),
                    message: crate::panic_message(panic.as_ref()),
                })
            });
            slots = self.slots();
            slots.by_name.remove(name);
            self.loaded.notify_all();
            let model = loaded.map_err(|error| match error {
                crate::ModelError::Device(message) => InferenceError::OutOfMemory(message),
                error => InferenceError::Unloadable {
                    model: name.to_owned(),
                    message: error.to_string(),
                },
            })?;
            tracing::info!(model = name, device = device.name(), "a model was loaded");
            let model = Arc::new(Loaded {
                id: count,
                name: name.to_owned(),
                model,
                digest: stored.digest.clone(),
                _room: room,
            });
            let slot = Slot::Ready {
                model: Arc::clone(&model),
                last: count,
            };
            slots.by_name.insert(name.to_owned(), slot);
            return Ok(model);
        }
    }

    /// Makes room by dropping models that nobody uses, the one that was asked for longest
    /// ago first.
    fn take_room(&self, slots: &mut Slots, bytes: u64) -> Result<Room, InferenceError> {
        if bytes > self.limit {
            return Err(InferenceError::OutOfMemory(format!(
                "the model takes {bytes} bytes; all models may take {}",
                self.limit
            )));
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
                .filter_map(|(name, slot)| match slot {
                    Slot::Ready { model, last } if Arc::strong_count(model) == 1 => {
                        Some((*last, name.clone()))
                    }
                    _ => None,
                })
                .min();
            let Some((_, name)) = idle else {
                return Err(InferenceError::OutOfMemory(
                    "all models in memory are in use".to_owned(),
                ));
            };
            tracing::info!(model = name, "a model leaves memory for another");
            slots.by_name.remove(&name);
        }
    }

    /// Drops what is in memory of a model; who uses it goes on.
    pub(crate) fn forget(&self, name: &str) {
        let mut slots = self.slots();
        if matches!(slots.by_name.get(name), Some(Slot::Ready { .. })) {
            slots.by_name.remove(name);
        }
    }

    /// After the device failed: all models are forgotten, and the device is opened again.
    pub(crate) fn recover(&self) {
        let mut slots = self.slots();
        slots
            .by_name
            .retain(|_, slot| matches!(slot, Slot::Loading));
        self.reopen(&mut slots);
    }

    /// Opens the device again. One that was a GPU is not the CPU then: that would be many times
    /// slower, and nobody would know.
    fn reopen(&self, slots: &mut Slots) {
        let choice = match self.choice {
            DeviceChoice::Auto if slots.device.is_gpu() => DeviceChoice::Gpu(0),
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
