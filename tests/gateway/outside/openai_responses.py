"""What OpenAI's own client makes of responses, as JSON.

Arguments: two gateways with /v1, the key, a file by which the model goes on.

The model waits at `!wait` until that file is there (its server is asked to wait by the test).
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from openai import APIStatusError, OpenAI

here_url, there_url, key, go = sys.argv[1:5]
here = OpenAI(base_url=here_url, api_key=key, max_retries=0)
there = OpenAI(base_url=there_url, api_key=key, max_retries=0)
said: dict[str, Any] = {}


def ended(client: OpenAI, response_id: str) -> Any:
    while (found := client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
        time.sleep(0.02)
    return found


made = here.responses.create(model="llm", input="to be", metadata={"a": "b"}, temperature=0.5)
said["create"] = [made.status, made.output_text, made.usage.total_tokens, made.metadata]
found = there.responses.retrieve(made.id)
said["retrieved elsewhere is equal"] = found.model_dump() == made.model_dump()
events = list(here.responses.create(model="llm", input="to be", stream=True))
said["events"] = [event.type for event in events]
said["numbers"] = [event.sequence_number for event in events] == list(range(len(events)))
again = list(there.responses.retrieve(events[0].response.id, stream=True))
said["replay is equal"] = [e.model_dump() for e in again] == [e.model_dump() for e in events]
behind = list(there.responses.retrieve(events[0].response.id, stream=True, starting_after=4))
said["behind 4 is equal"] = [e.model_dump() for e in behind] == [e.model_dump() for e in events[5:]]
with here.responses.stream(model="llm", input="to be or") as helper:
    said["helper"] = helper.get_final_response().output_text

# A conversation goes on, at the other gateway.
second = there.responses.create(model="llm", input="and more", previous_response_id=made.id, instructions="be brief")
said["previous"] = [second.output_text, second.previous_response_id == made.id]

# In the background, its stream cut in the middle and resumed at the other gateway.
stream = here.responses.create(model="llm", input="one two !wait three four", background=True, stream=True)
got = []
for event in stream:
    got.append(event)
    if event.type == "response.output_text.delta" and event.delta == "two ":
        stream.close()
        break
said["in between"] = there.responses.retrieve(got[0].response.id).status
Path(go).touch()
rest = list(there.responses.retrieve(got[0].response.id, stream=True, starting_after=got[-1].sequence_number))
said["resumed"] = "".join(e.delta for e in (*got, *rest) if e.type == "response.output_text.delta")
said["resumed numbers"] = [e.sequence_number for e in (*got, *rest)] == list(range(len(got) + len(rest)))
with there.responses.stream(response_id=got[0].response.id, starting_after=got[-1].sequence_number) as helper:
    said["helper resumes"] = helper.get_final_response().output_text
Path(go).unlink()

# Polled, cancelled, deleted.
parked = here.responses.create(model="llm", input="five", background=True)
said["background"] = [parked.status, ended(there, parked.id).output_text]
running = here.responses.create(model="llm", input="six !wait seven", background=True)
while not there.responses.retrieve(running.id).output_text:
    time.sleep(0.02)
cancelled = there.responses.cancel(running.id)
said["cancelled"] = [cancelled.status, cancelled.output_text, ended(here, running.id).status]
said["cancelled again"] = here.responses.cancel(running.id).status
said["events of a cancelled one"] = [e.type for e in here.responses.retrieve(running.id, stream=True)][-1]


def refusal(call: Any) -> list[Any]:
    try:
        call()
    except APIStatusError as error:
        return [error.status_code, error.type, error.code, error.param]
    return []


said["cancel a completed one"] = refusal(lambda: here.responses.cancel(made.id))
items = there.responses.input_items.list(second.id, limit=1)
said["input items"] = [[item.role, item.content[0].text] for item in items]
here.responses.delete(made.id)
said["deleted"] = refusal(lambda: there.responses.retrieve(made.id))
unstored = here.responses.create(model="llm", input="seven", store=False)
said["unstored"] = [unstored.output_text, refusal(lambda: here.responses.retrieve(unstored.id))[:1]]
said["unstored stream"] = [e.type for e in here.responses.create(model="llm", input="x", store=False, stream=True)][-1]

# Tools.
tool: Any = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False}
asked = here.responses.create(model="llm", input="x", tools=[tool])
call = asked.output[0]
said["tools"] = [call.type, call.name, call.arguments, call.status]
output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "seen"}
said["tool output"] = here.responses.create(model="llm", input=[output], previous_response_id=asked.id).output_text
with here.responses.stream(model="llm", input="x", tools=[tool]) as helper:
    said["tools helper"] = helper.get_final_response().output[0].arguments
for name, text in (("fails", "to !fail"), ("breaks", "to !break"), ("ends", "to !end")):
    last = list(here.responses.create(model="llm", input=text, stream=True))[-1]
    said[name] = [last.type, last.response.status, last.response.error.code, last.response.output_text]
sys.stdout.write(json.dumps(said))
