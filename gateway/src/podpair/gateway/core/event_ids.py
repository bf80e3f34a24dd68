"""Ids of server-sent events: all that an EventSource says about its position when it reconnects by itself.

It requests the same address with the last id that it saw (WHATWG HTML, 9.2.4), so the id has to name the session too: it
is `<position>~<token>`, with the resume token in its short form. A position alone is taken as well, with the session named
otherwise.
"""

from typing import NamedTuple

TAKEN_OVER = "taken-over"
"""The id of the `close` event of a session that has a newer connection; who comes back with it is to stay away (204)."""

_SEPARATOR = "~"  # in no position, and in no token


class EventId(NamedTuple):
    """A client's position and token; None if it gives none."""

    position: str | None
    resume: str | None  # resume token


def event_id(position: str, resume: str | None) -> str:
    """Build the id of an event at `position`, for a session that `resume` continues."""
    return f"{position}{_SEPARATOR}{resume}" if resume else position


def parse_event_id(text: str) -> EventId:
    """Read what `event_id` made, or a position alone; neither part is judged."""
    position, _, resume = text.strip().partition(_SEPARATOR)
    return EventId(position or None, resume or None)
