"""Posts events about a resource, as `kubectl describe` shows them.

A repeated event is counted on the first one, and a resource's events are rate-limited: the API server keeps
events for an hour, and nobody reads a thousand.
"""

import datetime as dt
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Protocol

import aiohttp

from podpair.operator.core.api.igw import API_VERSION, KIND, Metadata
from podpair.operator.core.events import Event
from podpair.operator.kube.client import ApiError, Client
from podpair.operator.kube.kinds import EVENT
from podpair.operator.logs import about

_log = logging.getLogger(__name__)
_COMPONENT = "podpair-operator"
_FORGET = 3000.0  # seconds; the API server forgets an event after an hour
_BURST = 30  # events of one resource …
_REFILL = 20.0  # … and one more every so many seconds
_KNOWN = 4096  # events that are remembered


class EventTarget(Protocol):
    """A resource, valid or not."""

    @property
    def metadata(self) -> Metadata: ...


class EventPoster:
    """Posts to the events API; failures are logged, and not retried: an event is only worth anything while it is new."""

    def __init__(self, client: Client, identity: str) -> None:
        self._client = client
        self._identity = identity
        self._known: OrderedDict[tuple[str, Event], tuple[str, int, float]] = OrderedDict()  # name, count, when
        self._budget: dict[str, tuple[float, float]] = {}  # events left, as of when

    async def post(self, gateway: EventTarget, events: Iterable[Event]) -> None:
        """Post what happened. Raises NotLeading."""
        where = about(gateway.metadata.namespace, gateway.metadata.name)
        for event in (one.truncated() for one in events):
            may = self._may(gateway.metadata.uid or "")
            level = logging.WARNING if event.type == "Warning" else logging.INFO
            _log.log(level if may else logging.DEBUG, event.message, extra=where)
            if not may:
                continue
            try:
                await self._post(gateway, event)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                _log.warning("event %s could not be posted: %s", event.reason, error, extra=where)

    def forget(self, uid: str) -> None:
        """Drop the budget of a resource that is gone."""
        self._budget.pop(uid, None)

    def _may(self, uid: str) -> bool:
        now = time.monotonic()
        left, since = self._budget.get(uid, (float(_BURST), now))
        left = min(left + (now - since) / _REFILL, _BURST)
        self._budget[uid] = (max(left - 1, 0.0), now)
        return left >= 1

    async def _post(self, gateway: EventTarget, event: Event) -> None:
        metadata = gateway.metadata
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        known = (metadata.uid or "", event)
        name, count, when = self._known.pop(known, ("", 0, 0.0))
        if name and time.monotonic() - when < _FORGET:
            try:
                change = {"count": count + 1, "lastTimestamp": now}
                await self._client.merge(EVENT.path(metadata.namespace, name), change)
                self._remember(known, name, count + 1)
                return
            except ApiError as error:
                if error.status != 404:
                    raise
        name = f"{metadata.name}.{secrets.token_hex(8)}"
        await self._client.create(EVENT, self._manifest(gateway, event, name, now))
        self._remember(known, name, 1)

    def _remember(self, known: tuple[str, Event], name: str, count: int) -> None:
        self._known[known] = name, count, time.monotonic()
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def _manifest(self, gateway: EventTarget, event: Event, name: str, now: str) -> dict[str, Any]:
        metadata = gateway.metadata
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": name, "namespace": metadata.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message,
            "source": {"component": _COMPONENT},
            "reportingComponent": _COMPONENT,
            "reportingInstance": self._identity,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
