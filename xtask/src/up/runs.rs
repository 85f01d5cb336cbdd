//! How far the runs are that process the documents.

use super::cli::Cli;

/// Runs that compare the folder with the catalogue.
const SYNC: &str = "WorkflowType = 'knowledge.sync'";
/// Runs of one document each.
pub const DOCUMENTS: &str = "WorkflowType = 'knowledge.document-processing'";

/// How many runs there are.
#[derive(Debug, Default, Clone, Copy)]
pub struct Runs {
    /// Not ended yet: of documents, or the comparison.
    pub open: u64,
    /// Of documents that were made searchable.
    pub completed: u64,
    /// Of documents that were not.
    pub failed: u64,
}

impl Runs {
    /// Those that are open, and those that ended since then. They are counted and not listed:
    /// there may be very many.
    pub fn since(cli: &Cli, since: jiff::Timestamp) -> anyhow::Result<Self> {
        // The open ones first: where there is none, no further one ends.
        let open = cli.count(&Self::open())?;
        let [completed, failed] = Self::ended(since);
        Ok(Self {
            open,
            completed: cli.count(&completed)?,
            failed: cli.count(&failed)?,
        })
    }

    /// The filter of open ones.
    pub fn open() -> String {
        format!("({DOCUMENTS} OR {SYNC}) AND ExecutionStatus = 'Running'")
    }

    /// The filters of documents that were made searchable, and that were not. The comparison is
    /// none of them: of thousands of documents it goes on as a new run, and has not failed then.
    fn ended(since: jiff::Timestamp) -> [String; 2] {
        [
            "'Completed'",
            "'Failed', 'Canceled', 'Terminated', 'TimedOut'",
        ]
        .map(|statuses| {
            format!("{DOCUMENTS} AND ExecutionStatus IN ({statuses}) AND CloseTime >= '{since}'")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_that_goes_on_as_a_new_run_is_no_document_that_failed() {
        let [completed, failed] = Runs::ended(jiff::Timestamp::UNIX_EPOCH);
        let since = "CloseTime >= '1970-01-01T00:00:00Z'";
        for query in [&completed, &failed] {
            assert!(query.ends_with(since), "{query}");
            for other in ["knowledge.sync", "ContinuedAsNew", "Running"] {
                assert!(!query.contains(other), "{other} in {query}");
            }
        }
        assert!(completed.contains("('Completed')"), "{completed}");
        assert!(!failed.contains("Completed"), "{failed}");
        assert!(Runs::open().contains("knowledge.sync"));
    }
}
