"""The peer's worker and clients: a native workflow with one activity that answers its input.

Argument: the server's address. Each line on standard input is an order, `CONCURRENT SECONDS`;
each is answered by one line of JSON, {"runs": N, "seconds": S, "p50_ms": M}.
"""

import asyncio
import json
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

QUEUE = "bench"


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


async def load(client: Client, concurrent: int, seconds: float) -> dict:
    begun = time.monotonic()
    end = begun + seconds
    times = []

    async def caller() -> None:
        while time.monotonic() < end:
            started = time.monotonic()
            await client.execute_workflow(One.run, 7, id=str(uuid.uuid4()), task_queue=QUEUE)
            times.append(time.monotonic() - started)

    await asyncio.gather(*(caller() for _ in range(concurrent)))
    took = time.monotonic() - begun
    times.sort()
    return {"runs": len(times), "seconds": took, "p50_ms": times[len(times) // 2] * 1000}


async def main() -> None:
    client = await Client.connect(sys.argv[1])
    worker = Worker(
        client,
        task_queue=QUEUE,
        workflows=[One],
        activities=[echo],
        # As fast as it goes: no sandbox around the workflow, and enough at once.
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_activities=200,
        max_concurrent_workflow_tasks=200,
        max_cached_workflows=1000,
    )
    lines = ThreadPoolExecutor(max_workers=1)
    async with worker:
        print("ready", flush=True)
        while line := await asyncio.get_running_loop().run_in_executor(lines, sys.stdin.readline):
            concurrent, seconds = line.split()
            print(json.dumps(await load(client, int(concurrent), float(seconds))), flush=True)


asyncio.run(main())
