"""The model as a Celery task; broker and backend are the Redis of REDIS, or those of BROKER and BACKEND."""

import os

from celery import Celery

broker = os.environ.get("BROKER") or os.environ["REDIS"]
app = Celery("tasks", broker=broker, backend=os.environ.get("BACKEND", broker))


@app.task
def predict(row: list[float]) -> list[float]:
    """The answer to a row. The model is loaded where the work is done, not where it is asked for."""
    import model

    return model.predict(row)
