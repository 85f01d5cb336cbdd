// A client as the documentation shows it.
package main

import (
	"context"
	"fmt"
	"log"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
)

func order(ctx context.Context, c client.Client) (label map[string]any, err error) {
	options := client.StartWorkflowOptions{ID: "order-go", TaskQueue: "general-queue"}
	run, err := c.ExecuteWorkflow(ctx, options, "demo.order", map[string]any{"item": "lamp"})
	if err != nil {
		return nil, err
	}
	if err = c.SignalWorkflow(ctx, "order-go", "", "approve", map[string]any{"by": "Ada"}); err != nil {
		return nil, err
	}
	err = run.Get(ctx, &label)
	return label, err
}

func main() {
	c, err := client.Dial(envconfig.MustLoadDefaultClientOptions())
	if err != nil {
		log.Fatal(err)
	}
	label, err := order(context.Background(), c)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(label)
}
