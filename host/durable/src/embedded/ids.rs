//! Run ids: UUIDv7 that always grow, so that the last run of a workflow id is its
//! largest and lists are newest first without another index.

use std::sync::Mutex;

use jiff::Timestamp;
use rand::Rng as _;
use uuid::Uuid;

/// Gives ids in ascending order, whatever the clock does.
#[derive(Debug)]
pub struct RunIds {
    /// The last id's milliseconds, and its count within them (12 bits).
    last: Mutex<(u64, u16)>,
}

impl RunIds {
    /// Ids larger than `last`.
    pub fn after(last: Option<Uuid>) -> Self {
        let last = last.map_or((0, 0), |id| {
            let bits = id.as_u128();
            ((bits >> 80) as u64, ((bits >> 64) & 0xfff) as u16)
        });
        Self {
            last: Mutex::new(last),
        }
    }

    /// The next id.
    pub fn next(&self, now: Timestamp) -> Uuid {
        let now = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let (millis, count) = {
            let mut last = super::lock(&self.last);
            *last = if now > last.0 {
                (now, 0)
            } else if last.1 < 0xfff {
                (last.0, last.1 + 1)
            } else {
                (last.0 + 1, 0)
            };
            *last
        };
        let random: u64 = rand::rng().random();
        let bits = (u128::from(millis) << 80)
            | (0x7 << 76)
            | (u128::from(count) << 64)
            | (0b10 << 62)
            | u128::from(random >> 2);
        Uuid::from_u128(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_while_the_clock_stands_or_goes_back() {
        let ids = RunIds::after(None);
        let mut last = ids.next(Timestamp::from_millisecond(5_000).unwrap());
        assert_eq!(last.get_version_num(), 7);
        for _ in 0..5_000 {
            let next = ids.next(Timestamp::from_millisecond(4_000).unwrap());
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        let resumed = RunIds::after(Some(last));
        assert!(resumed.next(Timestamp::from_millisecond(1).unwrap()) > last);
    }
}
