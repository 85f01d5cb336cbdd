//! The way to the host: `wasm` calls the generated bindings; `native` answers in a
//! `cargo test` from the [`test::Context`](crate::test::Context) that the test entered.
//! Both have the same functions and types, so that nothing above knows which it has.

#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(target_arch = "wasm32")]
mod wasm;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;
#[cfg(target_arch = "wasm32")]
pub(crate) use wasm::*;
