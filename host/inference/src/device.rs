//! Where models compute: the CPU, or a GPU by wgpu.

use std::fmt;
use std::str::FromStr;

use crate::error::DeviceError;

/// Which device is wanted: `auto`, `cpu` or `gpu:N`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU, if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of that number, from 0, as the driver lists them.
    Gpu(usize),
    /// A GPU in software, such as Mesa's lavapipe: for tests, and slower than the CPU.
    SoftwareGpu,
}

const SOFTWARE: &str = "gpu:software";

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            SOFTWARE => Ok(Self::SoftwareGpu),
            other => other
                .strip_prefix("gpu:")
                .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|number| number.parse().ok())
                .map(Self::Gpu)
                .ok_or_else(|| DeviceError::Unknown(other.to_owned())),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu(index) => write!(f, "gpu:{index}"),
            Self::SoftwareGpu => f.write_str(SOFTWARE),
        }
    }
}

/// An open device.
#[derive(Debug, Clone)]
pub struct Device {
    /// burn's.
    pub(crate) tensor: burn_tensor::Device,
    gpu: bool,
    name: String,
}

impl Device {
    /// The CPU; it is always there.
    #[must_use]
    pub fn cpu() -> Self {
        Self {
            tensor: burn_tensor::Device::flex(),
            gpu: false,
            name: "cpu".to_owned(),
        }
    }

    /// Opens what was chosen. A GPU is tried with one small product, so that a driver that
    /// cannot compute is found here.
    ///
    /// # Errors
    /// When the build or the machine has no such GPU; never for `auto` and `cpu`.
    pub fn open(choice: DeviceChoice) -> Result<Self, DeviceError> {
        match choice {
            DeviceChoice::Cpu => Ok(Self::cpu()),
            DeviceChoice::Auto => Ok(gpu::open(Some(0)).unwrap_or_else(|error| {
                tracing::debug!(%error, "models compute on the CPU");
                Self::cpu()
            })),
            DeviceChoice::Gpu(index) => gpu::open(Some(index)),
            DeviceChoice::SoftwareGpu => gpu::open(None),
        }
    }

    /// Whether it is a GPU.
    #[must_use]
    pub const fn is_gpu(&self) -> bool {
        self.gpu
    }

    /// `cpu`, or the GPU's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Kinds of GPUs, in the order in which their numbers go on.
#[cfg(any(feature = "gpu", test))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Discrete,
    Integrated,
    Virtual,
}

/// The GPU of a number among all: discrete ones first, then integrated, then virtual ones.
/// `open` answers the one of a number of its kind.
///
/// # Errors
/// Why the last one that was tried cannot be used.
#[cfg(any(feature = "gpu", test))]
fn numbered<T>(
    wanted: usize,
    open: impl Fn(Kind, usize) -> Result<T, String>,
) -> Result<T, String> {
    let mut passed = 0;
    let mut message = "the driver names none".to_owned();
    for kind in [Kind::Discrete, Kind::Integrated, Kind::Virtual] {
        for number in 0.. {
            match open(kind, number) {
                Ok(found) if passed == wanted => return Ok(found),
                Ok(_) => passed += 1,
                Err(why) => {
                    message = why;
                    break;
                }
            }
        }
    }
    Err(message)
}

#[cfg(not(feature = "gpu"))]
mod gpu {
    use super::{Device, DeviceError};

    pub(super) const fn open(_index: Option<usize>) -> Result<Device, DeviceError> {
        Err(DeviceError::NotBuilt)
    }
}

#[cfg(feature = "gpu")]
mod gpu {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use burn_tensor::{DeviceKind, Tensor};

    use super::{Device, DeviceError, Kind, numbered};

    /// The GPU of that number. Without a number the one in software, which nothing else
    /// chooses: it is slower than the CPU's own way.
    pub(super) fn open(index: Option<usize>) -> Result<Device, DeviceError> {
        let opened = match index {
            None => try_open(DeviceKind::Cpu),
            Some(index) => numbered(index, |kind, number| {
                try_open(match kind {
                    Kind::Discrete => DeviceKind::DiscreteGpu(number),
                    Kind::Integrated => DeviceKind::IntegratedGpu(number),
                    Kind::Virtual => DeviceKind::VirtualGpu(number),
                })
            }),
        };
        opened.map_err(|message| DeviceError::NotFound {
            index: index.unwrap_or_default(),
            message,
        })
    }

    fn try_open(kind: DeviceKind) -> Result<Device, String> {
        // burn and wgpu panic where there is no adapter.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let device = burn_tensor::Device::wgpu(kind);
            let one = Tensor::<2>::from_data([[2.0_f32, 3.0], [5.0, 7.0]], &device);
            let product = one.clone().matmul(one).try_into_vec_as::<f32>();
            (device, product)
        }));
        match opened {
            Ok((device, Ok(product))) if product == [19.0, 27.0, 45.0, 64.0] => {
                let name = device.identity().map_or_else(
                    || format!("{device:?}"),
                    |identity| identity.name.to_string(),
                );
                Ok(Device {
                    tensor: device,
                    gpu: true,
                    name,
                })
            }
            Ok((_, Ok(product))) => Err(format!("it computes wrong: {product:?}")),
            Ok((_, Err(error))) => Err(error.to_string()),
            Err(panic) => Err(crate::panic_message(panic.as_ref())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written() {
        for text in ["auto", "cpu", "gpu:0", "gpu:12", "gpu:software"] {
            let choice: DeviceChoice = text.parse().expect("a choice");
            assert_eq!(choice.to_string(), text);
        }
        for text in [
            "",
            "gpu",
            "gpu:",
            "gpu:-1",
            "gpu:x",
            "cuda",
            "gpu:99999999999999999999",
        ] {
            text.parse::<DeviceChoice>().expect_err(text);
        }
    }

    #[test]
    fn gpus_are_numbered_in_one_order() {
        let machine = [
            (Kind::Discrete, 1),
            (Kind::Integrated, 1),
            (Kind::Virtual, 2),
        ];
        let open = |kind, number| {
            let there = machine
                .iter()
                .any(|&(of, count)| of == kind && number < count);
            there
                .then_some((kind, number))
                .ok_or(format!("no {kind:?} {number}"))
        };
        let found = [0, 1, 2, 3].map(|wanted| numbered(wanted, open).expect("is there"));
        assert_eq!(
            found,
            [
                (Kind::Discrete, 0),
                (Kind::Integrated, 0),
                (Kind::Virtual, 0),
                (Kind::Virtual, 1)
            ]
        );
        assert_eq!(numbered(4, open), Err("no Virtual 2".to_owned()));
    }

    #[test]
    fn the_cpu_is_always_there() {
        let device = Device::open(DeviceChoice::Cpu).expect("the CPU");
        assert!(!device.is_gpu());
        assert_eq!(device.name(), "cpu");
    }

    #[cfg(not(feature = "gpu"))]
    #[test]
    fn a_build_without_gpus_says_so() {
        assert!(matches!(
            Device::open(DeviceChoice::Gpu(0)),
            Err(DeviceError::NotBuilt)
        ));
        let device = Device::open(DeviceChoice::Auto).expect("a device");
        assert!(!device.is_gpu());
    }
}
