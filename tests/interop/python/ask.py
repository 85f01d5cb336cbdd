"""A foreign client for the tests, in Python: it asks a workflow something and prints the
answer as JSON, `{"answer"}` or `{"failure"}`.

Arguments: `query WORKFLOW NAME JSON`, or `update WORKFLOW NAME JSON UPDATE-ID`.
"""

import asyncio
import json
import sys

from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError


async def ask(handle: WorkflowHandle, what: str, name: str, given: object) -> dict:
    try:
        if what == "query":
            return {"answer": await handle.query(name, given)}
        return {"answer": await handle.execute_update(name, given, id=sys.argv[5])}
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
    handle = client.get_workflow_handle(workflow_id)
    print(json.dumps(await ask(handle, what, name, json.loads(given))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
