import asyncio
from temporalio.client import Client
from temporalio.envconfig import ClientConfig

async def main():
    client = await Client.connect(**ClientConfig.load_client_connect_config())
    order = await client.start_workflow(
        "demo.order", {"item": "lamp"}, id="order-python", task_queue="general-queue")
    await order.signal("approve", {"by": "Ada"})
    print(await order.result())

if __name__ == "__main__":
    asyncio.run(main())
