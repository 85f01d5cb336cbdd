// A foreign client for the tests, in Go: it asks something of a workflow and prints the
// answer as JSON, {"answer"} or {"failure"}.
//
// Its arguments are those of the one in Python.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"os"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/temporal"
)

type failure struct {
	Type    *string `json:"type"`
	Message string  `json:"message"`
}

type answer struct {
	Answer  any      `json:"answer,omitempty"`
	Failure *failure `json:"failure,omitempty"`
}

func ask(ctx context.Context, c client.Client, given any) (value any, err error) {
	what, workflow, name := os.Args[1], os.Args[2], os.Args[3]
	switch what {
	case "query":
		answer, err := c.QueryWorkflow(ctx, workflow, "", name, given)
		if err != nil {
			return nil, err
		}
		err = answer.Get(&value)
		return value, err
	case "run":
		options := client.StartWorkflowOptions{ID: workflow, TaskQueue: os.Args[5]}
		run, err := c.ExecuteWorkflow(ctx, options, name, given)
		if err != nil {
			return nil, err
		}
		err = run.Get(ctx, &value)
		return value, err
	case "signal-with-start":
		options := client.StartWorkflowOptions{TaskQueue: "general-queue"}
		run, err := c.SignalWithStartWorkflow(ctx, workflow, name, given, options, os.Args[5])
		if err != nil {
			return nil, err
		}
		return run.GetRunID(), nil
	case "cancel":
		return nil, c.CancelWorkflow(ctx, workflow, "")
	case "terminate":
		return nil, c.TerminateWorkflow(ctx, workflow, "", name)
	}
	runID := ""
	if len(os.Args) > 6 {
		runID = os.Args[6]
	}
	handle, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID:   workflow,
		RunID:        runID,
		UpdateID:     os.Args[5],
		UpdateName:   name,
		Args:         []any{given},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err != nil {
		return nil, err
	}
	err = handle.Get(ctx, &value)
	return value, err
}

func main() {
	c, err := client.Dial(envconfig.MustLoadDefaultClientOptions())
	if err != nil {
		log.Fatal(err)
	}
	var given any
	if err := json.Unmarshal([]byte(os.Args[4]), &given); err != nil {
		log.Fatal(err)
	}
	said := answer{}
	said.Answer, err = ask(context.Background(), c, given)
	if err != nil {
		said.Failure = &failure{Message: err.Error()}
		var application *temporal.ApplicationError
		if errors.As(err, &application) {
			kind := application.Type()
			said.Failure = &failure{Type: &kind, Message: application.Message()}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		log.Fatal(err)
	}
}
