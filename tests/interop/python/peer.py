"""A foreign worker for the tests, in Python: it polls the queue that it is given.

Its workflows answer what they were told, or how it failed, in one JSON form that the
worker in Go has as well; see tests/src/interop/peer.rs.
"""

import asyncio
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.worker import Worker


def described(error: BaseException | None) -> dict | None:
    if not isinstance(error, FailureError):
        return None
    if not isinstance(error, ApplicationError):
        # It says which activity or child failed.
        return described(error.cause)
    return {
        "type": error.type,
        "message": error.message,
        "details": list(error.details),
        "non_retryable": error.non_retryable,
        "stack": error.failure.stack_trace if error.failure else "",
        "cause": described(error.cause),
    }


def broken() -> ApplicationError:
    error = ApplicationError("it broke", {"page": 4}, type="Broken", non_retryable=True)
    error.__cause__ = ApplicationError("the disk is full", type="Disk")
    return error


@activity.defn
async def Length(given: dict) -> int:
    return len(given["text"])


@activity.defn
async def Text(given: dict) -> str:
    return "x" * given["n"]


@activity.defn
async def Break(given: dict) -> None:
    raise broken()


@activity.defn
async def Wait(given: dict) -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.1)


@workflow.defn
class Theirs:
    @workflow.run
    async def run(self, given: dict) -> dict:
        if given.get("break"):
            raise broken()
        return {"theirs": given}


@workflow.defn
class CallActivity:
    @workflow.run
    async def run(self, given: dict) -> dict:
        try:
            return {"answer": await workflow.execute_activity(
                given["type"],
                given["input"],
                task_queue=given.get("queue", "general-queue"),
                start_to_close_timeout=timedelta(minutes=1),
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=10)),
            )}
        except FailureError as error:
            return {"failure": described(error)}


@workflow.defn
class RunFlow:
    @workflow.run
    async def run(self, given: dict) -> dict:
        try:
            return {"answer": await workflow.execute_child_workflow(
                given["type"],
                given["input"],
                id=f"{workflow.info().workflow_id}-child",
                task_queue="general-queue",
            )}
        except FailureError as error:
            return {"failure": described(error)}


async def main() -> None:
    client = await Client.connect(**ClientConfig.load_client_connect_config())
    worker = Worker(
        client,
        task_queue=sys.argv[1],
        workflows=[Theirs, CallActivity, RunFlow],
        activities=[Length, Text, Break, Wait],
        # A cancel comes as the answer to a heartbeat.
        max_heartbeat_throttle_interval=timedelta(milliseconds=100),
        default_heartbeat_throttle_interval=timedelta(milliseconds=100),
    )
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
