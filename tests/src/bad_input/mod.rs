//! Bad input over the real server: each is answered with a typed error, and the server
//! goes on.

mod flows;
mod guests;
pub(crate) mod requests;
mod uploads;
