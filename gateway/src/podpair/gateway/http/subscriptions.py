"""Subscriptions to deliveries: POST, GET and DELETE /v1/subscriptions."""

import msgspec
from aiohttp import web

from podpair.gateway.auth.identity import Identity
from podpair.gateway.core.deliveries.email import mailbox_of
from podpair.gateway.core.deliveries.permissions import allows_kind, rule_for
from podpair.gateway.core.deliveries.subscriptions import InvalidSubscription, Scope, Target, decode_wanted
from podpair.gateway.core.protocol import Code
from podpair.gateway.deliveries.service import DeliveryService
from podpair.gateway.http.admission import Admission, Refused
from podpair.gateway.http.errors import refusal
from podpair.gateway.kafka.producer import DeliveryError
from podpair.gateway.service import Service


class SubscriptionsEdge:
    """What a client may do with its own subscriptions."""

    def __init__(self, service: Service, admission: Admission) -> None:
        self._config = service.config
        self._admission = admission

    async def create(self, request: web.Request) -> web.Response:
        """Handle POST /v1/subscriptions: 201 once events that come from now on are delivered."""
        try:
            identity, deliveries = await self._allowed(request)
            wanted = decode_wanted(await request.read())
            self._check(identity, deliveries, wanted.kind)
            target = Target(wanted.scope, self._target(request, identity, wanted.scope), identity.subject)
            mailbox = mailbox_of(identity.claims, self._config.deliveries.email)
            made = await deliveries.subscribe(wanted, target, mailbox)
        except InvalidSubscription as error:
            return refusal(400, Code.INVALID, str(error))
        except DeliveryError as error:
            return _not_written(error)
        except Refused as refused:
            return refused.response
        return _json(made.shown(), status=201)

    async def list(self, request: web.Request) -> web.Response:
        """Handle GET /v1/subscriptions: those of the token's subject."""
        try:
            identity, deliveries = await self._allowed(request)
        except Refused as refused:
            return refused.response
        found: dict[str, object] = {"subscriptions": [one.shown() for one in deliveries.owned_by(identity.subject)]}
        if deliveries.web_push_key is not None:
            found["web_push_key"] = deliveries.web_push_key
        return _json(found)

    async def delete(self, request: web.Request) -> web.Response:
        """Handle DELETE /v1/subscriptions/{id}: 204 once it is removed."""
        try:
            identity, deliveries = await self._allowed(request)
            name = request.match_info["id"]
            if all(one.id != name for one in deliveries.owned_by(identity.subject)):
                return refusal(404, Code.NOT_FOUND, "there is no such subscription of yours")
            await deliveries.unsubscribe(name)
        except DeliveryError as error:
            return _not_written(error)
        except Refused as refused:
            return refused.response
        return web.Response(status=204)

    async def _allowed(self, request: web.Request) -> tuple[Identity, DeliveryService]:
        components = self._admission.components()
        identity = await self._admission.identity(request)
        if components.deliveries is None:
            raise self._admission.refuse(404, Code.NOT_FOUND, "nothing is delivered here (deliveries.enabled)")
        return identity, components.deliveries

    def _check(self, identity: Identity, deliveries: DeliveryService, kind: str) -> None:
        rule = rule_for(self._config.deliveries.rules, identity.claims)
        if rule is None or not allows_kind(rule, kind):
            message = f"this token does not allow a subscription of kind {kind} (deliveries.rules)"
            raise self._admission.refuse(403, Code.FORBIDDEN, message)
        if len(deliveries.owned_by(identity.subject)) >= rule.subscriptions:
            raise self._admission.refuse(429, Code.OVERLOADED, f"{rule.subscriptions} subscriptions are there already")

    def _target(self, request: web.Request, identity: Identity, scope: Scope) -> str:
        if scope == "subject":
            return identity.subject
        resume = request.query.get("resume")
        session = self._admission.opened(resume, identity).session if resume else identity.session
        if session is None:
            message = 'missing session: send ?resume=<token of its welcome>, or "scope": "subject"'
            raise self._admission.refuse(400, Code.INVALID, message)
        return session


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def _not_written(error: DeliveryError) -> web.Response:
    return refusal(503, Code.OVERLOADED, f"the subscription was not written: {error.client_message}", retry_after=2)
