"""What OpenAI's own client makes of an address: its answers, errors and retries, as JSON. Arguments: the address, the key."""

import json
import sys
from typing import Any

from openai import APIStatusError, OpenAI

client = OpenAI(
    base_url=sys.argv[1],
    api_key=sys.argv[2],
    organization="org",
    project="proj",
    default_query={"api-version": "2026-01-01", "tag": ["a", "b"]},
    default_headers={"X-Client-Request-Id": "mine", "Idempotency-Key": "once"},
    max_retries=1,
)
said: dict[str, Any] = {}


def create(text: str, **options: Any) -> Any:
    return client.chat.completions.create(
        model="llm", messages=[{"role": "user", "content": text}], extra_headers={"X-Case": text}, **options
    )


for text in ("plain", "again soon", "again though 400"):
    answer = create(text)
    said[text] = (answer.choices[0].message.content, answer._request_id)
for text in ("not again", "quota"):
    try:
        create(text)
    except APIStatusError as error:
        said[text] = (type(error).__name__, error.status_code, error.code, error.type, error.request_id)
with client.chat.completions.with_streaming_response.create(
    model="llm", messages=[{"role": "user", "content": "parts"}], stream=True, extra_headers={"X-Case": "parts"}
) as response:
    headers = dict(response.headers)
    lines = [line for line in response.iter_lines() if line]
said["parts"] = (
    lines,
    headers.get("x-request-id"),
    headers.get("openai-processing-ms"),
    headers.get("x-accel-buffering"),
)
said["limits"] = client.chat.completions.with_raw_response.create(
    model="llm", messages=[{"role": "user", "content": "plain"}], extra_headers={"X-Case": "plain"}
).headers.get("x-ratelimit-remaining-requests")
sys.stdout.write(json.dumps(said))
