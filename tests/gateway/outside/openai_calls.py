"""What OpenAI's own client makes of a gateway, as JSON. Arguments: the address with /v1, the key, the models for chat and
embeddings, whether its completions can call tools."""

import json
import sys
from typing import Any

from openai import APIError, APIStatusError, OpenAI

url, key, chat, vectors, tools = sys.argv[1:6]
client = OpenAI(base_url=url, api_key=key, max_retries=0)
said: dict[str, Any] = {"models": sorted(model.id for model in client.models.list())}
said["model"] = client.models.retrieve(chat).id


def messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


def failure(error: APIError) -> list[Any]:
    status = error.status_code if isinstance(error, APIStatusError) else None
    request_id = error.request_id if isinstance(error, APIStatusError) else None
    return [type(error).__name__, status, error.code, error.type, error.param, bool(request_id)]


answer = client.chat.completions.create(model=chat, messages=messages("to be"))
said["chat"] = [answer.object, answer.choices[0].message.content.strip(), answer.choices[0].finish_reason]
said["chat request id"] = bool(answer._request_id)
stream = client.chat.completions.create(
    model=chat, messages=messages("to be or"), stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
said["stream"] = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
said["stream reason"] = [c.choices[0].finish_reason for c in chunks if c.choices][-1]
said["stream usage"] = chunks[-1].usage.completion_tokens
with client.chat.completions.stream(model=chat, messages=messages("to be or")) as helper:
    said["helper"] = helper.get_final_completion().choices[0].message.content
completion = client.completions.create(model=chat, prompt="not to")
said["completion"] = [completion.object, completion.choices[0].text.strip()]
said["completion stream"] = "".join(
    c.choices[0].text for c in client.completions.create(model=chat, prompt="not to", stream=True) if c.choices
)
for name, options in (("base64", {}), ("float", {"encoding_format": "float"})):
    found = client.embeddings.create(model=vectors, input=["abc", "d"], **options)
    said[f"embeddings {name}"] = [item.embedding for item in found.data]
said["one embedding"] = client.embeddings.create(model=vectors, input="abc").data[0].embedding
try:
    client.chat.completions.create(model=chat, messages=messages("one fail two"), max_tokens=-1)
except APIError as error:
    said["bad value"] = failure(error)
try:
    client.with_options(api_key="wrong").models.list()
except APIError as error:
    said["bad key"] = failure(error)
if tools == "tools":
    tool: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    answer = client.chat.completions.create(model=chat, messages=messages("x"), tools=[tool])
    call = answer.choices[0].message.tool_calls[0]
    said["tools"] = [call.function.name, call.function.arguments, answer.choices[0].finish_reason]
    with client.chat.completions.stream(model=chat, messages=messages("x"), tools=[tool]) as helper:
        call = helper.get_final_completion().choices[0].message.tool_calls[0]
    said["tools stream"] = [call.function.name, call.function.arguments]
for name, text in (("fails", "to !fail"), ("breaks", "to be !break"), ("ends", "to be !end")):
    got = []
    try:
        for chunk in client.chat.completions.create(model="llm", messages=messages(text), stream=True):
            got += [choice.delta.content for choice in chunk.choices if choice.delta.content is not None]
        said[name] = [got, None]
    except APIError as error:
        said[name] = [got, type(error).__name__, error.code, error.message]
sys.stdout.write(json.dumps(said))
