import asyncio
from datetime import timedelta
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.worker import Worker

@activity.defn
async def price(order: dict) -> dict:
    return {**order, "price": 12}

@workflow.defn
class Ship:
    @workflow.run
    async def run(self, order: dict) -> dict:
        note = await workflow.execute_activity(
            "hello.greet", order, task_queue="general-queue", start_to_close_timeout=timedelta(minutes=1))
        return await workflow.execute_child_workflow(
            "demo.label", {**order, "note": note}, task_queue="general-queue")

async def main():
    client = await Client.connect(**ClientConfig.load_client_connect_config())
    await Worker(client, task_queue="shop", workflows=[Ship], activities=[price]).run()

if __name__ == "__main__":
    asyncio.run(main())
