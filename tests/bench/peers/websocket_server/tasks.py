"""The model as a Celery task; broker and backend are the Redis of REDIS."""

import os

from celery import Celery

app = Celery("tasks", broker=os.environ["REDIS"], backend=os.environ["REDIS"])


@app.task
def predict(row: list[float]) -> list[float]:
    """The answer to a row. The model is loaded where the work is done, not where it is asked for."""
    import model

    return model.predict(row)
