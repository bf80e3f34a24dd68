"""The bodies of requests, as far as the gateway reads them: which model, and whether the answer is a stream.

Invariant: what is passed on to a server is passed on as it came; a body is checked in full only for models that are called by
V2, since no server of OpenAI's API stands behind the gateway then.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from podpair.common.gateway_config.openai import Task
from podpair.gateway.core.frames import is_utf8
from podpair.gateway.openai.core.errors import ApiError, invalid

_REQUIRED: dict[Task, str] = {"chat": "messages", "completions": "prompt", "embeddings": "input"}
_NAMES: dict[Task, str] = {"chat": "chat completions", "completions": "completions", "embeddings": "embeddings"}
_Model = Annotated[str, Meta(min_length=1, max_length=512)]


class Body(msgspec.Struct):
    """What is read of every body."""

    model: _Model
    stream: bool | None = None


class _Streaming(msgspec.Struct):
    include_usage: bool | None = None


class Options(msgspec.Struct):
    """What a model that is called by V2 may be asked with. `stop` is a text or a list of texts."""

    model: _Model
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[str] | None = None
    input: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _Streaming | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    encoding_format: str | None = None


_body = msgspec.json.Decoder(Body)
_options = msgspec.json.Decoder(Options)
_members = msgspec.json.Decoder(dict[str, Any])
_PASSED = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")
# What a model with one input of text can't do: with another value than these the request is refused, not half done.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1), "tools": (None, []), "functions": (None, []), "logprobs": (None, False, 0),
    "response_format": (None, {"type": "text"}), "best_of": (None, 1), "echo": (None, False),
    "suffix": (None, ""), "logit_bias": (None, {}), "audio": (None,), "dimensions": (None,),
}  # fmt: skip


def decode_body(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    """Decode a body. Raises ApiError, which names the parameter that is wrong."""
    if not is_utf8(body):
        raise invalid("the body is not JSON: it is not UTF-8")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `")
        param = path.rstrip("`").removeprefix("$").lstrip(".") or None
        if text.startswith("Object missing required field"):
            param = text.split("`")[1]
            raise invalid(f"missing required parameter: {param!r}", param, code="missing_required_parameter") from None
        raise invalid(f"invalid {param or 'body'}: {text}", param) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise invalid(f"the body is not JSON: {error}") from None


def read_body(body: bytes) -> Body:
    """Read the model's name and whether a stream is wanted. Raises ApiError."""
    found: Body = decode_body(_body, body)
    return found


def read_options(body: bytes, task: Task) -> Options:
    """Read the body of a request for a model that is called by V2. Raises ApiError."""
    found: Options = decode_body(_options, body)
    name = _REQUIRED[task]
    value = getattr(found, name)
    if value is None:
        raise invalid(f"missing required parameter: {name!r}", name, code="missing_required_parameter")
    if not value and value != "":
        raise invalid(f"{name!r} is empty", name)
    for other, allowed in _NEUTRAL.items():
        if (given := _members.decode(body).get(other)) not in allowed:
            message = f"{other!r} is not supported by model {found.model!r} (it got {str(given)[:100]})"
            raise invalid(message, other, code="unsupported_parameter")
    if task == "embeddings" and found.encoding_format not in (None, "float", "base64"):
        raise invalid("'encoding_format' is 'float' or 'base64'", "encoding_format")
    if task == "completions" and isinstance(found.prompt, list) and len(found.prompt) != 1:
        raise invalid(f"model {found.model!r} takes one prompt a request", "prompt", code="unsupported_parameter")
    return found


def model_parameters(options: Options, task: Task) -> bytes:
    """Encode the V2 parameters of a call: scalars, under OpenAI's names; `stop` as JSON text."""
    parameters: dict[str, Any] = {"task": task}
    limit = options.max_completion_tokens or options.max_tokens
    if limit is not None:
        parameters["max_tokens"] = limit
    parameters |= {name: value for name in _PASSED if (value := getattr(options, name)) is not None}
    if options.stop:
        stop = [options.stop] if isinstance(options.stop, str) else options.stop
        parameters["stop"] = msgspec.json.encode(stop).decode()
    return msgspec.json.encode(parameters)


def refuse_unknown(model: str, task: Task) -> ApiError:
    """Return the error of a model that can't be asked for this."""
    message = f"the model {model!r} does not exist, or can't be asked for {_NAMES[task]}"
    return ApiError(404, message, code="model_not_found", param="model")
