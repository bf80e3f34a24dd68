"""POST /v1/infer into a session, the Open Inference Protocol with its generate extension on /v2, and chat completions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from podpair.common.redaction import redact
from podpair.gateway.auth.identity import Identity
from podpair.gateway.components import Components
from podpair.gateway.core.answer_cache import ModelCache
from podpair.gateway.core.http_response import Response
from podpair.gateway.core.lanes import MIDDLE, PRIORITY_NAMES, direct_lane
from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.protocol import Code, Fault, Infer, InvalidFrame, decode_infer
from podpair.gateway.core.proxy_headers import client_headers, decode_headers, model_headers, proxy_target
from podpair.gateway.core.quotas import Forbidden, Grant
from podpair.gateway.core.span import Span
from podpair.gateway.http.admission import Admission, Refused
from podpair.gateway.http.disconnect import cancel_on_disconnect
from podpair.gateway.http.errors import refusal, refusal_of, status_of, v2_error
from podpair.gateway.http.routes import path_of, raw_path_of
from podpair.gateway.http.v2_cache import V2Cache, V2Request
from podpair.gateway.http.v2_transcoder import deadline_of, v2_document, v2_infer
from podpair.gateway.kafka.producer import DeliveryError
from podpair.gateway.service import Service
from podpair.gateway.sessions.enqueue import not_queued
from podpair.gateway.sessions.idempotency import Duplicate
from podpair.gateway.upstream.responses import error_of_client, error_of_status
from podpair.gateway.upstream.routes import check_passed_on

_STREAMED = "/generate_stream"
_UNDECIDED_MS = 5000  # until it is known whether a queued request is lost, about


class InferEdge:
    """Requests over plain HTTP: into a session, or straight to the model."""

    def __init__(self, service: Service, admission: Admission) -> None:
        self._service = service
        self._admission = admission
        self._v2_cache: V2Cache | None = None  # made when it is needed

    async def post(self, request: web.Request) -> web.Response:
        """Handle POST /v1/infer: 202 once the request is accepted; its result goes to the session."""
        try:
            components = self._admission.components()
            identity = await self._admission.identity(request)
            resume = request.query.get("resume")
            session_id = self._admission.opened(resume, identity).session if resume else identity.session
            if session_id is None:
                claim = self._service.config.auth.session_claim
                named = f", or a token with the claim {claim}" if claim else ""
                message = f"missing session: send ?resume=<token of its welcome>{named}"
                raise self._admission.refuse(400, Code.INVALID, message)
            frame = decode_infer(await request.read())
            release = await self._hold(components, session_id, frame)
        except InvalidFrame as error:
            return refusal_of(Fault(Code.INVALID, error.message))
        except Refused as refused:
            return refused.response
        try:
            return await self._accept(request, components, identity, session_id, frame)
        finally:
            release()

    async def _hold(self, components: Components, session_id: str, frame: Infer) -> Callable[[], object]:
        """Have the home of a session without a client read, if the result may come through Kafka, so that the request
        counts until then.
        """
        if frame.route == "direct" or components.sessions.registry.connected_to(session_id):
            return lambda: None
        if not components.sessions.registry.has_room(session_id):
            limit = self._service.config.limits.sessions
            message = f"{limit} sessions without a client have requests open (limits.sessions)"
            raise self._admission.refuse(503, Code.OVERLOADED, message, retry_after=5, reason="sessions")
        return await self._admission.acquire_homes(components, session_id)

    async def _accept(
        self, request: web.Request, components: Components, identity: Identity, session_id: str, frame: Infer
    ) -> web.Response:
        try:
            self._admission.check_owner(components, session_id, identity)
        except Refused as refused:
            return refused.response
        session = components.sessions.registry.session(session_id, identity.subject)  # checked, with no await between
        try:
            if self._service.tracer is not None and not frame.traceparent:
                frame = msgspec.structs.replace(frame, traceparent=request.headers.get("traceparent", ""))
            grant = self._admission.grant(identity)
            if grant is not None and session.ledger.get(frame.id) is None:
                frame = msgspec.structs.replace(frame, route=self._admission.admit(grant, frame.model, frame.route))
            started = components.sessions.dispatcher.infer(session, frame, grant)
            running = session.ledger.get(frame.id)
            if started is None and running is not None and session.may_be_lost(running):
                message = "whether the request is lost is not known yet"
                raise Fault(Code.OVERLOADED, message, retry_after_ms=_UNDECIDED_MS)
            route = running.route if running is not None else "queue"
            if started is not None and started.queued is not None:
                await started.queued.written()
        except DeliveryError as error:
            return refusal_of(not_queued(error))
        except Duplicate as fault:
            return refusal_of(fault)
        except Fault as fault:
            self._service.metrics.reject("request", fault)
            return refusal_of(fault)
        finally:
            components.sessions.registry.evict_if_idle(session)
        return web.json_response({"id": frame.id, "session": session.id, "route": route}, status=202)

    async def v2(self, request: web.Request) -> web.StreamResponse:
        """Forward V2 calls to the model; infer and generate count as direct requests."""
        try:
            self._admission.components()  # raises Refused
            identity = await self._admission.identity(request)
            grant = self._admission.grant(identity)
        except Refused as refused:
            return v2_error(refused.status, refused.message, retry_after=refused.retry_after)
        if request.method != "POST":
            return await self._v2(request, None, identity, grant, "")
        body = await request.read()
        with self._traced(request, request.match_info["model"]) as span:
            answer = await self._v2(request, body, identity, grant, span.traceparent if span is not None else "")
            _record_status(span, answer.status)
            return answer

    async def _v2(
        self, request: web.Request, body: bytes | None, identity: Identity, grant: Grant | None, trace: str
    ) -> web.StreamResponse:
        components = self._admission.components()
        headers = headers_to_model(request, identity, grant)
        try:
            if components.model.upstream.http is None:
                return await cancel_on_disconnect(request, self._transcode(request, body, identity, grant, trace))
            if body is None:
                return await self._forward(request, None, headers, trace)
            model = request.match_info["model"]
            if components.workflows is not None:
                await check_passed_on(components.model.client, model)
            with self._admitted(grant, model), components.sessions.dispatcher.direct.slot(grant):
                caches = components.model.caches
                if caches is not None and (cache := caches.get(model)) is not None and request.path.endswith("/infer"):
                    return await self._answer(request, body, headers, trace, cache, identity.subject)
                forward = self._forward_chunks if request.path.endswith(_STREAMED) else self._forward
                return await cancel_on_disconnect(request, forward(request, body, headers, trace))
        except Forbidden as fault:
            return v2_error(status_of(fault.code), fault.message)
        except Fault as fault:
            retry_after = (fault.retry_after_ms or 0) / 1000
            status = status_of(fault.code)
            if status == 429 and not components.model.readiness.ready:
                status = 503
            return v2_error(status, fault.message, retry_after=retry_after)
        except Busy as error:
            return v2_error(429, str(error), retry_after=error.retry_after)
        except Failed as error:
            return v2_error(500, str(error))
        except Unavailable as error:
            components.model.readiness.on_error(error)
            return v2_error(503, error.client_message, retry_after=1)
        except TimeoutError:
            seconds = self._service.config.inference.timeout_of(request.match_info.get("model"))
            return v2_error(504, f"no answer in {seconds:.3g} s")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Forward OpenAI's chat completions to the model; the response is whole or a stream of events."""
        try:
            self._admission.components()  # raises Refused
            identity = await self._admission.identity(request)
            grant = self._admission.grant(identity)
        except Refused as refused:
            return refused.response
        body = await request.read()
        with self._traced(request, "") as span:
            trace = span.traceparent if span is not None else ""
            answer = await self._chat(request, body, identity, grant, trace)
            _record_status(span, answer.status)
            return answer

    async def _chat(
        self, request: web.Request, body: bytes, identity: Identity, grant: Grant | None, trace: str
    ) -> web.StreamResponse:
        components = self._admission.components()
        headers = headers_to_model(request, identity, grant)
        try:
            model = _chat_model(body) if grant is not None or self._service.config.inference.models else ""
            path = self._service.config.inference.chat_path
            seconds = self._service.config.inference.timeout_of(model)
            with self._admitted(grant, model), components.sessions.dispatcher.direct.slot(grant):
                forward = self._forward_stream(request, path, body, headers, trace, seconds)
                return await cancel_on_disconnect(request, forward)
        except Fault as fault:
            return refusal_of(fault)
        except Failed as error:
            return refusal_of(Fault(Code.UPSTREAM, str(error)))
        except Unavailable as error:
            components.model.readiness.on_error(error)
            return refusal(503, Code.OVERLOADED, error.client_message, retry_after=1)
        except TimeoutError:
            return refusal(504, Code.UPSTREAM, f"no answer in {self._service.config.inference.timeout_seconds:.3g} s")

    async def _forward_chunks(
        self, request: web.Request, body: bytes, headers: CIMultiDict[str], trace: str
    ) -> web.StreamResponse:
        try:
            seconds = self._service.config.inference.timeout_of(request.match_info["model"])
            return await self._forward_stream(request, raw_path_of(request), body, headers, trace, seconds)
        except Failed as error:
            raise Fault(Code.UPSTREAM, str(error)) from None

    async def _forward_stream(
        self, request: web.Request, path: str, body: bytes, headers: CIMultiDict[str], trace: str, seconds: float
    ) -> web.StreamResponse:
        """Forward the response while it arrives. path: at the model's server. seconds: until the next chunk, at most."""
        http = self._admission.components().model.upstream.http
        if http is None:
            raise Fault(Code.NOT_FOUND, "chat completions need a model that is called over HTTP (inference.url)")
        # The timeout applies to each chunk: a long response is not a slow one.
        timeout = aiohttp.ClientTimeout(total=None, sock_read=seconds)
        response: web.StreamResponse | None = None
        try:
            with self._calling(trace, headers) as span:
                url = URL(_target(path, request), encoded=True)
                async with http.post(url, data=body, headers=headers, timeout=timeout, allow_redirects=False) as answer:
                    _record_status(span, answer.status)
                    if answer.status < 200 or 300 <= answer.status < 400:
                        raise error_of_status(answer.status, b"", {})
                    passed = client_headers(answer.headers.items(), streamed=answer.content_length is None)
                    response = web.StreamResponse(status=answer.status, headers=CIMultiDict(passed))
                    if answer.content_length is not None:
                        response.content_length = answer.content_length
                    await response.prepare(request)
                    async for chunk in answer.content.iter_any():
                        await response.write(chunk)
                    await response.write_eof()
                    return response
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            if response is not None and response.prepared:
                if request.transport is not None:
                    request.transport.abort()  # incomplete: only a broken connection tells the client so
                return response
            if isinstance(error, TimeoutError):
                raise
            raise error_of_client(self._admission.components().model.upstream.url, error) from None

    async def _transcode(
        self, request: web.Request, body: bytes | None, identity: Identity, grant: Grant | None, trace: str
    ) -> web.Response:
        """Transcode a V2 call for a model that is called over gRPC."""
        components = self._admission.components()
        name = request.match_info.get("model")
        if body is None:
            return await v2_document(path_of(request), components.model.client, components.model.readiness)
        if not request.path.endswith("/infer"):
            raise Fault(Code.NOT_FOUND, "generate needs a model that is called over HTTP (inference.url)")
        if "version" in request.match_info or name is None:
            raise Fault(Code.NOT_FOUND, "a version can't be chosen: the model is called over gRPC")
        with self._admitted(grant, name), components.sessions.dispatcher.direct.slot(grant):
            return await v2_infer(request, body, name, components.model.client, identity, trace, _lane(grant))

    @contextmanager
    def _admitted(self, grant: Grant | None, model: str) -> Iterator[None]:
        """Count one call of a token with these rights while it runs. Raises Limited or Forbidden."""
        if grant is None:
            yield
            return
        try:
            self._admission.admit(grant, model, "direct")
        except Fault as fault:
            self._service.metrics.reject("connection", fault)
            raise
        grant.acquire()
        try:
            yield
        finally:
            grant.release()

    @contextmanager
    def _traced(self, request: web.Request, model: str) -> Iterator[Span | None]:
        """Enter the request's span, which ends with the response; None if it is not sampled."""
        tracer = self._service.tracer
        if tracer is None:
            yield None
            return
        about = {"url.path": request.path} | ({"podpair.model": model} if model else {})
        with tracer.span("infer", "server", request.headers.get("traceparent", ""), about, root=True) as span:
            yield span

    @contextmanager
    def _calling(self, trace: str, headers: CIMultiDict[str]) -> Iterator[Span | None]:
        """Enter a span for the call of the model, below the span `trace`, and add it to `headers`."""
        tracer = self._service.tracer
        if tracer is None or not trace:
            yield None
            return
        about = {"server.address": redact(self._admission.components().model.upstream.url)}
        with tracer.span("call model", "client", trace, about) as span:
            if span is not None:
                headers["traceparent"] = span.traceparent
            yield span

    async def _answer(
        self, request: web.Request, body: bytes, headers: CIMultiDict[str], trace: str, cache: ModelCache, subject: str
    ) -> web.Response:
        """Answer a call to a model whose answers are cached."""
        target = _target(raw_path_of(request), request)
        stated = {name.lower(): ",".join(headers.getall(name)) for name in headers}
        asked = V2Request(cache.policy.model, target, stated, body, subject, deadline_of(request))
        # A call that others may wait for has no deadline.
        headers.popall("podpair-deadline", None)
        call = partial(self._call, request, target, headers, body, trace)
        if self._v2_cache is None:
            model = self._admission.components().model
            assert model.caches is not None  # noqa: S101 - `cache` is one of them
            self._v2_cache = V2Cache(model.caches, model.client)
        watch = partial(cancel_on_disconnect, request)
        response, status, age = await self._v2_cache.forward(cache, asked, call, watch)
        found = _to_client(response)
        found.headers["Cache-Status"] = status
        if age is not None:
            found.headers["Age"] = str(int(age))
        return found

    async def _forward(
        self, request: web.Request, body: bytes | None, headers: CIMultiDict[str], trace: str
    ) -> web.Response:
        target = _target(raw_path_of(request), request)
        return _to_client(await self._call(request, target, headers, body, trace))

    async def _call(
        self, request: web.Request, target: str, headers: CIMultiDict[str], body: bytes | None, trace: str
    ) -> Response:
        upstream = self._admission.components().model.upstream
        with self._calling(trace, headers) as span:
            try:
                seconds = self._service.config.inference.timeout_of(request.match_info.get("model"))
                answer = await upstream.forward(request.method, target, headers.items(), body, seconds)
            except Failed as error:
                raise Fault(Code.UPSTREAM, str(error)) from None
            _record_status(span, answer.status)
            return answer


def _to_client(answer: Response) -> web.Response:
    """Return the model's response as it is forwarded to a client."""
    passed = CIMultiDict(client_headers(decode_headers(answer.headers.items())))
    return web.Response(status=answer.status, body=answer.body, headers=passed)


def headers_to_model(request: web.Request, identity: Identity, grant: Grant | None) -> CIMultiDict[str]:
    """Return the headers to forward: the request's, the sticky-routing key of the model's version, and its token's priority."""
    headers = CIMultiDict(model_headers(request.headers.items()))
    headers.setdefault("podpair-key", quote(identity.session or identity.subject, safe=""))
    if (lane := _lane(grant)) != MIDDLE:
        headers["podpair-priority"] = PRIORITY_NAMES[lane]
    return headers


def _lane(grant: Grant | None) -> int:
    return MIDDLE if grant is None else direct_lane(grant.priority)


def _target(path: str, request: web.Request) -> str:
    """Return the request target at the model's server. Raises Fault(invalid)."""
    target = proxy_target(path, request.rel_url.raw_query_string)
    if target is None:
        raise Fault(
            Code.INVALID, "the path has a dot segment, or the path or the query has what has to be percent-encoded"
        )
    return target


def _record_status(span: Span | None, status: int) -> None:
    """Mark the span as failed if the response is an error."""
    if span is not None and status >= 400:
        span.failed(f"HTTP {status}")


class _Chat(msgspec.Struct):
    model: str


def _chat_model(body: bytes) -> str:
    """Return the model of a chat. Raises Fault(invalid)."""
    try:
        return msgspec.json.decode(body, type=_Chat).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"invalid chat request: {error}") from None
