// A worker as the documentation shows it.
package main

import (
	"log"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

type Order map[string]any

func price(order Order) (Order, error) { order["price"] = 12; return order, nil }

func Ship(ctx workflow.Context, order Order) (label Order, err error) {
	ctx = workflow.WithTaskQueue(workflow.WithStartToCloseTimeout(ctx, time.Minute), "general-queue")
	var note string
	if err = workflow.ExecuteActivity(ctx, "hello.greet", order).Get(ctx, &note); err != nil {
		return nil, err
	}
	order["note"] = note
	ctx = workflow.WithWorkflowTaskQueue(ctx, "general-queue")
	err = workflow.ExecuteChildWorkflow(ctx, "demo.label", order).Get(ctx, &label)
	return label, err
}

func serve(c client.Client) error {
	w := worker.New(c, "shop", worker.Options{})
	w.RegisterActivity(price)
	w.RegisterWorkflow(Ship)
	return w.Run(worker.InterruptCh())
}

func main() {
	c, err := client.Dial(envconfig.MustLoadDefaultClientOptions())
	if err == nil {
		err = serve(c)
	}
	log.Fatal(err)
}
