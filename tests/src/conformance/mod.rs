//! One contract, two engines: each behaviour here is a test on the embedded engine, on
//! Temporal's dev server, and on the real one.
//!
//! The executor, the definitions, the evaluator and the payload store are stand-ins (see
//! [`bench`]); the flows, the driver, SQLite and the cluster are the real ones. Time is
//! real too, so timeouts are short; tests wait for conditions.

/// Makes of each function a test on each, on clusters of these benches.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        on_both!(temporal, real: $($name),+);
    };
    ($dev:ident, $real:ident: $($name:ident),+ $(,)?) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    super::$name($crate::conformance::bench::Bench::embedded().await).await;
                }
            )+
        }
        mod temporal {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    if let Some(bench) = $crate::conformance::bench::Bench::$dev().await {
                        super::$name(bench).await;
                    }
                }
            )+
        }
        mod real {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $name() {
                    if let Some(bench) = $crate::conformance::bench::Bench::$real().await {
                        super::$name(bench).await;
                    }
                }
            )+
        }
    };
}

mod access;
mod away;
pub mod bench;
mod cancelling;
mod children;
mod continuing;
pub mod foreign;
mod lists;
mod overlaps;
mod payloads;
mod queries;
mod real;
mod replaying;
mod restarting;
mod retrying;
mod running;
mod schedules;
mod search;
mod signals;
mod starting;
mod times;
mod updates;
