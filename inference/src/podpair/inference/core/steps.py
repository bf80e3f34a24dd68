"""What a step of a workflow says while it runs, as chunks of its stream.

Each chunk is one JSON text: `{"progress": …}`, `{"checkpoint": …}`, and at last `{"output": …}`.

Invariant: a step is never held up by a reader that is slow. What waits to be read is bounded; of progress the newest is kept, of
checkpoints the last, which is the only one that counts.
"""

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.step_context import Emit, StepContext

# What may wait to be read of one step: chunks, and their characters.
_MOST, _LARGEST = 256, 4 << 20


def context_of(parameters: Mapping[str, Any], emit: Emit) -> StepContext:
    """Make the context of a call. Raises InvalidRequestError if its parameters aren't those of a gateway."""
    key, attempt = parameters.get("key", ""), parameters.get("attempt", 1)
    saved = parameters.get("checkpoint", "null")
    if not isinstance(key, str) or not isinstance(attempt, int) or not isinstance(saved, str):
        raise InvalidRequestError("a step's parameters: key is a text, attempt an integer, checkpoint a JSON text")
    return StepContext(key, attempt, decode_value(saved, "its checkpoint"), emit)


def decode_value(text: str, what: str) -> Any:
    """Decode a JSON text. Raises InvalidRequestError, with what it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"a step is given JSON; {what} is none: {error}") from None


def encode_chunk(kind: str, value: Any) -> str:
    """Encode a chunk. Raises TypeError or ValueError if the value isn't JSON: numbers that aren't finite are none, arrays are."""
    try:
        text = json.dumps({kind: value}, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
        text.encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return text


def _plain(value: Any) -> Any:
    # Of arrays, numpy's and others, and of their elements.
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"it has a value of type {type(value).__name__}")


class PendingChunks:
    """The chunks of one step that wait to be read, in order."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[str, str]] = deque()
        self._size = 0

    def put(self, kind: str, text: str) -> None:
        """Add a chunk; past the limits others are dropped, as the module says."""
        if kind == "checkpoint":
            self._drop("checkpoint")
        self._chunks.append((kind, text))
        self._size += len(text)
        while (len(self._chunks) > _MOST or self._size > _LARGEST) and self._drop("progress", besides=1):
            pass

    def take(self) -> list[str]:
        """Remove and return all."""
        taken = [text for _, text in self._chunks]
        self._chunks.clear()
        self._size = 0
        return taken

    def _drop(self, kind: str, besides: int = 0) -> bool:
        """Drop the oldest chunk of a kind, except the last `besides` chunks."""
        for index in range(len(self._chunks) - besides):
            if self._chunks[index][0] == kind:
                self._size -= len(self._chunks[index][1])
                del self._chunks[index]
                return True
        return False
