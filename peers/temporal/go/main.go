// A worker on Temporal's Go SDK: a workflow with one activity that answers its input.
//
// Arguments: the server's address, and the task queue. It says "ready" and works until it is
// killed.
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

func echo(_ context.Context, value int) (int, error) {
	return value, nil
}

// One runs one activity.
func One(ctx workflow.Context, value int) (answer int, err error) {
	ctx = workflow.WithStartToCloseTimeout(ctx, time.Minute)
	err = workflow.ExecuteActivity(ctx, echo, value).Get(ctx, &answer)
	return answer, err
}

func main() {
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	c, err := client.Dial(client.Options{
		HostPort: os.Args[1],
		Logger:   sdklog.NewStructuredLogger(quiet),
	})
	if err != nil {
		log.Fatal(err)
	}
	worker.SetStickyWorkflowCacheSize(1000)
	// As fast as it goes: enough at once, and as many polls as the other SDKs have.
	w := worker.New(c, os.Args[2], worker.Options{
		MaxConcurrentActivityExecutionSize:     200,
		MaxConcurrentWorkflowTaskExecutionSize: 200,
		MaxConcurrentActivityTaskPollers:       5,
		MaxConcurrentWorkflowTaskPollers:       5,
	})
	w.RegisterWorkflow(One)
	w.RegisterActivity(echo)
	if err := w.Start(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	select {}
}
