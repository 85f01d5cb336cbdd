"""A foreign client for the tests, in Python: it asks something of a workflow and prints the
answer as JSON, `{"answer"}` or `{"failure"}`.

Arguments:
    query WORKFLOW NAME JSON
    update WORKFLOW NAME JSON UPDATE-ID [RUN-ID]
    run WORKFLOW TYPE JSON QUEUE, to its end
    signal-with-start WORKFLOW SIGNAL JSON TYPE, answers the run's id
    cancel WORKFLOW - null
    terminate WORKFLOW REASON null
"""

import asyncio
import json
import sys

from temporalio.client import (
    Client,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError


async def answered(client: Client, what: str, workflow_id: str, name: str, given: object) -> object:
    more = sys.argv[5:]
    handle = client.get_workflow_handle(workflow_id, run_id=more[1] if len(more) > 1 else None)
    if what == "query":
        return await handle.query(name, given)
    if what == "update":
        return await handle.execute_update(name, given, id=more[0])
    if what == "run":
        return await client.execute_workflow(name, given, id=workflow_id, task_queue=more[0])
    if what == "signal-with-start":
        started = await client.start_workflow(
            more[0],
            id=workflow_id,
            task_queue="general-queue",
            start_signal=name,
            start_signal_args=[given],
        )
        return started.result_run_id
    if what == "cancel":
        return await handle.cancel()
    return await handle.terminate(reason=name)


async def ask(client: Client, what: str, workflow_id: str, name: str, given: object) -> dict:
    try:
        return {"answer": await answered(client, what, workflow_id, name, given)}
    except (WorkflowQueryFailedError, RPCError) as error:
        return {"failure": {"type": None, "message": str(error)}}
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        kind = cause.type if isinstance(cause, ApplicationError) else None
        message = cause.message if isinstance(cause, ApplicationError) else str(cause)
        return {"failure": {"type": kind, "message": message}}


async def main() -> None:
    client = await Client.connect(**ClientConfig.load_client_connect_config())
    what, workflow_id, name, given = sys.argv[1:5]
    said = await ask(client, what, workflow_id, name, json.loads(given))
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
