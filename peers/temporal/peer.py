"""A worker on Temporal's Python SDK: a workflow with one activity that answers its input.

Arguments: the server's address, and the task queue. It says `ready` and works until it is
killed.
"""

import asyncio
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker


@activity.defn
async def echo(value: int) -> int:
    return value


@workflow.defn
class One:
    @workflow.run
    async def run(self, value: int) -> int:
        return await workflow.execute_activity(
            echo, value, start_to_close_timeout=timedelta(seconds=60)
        )


async def main() -> None:
    client = await Client.connect(sys.argv[1])
    worker = Worker(
        client,
        task_queue=sys.argv[2],
        workflows=[One],
        activities=[echo],
        # As fast as it goes: no sandbox around the workflow, and enough at once.
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_activities=200,
        max_concurrent_workflow_tasks=200,
        max_cached_workflows=1000,
    )
    async with worker:
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
