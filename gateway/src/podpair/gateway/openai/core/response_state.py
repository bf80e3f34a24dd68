"""A response as it stands: what its logged events add up to, and how it ended where that came from outside."""

from typing import Any

import msgspec

from podpair.gateway.openai.core.stream_records import StreamState

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_GONE = "the gateway that generated it is gone"


def response_of(state: StreamState, response_id: str) -> dict[str, Any]:
    """Return the response object. The state has the first record, which holds the object without output."""
    events = [_decode(event) for event in state.events]
    if events and state.ending is not None and state.ending.how == "whole":
        return dict(events[-1]["response"])
    response = {"id": response_id, **_begun(state)}
    output: list[dict[str, Any]] = []
    for event in events:
        if (whole := event.get("response")) is not None:
            response = dict(whole)
        _apply(output, event)
    response["output"] = output
    if state.ending is None:
        return response
    for item in output:
        item["status"] = "completed" if item.get("status") == "completed" else "incomplete"
    if state.ending.how == "cancelled":
        return response | {"status": "cancelled"}
    error = {"code": "server_error", "message": state.ending.message or _GONE}
    return response | {"status": "failed", "error": error}


def _begun(state: StreamState) -> dict[str, Any]:
    return dict(state.begin.about["response"]) if state.begin is not None else {}


def _apply(output: list[dict[str, Any]], event: dict[str, Any]) -> None:
    match event["type"]:
        case "response.output_item.added":
            output.append(event["item"])
        case "response.output_item.done":
            output[event["output_index"]] = event["item"]
        case "response.content_part.added":
            output[event["output_index"]]["content"].append(event["part"])
        case "response.output_text.delta":
            output[event["output_index"]]["content"][event["content_index"]]["text"] += event["delta"]
        case "response.function_call_arguments.delta":
            output[event["output_index"]]["arguments"] += event["delta"]


def outside_event(state: StreamState, response_id: str) -> bytes | None:
    """Return the terminal event of a response that was ended from outside; None if its own events have one, or it runs.

    Clients know no event of their own for a cancelled response.
    """
    if state.ending is None or state.ending.how == "whole":
        return None
    kind = "response.incomplete" if state.ending.how == "cancelled" else "response.failed"
    event = {"type": kind, "sequence_number": len(state.events), "response": response_of(state, response_id)}
    return msgspec.json.encode(event)


def page_of(items: list[dict[str, Any]], after: str | None, limit: int, *, ascending: bool) -> dict[str, Any] | None:
    """Return one page of input items; None if there is no item `after`."""
    ordered = items if ascending else items[::-1]
    start = 0
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            return None
        start = ids.index(after) + 1
    page = ordered[start : start + limit]
    return {
        "object": "list", "data": page, "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None, "has_more": start + limit < len(ordered),
    }  # fmt: skip
