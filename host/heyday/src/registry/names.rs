//! Names; see [`crate::names`].

pub use crate::names::*;
