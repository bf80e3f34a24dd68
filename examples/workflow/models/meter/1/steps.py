"""The steps of the workflow: they run in the container, in a process of their own."""

import os
import sqlite3
from contextlib import closing
from typing import Any

from podpair.inference import InvalidRequestError, StepContext, UnavailableError

DATABASE = os.environ.get("METER_DATABASE", "meters.sqlite3")
TABLE = "CREATE TABLE IF NOT EXISTS readings (key TEXT PRIMARY KEY, meter TEXT NOT NULL, reading TEXT NOT NULL)"


def judge(seen: dict[str, Any]) -> dict[str, Any]:
    """Join the digits to a reading, and tell whether a person should look at it."""
    if not seen["digits"]:
        raise InvalidRequestError("a meter has at least one digit")
    certain = min(max(digit["probabilities"]) for digit in seen["digits"])
    doubt_below = 0.9 if seen["doubt_below"] is None else seen["doubt_below"]
    reading = "".join(digit["label"] for digit in seen["digits"])
    return {"reading": reading, "certain": certain, "doubtful": certain < doubt_below}


def book(read: dict[str, str], context: StepContext) -> dict[str, str]:
    """Write the reading, once, however often this is run: the key is the same each time."""
    context.progress({"booking": read["reading"]})
    row = (context.key, read["meter"], read["reading"])
    _write("INSERT INTO readings VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING", row)
    return {"key": context.key, "meter": read["meter"], "reading": read["reading"]}


def unbook(booked: dict[str, str]) -> None:
    """Remove what `book` wrote."""
    _write("DELETE FROM readings WHERE key = ?", (booked["key"],))


async def receipt(done: dict[str, Any]) -> dict[str, Any]:
    """Say what was booked, and whether a person has seen it."""
    booked, by = done["booked"], "a person" if done["reviewed"] else "the model"
    return {"text": f"meter {booked['meter']}: {booked['reading']}, read by {by}", **booked}


def _write(statement: str, values: tuple[str, ...]) -> None:
    try:
        with closing(sqlite3.connect(DATABASE, timeout=5)) as database, database:
            database.execute(TABLE)
            database.execute(statement, values)
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"the database of readings is away: {error}") from None
