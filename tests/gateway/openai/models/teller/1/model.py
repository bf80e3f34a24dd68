"""A model that says its last message, or its prompt, word by word; `fail` fails it, `@path` waits for a file."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path


class Teller:
    """One text in, its words out; `max_tokens` words at most, and then it says so."""

    def load(self) -> None:
        pass

    async def stream(self, request: str, parameters: dict[str, object]) -> AsyncIterator[object]:
        said = json.loads(request)[-1]["content"] if parameters["task"] == "chat" else request
        words = said.split()
        most = int(str(parameters.get("max_tokens", len(words))))
        waited: Path | None = None
        told = 0

        def part(content: str, reason: str = "") -> dict[str, object]:
            counts = {"prompt_tokens": len(words), "completion_tokens": told}
            return {"content": content, "finish_reason": reason, **counts}

        try:
            for word in words[:most]:
                if word == "fail":
                    raise RuntimeError("told to fail")
                if word.startswith("@"):
                    waited = Path(word[1:])
                    while not waited.exists():
                        await asyncio.sleep(0.01)
                    continue
                told += 1
                yield part(f"{word} ")
            yield part("", "length" if len(words) > most else "stop")
        finally:
            if waited is not None:
                waited.with_suffix(".ended").touch()
