"""A model that answers in parts when the test lets it: a word of the prompt each, `@path` waits until that file is there."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path


class Chat:
    """One text in, its words out. What becomes of its streams is told in files beside the one that is waited for."""

    def load(self) -> None:
        pass

    def predict(self, batch: list[str]) -> list[str]:
        return [request.upper() for request in batch]

    async def stream(self, request: str, parameters: dict[str, object]) -> AsyncIterator[str]:
        waited: Path | None = None
        try:
            for word in request.split():
                if word.startswith("@"):
                    waited = Path(word[1:])
                    while not waited.exists():
                        await asyncio.sleep(0.01)
                elif word == "fail":
                    raise RuntimeError("told to fail")
                else:
                    yield f"{word}{parameters.get('end', ' ')}"
        finally:
            if waited is not None:
                waited.with_suffix(".ended").touch()
