// A foreign worker for the tests, in Go: it polls the queue that it is given.
//
// Its workflows answer what they were told, or how it failed, in one JSON form that the
// worker in Python has as well; see tests/src/interop/peer.rs.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"strings"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

type object map[string]any

type failure struct {
	Type         string   `json:"type"`
	Message      string   `json:"message"`
	Details      []any    `json:"details"`
	NonRetryable bool     `json:"non_retryable"`
	Cause        *failure `json:"cause"`
}

type answer struct {
	Answer  any      `json:"answer,omitempty"`
	Failure *failure `json:"failure,omitempty"`
}

type call struct {
	Type  string `json:"type"`
	Input any    `json:"input"`
	Queue string `json:"queue"`
}

func described(err error) *failure {
	var application *temporal.ApplicationError
	// What is around it says which activity or child failed.
	if !errors.As(err, &application) {
		return nil
	}
	described := &failure{
		Type:         application.Type(),
		Message:      application.Message(),
		Details:      []any{},
		NonRetryable: application.NonRetryable(),
		Cause:        described(application.Unwrap()),
	}
	if application.HasDetails() {
		var detail any
		if err := application.Details(&detail); err == nil {
			described.Details = append(described.Details, detail)
		}
	}
	return described
}

func answered(value any, err error) (answer, error) {
	if err != nil {
		return answer{Failure: described(err)}, nil
	}
	return answer{Answer: value}, nil
}

func broken() error {
	cause := temporal.NewApplicationError("the disk is full", "Disk")
	return temporal.NewNonRetryableApplicationError("it broke", "Broken", cause, object{"page": 4})
}

func length(_ context.Context, given struct {
	Text string `json:"text"`
}) (int, error) {
	return len(given.Text), nil
}

func text(_ context.Context, given struct {
	N int `json:"n"`
}) (string, error) {
	return strings.Repeat("x", given.N), nil
}

func breaks(context.Context, object) error {
	return broken()
}

func wait(ctx context.Context, _ object) error {
	for {
		activity.RecordHeartbeat(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func theirs(_ workflow.Context, given object) (object, error) {
	if given["break"] == true {
		return nil, broken()
	}
	return object{"theirs": given}, nil
}

func callActivity(ctx workflow.Context, given call) (answer, error) {
	if given.Queue == "" {
		given.Queue = "general-queue"
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           given.Queue,
		StartToCloseTimeout: time.Minute,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 10 * time.Millisecond},
	})
	var value any
	err := workflow.ExecuteActivity(ctx, given.Type, given.Input).Get(ctx, &value)
	return answered(value, err)
}

func runFlow(ctx workflow.Context, given call) (answer, error) {
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID: workflow.GetInfo(ctx).WorkflowExecution.ID + "-child",
		TaskQueue:  "general-queue",
	})
	var value any
	err := workflow.ExecuteChildWorkflow(ctx, given.Type, given.Input).Get(ctx, &value)
	return answered(value, err)
}

func main() {
	c, err := client.Dial(envconfig.MustLoadDefaultClientOptions())
	if err != nil {
		log.Fatal(err)
	}
	w := worker.New(c, os.Args[1], worker.Options{
		// A cancel comes as the answer to a heartbeat.
		MaxHeartbeatThrottleInterval:     100 * time.Millisecond,
		DefaultHeartbeatThrottleInterval: 100 * time.Millisecond,
	})
	for name, activityFunction := range map[string]any{
		"Length": length, "Text": text, "Break": breaks, "Wait": wait,
	} {
		w.RegisterActivityWithOptions(activityFunction, activity.RegisterOptions{Name: name})
	}
	for name, workflowFunction := range map[string]any{
		"Theirs": theirs, "CallActivity": callActivity, "RunFlow": runFlow,
	} {
		w.RegisterWorkflowWithOptions(workflowFunction, workflow.RegisterOptions{Name: name})
	}
	if err := w.Run(worker.InterruptCh()); err != nil {
		log.Fatal(err)
	}
}
