"""A Celery producer with the backend rpc://, as an application has it. Arguments: the URL and the queue. Prints one JSON object:
what each call's get() returns or raises."""

import json
import sys
from datetime import UTC, datetime, timedelta

from celery import Celery
from kombu import Queue

url, queue = sys.argv[1], sys.argv[2]
app = Celery("shop", broker=url.replace("amqp://", "pyamqp://"), backend="rpc://")
app.conf.update(task_default_queue=queue, task_create_missing_queues=False, result_expires=60)


# The queue is the gateway's: declared there, and only used here.
app.conf.task_queues = [Queue(queue, no_declare=True)]


@app.task(name="shop.digit")
def digit(data=None, inputs=None, parameters=None):
    raise NotImplementedError


def outcome(result) -> dict:
    try:
        return {"value": result.get(timeout=30)}
    except Exception as error:
        return {"raised": type(error).__name__, "bases": [b.__name__ for b in type(error).__mro__], "says": str(error)}


row = [0.0] * 64
called = {
    "argument": digit.delay(row),
    "keyword": digit.apply_async(kwargs={"data": [row, row]}),
    "inputs": digit.apply_async(
        kwargs={"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": row}]}
    ),
    "gzip": digit.apply_async((row,), compression="gzip"),
    "eta": digit.apply_async((row,), countdown=1),
    "many": app.send_task("shop.digit", (row, 1)),
    "wrong": digit.delay([1.0, 2.0]),
    "undeclared": app.send_task("shop.other", (row,)),
    "chain": app.send_task("shop.digit", (row,), chain=[digit.si(row)]),
    "expired": digit.apply_async((row,), expires=datetime.now(UTC) + timedelta(milliseconds=600), countdown=2),
}
ignored = digit.apply_async((row,), ignore_result=True)
sys.stdout.write(json.dumps({name: outcome(result) for name, result in called.items()}) + "\n")
