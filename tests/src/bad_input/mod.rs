//! Bad input over the real server: each is answered with a typed error, and the server
//! goes on.

pub(crate) mod flows;
mod guests;
pub(crate) mod requests;
pub(crate) mod uploads;
