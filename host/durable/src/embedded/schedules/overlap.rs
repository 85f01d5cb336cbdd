//! What becomes of starts that wait, by the overlap policies. Pure.

use super::row::Waiting;
use crate::schedule::OverlapPolicy;

/// What is to be done now.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Starts that do not care what is open.
    pub beside: Vec<Waiting>,
    /// The one start that the next ones would overlap with.
    pub next: Option<Waiting>,
    /// Starts that go on waiting.
    pub rest: Vec<Waiting>,
    /// The open runs are asked to cancel.
    pub cancel: bool,
    /// The open runs end by force.
    pub terminate: bool,
    /// Starts that were skipped.
    pub skipped: u64,
}

/// Decides. `open` says whether a run is open that others would overlap with, `otherwise`
/// is the policy of starts that have none of their own.
pub fn plan(waiting: Vec<Waiting>, open: bool, otherwise: OverlapPolicy) -> Plan {
    let mut plan = Plan::default();
    for start in waiting {
        let policy = start.overlap.unwrap_or(otherwise);
        if policy == OverlapPolicy::AllowAll {
            plan.beside.push(start);
            continue;
        }
        if !open && plan.next.is_none() {
            plan.next = Some(start);
            continue;
        }
        match policy {
            OverlapPolicy::Skip | OverlapPolicy::AllowAll => plan.skipped += 1,
            OverlapPolicy::BufferOne if plan.rest.is_empty() => plan.rest.push(start),
            OverlapPolicy::BufferOne => plan.skipped += 1,
            OverlapPolicy::BufferAll => plan.rest.push(start),
            // What was about to start would be ended at once.
            OverlapPolicy::CancelOther | OverlapPolicy::TerminateOther if !open => {
                plan.next = Some(start);
            }
            OverlapPolicy::CancelOther => {
                plan.cancel = true;
                plan.rest.push(start);
            }
            OverlapPolicy::TerminateOther => {
                plan.terminate = true;
                plan.rest.push(start);
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn starts(policies: &[Option<OverlapPolicy>]) -> Vec<Waiting> {
        let seconds = 1..;
        let starts = seconds.zip(policies).map(|(second, overlap)| Waiting {
            nominal: Timestamp::from_second(second).unwrap(),
            overlap: *overlap,
            request: None,
        });
        starts.collect()
    }

    fn seconds(starts: &[Waiting]) -> Vec<i64> {
        let seconds = starts.iter().map(|start| start.nominal.as_second());
        seconds.collect()
    }

    #[test]
    fn while_a_run_is_open_each_policy_does_its_own() {
        use OverlapPolicy as P;
        for (policy, beside, rest, skipped, cancel, terminate) in [
            (P::Skip, vec![], vec![], 3, false, false),
            (P::BufferOne, vec![], vec![1], 2, false, false),
            (P::BufferAll, vec![], vec![1, 2, 3], 0, false, false),
            (P::CancelOther, vec![], vec![1, 2, 3], 0, true, false),
            (P::TerminateOther, vec![], vec![1, 2, 3], 0, false, true),
            (P::AllowAll, vec![1, 2, 3], vec![], 0, false, false),
        ] {
            let plan = plan(starts(&[None; 3]), true, policy);
            assert_eq!(seconds(&plan.beside), beside, "{policy:?}");
            assert_eq!(plan.next, None, "{policy:?}");
            assert_eq!(seconds(&plan.rest), rest, "{policy:?}");
            assert_eq!(plan.skipped, skipped, "{policy:?}");
            assert_eq!((plan.cancel, plan.terminate), (cancel, terminate));
        }
    }

    #[test]
    fn while_none_is_open_one_starts() {
        use OverlapPolicy as P;
        for (policy, next, rest, skipped) in [
            (P::Skip, 1, vec![], 2),
            (P::BufferOne, 1, vec![2], 1),
            (P::BufferAll, 1, vec![2, 3], 0),
            (P::CancelOther, 3, vec![], 0),
            (P::TerminateOther, 3, vec![], 0),
        ] {
            let plan = plan(starts(&[None; 3]), false, policy);
            let started = plan.next.map(|start| start.nominal.as_second());
            assert_eq!(started, Some(next), "{policy:?}");
            assert_eq!(seconds(&plan.rest), rest, "{policy:?}");
            assert_eq!(plan.skipped, skipped, "{policy:?}");
            assert!(!plan.cancel && !plan.terminate);
        }
    }

    #[test]
    fn a_start_may_have_a_policy_of_its_own() {
        let given = starts(&[Some(OverlapPolicy::AllowAll), None]);
        let plan = plan(given, true, OverlapPolicy::Skip);
        assert_eq!((seconds(&plan.beside), plan.skipped), (vec![1], 1));
    }
}
