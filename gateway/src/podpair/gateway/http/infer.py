"""POST /v1/infer into a session, and the Open Inference Protocol on /v2."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from podpair.gateway.auth.identity import Identity
from podpair.gateway.core.attempts import Busy, Failed, Unavailable
from podpair.gateway.core.masking import masked
from podpair.gateway.core.passing import TO_MODEL, named, target_of, to_client
from podpair.gateway.core.protocol import Code, Fault, Infer, InvalidFrame, decode_infer
from podpair.gateway.core.quotas import Forbidden, Grant
from podpair.gateway.core.traces import Span
from podpair.gateway.http.admission import Admission, Refused
from podpair.gateway.http.callers import while_there
from podpair.gateway.http.errors import refusal, refusal_of, status_of, v2_error
from podpair.gateway.http.translating import v2_document, v2_infer
from podpair.gateway.kafka.producer import NotWritten
from podpair.gateway.service import Parts, Service
from podpair.gateway.sessions.queueing import not_queued
from podpair.gateway.upstream.answers import error_of_client, error_of_status


class InferEdge:
    """The two ways to ask over plain HTTP."""

    def __init__(self, service: Service, admission: Admission) -> None:
        self._service = service
        self._admission = admission

    async def post(self, request: web.Request) -> web.Response:
        """POST /v1/infer: 202 once the request is accepted; its result comes to the session."""
        try:
            parts = self._admission.parts()
            identity = await self._admission.identity(request)
            resume = request.query.get("resume")
            session_id = self._admission.opened(resume, identity).session if resume else identity.session
            if session_id is None:
                claim = self._service.config.auth.session_claim
                named = f", or a token with the claim {claim}" if claim else ""
                message = f"which session? send ?resume=<token of its welcome>{named}"
                raise self._admission.refuse(400, "invalid", message)
            asked = decode_infer(await request.read())
            release = await self._hold(parts, session_id, asked)
        except InvalidFrame as error:
            return refusal_of(Fault(Code.INVALID, error.message))
        except Refused as refused:
            return refused.response
        try:
            return await self._ask(request, parts, identity, session_id, asked)
        finally:
            release()

    async def _hold(self, parts: Parts, session_id: str, asked: Infer) -> Callable[[], object]:
        """Where its answer may come through Kafka and no client is there: have it read here, so that the request counts until
        then.
        """
        if asked.route == "direct" or parts.registry.connected_to(session_id):
            return lambda: None
        if not parts.registry.room(session_id):
            limit = self._service.config.limits.sessions
            message = f"{limit} sessions without a client have requests open (limits.sessions)"
            raise self._admission.refuse(503, "overloaded", message, retry_after=5)
        return await self._admission.hold(parts, session_id)

    async def _ask(
        self, request: web.Request, parts: Parts, identity: Identity, session_id: str, asked: Infer
    ) -> web.Response:
        try:
            self._admission.check_owner(parts, session_id, identity)
        except Refused as refused:
            return refused.response
        session = parts.registry.session(session_id, identity.subject)  # checked, with no await between
        try:
            if self._service.tracer is not None and not asked.traceparent:
                asked = msgspec.structs.replace(asked, traceparent=request.headers.get("traceparent", ""))
            grant = self._admission.grant(identity)
            if grant is not None and session.ledger.get(asked.id) is None:
                asked = msgspec.structs.replace(asked, route=self._admission.admit(grant, asked.model, asked.route))
            started = parts.dispatcher.infer(session, asked, grant)
            running = session.ledger.get(asked.id)
            route = running.route if running is not None else "queue"
            if started is not None and started.queued is not None:
                await started.queued.written()
        except NotWritten as error:
            return refusal_of(not_queued(error))
        except Fault as fault:
            return refusal_of(fault)
        finally:
            parts.registry.forget_if_done(session)
        return web.json_response({"id": asked.id, "session": session.id, "route": route}, status=202)

    async def v2(self, request: web.Request) -> web.Response:
        """V2 as it is, to the model next door and back: infer takes a place among the direct requests."""
        try:
            self._admission.parts()  # or it is refused
            identity = await self._admission.identity(request)
            grant = self._admission.grant(identity)
        except Refused as refused:
            return v2_error(refused.status, refused.message, retry_after=refused.retry_after)
        if request.method != "POST":
            return await self._v2(request, None, identity, grant, "")
        body = await request.read()
        with self._traced(request, request.match_info["model"]) as span:
            answer = await self._v2(request, body, identity, grant, span.traceparent if span is not None else "")
            _judge(span, answer.status)
            return answer

    async def _v2(
        self, request: web.Request, body: bytes | None, identity: Identity, grant: Grant | None, trace: str
    ) -> web.Response:
        parts = self._admission.parts()
        headers = {name: request.headers[name] for name in TO_MODEL if name in request.headers}
        # The same version of a model answers the same caller.
        headers.setdefault("podpair-key", quote(identity.session or identity.subject, safe=""))
        try:
            if parts.upstream.http is None:
                return await while_there(request, self._translate(request, body, identity, grant, trace))
            if body is None:
                return await self._pass(request, None, headers, trace)
            with self._counted(grant, request.match_info["model"]), parts.dispatcher.direct.slot(grant):
                return await while_there(request, self._pass(request, body, headers, trace))
        except Forbidden as fault:
            return v2_error(403, fault.message)
        except Fault as fault:
            retry_after = (fault.retry_after_ms or 0) / 1000
            status = status_of(fault.code)
            if status == 429 and not parts.readiness.ready:
                status = 503
            return v2_error(status, fault.message, retry_after=retry_after)
        except Busy as error:
            return v2_error(429, str(error), retry_after=error.retry_after)
        except Failed as error:
            return v2_error(500, str(error))
        except Unavailable as error:
            parts.readiness.after(error)
            return v2_error(503, error.client_message, retry_after=1)
        except TimeoutError:
            return v2_error(504, f"no answer in {self._service.config.inference.timeout_seconds:.3g} s")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """OpenAI's chat completions as they are, to the model next door and back, whole or as events."""
        try:
            self._admission.parts()  # or it is refused
            identity = await self._admission.identity(request)
            grant = self._admission.grant(identity)
        except Refused as refused:
            return refused.response
        body = await request.read()
        with self._traced(request, "") as span:
            trace = span.traceparent if span is not None else ""
            answer = await self._chat(request, body, identity, grant, trace)
            _judge(span, answer.status)
            return answer

    async def _chat(
        self, request: web.Request, body: bytes, identity: Identity, grant: Grant | None, trace: str
    ) -> web.StreamResponse:
        parts = self._admission.parts()
        headers = {name: request.headers[name] for name in TO_MODEL if name in request.headers}
        headers.setdefault("podpair-key", quote(identity.session or identity.subject, safe=""))
        try:
            model = _chat_model(body) if grant is not None else ""
            with self._counted(grant, model), parts.dispatcher.direct.slot(grant):
                return await while_there(request, self._pass_chat(request, body, headers, trace))
        except Fault as fault:
            return refusal_of(fault)
        except Failed as error:
            return refusal_of(Fault(Code.UPSTREAM, str(error)))
        except Unavailable as error:
            parts.readiness.after(error)
            return refusal(503, "overloaded", error.client_message, retry_after=1)
        except TimeoutError:
            return refusal(504, "upstream", f"no answer in {self._service.config.inference.timeout_seconds:.3g} s")

    async def _pass_chat(
        self, request: web.Request, body: bytes, headers: dict[str, str], trace: str
    ) -> web.StreamResponse:
        settings, http = self._service.config.inference, self._admission.parts().upstream.http
        if http is None:
            raise Fault(Code.NOT_FOUND, "chat completions are there where the model is asked over HTTP (inference.url)")
        # The time limit is for each part: a long answer is not a slow one.
        timeout = aiohttp.ClientTimeout(total=None, sock_read=settings.timeout_seconds)
        response: web.StreamResponse | None = None
        try:
            with self._calling(trace, headers) as span:
                url = URL(_target(settings.chat_path, request), encoded=True)
                async with http.post(url, data=body, headers=headers, timeout=timeout, allow_redirects=False) as answer:
                    _judge(span, answer.status)
                    if answer.status < 200 or 300 <= answer.status < 400:
                        raise error_of_status(answer.status, b"", {})
                    response = web.StreamResponse(status=answer.status, headers=to_client(answer.headers))
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
                    request.transport.abort()  # in the middle: only a broken connection says that it is not the end
                return response
            if isinstance(error, TimeoutError):
                raise
            raise error_of_client(self._admission.parts().upstream.url, error) from None

    async def _translate(
        self, request: web.Request, body: bytes | None, identity: Identity, grant: Grant | None, trace: str
    ) -> web.Response:
        """For a model that is asked over gRPC."""
        parts = self._admission.parts()
        name = request.match_info.get("model")
        if body is None:
            return await v2_document(request.path, parts.asking, parts.readiness)
        if "version" in request.match_info or name is None:
            raise Fault(Code.NOT_FOUND, "a version can't be chosen: the model is asked over gRPC")
        with self._counted(grant, name), parts.dispatcher.direct.slot(grant):
            return await v2_infer(request, body, name, parts.asking, identity.session or identity.subject, trace)

    @contextmanager
    def _counted(self, grant: Grant | None, model: str) -> Iterator[None]:
        """One call of a token with these rights, while it runs. Raises Limited or Forbidden."""
        if grant is None:
            yield
            return
        self._admission.admit(grant, model, "direct")
        grant.began()
        try:
            yield
        finally:
            grant.ended()

    @contextmanager
    def _traced(self, request: web.Request, model: str) -> Iterator[Span | None]:
        """The request's span, until it is answered, where it is recorded."""
        tracer = self._service.tracer
        if tracer is None:
            yield None
            return
        about = {"url.path": request.path} | ({"podpair.model": model} if model else {})
        with tracer.spanning("infer", "server", request.headers.get("traceparent", ""), about, root=True) as span:
            yield span

    @contextmanager
    def _calling(self, trace: str, headers: dict[str, str]) -> Iterator[Span | None]:
        """The call of the model below the span `trace`; it is told in `headers`."""
        tracer = self._service.tracer
        if tracer is None or not trace:
            yield None
            return
        about = {"server.address": masked(self._admission.parts().upstream.url)}
        with tracer.spanning("call model", "client", trace, about) as span:
            if span is not None:
                headers["traceparent"] = span.traceparent
            yield span

    async def _pass(
        self, request: web.Request, body: bytes | None, headers: dict[str, str], trace: str
    ) -> web.Response:
        upstream, target = self._admission.parts().upstream, _target(request.rel_url.raw_path, request)
        with self._calling(trace, headers) as span:
            try:
                seconds = self._service.config.inference.timeout_seconds
                answer = await upstream.forward(request.method, target, headers.items(), body, seconds)
            except Failed as error:
                raise Fault(Code.UPSTREAM, str(error)) from None
            _judge(span, answer.status)
            passed = CIMultiDict(named(answer.headers.items()))
            return web.Response(status=answer.status, body=answer.body, headers=to_client(passed))


def _target(path: str, request: web.Request) -> str:
    """What the model's server is asked for. Raises Fault(invalid)."""
    target = target_of(path, request.rel_url.raw_query_string)
    if target is None:
        raise Fault(Code.INVALID, "the path or the query holds characters that have to be percent-encoded")
    return target


def _judge(span: Span | None, status: int) -> None:
    """An answer that is none is a failure of its span."""
    if span is not None and status >= 400:
        span.failed(f"HTTP {status}")


class _Chat(msgspec.Struct):
    model: str


def _chat_model(body: bytes) -> str:
    """The model that a chat is with. Raises Fault(invalid)."""
    try:
        return msgspec.json.decode(body, type=_Chat).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(Code.INVALID, f"which model? {error}") from None
