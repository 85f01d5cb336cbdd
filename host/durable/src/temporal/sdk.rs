//! Everything of Temporal's crates that the engine uses, named in one place: their
//! interfaces are not stable, and a new release should be felt here first.

pub use prost_wkt_types::{Duration, Timestamp};
pub use temporalio_client::danger::ServerCertVerifier;
pub use temporalio_client::errors::ClientConnectError;
pub use temporalio_client::grpc::{OperatorService, WorkflowService};
pub use temporalio_client::request_extensions::{NoRetryOnMatching, RetryConfigForCall};
pub use temporalio_client::tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
pub use temporalio_client::tonic::{Code, Request, Response, Status};
pub use temporalio_client::{
    ClientKeepAliveOptions, ClientTlsOptions, Connection, ConnectionOptions, GrpcCompression,
    RetryOptions, TlsOptions,
};
pub use temporalio_common::envconfig::{
    ClientConfigProfile, ConfigError, DataSource, LoadClientConfigProfileOptions,
    load_client_config_profile,
};
pub use temporalio_common::protos::coresdk::activity_result::{
    ActivityExecutionResult, activity_execution_result::Status as ActivityEnd,
    activity_resolution::Status as Resolved,
};
pub use temporalio_common::protos::coresdk::activity_task::{
    ActivityCancelReason, Start, activity_task::Variant as TaskVariant,
};
pub use temporalio_common::protos::coresdk::child_workflow::{
    ChildWorkflowCancellationType, ParentClosePolicy, child_workflow_result::Status as ChildEnded,
};
pub use temporalio_common::protos::coresdk::common::NamespacedWorkflowExecution;
pub use temporalio_common::protos::coresdk::workflow_activation::{
    DoUpdate, InitializeWorkflow, QueryWorkflow, WorkflowActivation,
    remove_from_cache::EvictionReason,
    resolve_child_workflow_execution_start::Status as ChildStarted,
    workflow_activation_job::Variant as Job,
};
pub use temporalio_common::protos::coresdk::workflow_commands::{
    ActivityCancellationType, CancelChildWorkflowExecution, CancelTimer, CancelWorkflowExecution,
    CompleteWorkflowExecution, ContinueAsNewWorkflowExecution, FailWorkflowExecution,
    ModifyWorkflowProperties, QueryResult, QuerySuccess, RequestCancelActivity,
    RequestCancelExternalWorkflowExecution, ScheduleActivity, ScheduleLocalActivity,
    SignalExternalWorkflowExecution, StartChildWorkflowExecution, StartTimer, UpdateResponse,
    UpsertWorkflowSearchAttributes, WorkflowCommand, query_result,
    signal_external_workflow_execution::Target as SignalTarget, update_response,
    workflow_command::Variant as CommandVariant,
};
pub use temporalio_common::protos::coresdk::workflow_completion::{
    Success as ActivationDone, WorkflowActivationCompletion,
    workflow_activation_completion::Status as ActivationStatus,
};
pub use temporalio_common::protos::coresdk::{ActivityHeartbeat, ActivityTaskCompletion};
pub use temporalio_common::protos::temporal::api::common::v1::{
    Header, Memo, Payload, Payloads, RetryPolicy, SearchAttributes, WorkflowExecution, WorkflowType,
};
pub use temporalio_common::protos::temporal::api::enums::v1::SignalExternalWorkflowExecutionFailedCause as SignalExternalFailedCause;
pub use temporalio_common::protos::temporal::api::enums::v1::UpdateWorkflowExecutionLifecycleStage as UpdateStage;
pub use temporalio_common::protos::temporal::api::enums::v1::{
    HistoryEventFilterType, IndexedValueType, PendingActivityState, ScheduleOverlapPolicy,
    TaskQueueKind, TaskQueueType, TimeoutType, WorkflowExecutionStatus, WorkflowIdConflictPolicy,
    WorkflowIdReusePolicy, WorkflowTaskFailedCause,
};
pub use temporalio_common::protos::temporal::api::errordetails::v1::WorkflowExecutionAlreadyStartedFailure;
pub use temporalio_common::protos::temporal::api::failure::v1::{
    ApplicationFailureInfo, CanceledFailureInfo, Failure, failure::FailureInfo,
};
pub use temporalio_common::protos::temporal::api::history::v1::{
    History, HistoryEvent, WorkflowExecutionStartedEventAttributes, history_event::Attributes,
};
pub use temporalio_common::protos::temporal::api::operatorservice::v1::{
    AddSearchAttributesRequest, ListSearchAttributesRequest,
};
pub use temporalio_common::protos::temporal::api::query::v1::WorkflowQuery;
pub use temporalio_common::protos::temporal::api::schedule::v1::{
    BackfillRequest, IntervalSpec, Range, Schedule, ScheduleAction, ScheduleActionResult,
    ScheduleInfo, ScheduleListEntry, SchedulePatch, SchedulePolicies, ScheduleSpec, ScheduleState,
    StructuredCalendarSpec, TriggerImmediatelyRequest, schedule_action,
};
pub use temporalio_common::protos::temporal::api::sdk::v1::UserMetadata;
pub use temporalio_common::protos::temporal::api::taskqueue::v1::TaskQueue;
pub use temporalio_common::protos::temporal::api::update::v1::{
    Input as UpdateInput, Meta as UpdateMeta, Outcome as UpdateOutcome, Request as UpdateRequest,
    UpdateRef, WaitPolicy as UpdateWaitPolicy, outcome::Value as UpdateOutcomeValue,
};
pub use temporalio_common::protos::temporal::api::workflow::v1::{
    NewWorkflowExecutionInfo, OnConflictOptions, PendingActivityInfo, WorkflowExecutionInfo,
};
pub use temporalio_common::protos::temporal::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, CreateScheduleRequest, DeleteScheduleRequest,
    DescribeNamespaceRequest, DescribeScheduleRequest, DescribeScheduleResponse,
    DescribeTaskQueueRequest, DescribeWorkflowExecutionRequest, DescribeWorkflowExecutionResponse,
    GetSystemInfoRequest, GetWorkflowExecutionHistoryRequest,
    GetWorkflowExecutionHistoryReverseRequest, ListScheduleMatchingTimesRequest,
    ListSchedulesRequest, ListWorkflowExecutionsRequest, PatchScheduleRequest,
    PollWorkflowExecutionUpdateRequest, QueryWorkflowRequest,
    RequestCancelWorkflowExecutionRequest, RespondActivityTaskCanceledRequest,
    RespondActivityTaskCompletedRequest, RespondActivityTaskFailedRequest,
    SignalWithStartWorkflowExecutionRequest, SignalWorkflowExecutionRequest,
    StartWorkflowExecutionRequest, TerminateWorkflowExecutionRequest, UpdateScheduleRequest,
    UpdateWorkflowExecutionRequest,
};
pub use temporalio_common::protos::utilities::decode_status_detail;
pub use temporalio_common::worker::WorkerTaskTypes;
pub use temporalio_sdk_core::replay::{HistoryForReplay, HistoryInfo, ReplayWorkerInput};
pub use temporalio_sdk_core::{
    CoreRuntime, PollError, ResourceBasedSlotsOptions, ResourceBasedTunerConfig,
    ResourceController, ResourceSlotOptions, RuntimeOptions, SlotSupplierOptions,
    TunerHolderOptions, Url, Worker, WorkerConfig, WorkerVersioningStrategy, init_replay_worker,
    init_worker,
};
