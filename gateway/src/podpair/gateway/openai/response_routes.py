"""The routes of responses that exist: read, follow, cancel, delete, list their input."""

from typing import Any

from aiohttp import web

from podpair.gateway.http.routes import Routes
from podpair.gateway.openai.core.errors import ApiError, invalid
from podpair.gateway.openai.core.response_state import outside_event, page_of, response_of
from podpair.gateway.openai.core.stream_ids import StreamId
from podpair.gateway.openai.core.stream_records import Note, StreamState
from podpair.gateway.openai.guard import Caller, Guard
from podpair.gateway.openai.response_stream import first_wanted, json_response, send_stream
from podpair.gateway.openai.responses import Responses

_MOST_ITEMS = 100


def add_responses(routes: Routes, guard: Guard, responses: Responses) -> None:
    """Add the routes of /v1/responses."""
    edge = _ResponseRoutes(responses)
    one = "/v1/responses/{id}"
    routes.post("/v1/responses", guard.route("responses", responses.create))
    routes.get(one, guard.route("responses/get", edge.get), head=False)
    routes.delete(one, guard.route("responses/delete", edge.delete))
    routes.post(f"{one}/cancel", guard.route("responses/cancel", edge.cancel))
    routes.get(f"{one}/input_items", guard.route("responses/input_items", edge.input_items), head=False)


class _ResponseRoutes:
    def __init__(self, responses: Responses) -> None:
        self._responses = responses

    async def _load(self, request: web.Request, caller: Caller) -> tuple[StreamId, StreamState]:
        response_id = request.match_info["id"]
        found = await self._responses.load(caller, response_id)
        if found is None:
            raise ApiError(404, f"Response with id {response_id[:100]!r} not found.")
        return found

    async def get(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Return a response as it stands, or with `stream=true` its events from `starting_after` on, and those to come."""
        stream, state = await self._load(request, caller)
        wanted = request.query.get("stream", "false").lower()
        if wanted not in ("true", "false"):
            raise invalid("'stream' is true or false", "stream")
        after = request.query.get("starting_after")
        if wanted == "false":
            if after is not None:
                raise invalid("'starting_after' is for streams: send stream=true too", "starting_after")
            return json_response(response_of(state, str(stream)))
        start = first_wanted(after, _count(state, str(stream)))
        return await send_stream(request, self._responses.runner.log(caller), stream, start)

    async def cancel(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Cancel a response that runs; one that was cancelled stays so."""
        stream, state = await self._load(request, caller)
        if state.ending is None:
            await self._responses.runner.log(caller).append(stream, Note("cancelled"))
            stream, state = await self._load(request, caller)
        response = response_of(state, str(stream))
        if response["status"] != "cancelled":
            raise invalid(f"Cannot cancel a {response['status']} response.", code="invalid_request")
        return json_response(response)

    async def delete(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Delete a response, and end it if it runs. Its records stay in the log for the topic's retention."""
        stream, _ = await self._load(request, caller)
        await self._responses.runner.log(caller).append(stream, Note("deleted"))
        return json_response({"id": str(stream), "object": "response", "deleted": True})

    async def input_items(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """List the items of a response's input, newest first unless `order=asc`."""
        _, state = await self._load(request, caller)
        order, limit = request.query.get("order", "desc"), request.query.get("limit", "20")
        if order not in ("asc", "desc"):
            raise invalid("'order' is asc or desc", "order")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= _MOST_ITEMS):
            raise invalid(f"'limit' is a number from 1 to {_MOST_ITEMS}", "limit")
        items: list[dict[str, Any]] = state.begin.about["items"] if state.begin is not None else []
        after = request.query.get("after")
        page = page_of(items, after, int(limit), ascending=order == "asc")
        if page is None:
            raise invalid(f"there is no item {(after or '')[:100]!r}", "after")
        return json_response(page)


def _count(state: StreamState, response_id: str) -> int:
    """Return how many events there are."""
    return len(state.events) + (outside_event(state, response_id) is not None)
