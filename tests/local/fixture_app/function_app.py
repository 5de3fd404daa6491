"""A small app with one function of each kind, which writes down how it was invoked.

Each invocation appends a line of JSON to the file RECORD. The body of a `work` message says what
the function is to do.
"""

import asyncio
import json
import os
import time
from pathlib import Path

import azure.functions as func
from azure.storage.queue import TextBase64EncodePolicy
from azure.storage.queue.aio import QueueClient

STORAGE = "AzureWebJobsStorage"

app = func.FunctionApp()


def record(function: str, **facts: object) -> None:
    with Path(os.environ["RECORD"]).open("a") as file:
        file.write(json.dumps({"function": function, "at": time.time(), **facts}) + "\n")


@app.timer_trigger(arg_name="timer", schedule="%TICK_SCHEDULE%")
async def tick(timer: func.TimerRequest) -> None:
    record("tick", past_due=timer.past_due)
    await asyncio.sleep(float(os.environ.get("TICK_SECONDS", "0")))


@app.timer_trigger(arg_name="timer", schedule="0 0 20 * * *")
async def nightly(timer: func.TimerRequest) -> None:
    record("nightly", past_due=timer.past_due)


@app.queue_trigger(arg_name="message", queue_name="work", connection=STORAGE)
async def work(message: func.QueueMessage) -> None:
    order = message.get_json()
    facts = {
        "name": order["name"],
        "id": message.id,
        "dequeue_count": message.dequeue_count,
        "insertion_time": str(message.insertion_time),
        "expiration_time": str(message.expiration_time),
    }
    record("work", event="began", **facts)
    await asyncio.sleep(order.get("sleep", 0))
    time.sleep(order.get("compute", 0))
    if "fail" in order:
        raise ValueError(order["fail"])
    record("work", event="ended", **facts)


@app.queue_trigger(arg_name="message", queue_name="work-poison", connection=STORAGE)
def work_poison(message: func.QueueMessage) -> None:
    record("work_poison", body=message.get_body().decode(errors="replace"))


@app.route("hello/{name}", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
def hello(req: func.HttpRequest) -> func.HttpResponse:
    name, mark = req.route_params["name"], req.params.get("mark", "")
    return func.HttpResponse(f"Hello {name}{mark}", status_code=201, headers={"x-one": "1"})


@app.route("page/{language?}", methods=["GET", "HEAD"], auth_level=func.AuthLevel.ANONYMOUS)
def page(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(f"{req.method} {req.route_params.get('language')}")


@app.route("echo", methods=["POST"], auth_level=func.AuthLevel.ANONYMOUS)
async def echo(req: func.HttpRequest) -> func.HttpResponse:
    answer = func.HttpResponse(req.get_body(), mimetype="application/octet-stream")
    answer.headers.add("Set-Cookie", "a=1; Path=/; HttpOnly")
    answer.headers.add("Set-Cookie", "b=2; Path=/")
    return answer


@app.route("keyed", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
def keyed(req: func.HttpRequest) -> str:
    return "open"


@app.route("locked", methods=["GET"], auth_level=func.AuthLevel.ADMIN)
def locked(req: func.HttpRequest) -> str:
    return "open"


@app.route("broken", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
async def broken(req: func.HttpRequest) -> func.HttpResponse:
    raise LookupError("the shelf is empty")


@app.route("slow", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
async def slow(req: func.HttpRequest) -> func.HttpResponse:
    record("slow")
    await asyncio.sleep(1)
    return func.HttpResponse("at last")


@app.route("order", methods=["POST"], auth_level=func.AuthLevel.ANONYMOUS)
async def order(req: func.HttpRequest) -> func.HttpResponse:
    queue = QueueClient.from_connection_string(
        os.environ[STORAGE], "work", message_encode_policy=TextBase64EncodePolicy()
    )
    async with queue:
        await queue.send_message(req.get_body().decode())
    return func.HttpResponse(status_code=202)
