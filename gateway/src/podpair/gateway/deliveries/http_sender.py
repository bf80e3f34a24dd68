"""One attempt at a delivery by HTTP: a request to its receiver, and what its answer means.

Invariants: nothing is redirected, nothing of an answer is kept but its status and how long to wait; no URL, secret or body is in
a message that is logged or counted.
"""

import logging
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp
import msgspec
from standardwebhooks import Webhook

from podpair.common.gateway_config.deliveries import Deliveries
from podpair.gateway.core.deliveries.addresses import networks_of
from podpair.gateway.core.deliveries.parcels import Parcel
from podpair.gateway.core.deliveries.slack import message
from podpair.gateway.core.deliveries.subscriptions import Subscription
from podpair.gateway.core.deliveries.web_push import InvalidPush, VapidKey, push_request
from podpair.gateway.core.retry_after import parse_retry_after, parse_retry_date
from podpair.gateway.deliveries.attempt import DELIVERED, Attempt
from podpair.gateway.deliveries.connector import Lookup, is_refused, make_connector

_log = logging.getLogger(__name__)
_LONGEST_WAIT = 86_400.0  # seconds that a receiver may ask for
_READ = 1 << 16  # bytes of an answer that are read, so that its connection can be used again
_SLACK_FINAL = (400, 403, 404, 410)  # the message, or its address, will not do the next time either


class HttpSender:
    """Makes attempts. vapid: the key of Web Push. lookup: as `socket.getaddrinfo`."""

    def __init__(
        self,
        config: Deliveries,
        vapid: VapidKey | None = None,
        lookup: Lookup = socket.getaddrinfo,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._vapid = vapid
        self._push_ttl = config.web_push.ttl_seconds
        connector, self._resolver = make_connector(networks_of(config.allowed_networks), config.per_host, lookup)
        self._http = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=config.timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # a proxy would be connected to instead of the address that was judged
            headers={"User-Agent": "podpair", "Accept-Encoding": "identity"},
            max_line_size=8190, max_field_size=8190,
        )  # fmt: skip

    async def attempt(self, subscription: Subscription, parcel: Parcel) -> Attempt:
        """Send the parcel once."""
        try:
            body, headers = self._request(subscription, parcel)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return Attempt("failed", "content", f"no message can be made of the event: {type(error).__name__}")
        try:
            async with self._http.post(
                subscription.url, data=body, headers=headers, allow_redirects=False, ssl=True
            ) as answer:
                await answer.content.read(_READ)
                if not answer.content.at_eof():
                    answer.close()
                return self._judge(subscription, answer)
        except TimeoutError:
            return Attempt("retry", "timeout", "no answer in time (deliveries.timeout_seconds)", host_failed=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if is_refused(error):
                return Attempt("retry", "address", "the host has an address that may not be connected to")
            return Attempt(
                "retry", "connection", f"no connection, or it broke: {type(error).__name__}", host_failed=True
            )
        except Exception as error:  # what nobody expects may go well the next time; its age ends it
            _log.exception("an attempt at a delivery")
            return Attempt("retry", "connection", f"internal error: {type(error).__name__}")

    def _request(self, subscription: Subscription, parcel: Parcel) -> tuple[bytes, dict[str, str]]:
        if subscription.kind == "web_push":
            return self._push(subscription, parcel)
        headers = {"Content-Type": "application/json"}
        if subscription.kind == "webhook":
            # The library signs another second for other time zones, and something else for bytes.
            now = datetime.fromtimestamp(int(self._clock()), UTC)
            signature = Webhook(subscription.secret).sign(parcel.id, now, parcel.body.decode())
            headers |= {
                "webhook-id": parcel.id,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": signature,
            }
            return parcel.body, headers
        said = message(parcel.body, subscription.blocks)
        if subscription.kind == "slack_response":
            said |= {
                "response_type": "in_channel" if subscription.in_channel else "ephemeral",
                "replace_original": False,
            }
        return msgspec.json.encode(said), headers

    def _push(self, subscription: Subscription, parcel: Parcel) -> tuple[bytes, dict[str, str]]:
        if self._vapid is None or subscription.keys is None:
            raise InvalidPush("there is no key for Web Push")
        body, headers = push_request(parcel.body, subscription.url, subscription.keys, self._vapid, self._clock())
        options = subscription.push
        headers["TTL"] = str(self._push_ttl if options.ttl_seconds is None else options.ttl_seconds)
        headers["Urgency"] = options.urgency
        # Of one that is sent again while the browser is away, it sees one.
        headers["Topic"] = options.topic or parcel.id[-32:]
        return body, headers

    def _judge(self, subscription: Subscription, answer: aiohttp.ClientResponse) -> Attempt:
        status, text = answer.status, f"status {answer.status}"
        if 200 <= status < 300:
            return DELIVERED
        retry_after = self._retry_after(answer)
        if status == 429:
            return Attempt("retry", "busy", text, retry_after)
        if status == 410:
            return Attempt("failed", "gone", text)
        if subscription.kind == "web_push":
            return self._judge_push(status, text, retry_after)
        if subscription.kind != "webhook" and status in _SLACK_FINAL:
            return Attempt("failed", "status", text)
        return Attempt("retry", "status", text, retry_after if status == 503 else None, host_failed=status >= 500)

    def _judge_push(self, status: int, text: str, retry_after: float | None) -> Attempt:
        if status == 404:
            return Attempt("failed", "gone", text)
        if status in (400, 413):
            return Attempt("failed", "content", text)
        # 401 and 403 are about the key, which an operator may put right.
        return Attempt("retry", "status", text, retry_after if status == 503 else None, host_failed=status >= 500)

    def _retry_after(self, answer: aiohttp.ClientResponse) -> float | None:
        said = answer.headers.get("Retry-After")
        if said is None:
            return None
        seconds = parse_retry_after(said, latest=_LONGEST_WAIT)
        return (
            seconds
            if seconds is not None
            else parse_retry_date(said.encode("latin-1", "replace"), self._clock(), _LONGEST_WAIT)
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()
        await self._resolver.close()
