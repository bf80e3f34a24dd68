"""What every call passes: token, rules, limits, the model's readiness and the deadline; and errors in OpenAI's shape."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from aiohttp import web

from podpair.gateway.auth.identity import Identity
from podpair.gateway.components import Components
from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.quotas import Grant
from podpair.gateway.http.admission import Admission, Refused
from podpair.gateway.http.disconnect import cancel_on_disconnect
from podpair.gateway.http.v2_transcoder import deadline_of
from podpair.gateway.openai.core.completions import event
from podpair.gateway.openai.core.errors import ApiError
from podpair.gateway.service import Service
from podpair.gateway.upstream.batcher import seconds_left
from podpair.gateway.upstream.routes import check_passed_on


class Caller(NamedTuple):
    """Who asks, and what he may."""

    components: Components
    identity: Identity
    grant: Grant | None
    deadline: float | None  # Unix seconds


CALL_ERRORS = (Fault, Busy, Failed, Unavailable, ApiError)
"""What a call of a model may raise; `converted` makes it an ApiError."""
Handler = Callable[[web.Request, Caller], Coroutine[Any, Any, web.StreamResponse]]
_STARTED = web.RequestKey("the stream that answers it", web.StreamResponse)


def error_response(error: ApiError) -> web.Response:
    """Return the response of an error."""
    return web.Response(
        status=error.status, body=error.body(), headers=error.headers(), content_type="application/json"
    )


async def start_stream(request: web.Request, headers: Mapping[str, str]) -> web.StreamResponse:
    """Begin a stream of events: from now on an error of the call becomes the stream's last event."""
    response = request[_STARTED] = web.StreamResponse(headers=headers)
    await response.prepare(request)
    return response


async def _error_event(response: web.StreamResponse, error: ApiError) -> web.StreamResponse:
    """End a stream that has begun with the event of an error."""
    with suppress(ConnectionError):
        await response.write(event({"error": error.members}))
        await response.write_eof()
    return response


class Guard:
    """Admits calls, and converts what goes wrong."""

    def __init__(self, service: Service, admission: Admission) -> None:
        self._service = service
        self._admission = admission

    def route(self, endpoint: str, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return the handler of a route; `endpoint` is its name in metrics. A call ends when its client leaves."""

        async def handle(request: web.Request) -> web.StreamResponse:
            response = await self._handle(request, handler)
            self._service.metrics.openai_requests.labels(endpoint, str(response.status)).inc()
            return response

        return handle

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        components: Components | None = None
        try:
            components = self._admission.components()
            identity = await self._admission.identity(request)
            caller = Caller(components, identity, self._admission.grant(identity), deadline_of(request))
            return await cancel_on_disconnect(request, handler(request, caller))
        except Refused as refused:
            return error_response(ApiError(refused.status, refused.message, retry_after=refused.retry_after))
        except web.HTTPRequestEntityTooLarge:
            limit = self._service.config.limits.message_bytes
            return error_response(ApiError(413, f"the body is larger than {limit} bytes (limits.message_bytes)"))
        except CALL_ERRORS as error:
            if components is not None:
                components.model.readiness.on_error(error)
            started = request.get(_STARTED)
            if started is not None:
                return await _error_event(started, converted(error))
            return error_response(converted(error))

    @asynccontextmanager
    async def admitted(self, caller: Caller, model: str) -> AsyncIterator[None]:
        """Have a place among the direct requests, and an end at the deadline, for one call of a model.

        Raises Fault.
        """
        grant, components = caller.grant, caller.components
        if components.workflows is not None:
            await check_passed_on(components.model.client, model)
        try:
            if grant is not None:
                self._admission.admit(grant, model, "direct")
            slot = components.sessions.dispatcher.direct.slot(grant)
            slot.__enter__()
        except Fault as fault:
            self._service.metrics.reject("request", fault)
            raise
        try:
            if grant is not None:
                grant.acquire()
            try:
                limit = asyncio.timeout(seconds_left(caller.deadline))
                async with limit:
                    yield
            except TimeoutError:
                if not limit.expired():
                    raise Failed("the model's server did not answer in time") from None
                raise Fault(Code.DEADLINE_EXCEEDED, "the deadline passed while the model was at work") from None
            finally:
                if grant is not None:
                    grant.release()
        finally:
            slot.__exit__(None, None, None)


def converted(error: Exception) -> ApiError:
    """Convert an error of a call to the one that its client gets."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Fault):
        return ApiError.of_fault(error)
    if isinstance(error, Busy):
        return ApiError(429, str(error), retry_after=error.retry_after)
    if isinstance(error, Unavailable):
        return ApiError(503, error.client_message, retry_after=getattr(error, "retry_after", 1.0))
    return ApiError(502, str(error))
