"""Ids of logged streams: each tells the place of its first record in the results topic, so that any gateway finds it.

Invariant: an id can't be guessed, and a wrong one, also of another kind, is recognized by reading one record: the record at its
place has its key.
"""

import re
import secrets
from typing import NamedTuple

_FORMAT = re.compile(r"([a-z]{1,16})_([0-9a-f]{5})([0-9a-f]{13})([0-9a-f]{32})", re.ASCII)
_KEY = "openai:"


class StreamId(NamedTuple):
    """Where a stream begins: partition and offset of its first record, and its kind and name, which are in its records' key."""

    kind: str
    partition: int
    offset: int
    name: str

    def __str__(self) -> str:
        return f"{self.kind}_{self.partition:05x}{self.offset:013x}{self.name}"

    @property
    def key(self) -> str:
        """The key of the stream's records."""
        return key_of(self.kind, self.name)

    @classmethod
    def parse(cls, text: str, kind: str) -> "StreamId | None":
        """Read what `str` wrote of a stream of this kind; None if it did not write that."""
        found = _FORMAT.fullmatch(text)
        if found is None or found[1] != kind:
            return None
        return cls(kind, int(found[2], 16), int(found[3], 16), found[4])


def new_name() -> str:
    """Return the name of a new stream."""
    return secrets.token_hex(16)


def key_of(kind: str, name: str) -> str:
    """Return the key of the records of a stream of this kind with this name."""
    return f"{_KEY}{kind}:{name}"
