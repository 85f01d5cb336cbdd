//! What every run can be filtered by, and the values that are compared with it.

use jiff::Timestamp;
use uuid::Uuid;

use super::Param;
use crate::embedded::store::status_number;
use crate::engine::ExecutionStatus;

/// What a run can be filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    WorkflowType,
    WorkflowId,
    RunId,
    ExecutionStatus,
    StartTime,
    CloseTime,
}

/// Where a time lies that is finer than the microseconds that are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// To the last microsecond before it.
    Down,
    /// To the next one after it.
    Up,
    /// It equals none.
    Exact,
}

/// Equals no stored time: before all that can be written.
const NEVER: i64 = i64::MIN;

pub(super) const FIELDS: &str =
    "WorkflowType, WorkflowId, RunId, ExecutionStatus, StartTime or CloseTime (written like this)";
const STATUSES: &str = "one of 'Running', 'Completed', 'Failed', 'Canceled', 'Terminated', \
     'ContinuedAsNew' and 'TimedOut'";

impl Field {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "WorkflowType" => Self::WorkflowType,
            "WorkflowId" => Self::WorkflowId,
            "RunId" => Self::RunId,
            "ExecutionStatus" => Self::ExecutionStatus,
            "StartTime" => Self::StartTime,
            "CloseTime" => Self::CloseTime,
            _ => return None,
        })
    }

    pub(super) const fn column(self) -> &'static str {
        match self {
            Self::WorkflowType => "workflow_type",
            Self::WorkflowId => "workflow_id",
            Self::RunId => "run_id",
            Self::ExecutionStatus => "status",
            Self::StartTime => "started_us",
            Self::CloseTime => "closed_us",
        }
    }

    pub(super) const fn operators(self) -> &'static str {
        match self {
            Self::WorkflowType | Self::WorkflowId | Self::RunId => {
                "=, !=, <, >, <=, >=, IN, NOT IN, BETWEEN or STARTS_WITH"
            }
            Self::ExecutionStatus => "=, !=, IN or NOT IN",
            Self::StartTime => "=, !=, <, >, <=, >=, IN, NOT IN or BETWEEN",
            Self::CloseTime => "=, !=, <, >, <=, >=, IN, NOT IN, BETWEEN, IS NULL or IS NOT NULL",
        }
    }

    pub(super) const fn is_text(self) -> bool {
        matches!(self, Self::WorkflowType | Self::WorkflowId | Self::RunId)
    }

    /// The text as this field's value, or what was expected instead.
    pub(super) fn value(self, text: &str, round: Round) -> Result<Param, String> {
        match self {
            Self::WorkflowType | Self::WorkflowId => Ok(Param::Text(text.to_owned())),
            Self::RunId => Uuid::try_parse(text)
                .map(|id| Param::Blob(id.as_bytes().to_vec()))
                .map_err(|_| "a run id (a UUID)".to_owned()),
            Self::ExecutionStatus => status(text)
                .map(Param::Int)
                .ok_or_else(|| STATUSES.to_owned()),
            Self::StartTime | Self::CloseTime => text
                .parse::<Timestamp>()
                .map(|time| Param::Int(stored_time(time, round)))
                .map_err(|_| "a time such as '2026-01-31T12:00:00Z' (RFC 3339)".to_owned()),
        }
    }
}

fn status(name: &str) -> Option<i64> {
    Some(status_number(match name {
        "Running" => ExecutionStatus::Running,
        "Completed" => ExecutionStatus::Completed,
        "Failed" => ExecutionStatus::Failed,
        "Canceled" => ExecutionStatus::Canceled,
        "Terminated" => ExecutionStatus::Terminated,
        "TimedOut" => ExecutionStatus::TimedOut,
        "ContinuedAsNew" => ExecutionStatus::ContinuedAsNew,
        _ => return None,
    }))
}

fn stored_time(time: Timestamp, round: Round) -> i64 {
    let down = i64::try_from(time.as_nanosecond().div_euclid(1_000)).unwrap_or(NEVER);
    let exact = time.as_nanosecond().rem_euclid(1_000) == 0;
    match round {
        Round::Down => down,
        _ if exact => down,
        Round::Up => down.saturating_add(1),
        Round::Exact => NEVER,
    }
}
